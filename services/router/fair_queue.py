"""Requests that wait at the front door: by priority, then by what their tenant has had, then by their objective.

Fairness between tenants is the virtual token counter (VTC, Sheng et al. 2024): a tenant's counter grows by w_p for each
prompt token that is dispatched and w_q for each output token; the smallest one is served. A tenant that becomes active
is lifted to the smallest counter of those that are, so that it cannot save up. While two tenants are backlogged, what
they were served differs by at most 2 max(w_p L, w_q M): L the longest prompt, M the most output tokens under way.
"""

from __future__ import annotations

from heapq import heappop, heappush

PROMPT_WEIGHT, OUTPUT_WEIGHT = 1.0, 2.0
"""Costs of a token; an output token counts twice (VTC, section 5)."""


class TenantCounters:
    """What each tenant was served, and which ones are active: with a request that waits or runs."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._active: dict[str, int] = {}

    def enter(self, tenant: str) -> None:
        """A request of the tenant came."""
        if tenant not in self._active:
            others = [self._served[each] for each in self._active]
            lifted = min(others) if others else max(self._served.values(), default=0.0)
            self._served[tenant] = max(self._served.pop(tenant, 0.0), lifted)
        self._active[tenant] = self._active.get(tenant, 0) + 1

    def leave(self, tenant: str) -> None:
        """A request of it is over; counters of tenants that are not active are only kept while they matter."""
        self._active[tenant] -= 1
        if self._active[tenant] == 0:
            del self._active[tenant]
            least = min((self._served[each] for each in self._active), default=None)
            if least is not None and self._served[tenant] <= least:
                del self._served[tenant]  # it would be lifted above this anyway
            elif least is None:
                self._served = {tenant: self._served[tenant]}

    def prompt(self, tenant: str, tokens: int) -> None:
        """A prompt was dispatched."""
        self._served[tenant] += PROMPT_WEIGHT * tokens

    def output(self, tenant: str, tokens: int) -> None:
        """Output tokens came."""
        if tenant in self._active:
            self._served[tenant] += OUTPUT_WEIGHT * tokens

    def served(self, tenant: str) -> float:
        """A tenant's counter."""
        return self._served.get(tenant, 0.0)

    def jain(self) -> float:
        """Jain's index of what the active tenants were served: 1 when all had the same."""
        values = [self._served[each] for each in self._active]
        squares = sum([value * value for value in values])
        return 1.0 if not squares else sum(values) ** 2 / (len(values) * squares)

    def state(self) -> object:
        """Counters and requests by tenant."""
        return [dict(self._served), dict(self._active)]


class FairQueue:
    """Waiting requests: highest priority first, then the tenant that was served least, then the earliest objective.

    Args:
        counters: what tenants were served.
    """

    def __init__(self, counters: TenantCounters) -> None:
        self._counters = counters
        self._levels: dict[int, dict[str, list[tuple[int, int, str]]]] = {}
        self._where: dict[str, tuple[int, str, float]] = {}  # priority, tenant, predicted ms of work
        self._arrivals = 0
        self.work_ms = 0.0

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._where

    def push(self, request_id: str, priority: int, tenant: str, due_ns: int, work_ms: float) -> None:
        """Let a request wait; `due_ns` is when it should have its first token."""
        self._arrivals += 1
        heap = self._levels.setdefault(priority, {}).setdefault(tenant, [])
        heappush(heap, (due_ns, self._arrivals, request_id))
        self._where[request_id] = (priority, tenant, work_ms)
        self.work_ms += work_ms

    def head(self) -> str | None:
        """The next one; it stays in the queue."""
        while self._levels:
            priority = max(self._levels)
            tenants = self._levels[priority]
            for tenant in list(tenants):
                heap = tenants[tenant]
                while heap and self._where.get(heap[0][2], (None, None, 0.0))[:2] != (priority, tenant):
                    heappop(heap)
                if not heap:
                    del tenants[tenant]
            if tenants:
                tenant = min(tenants, key=self._counters.served)
                return tenants[tenant][0][2]
            del self._levels[priority]
        return None

    def remove(self, request_id: str) -> None:
        """It waits no longer."""
        found = self._where.pop(request_id, None)
        if found is not None:
            self.work_ms = self.work_ms - found[2] if self._where else 0.0

    def work_before(self, priority: int) -> float:
        """Predicted ms of prefill that waits at this priority or above."""
        return sum([work for level, _, work in self._where.values() if level >= priority])

    def depths(self) -> dict[int, int]:
        """Waiting requests by priority."""
        found: dict[int, int] = {}
        for priority, _, _ in self._where.values():
            found[priority] = found.get(priority, 0) + 1
        return found

    def state(self) -> object:
        """Who waits, in order of arrival."""
        return [[name, *where] for name, where in self._where.items()]
