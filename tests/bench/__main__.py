"""Benchmarks: what the gateway costs, and how good its retrieval is. They report; they are not tests.

    python -m tests.bench                          the gateway's overhead, beside its budgets (75 to 120 seconds)
    python -m tests.bench --quick                  the same with a fifth of the requests, for a first look
    python -m tests.bench --json figures.json      writes all figures of every repetition, too
    python -m tests.bench gate MODEL_FOLDER        the injection gate and the search on the demo handbook;
                                                   the folder holds the embedding model; -v lists mistakes
    python -m tests.bench --list                   names them

Run it from the repository root; `make bench` does, after it has set everything up. Exit status 0 also when a
budget is missed; 1 when a request failed or an answer was wrong; 2 when a benchmark could not run.
tests/bench/README.md says how to read the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.bench import machine
from tests.bench.processes import BenchError

_QUICK_SHARE = 0.2
_PAPER_WIDTH = 110  # what the widest table needs, where there is no terminal to ask

Outcome = tuple[dict[str, Any], bool]
"""Figures for --json, and whether every answer was right."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One of the list: what it measures, and the words it takes after its name."""

    summary: str
    takes: tuple[str, ...]
    run: Callable[[Console, argparse.Namespace, list[str]], Outcome]


def overhead(console: Console, options: argparse.Namespace, _words: list[str]) -> Outcome:
    """Runs bench_overhead and shows it."""
    from tests.bench import bench_overhead, report

    share = _QUICK_SHARE if options.quick else 1.0
    others = machine.Others()
    found = bench_overhead.run(share=share, tell=_tell)
    busy = others.cores()
    verdicts = bench_overhead.verdicts(found)
    report.show(console, found, verdicts, share=share)
    console.print(
        f"{others.seconds():.0f} s; meanwhile other processes used {busy:.1f} cores", soft_wrap=True
    )
    figures = {**asdict(found), "share": share, "busy_cores_meanwhile": busy}
    return {**figures, "budgets": [{**asdict(v), "met": v.met} for v in verdicts]}, not found.failures


def gate(_console: Console, options: argparse.Namespace, words: list[str]) -> Outcome:
    """Runs bench_gate, which prints by itself."""
    from tests.bench import bench_gate

    model = Path(words[0])
    if not model.is_dir():
        raise BenchError(f"there is no folder {model}: name the one with the embedding model")
    bench_gate.main(model)
    return {}, True


BENCHMARKS = {
    "overhead": Benchmark("what the gateway adds: latency, CPU, throughput, memory", (), overhead),
    "gate": Benchmark("the injection gate and the search on the demo handbook", ("MODEL_FOLDER",), gate),
}


def chosen(words: list[str]) -> list[tuple[str, list[str]]]:
    """Benchmarks by name, each with the words it takes.

    Raises:
        BenchError: there is no such benchmark, or it lacks a word.
    """
    waiting, found = list(words), []
    while waiting:
        name = waiting.pop(0)
        if name not in BENCHMARKS:
            raise BenchError(f"there is no benchmark {name}: they are {', '.join(BENCHMARKS)}")
        takes = BENCHMARKS[name].takes
        taken, waiting = waiting[: len(takes)], waiting[len(takes) :]
        if len(taken) < len(takes):
            raise BenchError(f"{name} needs {takes[len(taken)]} after its name")
        found.append((name, taken))
    return found


def main(arguments: list[str]) -> int:
    """The exit status."""
    options = _options(arguments)
    if options.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"{' '.join((name, *benchmark.takes)):20} {benchmark.summary}")
        return 0
    console = Console(soft_wrap=False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _PAPER_WIDTH)
    figures: dict[str, Any] = {}
    all_right = True
    try:
        plan = chosen(options.names or ["overhead"])
        here = machine.describe()
        for line in here.lines():
            console.print(line, soft_wrap=True)
        for name, words in plan:
            figures[name], right = BENCHMARKS[name].run(console, options, words)
            all_right &= right
        if options.json:
            options.json.write_text(json.dumps({"machine": asdict(here), **figures}, indent=1) + "\n")
    except BenchError as error:
        print(f"tests.bench: {error}", file=sys.stderr)
        return 2
    return 0 if all_right else 1


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: overhead")
    parser.add_argument("--quick", action="store_true", help="a fifth of the requests")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--list", action="store_true", help="name the benchmarks")
    parser.add_argument("-v", action="store_true", help="gate: list the questions it got wrong")
    return parser.parse_args(arguments)


def _tell(what: str) -> None:
    print(f"… {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
