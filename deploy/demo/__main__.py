"""The demo's commands: `serve` (prepare, then serve), `prepare` alone, and `test` (prepare, then pytest).

Run: python -m deploy.demo serve
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

from adapters.errors import AdapterError, TrainingFailed
from deploy.demo import run
from deploy.demo.place import Place, exclusive
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
    except TrainingFailed as error:
        return _fail(f"{error}: {(error.log_tail.strip().splitlines() or ['no output'])[-1]}")
    except (AdapterError, ConfigurationError) as error:
        return _fail(str(error))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return _fail(f"the disk that holds {place.home} is full: free some space and run this again")


def _dispatch(place: Place, command: str = "") -> int:
    if command == "prepare":
        from deploy.demo.prepare import prepare  # loads torch, which the process that serves should not hold

        prepare(place, Screen())
        return 0
    if command == "serve":
        with exclusive(place):
            if code := _prepare_apart():
                return code
            run.serve(place, Screen(), int(os.environ.get("REPERTORY_PORT", "8000")))
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return child.wait()
    except KeyboardInterrupt:
        # The terminal sent it to the child as well, which is cleaning up.
        child.wait()
        raise
    finally:
        if child.poll() is None:
            child.terminate()
            child.wait()


def _fail(words: str) -> int:
    print(f"repertory: {words}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
