"""Trains the demo's adapters, side by side, and remembers by content what was trained."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from adapters.errors import AdapterNotFound
from adapters.store import AdapterStore
from adapters.train import Progress, TrainingResult, TrainingSpec, run_training
from deploy.demo.place import BASE_MODEL, Place, read_json, write_json

KNOWN = "known.json"
Train = Callable[[TrainingSpec, Callable[[Progress], None], Callable[[], bool]], TrainingResult]
"""As `run_training`: a spec, a listener, and a question asked often: should it stop?"""


class School:
    """Turns training specs into adapters in the store; a spec seen before costs a look-up."""

    def __init__(self, place: Place, store: AdapterStore, *, train: Train = run_training) -> None:
        self._place = place
        self._store = store
        self._train = train
        self._known = place.training / KNOWN
        self._lock = threading.Lock()

    def known(self, spec: TrainingSpec) -> str | None:
        """The id of the adapter that this very spec made before, if the store still holds it."""
        adapter_id = read_json(self._known).get(spec.digest())
        if adapter_id is None:
            return None
        try:
            self._store.get(adapter_id)
        except AdapterNotFound:
            return None
        return str(adapter_id)

    def teach(
        self, specs: Mapping[str, TrainingSpec], on_progress: Callable[[str, Progress], None]
    ) -> dict[str, str]:
        """Adapter ids by name. All are trained at once, each in a process of its own.

        Raises:
            TrainingFailed: one failed; the others are stopped, and what is finished is kept.
        """
        stop = threading.Event()
        with ThreadPoolExecutor(max(1, len(specs))) as pool:
            try:
                jobs = {
                    name: pool.submit(self._teach_one, name, spec, on_progress, stop)
                    for name, spec in specs.items()
                }
                done, _ = wait(jobs.values(), return_when=FIRST_EXCEPTION)
                for job in done:
                    job.result()  # raises what failed, not the TrainingCancelled that follows from it
            finally:
                stop.set()
            return {name: job.result() for name, job in jobs.items()}

    def _teach_one(
        self,
        name: str,
        spec: TrainingSpec,
        on_progress: Callable[[str, Progress], None],
        stop: threading.Event,
    ) -> str:
        result = self._train(spec, lambda progress: on_progress(name, progress), stop.is_set)
        manifest = self._store.put(name, result.folder, BASE_MODEL, result.record)
        with self._lock:
            write_json(self._known, {**read_json(self._known), spec.digest(): manifest.id})
        return manifest.id


def threads_each(jobs: int) -> int:
    """CPU threads for each of several trainings that run at once."""
    return max(1, len(os.sched_getaffinity(0)) // max(1, jobs))


def output_folder(place: Place, name: str) -> Path:
    """Where a run leaves its files: spec, log, record and adapter."""
    return place.training / name
