"""Reads deploy/Dockerfile as a list of instructions by stage."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


@dataclass
class Stage:
    """One stage.

    Attributes:
        base: image, or the name of another stage.
        steps: (instruction, arguments) in order.
    """

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """Arguments of each such instruction."""
        return [text for name, text in self.steps if name == instruction]


def stages() -> dict[str, Stage]:
    """Every stage by name, in order."""
    text = "\n".join(line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    found: dict[str, Stage] = {}
    current = Stage("", "")
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        name, _, arguments = line.strip().partition(" ")
        if name == "FROM":
            base, _, stage_name = arguments.partition(" AS ")
            current = found[stage_name] = Stage(stage_name, base)
        elif name:
            current.steps.append((name, arguments.strip()))
    return found


def lineage(target: str) -> list[Stage]:
    """A stage and those it stands on, the first one first."""
    known, found = stages(), []
    while target in known:
        found.append(known[target])
        target = known[target].base
    return found[::-1]


def built_from(target: str) -> list[Stage]:
    """The stages whose files a target copies, in order."""
    (copied,) = {text.split("--from=")[1].split()[0] for text in stages()[target].all("COPY") if "--from=" in text}
    return lineage(copied)
