"""Everything this package can refuse or fail at. Knows no HTTP status: the gateway maps these to answers.

AdapterError
├── AdapterInvalid       an adapter folder that must not be stored: every fault at once
├── AdapterNotFound      no adapter with that id
├── ModelNotFound        no model with that id
├── ReleaseNotFound      no release with that id under that model
├── TrafficInvalid       percentages that do not describe a split
├── TrafficConflict      someone else moved the traffic first
├── DataInvalid          a training file: every fault, by line
├── TrainingFailed       the training process refused, crashed or was killed
└── TrainingCancelled    the caller asked it to stop
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One reason for refusing an adapter; `code` is stable, `message` is for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class LineFault:
    """One reason for refusing a training file; `line` counts from 1 and is 0 for the file as a whole."""

    line: int
    code: str
    message: str


class AdapterError(Exception):
    """The base of every error raised by this package."""


class AdapterInvalid(AdapterError):
    """An adapter folder is not safe or not complete; `faults` lists every reason found."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("; ".join(f"{fault.code}: {fault.message}" for fault in faults))
        self.faults = faults


class AdapterNotFound(AdapterError):
    """No complete adapter has this id."""

    def __init__(self, adapter_id: str) -> None:
        super().__init__(f"no adapter {adapter_id!r}")
        self.adapter_id = adapter_id


class ModelNotFound(AdapterError):
    """No model has this id."""

    def __init__(self, model_id: str) -> None:
        super().__init__(f"no model {model_id!r}")
        self.model_id = model_id


class ReleaseNotFound(AdapterError):
    """No release has this id, or it belongs to another model."""

    def __init__(self, release_id: str) -> None:
        super().__init__(f"no release {release_id!r}")
        self.release_id = release_id


class TrafficInvalid(AdapterError):
    """A traffic split is not whole percentages from 1 to 100 that add up to 100."""


class TrafficConflict(AdapterError):
    """The traffic's generation is not the one the caller read; read it again before deciding."""

    def __init__(self, model_id: str, *, expected: int, actual: int) -> None:
        super().__init__(f"traffic of {model_id!r} is at generation {actual}, not {expected}")
        self.model_id = model_id
        self.expected = expected
        self.actual = actual


class DataInvalid(AdapterError):
    """A training file has faults; `faults` holds all of them, ordered by line."""

    def __init__(self, faults: tuple[LineFault, ...]) -> None:
        shown = "; ".join(f"line {fault.line}: {fault.code}: {fault.message}" for fault in faults[:5])
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        super().__init__(shown + more)
        self.faults = faults


class TrainingFailed(AdapterError):
    """Training ended without an adapter; a negative `exit_code` is a signal, `log_tail` ends its log."""

    def __init__(self, message: str, *, exit_code: int, log_tail: str) -> None:
        super().__init__(f"{message} (exit code {exit_code})")
        self.exit_code = exit_code
        self.log_tail = log_tail


class TrainingCancelled(AdapterError):
    """Training was stopped on request; the output folder holds no adapter."""
