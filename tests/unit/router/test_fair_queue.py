"""Who is served first: priority, then the tenant that had least (VTC and its bound), then the earliest objective."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.router.fair_queue import OUTPUT_WEIGHT, PROMPT_WEIGHT, FairQueue, TenantCounters


def drained(queue: FairQueue) -> list[str]:
    found = []
    while (name := queue.head()) is not None:
        queue.remove(name)
        found.append(name)
    return found


def test_priority_wins_over_what_a_tenant_had_and_that_over_objectives() -> None:
    counters = TenantCounters()
    queue = FairQueue(counters)
    for tenant in ("a", "b"):
        counters.enter(tenant)
    counters.prompt("a", 100)
    for name, priority, tenant, due in (("a1", 0, "a", 1), ("b1", 0, "b", 9), ("a2", 5, "a", 9), ("b0", -1, "b", 0)):
        queue.push(name, priority, tenant, due, 2.0)
    assert queue.work_before(0) == 6.0
    assert drained(queue) == ["a2", "b1", "a1", "b0"]
    assert queue.work_ms == 0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=60))
def test_of_one_tenant_the_earliest_objective_goes_first(pushes: list[tuple[int, bool]]) -> None:
    counters = TenantCounters()
    counters.enter("t")
    queue, waiting = FairQueue(counters), {}
    for number, (due, pop) in enumerate(pushes):
        queue.push(str(number), 0, "t", due, 1.0)
        waiting[str(number)] = (due, number)
        if pop:
            first = min(waiting, key=waiting.__getitem__)
            assert queue.head() == first
            queue.remove(first)
            del waiting[first]
    assert drained(queue) == sorted(waiting, key=waiting.__getitem__)


LONGEST, MOST_RUNNING, MOST_OUTPUT = 500, 8, 200


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, LONGEST), st.integers(1, MOST_OUTPUT)), min_size=30, max_size=120), st.data())
def test_two_backlogged_tenants_are_served_alike_within_the_bound(
    jobs: list[tuple[int, int]], data: st.DataObject
) -> None:
    """A server of eight places, one token of each running request a step; `a` and `b` always have requests waiting."""
    counters = TenantCounters()
    queue = FairQueue(counters)
    waiting: dict[str, list[tuple[int, int]]] = {"a": list(jobs), "b": list(reversed(jobs))}
    work: dict[str, tuple[str, int, int]] = {}
    for tenant, rows in waiting.items():
        for number, (prompt, output) in enumerate(rows):
            counters.enter(tenant)
            name = f"{tenant}{number}"
            work[name] = (tenant, prompt, output)
            queue.push(name, 0, tenant, data.draw(st.integers(0, 5)) if number < 5 else number, 1.0)
    left, running, served = {"a": len(jobs), "b": len(jobs)}, {}, {"a": 0.0, "b": 0.0}
    bound = 2 * max(PROMPT_WEIGHT * LONGEST, OUTPUT_WEIGHT * MOST_RUNNING * MOST_OUTPUT)
    while min(left.values()) > 0:
        while len(running) < MOST_RUNNING and min(left.values()) > 0 and (name := queue.head()) is not None:
            tenant, prompt, output = work[name]
            queue.remove(name)
            counters.prompt(tenant, prompt)
            served[tenant] += PROMPT_WEIGHT * prompt
            running[name], left[tenant] = output, left[tenant] - 1
        for name in list(running):
            tenant = work[name][0]
            counters.output(tenant, 1)
            served[tenant] += OUTPUT_WEIGHT
            running[name] -= 1
            if not running[name]:
                del running[name]
        assert abs(served["a"] - served["b"]) <= bound


def test_a_tenant_cannot_save_up() -> None:
    counters = TenantCounters()
    counters.enter("busy")
    counters.prompt("busy", 10_000)
    counters.enter("new")
    assert counters.served("new") == 10_000
    counters.leave("new")
    assert "new" not in counters._served, "it would be lifted again"
    assert counters.jain() == 1.0
