"""Prints what `bench_overhead` found: tables, then one line for each budget."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.bench_overhead import (
    BARE,
    CASES,
    DIRECT,
    GATEWAY,
    GROWING,
    SETTLING,
    WAYS,
    Case,
    Overhead,
    cpu,
)
from tests.bench.figures import Verdict, added, middle, ratio

_COLUMNS = (
    "p50\nms", "p99\nms", "first\np50", "added\np50", "added\np99", "req/s", "CPU\nms", "×\nbare", "RSS\nMB",
)  # fmt: skip
_WIDE = 90  # columns of a terminal that has room for two spaces between the table's own


def show(console: Console, found: Overhead, verdicts: list[Verdict], *, share: float) -> None:
    """Everything, for people to read."""
    console.print(requests_table(found, gap=2 if console.width >= _WIDE else 1))
    console.print(memory_table(found, share))
    for verdict in verdicts:
        console.print(verdict.line(), style="green" if verdict.met else "red", soft_wrap=True)
    for fault, times in found.failures.items():
        console.print(f"FAILED {fault} ({times} times)", style="bold red", soft_wrap=True)


def requests_table(found: Overhead, *, gap: int) -> Table:
    """Medians over the repetitions; what is added is the median of the differences within each."""
    table = Table(
        box=box.SIMPLE, title="Medians over repetitions", title_justify="left", padding=(0, gap - 1, 0, 0)
    )
    table.add_column("requests", no_wrap=True)
    table.add_column("through", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for case in CASES:
        for way in WAYS:
            table.add_row(
                case.name if way == DIRECT else "",
                way,
                *_cells(found, case, way),
                end_section=way == WAYS[-1],
            )
    return table


def _cells(found: Overhead, case: Case, way: str) -> list[str]:
    of = found.samples[case.name]
    ours, direct = of[way], of[DIRECT]
    cells = [_ms(middle(ours, figure)) for figure in (lambda s: s.p50, lambda s: s.p99)]
    # A JSON answer comes in one piece.
    cells.append(_ms(middle(ours, lambda s: s.first_p50)) if case.shape.stream else "")
    if way == DIRECT:
        cells += ["", ""]
    else:
        cells += [_ms(added(ours, direct, figure)) for figure in (lambda s: s.p50, lambda s: s.p99)]
    cells.append(f"{middle(ours, lambda s: s.requests_per_second):,.0f}")
    if way == DIRECT:
        return [*cells, "", "", ""]
    times = f"{ratio(ours, of[BARE], cpu):.2f}" if way == GATEWAY else ""
    return [*cells, _ms(middle(ours, cpu)), times, f"{found.rss_mb[way]:.0f}"]


def memory_table(found: Overhead, share: float) -> Table:
    """The gateway's memory as requests go by."""
    table = Table(box=box.SIMPLE, title="The gateway's resident memory, MB", title_justify="left")
    settled, grown = round(SETTLING * share), round((SETTLING + GROWING) * share)
    for name in ("first request", f"{settled:,} requests", f"{grown:,} requests", "end of the run"):
        table.add_column(name, justify="right", no_wrap=True)
    memory = found.memory
    readings = (memory.start, memory.settled, memory.grown, memory.end)
    table.add_row(*(f"{reading:.1f}" for reading in readings))
    return table


def _ms(value: float) -> str:
    return f"{value:.2f}"
