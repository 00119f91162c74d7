"""What the gateway asks of an engine, whatever runs behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Health:
    """An engine's state. `starting` is a state of its own: it will be well without anyone's help."""

    ready: bool
    reason: str = "ok"
    starting: bool = False


class EngineAnswer(Protocol):
    """An answer whose status is known and whose body is still to come."""

    @property
    def status(self) -> int:
        """HTTP status."""

    async def begin(self) -> None:
        """Wait for the first bytes of the body. Raises EngineUnreachable when it breaks off before."""

    async def read(self) -> bytes:
        """The whole body. Raises EngineUnreachable when it breaks off."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, in pieces of any size. Raises EngineUnreachable when it breaks off."""

    def abort(self) -> None:
        """Drop the answer; the engine stops working on it. Harmless after the end."""


class Engine(Protocol):
    """One server of one base model and any number of adapters."""

    @property
    def name(self) -> str:
        """Unique in the pool."""

    @property
    def kind(self) -> str:
        """`vllm`, `local` or `echo`."""

    @property
    def base_model(self) -> str:
        """The name under which it serves the base."""

    @property
    def pid(self) -> int | None:
        """Process id where the gateway runs the engine itself."""

    async def start(self) -> None:
        """Begin to be available. Returns at once; `health` tells when it is."""

    async def stop(self) -> None:
        """End everything that `start` began."""

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> EngineAnswer:
        """Send a request. Raises EngineUnreachable when no answer begins; cancelling aborts the work."""

    async def health(self) -> Health:
        """Never calls a model."""

    async def adapters(self) -> frozenset[str]:
        """Names of the adapters it holds now. Raises EngineUnreachable or EngineRefused."""

    async def load_adapter(self, adapter_id: str, path: Path) -> None:
        """Load an adapter from a folder. Raises EngineUnreachable or EngineRefused."""

    async def unload_adapter(self, adapter_id: str) -> None:
        """Forget an adapter. Raises EngineUnreachable or EngineRefused."""
