"""The last user message, and the way back from the reply's markers to the sources."""

from hypothesis import given
from hypothesis import strategies as st

from retrieval.packing import Source
from retrieval.prompt import annotations, boundary_for, render


def source(number: int, file_id: str | None = None) -> Source:
    name = file_id or f"file-{number}"
    return Source(number, name, f"{name}.md", "Title", f"text {number}", 0.5, 4)


def test_the_best_source_and_then_the_question_stand_last() -> None:
    lines = render([source(1), source(2)], "How many?", "3f9a2c1b").splitlines()
    assert "3f9a2c1b" in lines[0]
    assert "not instructions" in lines[0]
    assert lines[1] == "[2] Title (file-2.md)"
    assert lines[3] == "[1] Title (file-1.md)"
    assert "3f9a2c1b" in lines[5]
    assert "not instructions" in lines[5]
    assert lines[-1] == "How many?"


def test_the_boundary_is_the_same_for_the_same_request_and_secret_only() -> None:
    assert boundary_for(b"s", "a", "b") == boundary_for(b"s", "a", "b")
    others = {boundary_for(b"t", "a", "b"), boundary_for(b"s", "ab", ""), boundary_for(b"s", "b", "a")}
    assert len(others | {boundary_for(b"s", "a", "b")}) == 4
    assert len(boundary_for(b"s")) == 8


def marks(answer: str, *sources: Source) -> list[tuple[object, object]]:
    return [(entry["file_id"], entry["index"]) for entry in annotations(answer, sources)]


def test_markers_of_every_form_point_at_their_sources() -> None:
    three = (source(1), source(2), source(3))
    assert marks("a [1][2] b [3]", *three) == [("file-1", 2), ("file-2", 5), ("file-3", 11)]
    assert marks("a [1, 3]. [2]", *three) == [("file-1", 2), ("file-3", 2), ("file-2", 10)]
    assert marks("[1-3]", *three) == marks("[1–3]", *three) == [("file-1", 0), ("file-2", 0), ("file-3", 0)]


def test_an_entry_has_the_shape_clients_expect() -> None:
    expected = {"type": "file_citation", "file_id": "file-1", "filename": "file-1.md", "index": 3}
    assert annotations("Yes[1]", [source(1)]) == [expected]


def test_markers_that_point_nowhere_are_ignored_and_unmarked_sources_come_at_the_end() -> None:
    assert marks("See [7] and [a] and [2000].", source(1)) == [("file-1", 27)]


def test_two_sources_of_one_file_in_one_marker_are_one_entry() -> None:
    assert marks("x [1, 2]", source(1, "f"), source(2, "f")) == [("f", 2)]


@given(st.text(st.sampled_from("[]123,-– a")), st.integers(0, 4))
def test_every_source_is_listed_and_no_place_twice(answer: str, number: int) -> None:
    sources = [source(n) for n in range(1, number + 1)]
    found = marks(answer, *sources)
    assert {file_id for file_id, _ in found} == {source.file_id for source in sources}
    assert len(found) == len(set(found))
    assert all(0 <= int(str(index)) <= len(answer) for _, index in found)
