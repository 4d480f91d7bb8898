"""A name-to-factory table for every policy that configuration may choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from services.core.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Policies of one kind by name.

    Args:
        kind: what the entries are, for messages (`scorer`).
        path: configuration path that chooses among them (`router.scorers`).
    """

    def __init__(self, kind: str, path: str) -> None:
        self._kind = kind
        self._path = path
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files an entry under `name`; a second entry of the same name is a bug."""

        def add(entry: T) -> T:
            assert name not in self._entries, f"{self._kind} {name} is registered twice"
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> T:
        """The entry called `name`.

        Raises:
            ConfigError: no such entry; the message lists those there are.
        """
        if name not in self._entries:
            raise ConfigError(self._path, name, f"no such {self._kind}; choose from {', '.join(self.names())}")
        return self._entries[name]

    def names(self) -> list[str]:
        """Registered names in registration order."""
        return list(self._entries)
