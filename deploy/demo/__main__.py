"""The demo's commands: `serve` (prepare, then serve), `prepare` alone, and `test` (prepare, then pytest).

Run: python -m deploy.demo serve
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

from adapters.errors import AdapterError, TrainingFailed
from deploy.demo import run
from deploy.demo.place import Place, exclusive, port
from deploy.demo.screen import Screen
from gateway.errors import ConfigurationError

INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Run a command; a foreseen failure is one sentence and exit status 1."""
    place = Place.from_environment()
    try:
        return _dispatch(place, *arguments[:1])
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        words = sentence(error, place)
        if words is None:
            raise
        print(f"repertory: {words}", file=sys.stderr)
        return 1


def sentence(error: Exception, place: Place) -> str | None:
    """What to tell a person about a failure that was foreseen; None for any other."""
    # SQLite and safetensors have errors of their own for a full disk.
    if re.search(r"No space left on device|database or disk is full", str(error)):
        return f"the disk that holds {place.home} is full: free some space and run this again"
    if isinstance(error, TrainingFailed):
        return f"{error}: {(error.log_tail.strip().splitlines() or ['no output'])[-1]}"
    return str(error) if isinstance(error, AdapterError | ConfigurationError) else None


def _dispatch(place: Place, command: str = "") -> int:
    if command == "prepare":
        from deploy.demo.prepare import prepare  # loads torch, which the process that serves should not hold

        _end_tidily()
        prepare(place, Screen())
        return 0
    if command == "serve":
        with exclusive(place):
            if code := _prepare_apart():
                return code
            run.serve(place, Screen(), port())
        return 0
    if command == "test":
        with exclusive(place):
            if code := _prepare_apart():
                return code
        os.environ["REPERTORY_TEST_HOME"] = str(place.home)
        os.environ["REPERTORY_TEST_EMBEDDER"] = str(place.embedder)
        os.execv(sys.executable, [sys.executable, "-m", "pytest", *sys.argv[2:]])
    raise ConfigurationError("say one of: serve, prepare, test")


def _prepare_apart() -> int:
    """Prepare in a child process; its exit status. Whatever ends us ends it first."""
    # The libraries' own progress bars would run into ours.
    environment = {**os.environ, "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    child = subprocess.Popen([sys.executable, "-m", "deploy.demo", "prepare"], env=environment)
    _end_tidily()
    try:
        code = child.wait()
        if code < 0:
            raise ConfigurationError(
                f"preparing the demo was ended by {signal.Signals(-code).name}: if memory ran out, close "
                "something; then run this again, it goes on from here"
            )
        return code
    except KeyboardInterrupt:
        # The terminal sent it to the child as well, which is cleaning up.
        child.wait()
        raise
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()


def _end_tidily() -> None:
    """SIGTERM as an exception, so that downloads and trainings under way are ended and scratch files removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
