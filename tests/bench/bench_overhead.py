"""What the gateway adds to an engine that costs nothing: latency, CPU, throughput, memory.

Three ways to the same fake engine, each a process of its own: direct, through the bare baseline, and through the
gateway with its whole policy. They are measured in turn, again and again, so that whatever else the machine does
falls on all three.
"""

from __future__ import annotations

import http.client
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateway.engines.local import free_port
from gateway.policy import auth
from tests.bench import engine
from tests.bench.figures import Budget, Sample, Verdict, added, judge, middle, percentile, ratio
from tests.bench.load import PATH, Result, Shape, measure
from tests.bench.processes import Child, running

MODEL = "support"
SYSTEM_PROMPT = "You are Globex's support assistant. Answer in one short paragraph."
REPETITIONS = 9  # many and short: a shared machine's speed changes within seconds
SETTLING, GROWING = 10_000, 20_000
_GROWTH_MB = 1.0  # what an allocator may add without a leak: 50 bytes for each of the requests


@dataclass(frozen=True, slots=True)
class Case:
    """A row of requests."""

    name: str
    shape: Shape
    connections: int
    requests: int


JSON_ALONE = Case("JSON, c=1", Shape(stream=False), 1, 250)
STREAM_ALONE = Case("stream, c=1", Shape(stream=True), 1, 150)
JSON_MANY = Case("JSON, c=32", Shape(stream=False), 32, 800)
STREAM_MANY = Case("stream, c=32", Shape(stream=True), 32, 600)
LONG = Case("100 KB, c=1", Shape(stream=False, prompt_characters=100_000), 1, 60)
CASES = (JSON_ALONE, STREAM_ALONE, JSON_MANY, STREAM_MANY, LONG)

DIRECT, BARE, GATEWAY = "direct", "bare", "gateway"
WAYS = (DIRECT, BARE, GATEWAY)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to the engine."""

    name: str
    child: Child
    model: str
    key: str


@dataclass(slots=True)
class Memory:
    """The gateway's resident memory in MB: at its start, after some requests, after more, at the end."""

    start: float
    settled: float
    grown: float
    end: float


@dataclass(slots=True)
class Overhead:
    """All that was measured. `samples[case][way]` has one entry for each repetition."""

    samples: dict[str, dict[str, list[Sample]]]
    rss_mb: dict[str, float]
    memory: Memory
    failures: Counter[str]


Tell = Callable[[str], None]


def run(*, share: float = 1.0, tell: Tell = lambda _: None) -> Overhead:
    """Measure with `share` of the usual requests. `tell` hears of the progress.

    Raises:
        BenchError: a server did not start.
    """
    with tempfile.TemporaryDirectory(prefix="repertory-bench-") as name:
        folder = Path(name)
        with _started(folder) as ways:
            bench = _Bench(ways, share)
            tell("memory")
            start, settled, grown = bench.grow()
            for number in range(REPETITIONS):
                tell(f"repetition {number + 1} of {REPETITIONS}")
                bench.repeat()
            rss = {way.name: way.child.rss_mb() for way in ways}
        lines = (folder / f"{GATEWAY}.log").read_bytes().count(b"\n")
    if lines != bench.sent:
        bench.failures[f"gateway: {lines} log lines for {bench.sent} requests"] += 1
    return Overhead(bench.samples, rss, Memory(start, settled, grown, rss[GATEWAY]), bench.failures)


@dataclass(slots=True)
class _Bench:
    """A run in progress. `sent` counts the gateway's requests."""

    ways: tuple[Way, ...]
    share: float
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    sent: int = 0

    def grow(self) -> tuple[float, float, float]:
        """The gateway's memory, with one request seen, with some, and with more."""
        gateway = self.ways[-1]
        self._count(gateway, 1, probe(gateway))
        readings = [gateway.child.rss_mb()]
        for requests in (SETTLING, GROWING):
            self._measure(gateway, JSON_MANY, round(requests * self.share))
            readings.append(gateway.child.rss_mb())
        start, settled, grown = readings
        return start, settled, grown

    def repeat(self) -> None:
        """Each case once on each way."""
        for case in CASES:
            of_case = self.samples.setdefault(case.name, {})
            for way in self.ways:
                requests = max(10, round(case.requests * self.share))
                result = self._measure(way, case, requests)
                of_case.setdefault(way.name, []).append(sample_of(result, with_cpu=way.name != DIRECT))

    def _measure(self, way: Way, case: Case, requests: int) -> Result:
        result = measure(
            way.child.port,
            case.shape,
            model=way.model,
            key=way.key,
            connections=case.connections,
            requests=requests,
            cpu_seconds=way.child.cpu_seconds,
        )
        self._count(way, requests + case.connections, result.failures)
        return result

    def _count(self, way: Way, requests: int, failures: Counter[str]) -> None:
        if way.name == GATEWAY:
            self.sent += requests
        for fault, times in failures.items():
            self.failures[f"{way.name}: {fault}"] += times


def sample_of(result: Result, *, with_cpu: bool) -> Sample:
    """A run's figures."""
    good = len(result.whole)
    return Sample(
        p50=percentile(result.whole, 0.5) * 1e3,
        p99=percentile(result.whole, 0.99) * 1e3,
        first_p50=percentile(result.first, 0.5) * 1e3,
        first_p99=percentile(result.first, 0.99) * 1e3,
        requests_per_second=good / result.seconds if result.seconds else 0.0,
        cpu_ms=result.cpu_seconds / good * 1e3 if with_cpu and good else None,
    )


def configuration(engine_url: str, home: Path, port: int, key: str) -> dict[str, object]:
    """The gateway's settings: all of its policy that needs no retrieval."""
    release = {"name": MODEL, "base_model": engine.BASE_MODEL, "system_prompt": {"text": SYSTEM_PROMPT}}
    return {
        "home": str(home),
        "server": {"port": port},
        "engines": [{"kind": "vllm", "name": "fake", "base_model": engine.BASE_MODEL, "url": engine_url}],
        "prices": {engine.BASE_MODEL: {"input": "0.15", "cached_input": "0.075", "output": "0.60"}},
        "tenants": [{"name": "globex", "keys": [{"value": key}], "models": [release]}],
    }


@contextmanager
def _started(folder: Path) -> Iterator[tuple[Way, ...]]:
    key = auth.generate()[1]
    with ExitStack() as stack:

        def start(name: str, port: int, ready: str, *arguments: str) -> Child:
            output = folder / f"{name}.log"
            return stack.enter_context(running(list(arguments), port=port, ready=ready, output=output))

        port = free_port()
        fake = start(DIRECT, port, "/health", "-m", "tests.bench.engine", str(port))
        port = free_port()
        bare = start(BARE, port, "/openapi.json", "-m", "tests.bench.bare", str(port), fake.url)
        port = free_port()
        config = folder / "gateway.yaml"
        config.write_text(json.dumps(configuration(fake.url, folder / "home", port, key)))  # JSON is YAML
        gateway = start(GATEWAY, port, "/readyz", "-m", "gateway", "serve", "--config", str(config))
        yield (
            Way(DIRECT, fake, engine.BASE_MODEL, key),
            Way(BARE, bare, MODEL, key),
            Way(GATEWAY, gateway, MODEL, key),
        )


def probe(way: Way) -> Counter[str]:
    """Faults that show the gateway's policy to be off: there would be nothing to measure."""
    connection = http.client.HTTPConnection("127.0.0.1", way.child.port, timeout=30)
    with closing(connection):
        headers = {"authorization": f"Bearer {way.key}"}
        connection.request("POST", PATH, Shape(stream=False).body(way.model), headers)
        answer = connection.getresponse()
        answer.read()
        cost, tokens = (answer.getheader(f"x-repertory-{name}", "") for name in ("cost", "tokens"))
    faults = Counter[str]()
    if not cost.strip("0."):
        faults["an answer without its cost"] += 1
    if "system=" not in tokens or "system=0" in tokens:
        faults["an answer without its system prompt's tokens"] += 1
    return faults


def cpu(sample: Sample) -> float:
    """CPU as a figure; no number where it was not measured."""
    return math.nan if sample.cpu_ms is None else sample.cpu_ms


def verdicts(found: Overhead) -> list[Verdict]:
    """The project's budgets, with the bare baseline's figures on its machine."""

    def extra(
        case: Case, figure: Callable[[Sample], float], what: str, limit: float, bare: float | None
    ) -> Verdict:
        of = found.samples[case.name]
        ours, floor = (added(of[way], of[DIRECT], figure) for way in (GATEWAY, BARE))
        # A tail's quotient says little: a single hiccup of the machine may be all of it.
        times = ours / floor if floor > 0 and not what.endswith("p99") else None
        return judge(Budget(what, "ms", limit), ours, ratio=times, reference=bare)

    def work(case: Case, what: str, limit: float, bare: float) -> Verdict:
        of = found.samples[case.name]
        times = ratio(of[GATEWAY], of[BARE], cpu)
        return judge(Budget(what, "ms", limit), middle(of[GATEWAY], cpu), ratio=times, reference=bare)

    many, memory = found.samples[JSON_MANY.name], found.memory
    rate = Budget("requests/s, one process, c=32", "/s", 2500, at_least=True)
    faster = ratio(many[GATEWAY], many[BARE], lambda s: s.requests_per_second)
    return [
        extra(JSON_ALONE, lambda s: s.p50, "added to JSON, c=1, p50", 0.6, 0.32),
        extra(JSON_ALONE, lambda s: s.p99, "added to JSON, c=1, p99", 2.0, None),
        extra(STREAM_ALONE, lambda s: s.first_p50, "added to a stream's first byte, c=1, p50", 0.6, None),
        extra(STREAM_ALONE, lambda s: s.first_p99, "added to a stream's first byte, c=1, p99", 2.0, None),
        work(JSON_MANY, "CPU per request, c=32", 0.40, 0.24),
        work(STREAM_MANY, "CPU per 32-chunk stream, c=32", 0.65, 0.52),
        judge(rate, middle(many[GATEWAY], lambda s: s.requests_per_second), ratio=faster, reference=4200),
        judge(
            Budget("memory, highest", "MB", 150), max(memory.start, memory.settled, memory.grown, memory.end)
        ),
        judge(Budget("memory, growth while requests go on", "MB", _GROWTH_MB), memory.grown - memory.settled),
        extra(LONG, lambda s: s.p50, "added to a 100 KB prompt, p50", 2.0, None),
    ]
