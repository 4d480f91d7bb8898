"""Records every decision of a state machine, and replays a record through the same class (protocol section 7).

Line 0 is the header: what the machine was built from and its first state. Each further line is one entry: now, event,
actions, and a digest of the whole state after them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from services.core.actions import Action, Event
from services.core.codec import canonical, decode, encode
from services.core.ports import Machine

VERSION = 1
FULL_EVERY = 64


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _items(state: object, prefix: str = "", depth: int = 3) -> Iterator[tuple[str, str]]:
    """The state cut into named pieces, so that what did not change need not be hashed again."""
    if depth and isinstance(state, dict) and state:
        for index, (key, value) in enumerate(state.items()):
            # The place of a key is part of the state: dicts are walked in order by the machines.
            yield from _items(value, f"{prefix}/{index}:{key}", depth - 1)
    else:
        yield prefix, canonical(state)


class StateDigest:
    """BLAKE2b-64 of each piece of a state, combined by exclusive or.

    Between full digests only pieces whose text changed are hashed; every piece is compared every time, so a mutation
    is seen at the first entry after it.
    """

    def __init__(self) -> None:
        self._pieces: dict[str, tuple[str, int]] = {}

    def update(self, state: object, *, full: bool) -> str:
        """Digest of `state`, 16 hex digits; `full` hashes every piece anew."""
        pieces: dict[str, tuple[str, int]] = {}
        digest = 0
        for name, text in _items(state):
            known = self._pieces.get(name)
            piece = known if known is not None and known[0] == text and not full else (text, _hash(f"{name}={text}"))
            pieces[name] = piece
            digest ^= piece[1]
        self._pieces = pieces
        return f"{digest:016x}"


class DecisionLog:
    """Writes the log of one machine.

    Args:
        write: takes one line of text, newline included.
        machine: whose state is digested.
        kind: what kind of machine (`worker`, `flow`, `controller`); tells the replay what to build.
        built_from: JSON value from which the replay builds the machine.
    """

    def __init__(self, write: Callable[[str], object], machine: Machine, kind: str, built_from: Any) -> None:
        self._write = write
        self._machine = machine
        self._sequence = 0
        self._digest = StateDigest()
        header = {
            "version": VERSION,
            "kind": kind,
            "built_from": built_from,
            "state": self._digest.update(machine.state(), full=True),
        }
        self._line(header)

    def record(self, now: int, event: Event, actions: Sequence[Action]) -> None:
        """File one decision; call it after `handle`, before the actions are performed."""
        self._sequence += 1
        full = self._sequence % FULL_EVERY == 0
        self._line(
            {
                "sequence": self._sequence,
                "now": now,
                "event": encode(event),
                "actions": encode(list(actions)),
                "state": self._digest.update(self._machine.state(), full=full),
                "full": full,
            }
        )

    def _line(self, value: object) -> None:
        self._write(json.dumps(value, separators=(",", ":")) + "\n")


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first entry at which a replay went another way.

    Attributes:
        sequence: of the entry; 0 is the header.
        what: "actions" or "state".
        recorded, replayed: JSON of the actions, or the digests.
    """

    sequence: int
    what: str
    recorded: str
    replayed: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """Result of a replay. A decision is an entry with at least one action."""

    entries: int
    decisions: int
    mismatch: Mismatch | None


def replay(lines: Iterable[str], build: Callable[[str, Any], Machine]) -> Replayed:
    """Feed the events of a log to a machine built from its header; compare actions and state, entry by entry.

    Args:
        lines: the log. A cut last line, as a killed process leaves it, ends the replay quietly.
        build: (kind, built_from) -> machine.

    Raises:
        ValueError: not a decision log, or of another version.
    """
    source = iter(lines)
    header = json.loads(next(source))
    if header.get("version") != VERSION:
        raise ValueError(f"decision log version {header.get('version')!r}; this program reads {VERSION}")
    machine = build(header["kind"], header["built_from"])
    digest = StateDigest()
    first = digest.update(machine.state(), full=True)
    if first != header["state"]:
        return Replayed(0, 0, Mismatch(0, "state", header["state"], first))
    entries = decisions = 0
    for line in source:
        if not line.endswith("\n"):
            break
        entry = json.loads(line)
        actions = encode(machine.handle(entry["now"], decode(entry["event"])))
        entries += 1
        decisions += bool(entry["actions"])
        mismatch = None
        if actions != entry["actions"]:
            mismatch = Mismatch(entry["sequence"], "actions", json.dumps(entry["actions"]), json.dumps(actions))
        elif (state := digest.update(machine.state(), full=entry["full"])) != entry["state"]:
            mismatch = Mismatch(entry["sequence"], "state", entry["state"], state)
        if mismatch is not None:
            return Replayed(entries, decisions, mismatch)
    return Replayed(entries, decisions, None)
