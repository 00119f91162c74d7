"""Puts a request on an engine: writes the body, takes a place, and tries elsewhere while no byte was seen."""

from __future__ import annotations

import hmac
import secrets

import orjson

from gateway.catalog import Plan
from gateway.engines.base import EngineAnswer
from gateway.engines.pool import EnginePool, Lease
from gateway.errors import EngineUnreachable, InvalidRequest
from gateway.exchange import Exchange
from gateway.protocol import ENGINE_PATHS
from gateway.relay import broken
from gateway.tenants import Tenant

_RETRIED = (502, 503, 504)


class Dispatcher:
    """Shared by all requests. `secret` keys what keeps the tenants' caches apart."""

    def __init__(self, pool: EnginePool, *, secret: bytes) -> None:
        self._pool = pool
        self._secret = secret
        self._salts: dict[str, str] = {}

    async def engage(self, exchange: Exchange) -> tuple[Lease, EngineAnswer]:
        """A place on an engine and its answer: of a stream the first bytes are there, of JSON the status.

        Until then nothing has been said to the client, so another engine may be tried.

        Raises:
            Unavailable, EngineFault, EngineTimeout: none could take it, or the last one tried broke off.
            InvalidRequest: the body can't be written as JSON.
        """
        plan, request = exchange.plan, exchange.request
        path, payload = ENGINE_PATHS[request.endpoint], self._payload(exchange)
        # Made unique: a client may send the same id twice, and two requests of one name would meet in the engine.
        headers = {"x-request-id": f"{exchange.call.request_id}-{secrets.token_hex(4)}"}
        if exchange.call.traceparent:
            headers["traceparent"] = exchange.call.traceparent
        tried: frozenset[str] = frozenset()
        while True:
            lease = self._pool.lease(plan.base_model, plan.adapter_id, tried)
            exchange.engine = lease.engine.name
            tried |= {lease.engine.name}
            try:
                answer = await self._ask(lease, path, payload, headers, stream=request.stream)
            except EngineUnreachable as error:
                lease.release()
                self._pool.suspect(lease.engine.name)
                if not self._pool.can_serve(plan.base_model, plan.adapter_id, tried):
                    raise broken(error) from error
                continue
            except BaseException:
                lease.release()
                raise
            if answer.status in _RETRIED and self._pool.can_serve(plan.base_model, plan.adapter_id, tried):
                answer.abort()
                lease.release()
                continue
            return lease, answer

    async def _ask(
        self, lease: Lease, path: str, payload: bytes, headers: dict[str, str], *, stream: bool
    ) -> EngineAnswer:
        answer = await lease.engine.post(path, payload, headers)
        if stream and answer.status == 200:
            try:
                await answer.begin()
            except BaseException:
                answer.abort()
                raise
        return answer

    def _payload(self, exchange: Exchange) -> bytes:
        body, plan = exchange.request.body, exchange.plan
        body["model"] = plan.engine_model
        body["cache_salt"] = self._salt(exchange.tenant, plan, body.get("cache_salt"))
        if exchange.request.stream:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        try:
            return orjson.dumps(body)
        except TypeError as error:  # it writes fewer levels than it reads
            raise InvalidRequest("The body is nested too deeply.", code="invalid_json") from error

    def _salt(self, tenant: Tenant, plan: Plan, own: object) -> str:
        """Keeps the engine's prefix cache apart by tenant and release; a client's own salt narrows it."""
        scope = f"{tenant.id}|{plan.digest}|"
        if isinstance(own, str):
            return self._keyed(scope + own)
        salt = self._salts.get(scope)
        if salt is None:
            salt = self._salts[scope] = self._keyed(scope)  # as many as there are releases
        return salt

    def _keyed(self, text: str) -> str:
        return hmac.digest(self._secret, text.encode(), "sha256").hex()[:32]
