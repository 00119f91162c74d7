"""Chunks fit the embedder, keep their headings, and lose nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.chunking import Chunk, split_markdown, split_text
from retrieval.embedding import HashingEmbedder
from retrieval.words import words

count = HashingEmbedder().count

_line = st.text(st.sampled_from("abc de. fg! #-|`>1\u00e9\u4e2d"), max_size=60)
_markdown = st.lists(
    st.one_of(
        _line,
        st.just(""),
        st.builds(lambda level, text: "#" * level + " " + text, st.integers(1, 6), _line),
        st.just("| a | b |\n| --- | --- |\n| c | d |"),
        st.just("```\ncode here\n```"),
        st.just("[ref]: https://example.org"),
    ),
    max_size=30,
).map("\n".join)


def _all_words(chunks: list[Chunk]) -> set[str]:
    return {word for chunk in chunks for word in words(f"{chunk.title} {chunk.heading} {chunk.text}")}


@settings(max_examples=150, deadline=None)
@given(_markdown, st.integers(16, 60), st.integers(0, 8))
def test_every_chunk_fits_and_is_a_span_of_the_source(source: str, limit: int, overlap: int) -> None:
    for chunk in split_markdown(source, count=count, title="Page", max_tokens=limit, overlap=overlap):
        assert count(chunk.embedding_text) <= limit
        assert source[chunk.start : chunk.end] == chunk.text
        assert chunk.text.strip() == chunk.text != ""


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(["# One", "## Two", "### Three", "", "alpha beta.", "- gamma\n- delta"]), max_size=20
    )
)
def test_no_word_is_lost(lines: list[str]) -> None:
    source = "\n".join(f"{line} w{i}" if line else "" for i, line in enumerate(lines))
    assert set(words(source)) <= _all_words(split_markdown(source, count=count, max_tokens=24))


@settings(max_examples=100, deadline=None)
@given(st.text(st.sampled_from("ab. \n\t\u4e2d\u3002"), max_size=400))
def test_plain_text_loses_nothing_but_blanks(source: str) -> None:
    chunks = split_text(source, count=count, max_tokens=16)
    assert "".join("".join(c.text.split()) for c in chunks) == "".join(source.split())


def test_headings_become_the_path_and_the_first_top_heading_the_title() -> None:
    [chunk] = split_markdown("# Leave\n\n## Carry-over *rules*\n\nFive days.", count=count)
    assert (chunk.title, chunk.headings, chunk.text) == ("Leave", ("Carry-over rules",), "Five days.")
    assert chunk.embedding_text == "Leave › Carry-over rules\nFive days."


def test_the_given_title_stands_in_where_there_is_no_top_heading() -> None:
    [chunk] = split_markdown("Just a line.", count=count, title="notes")
    assert chunk.title == "notes"


def test_front_matter_gives_the_title_and_is_not_text() -> None:
    [chunk] = split_markdown("---\ntitle: 'Travel'\ntags: x\n---\nFly economy.", count=count)
    assert (chunk.title, chunk.text) == ("Travel", "Fly economy.")


def test_a_table_and_a_fence_that_fit_stay_whole() -> None:
    table = "| a | b |\n| --- | --- |\n| one | two |"
    fence = "```\nx = 1\n\ny = 2\n```"
    filler = " ".join(["word"] * 40) + "."
    chunks = split_markdown(f"{filler}\n\n{table}\n\n{filler}\n\n{fence}\n", count=count, max_tokens=48)
    assert any(table in chunk.text for chunk in chunks)
    assert any(fence in chunk.text for chunk in chunks)


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    source = " ".join(f"Sentence number {i} ends here." for i in range(20))
    chunks = split_markdown(source, count=count, max_tokens=30)
    assert len(chunks) > 1
    assert all(chunk.text.endswith(".") for chunk in chunks)


def test_a_word_longer_than_a_chunk_is_cut_inside() -> None:
    chunks = split_text("x" * 500, count=len, max_tokens=100)
    assert len(chunks) > 1
    assert sum(len(chunk.text) for chunk in chunks) == 500


def test_small_neighbours_share_a_chunk_that_keeps_their_heading_lines() -> None:
    source = "# Page\n\n## Group\n\n### A\n\none\n\n### B\n\ntwo\n\n## Other\n\n" + "long " * 100
    first, second = split_markdown(source, count=count, max_tokens=120)
    assert first.headings == ("Group",)
    assert first.text == "### A\n\none\n\n### B\n\ntwo"
    assert second.headings == ("Other",)


def test_a_heading_too_long_for_the_path_is_kept_as_text() -> None:
    heading = "very " * 30 + "long"
    chunks = split_markdown(f"## {heading}\n\nBody.", count=count, max_tokens=40)
    assert all(chunk.headings == () for chunk in chunks)
    assert "Body." in chunks[-1].text


def test_overlap_repeats_the_end_of_the_chunk_before() -> None:
    source = "One two three. Four five six. Seven eight nine. Ten eleven twelve. Then more."
    chunks = split_text(source, count=count, max_tokens=16, overlap=4)
    assert [chunk.text for chunk in chunks][1] == "Ten eleven twelve. Then more."
    assert chunks[1].start < chunks[0].end


@pytest.mark.parametrize("limits", [{"max_tokens": 15}, {"overlap": -1}, {"max_tokens": 20, "overlap": 11}])
def test_limits_that_cannot_work_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"max_tokens|overlap"):
        split_text("text", count=count, **limits)


def test_blank_documents_have_no_chunks() -> None:
    assert split_markdown(" \n\n", count=count) == split_text("\n", count=count) == []
