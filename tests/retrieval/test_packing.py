"""What goes into the prompt: within budget, no repeats, neighbours together."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from retrieval.hits import Hit
from retrieval.packing import pack

MakeHit = Callable[..., Hit]

_vocabulary = st.sampled_from(["leave", "days", "pay", "pension", "porto", "office", "manager", "week"])
_hits = st.lists(
    st.builds(
        lambda file, ordinal, text, score: Hit(
            1, "acme", "vs_1", file, f"{file}.md", ordinal, "Title", "Heading", " ".join(text), score
        ),
        st.sampled_from(["a", "b"]),
        st.integers(0, 4),
        st.lists(_vocabulary, max_size=30),
        st.floats(-1, 1),
    ),
    max_size=8,
    unique_by=lambda hit: (hit.file_id, hit.ordinal),
)


def count(text: str) -> int:
    return len(text.split())


@given(_hits, st.integers(0, 80))
def test_the_budget_holds_and_numbers_follow_rank(hits: list[Hit], budget: int) -> None:
    hits.sort(key=lambda hit: -hit.score)
    sources = pack(hits, budget_tokens=budget, count=count)
    assert sum(source.tokens for source in sources) <= budget
    assert [source.number for source in sources] == list(range(1, len(sources) + 1))
    assert [source.score for source in sources] == sorted((source.score for source in sources), reverse=True)


def test_a_source_opens_with_its_number_place_and_file(hit: MakeHit) -> None:
    [source] = pack([hit("Five days.", heading="Carry-over")], budget_tokens=100, count=count)
    assert source.rendered == "[1] Leave › Carry-over (leave.md)\nFive days."
    assert source.tokens == count(source.rendered)


def test_a_near_duplicate_is_dropped(hit: MakeHit) -> None:
    text = "Everyone gets twenty seven days of annual leave in each calendar year"
    hits = [hit(text, 0.9), hit(text + ".", 0.8, file_id="file-2", filename="copy.md")]
    assert [source.file_id for source in pack(hits, budget_tokens=500, count=count)] == ["file-1"]


def test_neighbouring_chunks_become_one_source_in_document_order(hit: MakeHit) -> None:
    hits = [hit("second part", 0.9, ordinal=4, heading="B"), hit("first part", 0.6, ordinal=3, heading="A")]
    [source] = pack(hits, budget_tokens=100, count=count)
    assert source.text == "A\nfirst part\nB\nsecond part"
    assert (source.heading, source.score) == ("Leave", 0.9)


def test_words_repeated_by_overlap_are_written_once(hit: MakeHit) -> None:
    hits = [hit("one two three four", 0.9, ordinal=0), hit("three four five six", 0.8, ordinal=1)]
    [source] = pack(hits, budget_tokens=100, count=count)
    assert source.text == "one two three four five six"


def test_a_file_gives_two_chunks_at_most_unless_adjacent(hit: MakeHit) -> None:
    apart = [hit(f"text {word}", 0.9, ordinal=n) for n, word in ((0, "a"), (5, "b"), (10, "c"))]
    assert len(pack(apart, budget_tokens=500, count=count)) == 2
    beside = [*apart[:2], hit("text d", 0.8, ordinal=6)]
    assert "text d" in pack(beside, budget_tokens=500, count=count)[1].text


def test_what_does_not_fit_is_passed_over_for_what_does(hit: MakeHit) -> None:
    hits = [hit("word " * 50, 0.9), hit("short", 0.8, file_id="file-2")]
    assert [source.file_id for source in pack(hits, budget_tokens=10, count=count)] == ["file-2"]


def test_when_nothing_fits_the_best_is_cut_at_a_sentence_or_else_a_word(hit: MakeHit) -> None:
    sentences = hit("One two three. Four five six. " + "x " * 50)
    [source] = pack([sentences], budget_tokens=12, count=count)
    assert source.text == "One two three. Four five six."
    [source] = pack([hit("word " * 50)], budget_tokens=8, count=count)
    assert source.text == "word word word word"


def test_no_room_gives_no_sources(hit: MakeHit) -> None:
    assert pack([hit("One two.")], budget_tokens=2, count=count) == ()


def test_text_titles_and_file_names_are_sanitised(hit: MakeHit) -> None:
    bad = hit("a <|im_end|> b", title="<s>T", filename="x\n[2].md", heading="\u202eH")
    [source] = pack([bad, hit("<!-- only -->")], budget_tokens=100, count=count)
    assert source.rendered == "[1] T › H (x (2).md)\na  b"
