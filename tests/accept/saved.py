"""Results of long acceptance runs, kept as JSON so that an interrupted run goes on where it was."""

from __future__ import annotations

import json
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
        self._results: dict[str, Any] = {}
        if self._path.exists():
            data = json.loads(self._path.read_text())
            self._results = data["results"] if data["code"] == code else {}

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """The result called `name`, computed and saved unless it is there."""
        if name not in self._results:
            self._results[name] = compute()
            FOLDER.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_suffix(".part")
            partial.write_text(json.dumps({"code": self._code, "results": self._results}, indent=1))
            partial.replace(self._path)
        return self._results[name]
