"""A recorded run replays exactly; a changed policy and a hidden mutation are caught at the first affected entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from services.core.actions import Submit
from services.core.codec import canonical, decode, encode
from services.core.decision_log import DecisionLog, Replayed, replay
from services.core.ports import Machine
from services.core.request import WorkerRef
from services.scheduling.token_budget import TokenBudget
from services.worker.assemble import core_from_header, log_header
from tests.factories import make_request, make_spec
from tests.world import MS, World

P, D = WorkerRef("prefill-0", 1), WorkerRef("decode-0", 2)


def build(kind: str, header: Any) -> Machine:
    assert kind == "worker"
    return core_from_header(header)


def record(num_requests: int = 8) -> dict[WorkerRef, list[str]]:
    """Logs of a prefill and a decode worker that served some requests."""
    world = World(lambda: 2 * MS)
    logs: dict[WorkerRef, list[str]] = {}
    for ref, role in ((P, "prefill"), (D, "decode")):
        header = log_header(make_spec(ref.worker_id, (role,), scheduler={"max_batch_tokens": 8}), ref, 32, "s:1", 0)
        core = core_from_header(header)
        world.add(ref, core)
        logs[ref] = []
        log = DecisionLog(logs[ref].append, core, "worker", header)
        original = core.handle

        def handle(now: int, event: Any, original: Any = original, log: DecisionLog = log) -> Any:
            actions = original(now, event)
            log.record(now, event, actions)
            return actions

        core.handle = handle  # type: ignore[method-assign]
    for number in range(num_requests):
        world.feed(P, Submit("door", make_request(f"r{number}", tuple(range(number, number + 12)), handoff_to=D)))
        world.run(world.now + 15 * MS)
    world.run(world.now + 5000 * MS)
    return logs


def test_a_recorded_run_replays_without_a_mismatch() -> None:
    for lines in record().values():
        result = replay(lines, build)
        assert result.mismatch is None
        assert result.entries == len(lines) - 1
        assert result.decisions > 20


def test_a_changed_policy_is_caught_at_the_first_affected_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = record()[P]
    chunk = TokenBudget.chunk
    monkeypatch.setattr(TokenBudget, "chunk", lambda self, start, *rest: 1 if start else chunk(self, start, *rest))
    result = replay(lines, build)
    first = next(
        entry["sequence"]
        for entry in map(json.loads, lines[1:])
        if any(
            row["start"] for action in entry["actions"] if action["_"] == "RunStep" for row in action["batch"]["chunks"]
        )
    )
    assert result.mismatch is not None
    assert (result.mismatch.sequence, result.mismatch.what) == (first, "actions")


@pytest.mark.parametrize("at", [3, 10, 63, 64, 65, 70])
def test_a_mutation_that_leaves_the_actions_alone_is_caught_at_once(at: int) -> None:
    lines = record(20)[P]

    class Mutated:
        """The core, with one field changed before entry `at`."""

        def __init__(self, core: Any) -> None:
            self._core = core
            self._entries = 0
            self.state = core.state

        def handle(self, now: int, event: Any) -> Any:
            self._entries += 1
            if self._entries == at:
                self._core._blocks.evictions += 1
            return self._core.handle(now, event)

    result = replay(lines, lambda kind, header: Mutated(build(kind, header)))  # type: ignore[arg-type, return-value]
    assert result.mismatch is not None
    assert (result.mismatch.sequence, result.mismatch.what) == (at, "state")


def test_a_cut_last_line_ends_the_replay_quietly() -> None:
    lines = record()[D]
    result: Replayed = replay([*lines[:-1], lines[-1][:20]], build)
    assert result.mismatch is None
    assert result.entries == len(lines) - 2


def test_events_survive_the_journey_through_json() -> None:
    event = Submit("door", make_request("r", handoff_to=D), 5)
    assert decode(json.loads(json.dumps(encode(event)))) == event


def test_canonical_text_tells_order_and_type() -> None:
    same: Callable[[object, object], bool] = lambda a, b: canonical(a) == canonical(b)  # noqa: E731
    assert not same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert not same(0.1 + 0.2, 0.3)
    assert not same(1, True)
    assert same((1, [2]), [1, (2,)])
