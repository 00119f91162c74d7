"""Keys: their form, and that every way of being wrong is refused the same way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import AuthenticationError, PermissionDenied
from gateway.policy import auth
from gateway.policy.auth import ApiKey, Scope

PEPPER = b"pepper"
NOW = 1_000.0


def stored(key: str, **fields: object) -> dict[str, ApiKey]:
    public_id, secret = auth.split(key)
    entry = ApiKey(public_id, "tnt_1", auth.digest(PEPPER, secret), frozenset({Scope.INFERENCE}), **fields)
    return {public_id: entry}


def test_a_generated_key_is_well_formed_and_unique() -> None:
    (id_one, one), (_, two) = auth.generate(), auth.generate()
    assert one != two
    assert auth.split(one)[0] == id_one
    assert one.startswith(f"sk-rep-{id_one}-")


def test_the_right_key_is_found() -> None:
    public_id, key = auth.generate()
    assert auth.verify(key, stored(key), pepper=PEPPER, now=NOW).public_id == public_id


@pytest.mark.parametrize(
    "key",
    [
        "",
        "sk-rep-",
        "sk-123",
        "sk-rep-zz-11",
        "sk-rep-" + "a" * 12 + "-" + "b" * 47,
        "sk-rep-" + "A" * 12 + "-" + "b" * 48,
    ],
)
def test_a_malformed_key_is_no_key(key: str) -> None:
    assert auth.split(key) is None
    with pytest.raises(AuthenticationError, match="not valid"):
        auth.verify(key, {}, pepper=PEPPER, now=NOW)


def test_a_trailing_newline_makes_a_key_malformed() -> None:
    assert auth.split(auth.generate()[1] + "\n") is None


@given(st.text())
def test_no_text_but_a_key_gets_in(text: str) -> None:
    _, key = auth.generate()
    with pytest.raises(AuthenticationError):
        auth.verify(text, stored(key), pepper=PEPPER, now=NOW)


def test_unknown_and_wrong_keys_get_the_very_same_answer() -> None:
    """Neither the words nor the code tell a stranger which ids exist."""
    public_id, key = auth.generate()
    wrong_secret = f"sk-rep-{public_id}-{'0' * 48}"
    unknown_id = f"sk-rep-{'0' * 12}-{key.rpartition('-')[2]}"
    bodies = []
    for credential in (wrong_secret, unknown_id, "nonsense"):
        with pytest.raises(AuthenticationError) as caught:
            auth.verify(credential, stored(key), pepper=PEPPER, now=NOW)
        bodies.append(caught.value.body())
    assert bodies[0] == bodies[1] == bodies[2]


def test_the_words_of_a_revoked_or_expired_key_need_its_secret() -> None:
    """Who has only the id learns nothing about the key's state."""
    public_id, key = auth.generate()
    for fields in ({"revoked": True}, {"expires_at": NOW - 1}):
        with pytest.raises(AuthenticationError, match="not valid"):
            auth.verify(f"sk-rep-{public_id}-{'0' * 48}", stored(key, **fields), pepper=PEPPER, now=NOW)


def test_a_revoked_key_is_refused() -> None:
    _, key = auth.generate()
    with pytest.raises(AuthenticationError, match="revoked"):
        auth.verify(key, stored(key, revoked=True), pepper=PEPPER, now=NOW)


@pytest.mark.parametrize(
    ("expires_at", "valid"), [(NOW - 1, False), (NOW, False), (NOW + 1, True), (None, True)]
)
def test_a_key_is_valid_until_the_moment_it_expires(expires_at: float | None, valid: bool) -> None:
    _, key = auth.generate()
    keys = stored(key, expires_at=expires_at)
    if valid:
        assert auth.verify(key, keys, pepper=PEPPER, now=NOW)
    else:
        with pytest.raises(AuthenticationError, match="expired"):
            auth.verify(key, keys, pepper=PEPPER, now=NOW)


def test_another_pepper_makes_every_key_wrong() -> None:
    _, key = auth.generate()
    with pytest.raises(AuthenticationError):
        auth.verify(key, stored(key), pepper=b"other", now=NOW)


def test_the_digest_does_not_hold_the_secret() -> None:
    assert b"secret" not in auth.digest(PEPPER, "secret")
    assert auth.digest(PEPPER, "secret") == auth.digest(PEPPER, "secret")


@pytest.mark.parametrize("header", [b"Bearer key", b"bearer key", b"BEARER  key "])
def test_the_scheme_is_read_in_any_case(header: bytes) -> None:
    assert auth.bearer(header) == "key"


def test_no_header_has_a_code_of_its_own() -> None:
    with pytest.raises(AuthenticationError) as caught:
        auth.bearer(None)
    assert caught.value.code == "missing_api_key"


@pytest.mark.parametrize("header", [b"", b"Bearer", b"Bearer ", b"Basic a2V5", b"sk-rep-1", b"\xff\xfe"])
def test_a_header_that_is_no_bearer_is_refused(header: bytes) -> None:
    with pytest.raises(AuthenticationError, match="Bearer"):
        auth.bearer(header)


def test_a_missing_scope_is_named() -> None:
    key = ApiKey("id", None, b"", frozenset({Scope.INFERENCE}))
    auth.require(key, Scope.INFERENCE)
    with pytest.raises(PermissionDenied, match="manage") as caught:
        auth.require(key, Scope.MANAGE)
    assert (caught.value.status, caught.value.code) == (403, "insufficient_scope")
