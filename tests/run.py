"""Every test of `make test` in two pytest processes side by side; what failed is run once more, alone, and told.

Tests that start clusters mostly wait, so they share the cores with all others. A liveness bound can then be missed for
want of a core rather than for a fault of ours. A test that fails alone as well fails the run; one that passed only when
it was alone is named at the end, because it hides either a race or a bound without slack.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

CACHE = Path(".pytest_cache")
PYTEST = (sys.executable, "-m", "pytest", "-q", "--durations=10")
CHOSEN = "not accept and not bench"
PASSED, FAILED, NO_TESTS = 0, 1, 5


@dataclass
class Suite:
    """One of the two pytest processes.

    Attributes:
        marks: expression that chooses its tests.
    """

    name: str
    marks: str
    flaky: list[str] = field(default_factory=list)

    def command(self, *more: str) -> list[str]:
        """The command line; each suite has a cache of its own, which remembers what failed."""
        return [*PYTEST, "-m", f"{self.marks} and {CHOSEN}", "-o", f"cache_dir={CACHE / self.name}", *more]

    def failed(self) -> list[str]:
        """Ids of the tests that failed in the last run, or whose setup did."""
        file = CACHE / self.name / "v" / "cache" / "lastfailed"
        return sorted(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else []

    def settle(self, status: int, options: list[str]) -> bool:
        """Whether all is well; where some tests failed, they are run again with nothing beside them."""
        if status in (PASSED, NO_TESTS):
            return True
        again = self.failed()
        if status != FAILED or not again:
            return False  # pytest itself was interrupted or could not start
        print(f"\ntest: {len(again)} failed among the {self.name} tests; once more, alone", flush=True)
        if subprocess.run(self.command("--last-failed", *options), check=False).returncode != PASSED:
            return False
        self.flaky = again
        return True


def main(options: list[str]) -> int:
    """Run both suites.

    Args:
        options: more of pytest's, for both.

    Returns:
        0 if every test passed, in the end.
    """
    clusters, others = Suite("clusters", "cluster"), Suite("others", "not cluster")
    with tempfile.TemporaryFile() as log:
        beside = subprocess.Popen(clusters.command(*options), stdout=log, stderr=subprocess.STDOUT)
        try:
            statuses = {"others": subprocess.run(others.command(*options), check=False).returncode}
            statuses["clusters"] = beside.wait()
        except KeyboardInterrupt:
            beside.send_signal(signal.SIGINT)
            beside.wait()
            return 130
        log.seek(0)
        sys.stdout.write(log.read().decode(errors="replace"))
        sys.stdout.flush()
    well = [suite.settle(statuses[suite.name], options) for suite in (clusters, others)]
    for name in clusters.flaky + others.flaky:
        print(f"test: passed only alone, look into it: {name}")
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
