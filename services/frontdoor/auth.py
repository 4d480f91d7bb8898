"""Who calls: API keys to tenants and roles, for both doors.

A key is 256 random bits, so its plain SHA-256 cannot be searched for, and looking it up by that hash tells no timing.
Keys, hashes and the cluster's secret never go into a log or a message.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from services.core.config import parse
from services.core.errors import ConfigError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from services.frontdoor.config import AuthConfig, KeysFile, Role, TenantLimits
from services.frontdoor.watched_files import WatchedFiles
from services.kvcache.block import NO_AUTH_SALT, tenant_salt

logger = logging.getLogger(__name__)

SCHEME = "bearer"
MIN_SECRET_BYTES = 32
MAX_HEADER_CHARS = 512


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls.

    Attributes:
        tenant: whose key it was; "" without authentication.
        role: what the key may do.
        key_id: the key's name, for logs.
        salt: what this tenant's prefix hashes start with (protocol section 8).
        limits: of this tenant at one front door.
    """

    tenant: str
    role: Role
    key_id: str
    salt: bytes = field(repr=False)
    limits: TenantLimits

    def require(self, role: Role) -> None:
        """Raises:
        PermissionDeniedError: the key does not have that role; an admin may do everything.
        """
        if self.role not in (role, Role.ADMIN):
            raise PermissionDeniedError(f"key {self.key_id} has the role {self.role}; this call needs {role}")


ANYBODY = Identity("", Role.ADMIN, "", NO_AUTH_SALT, TenantLimits())
"""Everybody, where no keys are configured and no limits either."""


class Authenticator:
    """Knows the keys, and reads them again when their file changes.

    Raises:
        ConfigError: the file of keys or the secret cannot be read or is wrong.
    """

    def __init__(self, config: AuthConfig) -> None:
        self._config = config
        self._by_hash: dict[str, Identity] | None = None
        self._keys_file = Path(config.keys_file or "").expanduser()
        self._secret_file = Path(config.secret_file or "").expanduser()
        self._files = WatchedFiles([str(self._keys_file)] if config.keys_file else [])
        if config.keys_file:
            self._by_hash = self._load()

    @property
    def required(self) -> bool:
        """Whether callers need a key."""
        return self._by_hash is not None

    def check(self, header: str | None) -> Identity:
        """Who sent this `authorization` header (or metadata entry).

        Raises:
            UnauthenticatedError: a key is needed, and there is none or it is not known.
        """
        if self._by_hash is None:
            return Identity("", Role.ADMIN, "", NO_AUTH_SALT, self._config.limits)
        if not header:
            raise UnauthenticatedError("no API key: send `authorization: Bearer <key>`")
        scheme, _, key = header[:MAX_HEADER_CHARS].partition(" ")
        found = self._by_hash.get(hash_key(key.strip()))
        if scheme.lower() != SCHEME or found is None:
            raise UnauthenticatedError("the API key is not known here: send `authorization: Bearer <key>`")
        return found

    def identities(self, tenant: str) -> list[Identity]:
        """All keys of a tenant; without authentication everybody's, where the tenant is "".

        Raises:
            NotFoundError: there is no such tenant.
        """
        everybody = [self.check(None)] if self._by_hash is None else list(self._by_hash.values())
        found = [each for each in everybody if each.tenant == tenant]
        if not found:
            raise NotFoundError(f"tenant: there is no tenant {tenant[:80]!r}", kind="tenant", name=tenant)
        return found

    def reload(self) -> bool:
        """Read the keys again if their file changed; a wrong file is told in the log and changes nothing.

        Returns:
            Whether new keys hold now. Streams that run go on, whatever became of their key.
        """
        if not self._files.changed():
            return False
        try:
            self._by_hash = self._load()
        except ConfigError as error:
            logger.error("the keys stay as they were: %s", error.message)
            return False
        logger.info("%d API keys are accepted now", len(self._by_hash))
        return True

    def _load(self) -> dict[str, Identity]:
        keys = read_keys(self._keys_file)
        secret = read_secret(self._secret_file)
        return {
            key.sha256: Identity(
                tenant=key.tenant,
                role=key.role,
                key_id=key.id,
                salt=tenant_salt(secret, key.tenant),
                limits=keys.tenants.get(key.tenant, self._config.limits),
            )
            for key in keys.keys
        }


def hash_key(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(file: Path) -> KeysFile:
    """The file of keys.

    Raises:
        ConfigError: it cannot be read or is wrong; what it holds is not repeated.
    """
    path = "frontdoor.auth.keys_file"
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(path, str(file), f"cannot be read ({type(error).__name__}); see `triptych keys`") from None
    except yaml.YAMLError:
        raise ConfigError(path, str(file), "is not YAML; make it with `triptych keys add`") from None
    try:
        return parse(KeysFile, data if isinstance(data, dict) else {"keys": data})
    except ConfigError as error:
        fix = error.fix.split(" (", 1)[0]
        raise ConfigError(path, str(file), f"{error.path or 'the file'} is wrong: {fix}") from None


def read_secret(file: Path) -> bytes:
    """The cluster's secret.

    Raises:
        ConfigError: it cannot be read or is short.
    """
    path = "frontdoor.auth.secret_file"
    try:
        secret = file.read_bytes().strip()
    except OSError as error:
        raise ConfigError(path, str(file), f"cannot be read ({type(error).__name__}); see `triptych keys`") from None
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(
            path, str(file), f"holds less than {MIN_SECRET_BYTES} bytes; make it with `triptych keys add`"
        )
    return secret
