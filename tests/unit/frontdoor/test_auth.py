"""API keys: who calls, which file is right, reloading, tenants' limits and salts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml

from services.core.clock import NS_PER_MS, NS_PER_S, VirtualClock
from services.core.errors import ConfigError, PermissionDeniedError, QuotaError, UnauthenticatedError
from services.frontdoor.auth import ANYBODY, Authenticator, hash_key
from services.frontdoor.config import AuthConfig, Role, TenantLimits
from services.frontdoor.limits import TenantLimiter
from services.kvcache.block import NO_AUTH_SALT, tenant_salt

SECRET = b"s" * 32


def key(name: str, tenant: str = "acme", role: str = "user") -> dict[str, str]:
    return {"id": name, "sha256": hash_key(f"tk-{name}"), "tenant": tenant, "role": role}


def write(folder: Path, *keys: dict[str, str], **tenants: dict[str, float]) -> AuthConfig:
    (folder / "keys.yaml").write_text(yaml.safe_dump({"keys": list(keys), "tenants": tenants}))
    (folder / "secret").write_bytes(SECRET)
    return AuthConfig(keys_file=str(folder / "keys.yaml"), secret_file=str(folder / "secret"))


def test_a_key_names_tenant_role_salt_and_limits(tmp_path: Path) -> None:
    config = write(tmp_path, key("a"), key("b", "beta", "admin"), acme={"max_running_requests": 2})
    keys = Authenticator(config)
    found = keys.check("Bearer tk-a")
    assert (found.tenant, found.role, found.key_id) == ("acme", Role.USER, "a")
    assert found.salt == tenant_salt(SECRET, "acme") != keys.check("bearer  tk-b").salt
    assert found.limits.max_running_requests == 2
    assert keys.check("Bearer tk-b").limits == TenantLimits()
    found.require(Role.USER)
    keys.check("Bearer tk-b").require(Role.ADMIN)
    with pytest.raises(PermissionDeniedError, match="key a has the role user; this call needs admin"):
        found.require(Role.ADMIN)
    assert "salt" not in repr(found)


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer tk-c", "Basic tk-a", "tk-a", "Bearer é\udcff", "Bearer " + "x" * 9999],
)
def test_other_headers_are_refused(tmp_path: Path, header: str | None) -> None:
    with pytest.raises(UnauthenticatedError, match="authorization: Bearer") as caught:
        Authenticator(write(tmp_path, key("a"))).check(header)
    assert caught.value.reason == "INVALID_API_KEY"
    assert "tk-" not in caught.value.message


def test_without_a_file_everybody_may_do_everything() -> None:
    keys = Authenticator(AuthConfig())
    assert not keys.required
    assert keys.check(None) == keys.check("Bearer whatever") == ANYBODY
    assert ANYBODY.salt == NO_AUTH_SALT


def test_keys_are_reloaded_and_a_broken_file_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    keys = Authenticator(write(tmp_path, key("a")))
    assert not keys.reload()
    write(tmp_path, key("a"), key("new"))
    assert keys.reload()
    assert keys.check("Bearer tk-new").key_id == "new"
    (tmp_path / "keys.yaml").write_text("keys: [{id: a, sha256: tk-plain, tenant: acme}]")
    assert not keys.reload()
    assert keys.check("Bearer tk-new").key_id == "new"
    (tmp_path / "keys.yaml").unlink()
    assert not keys.reload()
    write(tmp_path, key("new"))
    assert keys.reload()
    with pytest.raises(UnauthenticatedError):
        keys.check("Bearer tk-a")
    said = caplog.text
    assert "keys.0.sha256 is wrong" in said
    for secret in ("tk-plain", hash_key("tk-a"), SECRET.decode()):
        assert secret not in said


@pytest.mark.parametrize(
    ("keys", "secret", "message"),
    [
        ("keys: [", SECRET, "is not YAML"),
        ("keys: [{id: a, sha256: plain, tenant: t}]", SECRET, r"keys\.0\.sha256 is wrong"),
        ("keys: [{id: a}]", SECRET, r"keys\.0\.sha256 is wrong: Field required"),
        ("hello", SECRET, "keys is wrong"),
        (yaml.safe_dump({"keys": [key("a"), key("a")]}), SECRET, "two keys have the same id"),
        (yaml.safe_dump({"keys": [key("a")]}), b"short", "less than 32 bytes"),
    ],
)
def test_wrong_files_are_told_without_their_content(tmp_path: Path, keys: str, secret: bytes, message: str) -> None:
    config = write(tmp_path)
    (tmp_path / "keys.yaml").write_text(keys)
    (tmp_path / "secret").write_bytes(secret)
    with pytest.raises(ConfigError, match=message) as caught:
        Authenticator(config)
    assert "plain" not in caught.value.message and "short" not in caught.value.message


def test_running_requests_of_a_tenant_are_bounded(tmp_path: Path) -> None:
    keys = Authenticator(write(tmp_path, key("a"), key("b", "beta"), acme={"max_running_requests": 1}))
    limiter = TenantLimiter(VirtualClock())
    mine, other = keys.check("Bearer tk-a"), keys.check("Bearer tk-b")
    with limiter.hold(mine), limiter.hold(other), limiter.hold(other):
        with pytest.raises(QuotaError, match="1 requests of tenant acme are in flight") as caught, limiter.hold(mine):
            pass
        assert (caught.value.reason, caught.value.subject) == ("TOO_MANY_RUNNING", "tenant:acme")
    assert limiter.running("acme") == limiter.running("beta") == 0
    with limiter.hold(mine):
        assert limiter.running("acme") == 1


def test_a_bucket_says_when_it_has_the_next_token(tmp_path: Path) -> None:
    config = write(tmp_path, key("a"), acme={"requests_per_s": 0.5, "burst_requests": 3})
    mine, clock = Authenticator(config).check("Bearer tk-a"), VirtualClock()
    limiter = TenantLimiter(clock)

    def send() -> int:
        """0 when it was let in, else milliseconds to wait."""
        try:
            with limiter.hold(mine):
                return 0
        except QuotaError as error:
            assert error.retry_after_ms is not None
            return error.retry_after_ms

    assert [send() for _ in range(4)] == [0, 0, 0, 2000]
    clock.advance_to(1 * NS_PER_S)
    assert send() == 1000
    clock.advance_to(2 * NS_PER_S - NS_PER_MS)
    assert send() == 1
    clock.advance_to(2 * NS_PER_S)
    assert [send(), send()] == [0, 2000]
    clock.advance_to(100 * NS_PER_S)
    assert [send() for _ in range(4)] == [0, 0, 0, 2000]


def test_tokens_are_taken_before_and_what_was_not_used_is_given_back(tmp_path: Path) -> None:
    limits = {
        "prompt_tokens_per_s": 10,
        "burst_prompt_tokens": 100,
        "output_tokens_per_s": 5,
        "burst_output_tokens": 50,
    }
    mine, clock = Authenticator(write(tmp_path, key("a"), acme=limits)).check("Bearer tk-a"), VirtualClock()
    reasons: list[str] = []
    limiter = TenantLimiter(clock, reasons.append)

    def send(prompt: int, asked: int, made: int, began: bool = True) -> int:
        """0 when it was let in, else milliseconds to wait."""
        with limiter.hold(mine) as hold:
            try:
                hold.charge(prompt, asked)
            except QuotaError as error:
                assert error.reason in ("PROMPT_TOKENS_LIMITED", "OUTPUT_TOKENS_LIMITED")
                assert error.retry_after_ms is not None
                return error.retry_after_ms
            hold.settle(began, made)
            return 0

    assert [send(60, 10, 10), send(60, 10, 10)] == [0, 2000], "40 of 60 are there, 10 come a second"
    assert [send(40, 50, 5), send(0, 40, 0)] == [2000, 0], "of output tokens 40 are left, and come back unused"
    assert reasons == ["PROMPT_TOKENS_LIMITED", "OUTPUT_TOKENS_LIMITED"]
    clock.advance_to(2 * NS_PER_S)
    assert send(60, 50, 50, began=False) == 0, "a prompt that nobody computed costs nothing"
    assert send(60, 0, 0) == 0
    clock.advance_to(100 * NS_PER_S)
    assert send(250, 1, 1) == 0, "a prompt above the whole bucket needs it full, and leaves a debt"
    assert send(1, 1, 1) == 15_100
    with limiter.hold(mine) as one, limiter.hold(mine) as two:
        clock.advance_to(1000 * NS_PER_S)
        one.charge(0, 50)
        with pytest.raises(QuotaError, match="5 output tokens a second"):
            two.charge(0, 1)
