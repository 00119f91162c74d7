"""The benchmarks' own arithmetic and parsing: figures that are wrong would be believed. Nothing here is timed."""

import json
import math
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench import engine
from tests.bench.__main__ import chosen
from tests.bench.bench_overhead import configuration, sample_of
from tests.bench.figures import Budget, Sample, added, judge, middle, percentile, ratio
from tests.bench.load import Result, Shape, measure, request_bytes
from tests.bench.machine import busy_ticks, cpu_model
from tests.bench.processes import BenchError, stat_ticks
from tests.bench.wire import Message, Reader, chunk, last_chunk, unchunk


def sample(p50: float = 1.0, cpu_ms: float | None = None) -> Sample:
    return Sample(p50, p50, p50, p50, 1000 / p50, cpu_ms)


def read(data: bytes, *, piece: int) -> list[Message]:
    """All messages in `data`, which comes in pieces of that size."""
    reader, found = Reader(), []
    for at in range(0, len(data), piece):
        reader.feed(data[at : at + piece])
        while (message := reader.next()) is not None:
            found.append(message)
    assert reader.rest == 0
    return found


def answer(body: bytes, status: int = 200) -> Message:
    return Message(b"HTTP/1.1 %d X" % status, b"", body)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0)]
)
def test_a_percentile_is_the_value_at_its_rank(share: float, expected: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], share) == expected


def test_a_percentile_of_nothing_is_no_number() -> None:
    assert math.isnan(percentile([], 0.5))


def test_what_is_added_is_taken_within_each_repetition() -> None:
    """The machine was ten times slower in the second repetition, for both."""
    ours, direct = [sample(2.0), sample(20.0), sample(2.2)], [sample(1.0), sample(10.0), sample(1.0)]
    assert added(ours, direct, lambda s: s.p50) == pytest.approx(1.2)
    assert ratio(ours, direct, lambda s: s.p50) == pytest.approx(2.0)
    assert middle(ours, lambda s: s.p50) == 2.2


def test_a_ratio_leaves_out_runs_too_short_for_the_clock() -> None:
    ours, bare = [sample(cpu_ms=0.4), sample(cpu_ms=0.6)], [sample(cpu_ms=0.0), sample(cpu_ms=0.3)]
    assert ratio(ours, bare, lambda s: s.cpu_ms or 0.0) == pytest.approx(2.0)
    assert math.isnan(ratio(ours[:1], bare[:1], lambda s: s.cpu_ms or 0.0))


def test_a_budget_is_judged_here_and_on_the_reference_machine() -> None:
    verdict = judge(Budget("CPU", "ms", 0.40), 0.60, ratio=1.5, reference=0.24)
    assert not verdict.met
    assert verdict.scaled == pytest.approx(0.36)
    line = verdict.line()
    assert line.startswith("missed CPU ")
    assert line.endswith("0.60 ms (budget ≤ 0.40); 1.50 × bare, so 0.36 ms on the reference machine: met")


def test_a_rate_must_reach_its_budget() -> None:
    budget = Budget("requests", "/s", 2500, at_least=True)
    assert judge(budget, 2500).met
    assert not judge(budget, 2499).met
    assert judge(budget, 3000).line().endswith("3,000 /s (budget ≥ 2,500)")


def test_a_figure_that_is_no_number_meets_no_budget() -> None:
    assert not judge(Budget("", "", 1.0), math.nan).met
    assert not judge(Budget("", "", 1.0, at_least=True), math.nan).met


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.integers(1, 30))
def test_messages_are_read_whole_however_they_are_cut(bodies: list[bytes], piece: int) -> None:
    """Both forms of body, one behind the other; a body may hold what looks like the last chunk."""
    data = b""
    for body in bodies:
        data += b"POST /a HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        data += b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(body) + chunk(last_chunk())
        data += last_chunk()
    found = read(data, piece=piece)
    assert [message.body for message in found[0::2]] == bodies
    assert [message.body for message in found[1::2]] == [body + last_chunk() for body in bodies]


def test_a_message_without_a_body_ends_with_its_head() -> None:
    [message] = read(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", piece=7)
    assert message.start_line == b"GET /health HTTP/1.1"
    assert message.body == b""


def test_chunks_may_have_extensions_and_be_incomplete() -> None:
    assert unchunk(b"3;a=b\r\nabc\r\n0\r\n\r\nnext") == (b"abc", 17)
    assert unchunk(b"3\r\nab") is None
    assert unchunk(b"3\r\nabc\r\n") is None


@pytest.mark.parametrize("data", [b"x\r\nabc\r\n", b"2\r\nabc\r\n0\r\n\r\n"])
def test_malformed_chunks_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"invalid literal|does not end"):
        unchunk(data)


def test_the_fake_engines_answers_pass_the_clients_checks() -> None:
    assert Shape(stream=False).fault(answer(engine.whole_answer("m"))) is None
    assert Shape(stream=True).fault(answer(b"".join(engine.stream_events("m", usage=True)))) is None


def test_wrong_answers_are_named() -> None:
    events = engine.stream_events("m", usage=True)
    whole, stream = Shape(stream=False), Shape(stream=True)
    assert whole.fault(answer(b"", 503)) == "status 503"
    assert whole.fault(answer(engine.whole_answer("m")[:-9])) == "wrong answer"
    assert whole.fault(answer(b'{"choices":[]}')) == "wrong answer"
    assert stream.fault(answer(b"".join(events[:-1]))) == "no [DONE] at the end"
    assert stream.fault(answer(b"".join(events[1:]))) == "33 events instead of 34"


def test_requests_that_reach_nobody_are_failures() -> None:
    with socket.socket() as unheard:  # bound, so that nobody else can take the port; not listening
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        result = measure(port, Shape(stream=False), model="m", key="k", connections=3, requests=10)
    assert result.failures == {"connection refused": 3 + 10}
    assert result.whole == []


def test_a_request_carries_its_key_and_a_prompt_of_the_wished_length() -> None:
    body = Shape(stream=True, prompt_characters=5000).body("m")
    [message] = read(request_bytes(80, body, "sk-x"), piece=1000)
    asked = json.loads(message.body)
    assert len(asked["messages"][0]["content"]) == 5000
    assert asked["stream_options"] == {"include_usage": True}
    assert b"\r\nauthorization: Bearer sk-x" in message.head


def test_a_runs_figures_are_per_good_answer() -> None:
    result = Result(seconds=2.0, cpu_seconds=0.4, first=[0.001] * 4, whole=[0.002] * 4)
    found = sample_of(result, with_cpu=True)
    assert (found.p50, found.first_p50, found.requests_per_second) == (2.0, 1.0, 2.0)
    assert found.cpu_ms == pytest.approx(100.0)
    assert sample_of(Result(seconds=1.0), with_cpu=True).cpu_ms is None


def test_the_gateways_settings_are_ones_it_accepts(tmp_path) -> None:
    from gateway.settings import parse

    settings = parse(configuration("http://127.0.0.1:9", tmp_path, 8123, "sk-x"))
    assert settings.log_requests
    assert settings.tenants[0].models[0].system_prompt is not None


def test_what_proc_says_is_read() -> None:
    assert stat_ticks("12 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 70 7 0 0 20 0") == 77
    assert busy_ticks("cpu  1 2 4 1000 1000 8 16 32 0 0\ncpu0 9 9\n") == 63
    assert cpu_model("processor : 0\nmodel name\t: EPYC: 9\n") == "EPYC: 9"


def test_benchmarks_are_chosen_by_name_with_the_words_they_take() -> None:
    assert chosen(["gate", "folder", "overhead"]) == [("gate", ["folder"]), ("overhead", [])]
    with pytest.raises(BenchError, match="no benchmark speed: they are overhead, gate"):
        chosen(["speed"])
    with pytest.raises(BenchError, match="gate needs MODEL_FOLDER"):
        chosen(["gate"])
