"""The school: what was taught is remembered by content, and one failure ends the lesson for all."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.errors import TrainingCancelled, TrainingFailed
from adapters.store import AdapterStore
from adapters.train import Progress, TrainingResult, TrainingSpec
from deploy.demo.place import BASE_MODEL, Place
from deploy.demo.training import School, output_folder, threads_each
from tests.fakes.house import adapter_folder
from tests.fakes.serving import eventually

Work = Callable[[Callable[[], bool]], None]


class Trainer:
    """Stands for `run_training`: writes an adapter at once, or does what `work` holds under the output's name."""

    def __init__(self, **work: Work) -> None:
        self.work = work
        self.trained: list[str] = []

    def __call__(
        self, spec: TrainingSpec, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]
    ) -> TrainingResult:
        name = spec.output.name
        on_progress(Progress(1, 2, 0.5, 10.0, 1.0))
        self.work.get(name, lambda _: None)(should_stop)
        self.trained.append(name)
        return TrainingResult(adapter_folder(spec.output, name), {"seed": spec.seed})


def until_stopped(should_stop: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not should_stop():
        assert time.monotonic() < deadline, "nobody stopped it"
        time.sleep(0.01)
    raise TrainingCancelled


def fail(_should_stop: Callable[[], bool]) -> None:
    raise TrainingFailed("training ended without an adapter", exit_code=1, log_tail="out of memory\n")


@pytest.fixture
def store(place: Place) -> AdapterStore:
    return AdapterStore(place.home / "adapters")


@pytest.fixture
def spec_of(place: Place, tmp_path: Path) -> Callable[[str], TrainingSpec]:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")

    def spec(name: str) -> TrainingSpec:
        examples = tmp_path / f"{name}.jsonl"
        examples.write_text(
            f'{{"messages": [{{"role": "user", "content": "{name}"}}, {{"role": "assistant", "content": "ok"}}]}}\n'
        )
        return TrainingSpec(base_model=base, examples=examples, output=output_folder(place, name))

    return spec


def silent(_name: str, _progress: Progress) -> None:
    """Nobody watches."""


def test_what_is_taught_is_stored_with_its_record(
    place: Place, store: AdapterStore, spec_of: Callable[[str], TrainingSpec]
) -> None:
    told: list[tuple[str, Progress]] = []
    specs = {name: spec_of(name) for name in ("one", "two")}
    school = School(place, store, train=Trainer())
    adapters = school.teach(specs, lambda name, progress: told.append((name, progress)))
    assert {name: store.get(adapter).name for name, adapter in adapters.items()} == {
        "one": "one",
        "two": "two",
    }
    assert store.get(adapters["one"]).base_model == BASE_MODEL
    assert store.get(adapters["one"]).origin == {"seed": 0}
    assert sorted(name for name, _ in told) == ["one", "two"]


def test_a_known_spec_is_found_again_by_its_content(
    place: Place, store: AdapterStore, spec_of: Callable[[str], TrainingSpec], tmp_path: Path
) -> None:
    spec = spec_of("one")
    school = School(place, store, train=Trainer())
    assert school.known(spec) is None
    adapter = school.teach({"one": spec}, silent)["one"]
    later = School(place, store, train=Trainer())
    assert later.known(spec) == adapter
    assert later.known(replace(spec, output=tmp_path / "elsewhere", threads=7)) == adapter
    assert later.known(replace(spec, epochs=spec.epochs + 1)) is None
    assert later.known(replace(spec, examples=spec_of("two").examples)) is None


def test_an_adapter_that_the_store_has_lost_is_not_known(
    place: Place, store: AdapterStore, spec_of: Callable[[str], TrainingSpec], tmp_path: Path
) -> None:
    spec = spec_of("one")
    School(place, store, train=Trainer()).teach({"one": spec}, silent)
    assert School(place, AdapterStore(tmp_path / "empty")).known(spec) is None


@pytest.mark.parametrize("order", [["slow", "bad"], ["bad", "slow"]])
def test_a_failing_job_stops_the_others_and_is_the_one_reported(
    place: Place, store: AdapterStore, spec_of: Callable[[str], TrainingSpec], order: list[str]
) -> None:
    trainer = Trainer(slow=until_stopped, bad=fail)
    with pytest.raises(TrainingFailed) as failed:
        School(place, store, train=trainer).teach({name: spec_of(name) for name in order}, silent)
    assert failed.value.log_tail == "out of memory\n"
    assert trainer.trained == []
    assert store.list() == ()


def test_what_was_finished_before_a_failure_is_kept(
    place: Place, store: AdapterStore, spec_of: Callable[[str], TrainingSpec]
) -> None:
    specs = {name: spec_of(name) for name in ("quick", "bad")}
    school = School(place, store)

    def fail_later(should_stop: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while school.known(specs["quick"]) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        fail(should_stop)

    with pytest.raises(TrainingFailed):
        School(place, store, train=Trainer(bad=fail_later)).teach(specs, silent)
    assert school.known(specs["quick"]) is not None
    assert school.known(specs["bad"]) is None


def test_an_interrupt_stops_every_training(
    place: Place, store: AdapterStore, spec_of: Callable[[str], TrainingSpec]
) -> None:
    stopped: list[bool] = []

    def interrupt(should_stop: Callable[[], bool]) -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        try:
            until_stopped(should_stop)
        finally:
            stopped.append(should_stop())

    with pytest.raises(KeyboardInterrupt):
        School(place, store, train=Trainer(one=interrupt)).teach({"one": spec_of("one")}, silent)
    eventually(lambda: stopped == [True], what="the end of the training")


def test_threads_are_shared_and_every_job_has_one() -> None:
    assert threads_each(10_000) == 1
    assert threads_each(0) == threads_each(1) >= threads_each(2)
