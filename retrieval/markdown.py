"""Markdown to sections: which headings stand over which blocks, as spans of the source.

Knows no tokens or chunks.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

from markdown_it import MarkdownIt
from markdown_it.token import Token

Span = tuple[int, int]

# Without this a front matter's closing rule would turn its last line into a heading.
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:[ \t]*['\"]?(.+?)['\"]?[ \t]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Section:
    """The blocks between one heading and the next; `start` is where its heading line begins."""

    headings: tuple[str, ...]
    blocks: tuple[Span, ...]
    start: int
    is_joined: bool = False

    @property
    def end(self) -> int:
        return self.blocks[-1][1]

    def joined(self, following: "Section") -> "Section":
        """Both as one block, from the first heading line to the last block's end."""
        return replace(self, blocks=((self.start, following.end),), is_joined=True)

    def as_parent(self) -> "Section":
        return replace(self, headings=self.headings[:-1])


@dataclass(frozen=True, slots=True)
class Document:
    title: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class _Block:
    span: Span
    level: int = 0
    heading: str = ""


InPath = Callable[[str, tuple[str, ...]], bool]


def sections_of(source: str, *, title: str, in_path: InPath) -> Document:
    """Read `source` ("\\n" newlines) into sections in order; every non-blank line is in a block or a heading.

    `in_path(title, headings)` says whether a heading path is short enough; a heading that would make it too
    long is kept as text instead. A heading with nothing under it is kept as text too.
    """
    front = _FRONT_MATTER.match(source)
    if front and (named := _FRONT_TITLE.search(front[0])):
        title = named[1]
    blocks = list(_blocks(source, front.end() if front else 0))
    top = next((block for block in blocks if block.level == 1), None)
    if top and in_path(top.heading, ()):
        title = top.heading
    elif not in_path(title, ()):
        title = ""
    return Document(title, tuple(_sections(blocks, top, title, in_path)))


def _sections(blocks: list[_Block], top: _Block | None, title: str, in_path: InPath) -> Iterator[Section]:
    path: list[tuple[int, str]] = []
    headings: tuple[str, ...] = ()
    body: list[Span] = []
    start: int | None = None
    for i, block in enumerate(blocks):
        if not block.level:
            body.append(block.span)
            continue
        if body:
            yield Section(headings, tuple(body), body[0][0] if start is None else start)
        body, start = [], block.span[0]
        path = [(level, text) for level, text in path if level < block.level]
        is_title = block is top and block.heading == title
        longer = (*(text for _, text in path), block.heading)
        if is_title or not in_path(title, longer):
            headings = longer[:-1]
            # A heading too long for the path still has to be found: it opens the body.
            body = [] if is_title else [block.span]
        else:
            path.append((block.level, block.heading))
            headings = longer
        following = blocks[i + 1] if i + 1 < len(blocks) else None
        if not body and (following is None or 0 < following.level <= block.level):
            body = [block.span]
    if body:
        yield Section(headings, tuple(body), body[0][0] if start is None else start)


def _blocks(source: str, offset: int) -> Iterator[_Block]:
    """Top-level blocks in order.

    A block runs to the next one's first line, since link definitions give no token.
    """
    text = source[offset:]
    lines = list(accumulate((len(line) + 1 for line in text.split("\n")), initial=offset))
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    tops = [
        (i, token) for i, token in enumerate(tokens) if token.level == 0 and token.map and token.nesting >= 0
    ]
    previous = offset
    for position, (i, token) in enumerate(tops):
        assert token.map is not None
        first, last = token.map
        until = _line_after(tops, position, len(lines) - 1)
        yield from _gap(source, previous, lines[first])
        if token.type == "heading_open" and (heading := _plain(tokens[i + 1])):
            yield _Block(_trim(source, lines[first], lines[last]), int(token.tag[1:]), heading)
            yield from _gap(source, lines[last], lines[until])
        else:
            yield from _gap(source, lines[first], lines[until])
        previous = lines[until]
    yield from _gap(source, previous, len(source))


def _line_after(tops: list[tuple[int, Token]], position: int, end: int) -> int:
    following = tops[position + 1][1].map if position + 1 < len(tops) else None
    return following[0] if following else end


def _gap(source: str, start: int, end: int) -> Iterator[_Block]:
    if source[start:end].strip():
        yield _Block(_trim(source, start, end))


def _trim(source: str, start: int, end: int) -> Span:
    part = source[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())


def _plain(inline: Token) -> str:
    """A heading's words without its markup."""
    return " ".join("".join(_text(child) for child in inline.children or ()).split())


def _text(token: Token) -> str:
    return " " if token.type in ("softbreak", "hardbreak") else token.content
