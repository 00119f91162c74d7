"""Documents to chunks that an embedder can read whole, each a span of its source under its headings.

Pure: knows no embedder beyond the `count` it is given, and no storage.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from retrieval.markdown import Section, sections_of

Count = Callable[[str], int]
Span = tuple[int, int]

MIN_CHUNK_TOKENS = 16
HEADING_SEPARATOR = " › "

_NEWLINE = re.compile(r"\r\n?")
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n\s*")
# Tried in order on a block that is too long: lines, sentences (Western and CJK), words.
_CUTS = (re.compile(r"\n+"), re.compile(r"(?<=[.!?])\s+|(?<=[。！？])"), re.compile(r"\s+"))


@dataclass(frozen=True, slots=True)
class Chunk:
    """`source[start:end] == text`, in characters of the source with newlines normalised to "\\n"."""

    text: str
    title: str
    headings: tuple[str, ...]
    start: int
    end: int

    @property
    def heading(self) -> str:
        """The path under the title, such as "Leave › Carry-over"; may be empty."""
        return HEADING_SEPARATOR.join(self.headings)

    @property
    def embedding_text(self) -> str:
        """What is embedded: the text under its title and heading path."""
        return _prefix(self.title, self.headings) + self.text


def split_markdown(
    source: str, *, count: Count, title: str = "", max_tokens: int = 220, overlap: int = 0
) -> list[Chunk]:
    """Chunks of at most `max_tokens` by `count`, title and heading path included, in document order.

    A chunk stays inside one section, except that neighbouring sections too small to stand alone share one.
    The first level-one heading becomes the title; `title` is used where there is none. `overlap` is how many
    tokens of a section's last chunk the next may repeat. Raises ValueError for limits that cannot work.
    """
    _check_limits(max_tokens, overlap)
    source = _NEWLINE.sub("\n", source)
    document = sections_of(
        source, title=title, in_path=lambda title, path: count(_prefix(title, path)) <= max_tokens // 2
    )
    chunks: list[Chunk] = []
    for section in _merge_small(source, document.sections, count, max_tokens):
        prefix = _prefix(document.title, section.headings)
        room = _Room(source, count, prefix, max_tokens, overlap)
        for start, end in _pack(section.blocks, room):
            chunks.append(Chunk(source[start:end], document.title, section.headings, start, end))
    return chunks


def split_text(
    source: str, *, count: Count, title: str = "", max_tokens: int = 220, overlap: int = 0
) -> list[Chunk]:
    """As `split_markdown` for plain text, where paragraphs are the only structure."""
    _check_limits(max_tokens, overlap)
    source = _NEWLINE.sub("\n", source)
    prefix = _prefix(title, ())
    if count(prefix) > max_tokens // 2:
        title = prefix = ""
    blocks = tuple(_cut(source, (0, len(source)), _PARAGRAPH_END))
    room = _Room(source, count, prefix, max_tokens, overlap)
    return [Chunk(source[start:end], title, (), start, end) for start, end in _pack(blocks, room)]


def _check_limits(max_tokens: int, overlap: int) -> None:
    if max_tokens < MIN_CHUNK_TOKENS:
        raise ValueError(f"max_tokens is {max_tokens}, the least is {MIN_CHUNK_TOKENS}")
    if not 0 <= overlap <= max_tokens // 2:
        raise ValueError(f"overlap is {overlap}, it must lie between 0 and half of max_tokens ({max_tokens})")


def _prefix(title: str, headings: tuple[str, ...]) -> str:
    path = HEADING_SEPARATOR.join(part for part in (title, *headings) if part)
    return path + "\n" if path else ""


@dataclass(frozen=True, slots=True)
class _Room:
    """How much of `source` a chunk under `prefix` can hold."""

    source: str
    count: Count
    prefix: str
    max_tokens: int
    overlap: int

    def fits(self, start: int, end: int) -> bool:
        return self.count(self.prefix + self.source[start:end]) <= self.max_tokens

    def repeats(self, start: int, end: int) -> bool:
        """Whether the span is short enough to stand in two chunks."""
        return self.overlap > 0 and self.count(self.source[start:end]) <= self.overlap


def _merge_small(
    source: str, sections: Sequence[Section], count: Count, max_tokens: int
) -> Iterator[Section]:
    """Join neighbours under one parent while each is below a quarter of a chunk and their sum below half.

    A joined section carries the parent's path, and its text keeps the heading lines.
    """
    run: Section | None = None
    for section in sections:
        small = section.headings and count(source[section.start : section.end]) <= max_tokens // 4
        siblings = run and small and run.headings[:-1] == section.headings[:-1]
        if run and siblings and count(source[run.start : section.end]) <= max_tokens // 2:
            run = run.joined(section)
            continue
        if run:
            yield run.as_parent() if run.is_joined else run
        run = section if small else None
        if not small:
            yield section
    if run:
        yield run.as_parent() if run.is_joined else run


def _pack(blocks: Sequence[Span], room: _Room) -> Iterator[Span]:
    """Fill chunks with whole blocks in order; only a block too long for a chunk of its own is cut."""
    units = [unit for block in blocks for unit in _divide(block, room)]
    first = 0
    for i in range(1, len(units) + 1):
        if i < len(units) and room.fits(units[first][0], units[i][1]):
            continue
        yield units[first][0], units[i - 1][1]
        last, first = first, i
        while i < len(units) and first - 1 > last and room.repeats(units[first - 1][0], units[i - 1][1]):
            if not room.fits(units[first - 1][0], units[i][1]):
                break
            first -= 1


def _divide(span: Span, room: _Room, level: int = 0) -> Iterator[Span]:
    """`span` itself where it fits, else its lines, sentences, words or at last halves."""
    start, end = span
    if room.fits(start, end) or end - start < 2:
        yield span
    elif level < len(_CUTS):
        for part in _cut(room.source, span, _CUTS[level]):
            yield from _divide(part, room, level + 1)
    else:
        middle = (start + end) // 2
        yield from _divide((start, middle), room, level)
        yield from _divide((middle, end), room, level)


def _cut(source: str, span: Span, separator: re.Pattern[str]) -> Iterator[Span]:
    """The parts of `span` between separators, without the blanks at their ends; never an empty one."""
    start, end = span
    bounds = [start, *(match.end() for match in separator.finditer(source, start, end)), end]
    for left, right in pairwise(bounds):
        part = source[left:right]
        if part.strip():
            yield left + len(part) - len(part.lstrip()), left + len(part.rstrip())
