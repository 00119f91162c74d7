"""Which hits go into the prompt, merged and numbered, within a token budget.

Pure: knows no store and no wording.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from retrieval.chunking import HEADING_SEPARATOR, Count
from retrieval.hits import Hit
from retrieval.sanitise import sanitise, sanitise_line
from retrieval.words import words

MAX_APART_PER_FILE = 2
DUPLICATE_SHARE = 0.8
_SHINGLE = 4
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")
_WORD_END = re.compile(r"(?<=\S)\s+")


@dataclass(frozen=True, slots=True)
class Source:
    """What one number in the prompt stands for. `number` is its rank from 1, `tokens` its rendered size."""

    number: int
    file_id: str
    filename: str
    heading: str
    text: str
    score: float
    tokens: int

    @property
    def header(self) -> str:
        """The line that opens it: `[1] Leave › Carry-over (leave.md)`."""
        heading = self.heading + " " if self.heading else ""
        return f"[{self.number}] {heading}({self.filename})"

    @property
    def rendered(self) -> str:
        return f"{self.header}\n{self.text}"


def pack(hits: Sequence[Hit], *, budget_tokens: int, count: Count) -> tuple[Source, ...]:
    """The best hits that fit, as sources numbered by rank, 1 = best; `sum(source.tokens) <= budget_tokens`.

    `hits` come best first. Near-duplicates are dropped, a file gives at most two chunks unless they are
    adjacent, adjacent chunks of a file become one source, and text is sanitised. When not even one chunk
    fits, the best is cut at a sentence or a word; empty when there is no room for that.
    """
    chosen: list[Hit] = []
    cleaned = [hit for hit in map(_clean, hits) if hit.text]
    left = budget_tokens
    for hit in cleaned:
        if _repeats(hit, chosen) or not _file_has_room(hit, chosen):
            continue
        # Measured as a source of its own, plus the newline before the next; merging only makes it smaller.
        cost = _source(99, [hit], count).tokens + 1
        if cost <= left:
            chosen.append(hit)
            left -= cost
    if not chosen and cleaned:
        chosen = _cut_to_fit(cleaned[0], budget_tokens, count)
    groups = sorted(_adjacent(chosen), key=lambda group: -max(hit.score for hit in group))
    return tuple(_source(number, group, count) for number, group in enumerate(groups, 1))


def _clean(hit: Hit) -> Hit:
    return replace(
        hit,
        filename=sanitise_line(hit.filename),
        title=sanitise_line(hit.title),
        heading=sanitise_line(hit.heading),
        text=sanitise(hit.text),
    )


def _repeats(hit: Hit, chosen: Sequence[Hit]) -> bool:
    """Whether most of the hit's word runs are already in one of `chosen`."""
    mine = _shingles(hit.text)
    return any(len(mine & _shingles(other.text)) >= DUPLICATE_SHARE * len(mine) for other in chosen)


def _shingles(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + _SHINGLE]) for i in range(max(1, len(found) - _SHINGLE + 1))}


def _file_has_room(hit: Hit, chosen: Sequence[Hit]) -> bool:
    same = [other for other in chosen if other.file_id == hit.file_id]
    return len(same) < MAX_APART_PER_FILE or any(_touch(hit, other) for other in same)


def _touch(one: Hit, other: Hit) -> bool:
    same_place = (one.store_id, one.file_id) == (other.store_id, other.file_id)
    return same_place and abs(one.ordinal - other.ordinal) == 1


def _adjacent(hits: Sequence[Hit]) -> Iterator[list[Hit]]:
    """Runs of neighbouring chunks, each in document order."""
    run: list[Hit] = []
    for hit in sorted(hits, key=lambda hit: (hit.store_id, hit.file_id, hit.ordinal)):
        if run and not _touch(run[-1], hit):
            yield run
            run = []
        run.append(hit)
    if run:
        yield run


def _source(number: int, run: Sequence[Hit], count: Count) -> Source:
    """One source from a run of chunks: their shared heading path, and below it each part's own headings."""
    paths = [
        tuple(part for part in (hit.title, *hit.heading.split(HEADING_SEPARATOR)) if part) for hit in run
    ]
    shared = 0
    while all(len(path) > shared and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    text, above = "", paths[0][:shared]
    for hit, path in zip(run, paths, strict=True):
        own = HEADING_SEPARATOR.join(path[shared:])
        text = _append(text, hit.text if path == above or not own else f"{own}\n{hit.text}")
        above = path
    source = Source(
        number=number,
        file_id=run[0].file_id,
        filename=run[0].filename,
        heading=HEADING_SEPARATOR.join(paths[0][:shared]),
        text=text,
        score=max(hit.score for hit in run),
        tokens=0,
    )
    return replace(source, tokens=count(source.rendered))


def _append(text: str, part: str) -> str:
    """`part` after `text`; words that the store's overlap repeats at the seam are written once."""
    if not text:
        return part
    for size in range(min(len(text), len(part)), 0, -1):
        if text.endswith(part[:size]) and _on_word_bounds(text, part, size):
            return text + part[size:]
    return f"{text}\n{part}"


def _on_word_bounds(text: str, part: str, size: int) -> bool:
    starts = size == len(text) or text[-size - 1].isspace()
    ends = size == len(part) or part[size].isspace()
    return starts and ends


def _cut_to_fit(hit: Hit, budget_tokens: int, count: Count) -> list[Hit]:
    """The longest beginning of the hit that fits, ending at a sentence if one does, else at a word."""
    for boundary in (_SENTENCE_END, _WORD_END):
        ends = [match.start() for match in boundary.finditer(hit.text)]
        for end in reversed(ends):
            shorter = replace(hit, text=hit.text[:end])
            if _source(99, [shorter], count).tokens < budget_tokens:
                return [shorter]
    return []
