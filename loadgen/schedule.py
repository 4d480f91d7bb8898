"""What is to be sent, when, and what its client does wrong: the values between the trace readers and the replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Prompt = Sequence[int] | str
"""Token ids, or text."""


@dataclass(frozen=True, slots=True)
class ScheduledRequest:
    """One request of a schedule; a schedule is in order of `intended_ns`.

    Attributes:
        index: place in the schedule, from 0.
        intended_ns: when to send it, nanoseconds since the run's start. Of a closed-loop turn it is only the time at
            which to read it: it is due `think_ns` after the end of the turn before.
        input_tokens: prompt tokens.
        output_tokens: tokens to make, exactly.
        prompt: makes the prompt; called once, shortly before it is due, so that prompts do not fill the memory.
        session: conversation that it is a turn of; unique where there are no conversations.
        turn: its place there, from 0.
        last_turn: whether no turn of the session follows.
        think_ns: closed-loop turns wait so long after the end of the turn before; None is sent at `intended_ns`.
        tenant: who asks.
        category: what is asked.
        deadline_ns: its client gives up so long after the intended send time; None waits.
        leave_after_tokens: its client disconnects after so many tokens; None stays.
        read_delay_ns: its client waits so long before each read; 0 reads at once.
    """

    index: int
    intended_ns: int
    input_tokens: int
    output_tokens: int
    prompt: Callable[[], Prompt]
    session: str
    turn: int = 0
    last_turn: bool = True
    think_ns: int | None = None
    tenant: str = ""
    category: str = ""
    deadline_ns: int | None = None
    leave_after_tokens: int | None = None
    read_delay_ns: int = 0

    @property
    def fault(self) -> str:
        """What its client does by plan: disconnect, slow_reader, deadline, or nothing."""
        if self.leave_after_tokens is not None:
            return "disconnect"
        if self.read_delay_ns:
            return "slow_reader"
        return "" if self.deadline_ns is None else "deadline"


Schedule = Callable[[], Iterator[ScheduledRequest]]
"""Makes the schedule from its start; picklable, so that every sending process reads it for itself."""
