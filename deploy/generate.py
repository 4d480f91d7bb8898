"""Writes deploy/dashboards/*.json and deploy/alerts.yaml from the metric registry; `make docs` runs it.

The bounds of the SLO are options; each must be a bucket of its histogram (docs/metrics.md lists them).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from services.core.slo import Slo
from services.telemetry.alerts import Objective, rules
from services.telemetry.dashboards import dashboards

DEPLOY = Path(__file__).parent
NOTE = "# Written by `make docs` (deploy/generate.py) from services/telemetry; change that, or its options, instead.\n"


class Plain(yaml.SafeDumper):
    """YAML without references to equal parts, which people and some readers do not follow."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def files(objective: Objective) -> dict[str, str]:
    """Every file's text by its path below deploy/."""
    found = {f"dashboards/{name}": json.dumps(model, indent=1) + "\n" for name, model in dashboards(objective).items()}
    found["alerts.yaml"] = NOTE + yaml.dump(rules(objective), Dumper=Plain, sort_keys=False, width=10_000)
    return found


def main() -> int:
    """Write them."""
    usual, parser = Objective(), argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ttft-ms", type=float, default=usual.slo.ttft_ms, help="bound of the time to first token")
    parser.add_argument("--itl-ms", type=float, default=usual.slo.tpot_ms, help="bound of the time between tokens")
    parser.add_argument("--attainment", type=float, default=usual.attainment, help="share that keeps each bound")
    parser.add_argument("--availability", type=float, default=usual.availability, help="share that does not fail")
    parser.add_argument("--out", type=Path, default=DEPLOY, help="folder to write to")
    chosen = parser.parse_args()
    objective = Objective(Slo(chosen.ttft_ms, chosen.itl_ms), chosen.attainment, chosen.availability)
    for name, text in files(objective).items():
        path = chosen.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
