"""API keys: their form, their hash, and whether one may do what it asks. Knows no storage and no clock."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from gateway.errors import AuthenticationError, PermissionDenied

_FORM = re.compile(r"sk-rep-([0-9a-f]{12})-([0-9a-f]{48})\Z")

_WRONG_KEY = "The API key is not valid. Keys look like sk-rep-<id>-<secret>; ask your administrator for one."


class Scope(StrEnum):
    INFERENCE = "inference"
    MANAGE = "manage"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as stored: everything but the secret.

    Attributes:
        tenant_id: None for an administrator's key, which belongs to no tenant.
        expires_at: Unix seconds, or None for never.
    """

    public_id: str
    tenant_id: str | None
    digest: bytes
    scopes: frozenset[Scope]
    expires_at: float | None = None
    revoked: bool = False


def generate() -> tuple[str, str]:
    """A new key: (public id, the whole key). The whole key is shown once and never stored."""
    public_id = secrets.token_hex(6)
    return public_id, f"sk-rep-{public_id}-{secrets.token_hex(24)}"


def split(key: str) -> tuple[str, str] | None:
    """(public id, secret) of a well-formed key, else None."""
    match = _FORM.match(key)
    return (match[1], match[2]) if match else None


def digest(pepper: bytes, secret: str) -> bytes:
    """Keyed hash of a key's secret: useless to whoever reads the database without the pepper."""
    return hmac.digest(pepper, secret.encode(), "sha256")


def bearer(header: bytes | None) -> str:
    """The credential of an Authorization header, or AuthenticationError."""
    if header is None:
        raise AuthenticationError(
            "No API key: send the header `Authorization: Bearer sk-rep-...`.", code="missing_api_key"
        )
    scheme, _, value = header.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not value.strip():
        raise AuthenticationError("The Authorization header must read `Bearer sk-rep-...`.")
    return value.strip()


def verify(credential: str, keys: Mapping[str, ApiKey], *, pepper: bytes, now: float) -> ApiKey:
    """The key that `credential` is, or AuthenticationError.

    An unknown id costs the same hash as a known one, so that timing does not tell which ids exist.
    """
    parts = split(credential)
    if parts is None:
        raise AuthenticationError(_WRONG_KEY)
    public_id, secret = parts
    found = keys.get(public_id)
    offered = digest(pepper, secret)
    if not hmac.compare_digest(offered, found.digest if found else b"\0" * 32) or found is None:
        raise AuthenticationError(_WRONG_KEY)
    if found.revoked:
        raise AuthenticationError("This API key was revoked: ask your administrator for a new one.")
    if found.expires_at is not None and found.expires_at <= now:
        raise AuthenticationError("This API key has expired: ask your administrator for a new one.")
    return found


def require(key: ApiKey, scope: Scope) -> None:
    """PermissionDenied unless the key has the scope."""
    if scope not in key.scopes:
        raise PermissionDenied(f"This API key lacks the scope `{scope}`.")
