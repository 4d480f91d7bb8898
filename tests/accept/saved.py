"""Results of long acceptance runs, kept as JSON so that an interrupted run goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / ".cache" / "accept"


class Saved:
    """One JSON file of results by name; those of other code are forgotten.

    Args:
        name: of the file.
        code: digest of the code whose results these are.
    """

    def __init__(self, name: str, code: str) -> None:
        self._path = FOLDER / f"{name}.json"
        self._code = code
        self._results: dict[str, Any] = self._kept()

    def _kept(self) -> dict[str, Any]:
        """What the file has of this code."""
        data = json.loads(self._path.read_text()) if self._path.exists() else {"code": "", "results": {}}
        return dict(data["results"]) if data["code"] == self._code else {}

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """The result called `name`, computed and saved unless it is there."""
        if name not in self._results:
            found = compute()
            self._results = {**self._kept(), name: found}  # another process may have added its own meanwhile
            FOLDER.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_suffix(f".{os.getpid()}.part")
            partial.write_text(json.dumps({"code": self._code, "results": self._results}, indent=1))
            partial.replace(self._path)
        return self._results[name]
