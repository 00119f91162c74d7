"""What a person sees while the demo is prepared: one line a step, with a bar and the time left where it takes long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Screen:
    """Steps and bars on a terminal; plain lines where there is none."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)

    def say(self, words: str) -> None:
        """One line."""
        self._console.print(words, soft_wrap=True, markup=False)

    @contextmanager
    def step(self, words: str) -> Iterator[None]:
        """A step without a measure of its progress: a spinner, then how long it took."""
        started = time.monotonic()
        if not self._console.is_terminal:
            self._console.print(f"{words} …")
        with self._console.status(f"{words} …"):
            yield
        self._console.print(f"{words}: done in {time.monotonic() - started:.0f} s")

    @contextmanager
    def bars(self) -> Iterator[Bars]:
        """Bars for steps that run at once."""
        progress = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[note]:<40}"),
            TimeElapsedColumn(),
            console=self._console,
        )
        with progress:
            yield Bars(progress, self._console)


class Bars:
    """Several bars by name."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}

    def show(self, name: str, done: float, total: float, note: str = "") -> None:
        """Move a bar, made when first named."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note=note)
        self._progress.update(self._tasks[name], completed=done, total=total, note=note)
        self._say_tenths(name, done, total, note)

    def _say_tenths(self, name: str, done: float, total: float, note: str) -> None:
        tenth = int(10 * done / total) if total else 0
        if not self._console.is_terminal and tenth > self._tenths.get(name, -1):
            self._tenths[name] = tenth
            self._console.print(f"{name}: {10 * tenth}% {note}")


def minutes(seconds: float) -> str:
    """`1:05 left`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} left"
