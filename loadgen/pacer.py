"""Which request is due when: first turns by the schedule, later turns when the turn before them is over.

    read ──► (turn 0, or open loop) ──────────────────────────────► due at `intended_ns` ──► under way ──► ended
      └────► (closed loop) held until the turn before it ended ──► due at that end + `think_ns`

Pure: it is told the time and what happened, and says what to make ready and what to send. It reads the schedule only a
little ahead of time, so memory does not grow with the schedule's length.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from loadgen.schedule import ScheduledRequest


@dataclass(frozen=True, slots=True)
class Due:
    """A request with the time at which it ought to be sent, nanoseconds since the run's start."""

    request: ScheduledRequest
    intended_ns: int


@dataclass(slots=True)
class _Session:
    """A session with turns to come."""

    ended_ns: int | None = None  # of the turn before; None while that is held or under way
    held: deque[ScheduledRequest] = field(default_factory=deque)


class Pacer:
    """Paces one process's share of a schedule.

    Args:
        requests: in order of `intended_ns`.
        lookahead_ns: how long before it is due a request is read and made ready.
        max_in_flight: at most so many are under way; more wait, which shows as send lag.

    Attributes:
        in_flight: requests under way.
        waited: requests that were due while all slots were taken.
    """

    def __init__(self, requests: Iterator[ScheduledRequest], lookahead_ns: int, max_in_flight: int) -> None:
        self._requests = requests
        self._lookahead_ns = lookahead_ns
        self._max_in_flight = max_in_flight
        self._next = next(requests, None)
        self._waiting: list[tuple[int, int, ScheduledRequest]] = []
        self._sessions: dict[str, _Session] = {}
        self._counted = -1
        self.in_flight = 0
        self.waited = 0

    def read(self, now_ns: int) -> list[ScheduledRequest]:
        """Read what will be due within the lookahead; returns it, to be made ready."""
        found = []
        while self._next is not None and self._next.intended_ns <= now_ns + self._lookahead_ns:
            found.append(self._next)
            self._place(self._next)
            self._next = next(self._requests, None)
        return found

    def _place(self, request: ScheduledRequest) -> None:
        session = self._sessions.get(request.session)
        if not request.last_turn and session is None:
            session = self._sessions[request.session] = _Session(request.intended_ns)
        if request.think_ns is None or session is None:
            self._wait(request, request.intended_ns)
        else:
            session.held.append(request)
            self._release(session)

    def _wait(self, request: ScheduledRequest, intended_ns: int) -> None:
        heapq.heappush(self._waiting, (intended_ns, request.index, request))
        if request.session in self._sessions:
            self._sessions[request.session].ended_ns = None

    def _release(self, session: _Session) -> None:
        """The next held turn is due once the turn before it is over."""
        if session.held and session.ended_ns is not None:
            request = session.held.popleft()
            assert request.think_ns is not None, request
            self._wait(request, session.ended_ns + request.think_ns)

    def due(self, now_ns: int) -> list[Due]:
        """What is to be sent now, as far as slots are free."""
        found = []
        while self._waiting and self._waiting[0][0] <= now_ns:
            if self.in_flight >= self._max_in_flight:
                if self._waiting[0][1] != self._counted:
                    self.waited += 1
                    self._counted = self._waiting[0][1]
                break
            intended_ns, _, request = heapq.heappop(self._waiting)
            self.in_flight += 1
            found.append(Due(request, intended_ns))
        return found

    def ended(self, request: ScheduledRequest, now_ns: int) -> None:
        """A request under way is over, however it ended; the session goes on."""
        self.in_flight -= 1
        session = self._sessions.get(request.session)
        if session is None:
            return
        if request.last_turn:
            del self._sessions[request.session]
        else:
            session.ended_ns = now_ns
            self._release(session)

    def next_wake_ns(self) -> int | None:
        """When to call `read` or `due` again at the latest; None when only an end can bring something new."""
        times = []
        if self._waiting and self.in_flight < self._max_in_flight:
            times.append(self._waiting[0][0])
        if self._next is not None:
            times.append(self._next.intended_ns - self._lookahead_ns)
        return min(times, default=None)

    def finished(self) -> bool:
        """Whether everything was sent and has ended."""
        return self._next is None and not self._waiting and not self.in_flight and not self._held()

    def _held(self) -> bool:
        return any(session.held for session in self._sessions.values())

    def unsent(self, now_ns: int) -> int:
        """Requests that are due and were not sent."""
        return sum(1 for intended_ns, _, _ in self._waiting if intended_ns <= now_ns)
