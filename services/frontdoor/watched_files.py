"""Files that may be replaced while the server runs."""

from __future__ import annotations

import os
from collections.abc import Sequence


class WatchedFiles:
    """Tells when one of some files was changed or replaced; symlinks are followed, as mounted secrets need."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = tuple(paths)
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether a file is another than at the last call; one that is missing right now counts as unchanged."""
        now = self._look()
        if None in now or now == self._seen:
            return False
        self._seen = now
        return True

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_mark, self._paths))


def _mark(path: str) -> tuple[int, int, int] | None:
    """What tells one content of a file from the next, or None where there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
