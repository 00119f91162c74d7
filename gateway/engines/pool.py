"""All engines: which are ready, which adapters each holds, and which one a request gets.

Every engine has a task that compares what it should hold with what it holds, loads what is missing and only
then lets requests go there. An engine that returns after a restart is empty and goes through the same door.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.engines.base import Engine, Health
from gateway.errors import EngineRefused, EngineUnreachable, Unavailable
from gateway.policy.routing import choose_engine
from gateway.telemetry import Telemetry

log = logging.getLogger(__name__)

_PERIOD = 1.0
_PERIOD_WHILE_AWAY = 0.25
_RETRY_AFTER = 5.0
_REFUSED_AGAIN_AFTER = 30.0

Wanted = Callable[[str], Mapping[str, Path]]
"""Adapters, with their folders, that an engine of a base model should hold."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an engine does not hold an adapter, and when (loop time) it is asked again."""

    reason: str
    again_at: float


@dataclass(slots=True)
class Member:
    """An engine and what the pool knows of it."""

    engine: Engine
    health: Health = field(default_factory=lambda: Health(False, "not started", starting=True))
    held: frozenset[str] = frozenset()
    inflight: int = 0
    refusals: dict[str, Refusal] = field(default_factory=dict)
    nudge: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def base_model(self) -> str:
        return self.engine.base_model

    @property
    def ready(self) -> bool:
        return self.health.ready


class Lease:
    """One request's hold on an engine; counted until released."""

    __slots__ = ("_member", "engine")

    def __init__(self, member: Member) -> None:
        self._member: Member | None = member
        self.engine = member.engine
        member.inflight += 1

    def release(self) -> None:
        """Give the place back. Once is enough; more is harmless."""
        if self._member is not None:
            self._member.inflight -= 1
            self._member = None


class EnginePool:
    """Keeps engines as they should be and hands out leases on those that are ready."""

    def __init__(self, engines: list[Engine], *, wanted: Wanted, telemetry: Telemetry) -> None:
        self.members = {engine.name: Member(engine) for engine in engines}
        self._wanted = wanted
        self._telemetry = telemetry
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the engines and the tasks that watch them; returns before they are ready."""
        for member in self.members.values():
            await member.engine.start()
            self._tasks.append(asyncio.create_task(self._watch(member), name=f"watch-{member.engine.name}"))

    async def stop(self) -> None:
        """Stop watching, then end the engines, side by side."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(member.engine.stop() for member in self.members.values()))

    def lease(self, base_model: str, adapter: str | None, tried: frozenset[str] = frozenset()) -> Lease:
        """A place on the best engine for this base and adapter.

        Raises:
            Unavailable: no engine can take it now; the message says why and when to try again.
        """
        member = self._choose(base_model, adapter, tried)
        if member is None:
            raise self._why_not(base_model, adapter)
        return Lease(member)

    def can_serve(self, base_model: str, adapter: str | None, tried: frozenset[str]) -> bool:
        """Whether an engine not yet tried could take it now."""
        return self._choose(base_model, adapter, tried) is not None

    def suspect(self, name: str) -> None:
        """A request found this engine wanting: no new ones go there until it was looked at again."""
        member = self.members[name]
        self._note(member, Health(False, "a request found it unreachable"))
        member.nudge.set()

    def reconcile_soon(self) -> None:
        """What is wanted has changed: look at every engine now."""
        for member in self.members.values():
            member.nudge.set()

    def unready(self) -> dict[str, str]:
        """Why each engine that is not ready is not, and each adapter that could not be loaded."""
        reasons = {}
        for name, member in self.members.items():
            if not member.health.ready:
                reasons[f"engine {name}"] = member.health.reason
            for adapter, refusal in member.refusals.items():
                reasons[f"adapter {adapter} on engine {name}"] = refusal.reason
        return reasons

    def _choose(self, base_model: str, adapter: str | None, tried: frozenset[str]) -> Member | None:
        return choose_engine(self.members.values(), base_model=base_model, adapter=adapter, tried=tried)

    def _why_not(self, base_model: str, adapter: str | None) -> Unavailable:
        members = [m for m in self.members.values() if m.engine.base_model == base_model]
        ready = [member for member in members if member.health.ready]
        if ready and all(adapter in member.refusals for member in ready):
            return Unavailable(
                "The engines refuse this model's adapter: its operator finds the reason at /readyz.",
                code="adapter_refused",
                retry_after=_REFUSED_AGAIN_AFTER,
            )
        if ready:
            return Unavailable(
                f"No engine holds the adapter {adapter} yet: try again in a few seconds.",
                code="adapter_not_loaded",
                retry_after=_RETRY_AFTER,
            )
        if any(member.health.starting for member in members):
            return Unavailable(
                "The engine is starting and takes no requests yet: try again in a few seconds.",
                code="engine_starting",
                retry_after=_RETRY_AFTER,
            )
        return Unavailable(
            f"No engine that serves {base_model} is up: try again in a few seconds.",
            code="engine_unavailable",
            retry_after=_RETRY_AFTER,
        )

    async def _watch(self, member: Member) -> None:
        while True:
            member.nudge.clear()
            try:
                await self._look(member)
            except Exception:  # a watcher that ends would leave its engine unwatched for ever
                log.exception("looking at engine %s failed", member.engine.name)
                member.health = Health(False, "looking at it failed; the log has the trace")
            self._report(member)
            period = _PERIOD if member.health.ready else _PERIOD_WHILE_AWAY
            with contextlib.suppress(TimeoutError):
                # Not wait_for: Python 3.11's loses a cancellation that meets the nudge, and stop() waits for ever.
                async with asyncio.timeout(period):
                    await member.nudge.wait()

    async def _look(self, member: Member) -> None:
        """One round: health, then adapters, and only then readiness."""
        health = await member.engine.health()
        if health.ready:
            try:
                await self._reconcile(member)
            except (EngineUnreachable, EngineRefused) as error:
                health = Health(False, str(error))
        if not health.ready:
            member.held = frozenset()
        self._note(member, health)

    def _note(self, member: Member, health: Health) -> None:
        if health.ready != member.health.ready:
            state = "ready" if health.ready else f"away: {health.reason}"
            log.info("engine %s is %s", member.engine.name, state)
            if not health.ready:
                self._telemetry.engine_losses.labels(member.engine.name).inc()
        member.health = health

    async def _reconcile(self, member: Member) -> None:
        engine = member.engine
        member.held = await engine.adapters()
        wanted = self._wanted(engine.base_model)
        member.refusals = {name: why for name, why in member.refusals.items() if name in wanted}
        # One at a time: a load runs inside the engine's loop and stalls every stream for its length.
        now = asyncio.get_running_loop().time()
        for adapter, path in wanted.items():
            refusal = member.refusals.get(adapter)
            if adapter not in member.held and (refusal is None or refusal.again_at <= now):
                await self._load(member, adapter, path)

    async def _load(self, member: Member, adapter: str, path: Path) -> None:
        name = member.engine.name
        try:
            await member.engine.load_adapter(adapter, path)
        except EngineRefused as error:
            log.error("adapter %s: %s", adapter, error)
            again_at = asyncio.get_running_loop().time() + _REFUSED_AGAIN_AFTER
            member.refusals[adapter] = Refusal(error.message, again_at)
            self._telemetry.adapter_loads.labels(name, "refused").inc()
            return
        member.refusals.pop(adapter, None)
        member.held |= {adapter}
        log.info("engine %s holds adapter %s", name, adapter)
        self._telemetry.adapter_loads.labels(name, "loaded").inc()

    def _report(self, member: Member) -> None:
        self._telemetry.engine_ready.labels(member.engine.name).set(member.health.ready)
        self._telemetry.adapters_loaded.labels(member.engine.name).set(len(member.held))
