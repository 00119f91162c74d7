"""Every error a client can meet, as data: HTTP status, type, code and the words.

    RepertoryError
    ├── ApiError                      answered to the client as {"error": {...}}
    │   ├── InvalidRequest      400   the request is wrong; `param` names the field
    │   ├── AuthenticationError 401   no key, or a key that is not valid
    │   ├── PermissionDenied    403   a valid key without the scope
    │   ├── NotFound            404   absent, or another tenant's: the two look the same
    │   ├── MethodNotAllowed    405
    │   ├── PayloadTooLarge     413
    │   ├── InternalError       500   our fault; the log has the trace, the client the request id
    │   ├── EngineFault         502   the engine broke while it had this request
    │   ├── Unavailable         503   nothing can serve this now; `retry_after` says when to ask again
    │   └── EngineTimeout       504
    ├── EngineUnreachable             an engine did not answer; the pool may try another
    ├── EngineRefused                 an engine refused a management call (adapter load and the like)
    └── ConfigurationError            a setting is wrong; start-up stops with one sentence

The code is the metric label: few values, never text from a request.
"""

from __future__ import annotations

from typing import Any


class RepertoryError(Exception):
    """Root of the tree."""


class ApiError(RepertoryError):
    """An error with an HTTP answer. `message` says what was wrong, whose limit it was and what to do."""

    status = 500
    type = "api_error"
    default_code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The answer's JSON: OpenAI's error shape."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}


class InvalidRequest(ApiError):
    status = 400
    type = "invalid_request_error"
    default_code = "invalid_request"


class AuthenticationError(ApiError):
    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class PermissionDenied(ApiError):
    status = 403
    type = "permission_error"
    default_code = "insufficient_scope"


class NotFound(ApiError):
    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class MethodNotAllowed(ApiError):
    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class PayloadTooLarge(ApiError):
    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class InternalError(ApiError):
    pass


class EngineFault(ApiError):
    status = 502
    type = "engine_error"
    default_code = "engine_error"


class Unavailable(ApiError):
    status = 503
    type = "engine_error"
    default_code = "engine_unavailable"


class EngineTimeout(ApiError):
    status = 504
    type = "engine_error"
    default_code = "engine_timeout"


class EngineUnreachable(RepertoryError):
    """The engine did not answer, or broke off.

    Attributes:
        connected: the request had reached it; False says that it was not even listening.
        timed_out: it is there, but said nothing for too long.
    """

    def __init__(self, engine: str, reason: str, *, connected: bool = True, timed_out: bool = False) -> None:
        super().__init__(f"engine {engine} did not answer: {reason}")
        self.engine = engine
        self.reason = reason
        self.connected = connected
        self.timed_out = timed_out


class EngineRefused(RepertoryError):
    """The engine answered a management call with an error."""

    def __init__(self, engine: str, status: int, message: str) -> None:
        super().__init__(f"engine {engine} answered {status}: {message}")
        self.engine = engine
        self.status = status
        self.message = message


class ConfigurationError(RepertoryError):
    """A setting is wrong. The message is one sentence that names it and the fix."""
