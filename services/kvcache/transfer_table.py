"""The KV hand-off as two tables, one for each end: (state, input) -> (next state, effects).

    OFFERED ──▶ GRANTED ──▶ SENDING ──▶ COMMITTED ──▶ RELEASED
       └───────────┴───────────┴──▶ ABORTED | EXPIRED

A missing cell means that the input changes nothing in that state; it is counted, never an error, because messages of
an attempt that is over may always still be under way.
"""

from __future__ import annotations

from enum import StrEnum


class TransferState(StrEnum):
    """States of one attempt; the last three are terminal."""

    OFFERED = "offered"
    GRANTED = "granted"
    SENDING = "sending"
    COMMITTED = "committed"
    RELEASED = "released"
    ABORTED = "aborted"
    EXPIRED = "expired"


TERMINAL = frozenset({TransferState.RELEASED, TransferState.ABORTED, TransferState.EXPIRED})


class Input(StrEnum):
    """What can happen to a transfer."""

    GRANT = "grant"  # sender: the peer reserved blocks
    ADMIT = "admit"  # receiver: blocks were reserved here
    READY = "ready"  # a part can move
    MOVED = "moved"  # a posted send or receive ended well
    COMPLETE = "complete"  # receiver: every part is in
    COMMIT = "commit"  # sender: the peer has everything
    ACK = "ack"  # receiver: the sender saw the commit
    DRAINED = "drained"  # sender: no posted send is left
    RESEND = "resend"  # receiver: time to say Grant or Commit again
    RETRY = "retry"  # sender: this attempt failed, another one is allowed
    FAIL = "fail"  # this end failed; the peer must be told
    ABORT = "abort"  # the peer gave up
    CANCEL = "cancel"  # the request is over
    RELEASE = "release"  # there is nothing to hand off
    EXPIRE = "expire"  # the lease ran out
    PEER_LOST = "peer_lost"  # the peer's process is gone


class Effect(StrEnum):
    """What a transition asks `transfer.py` to do, in order."""

    USE_LINK = "use_link"
    POST = "post"
    REOFFER = "reoffer"
    UNPIN = "unpin"
    TELL_GRANT = "tell_grant"
    TELL_COMMIT = "tell_commit"
    TELL_ACK = "tell_ack"
    TELL_ABORT = "tell_abort"
    TELL_RELEASE = "tell_release"
    HAND_OVER = "hand_over"
    NOTIFY_DONE = "notify_done"
    NOTIFY_FAILED = "notify_failed"
    NOTIFY_DROPPED = "notify_dropped"
    REVOKE = "revoke"


Table = dict[tuple[TransferState, Input], tuple[TransferState, tuple[Effect, ...]]]

_S, _I, _E = TransferState, Input, Effect


def _from(states: tuple[TransferState, ...], cells: dict[Input, tuple[TransferState, tuple[Effect, ...]]]) -> Table:
    return {(state, given): then for state in states for given, then in cells.items()}


SENDER: Table = {
    (_S.OFFERED, _I.GRANT): (_S.GRANTED, (_E.USE_LINK,)),
    (_S.GRANTED, _I.READY): (_S.SENDING, (_E.POST,)),
    (_S.SENDING, _I.READY): (_S.SENDING, (_E.POST,)),
    (_S.SENDING, _I.MOVED): (_S.SENDING, ()),
    (_S.SENDING, _I.COMMIT): (_S.COMMITTED, (_E.TELL_ACK, _E.NOTIFY_DONE)),
    (_S.COMMITTED, _I.MOVED): (_S.COMMITTED, ()),
    (_S.COMMITTED, _I.COMMIT): (_S.COMMITTED, (_E.TELL_ACK,)),
    (_S.COMMITTED, _I.DRAINED): (_S.RELEASED, (_E.UNPIN,)),
    (_S.RELEASED, _I.COMMIT): (_S.RELEASED, (_E.TELL_ACK,)),
    (_S.ABORTED, _I.COMMIT): (_S.ABORTED, (_E.TELL_ABORT,)),
    (_S.EXPIRED, _I.COMMIT): (_S.EXPIRED, (_E.TELL_ABORT,)),
} | _from(
    (_S.OFFERED, _S.GRANTED, _S.SENDING),
    {
        _I.RETRY: (_S.OFFERED, (_E.TELL_ABORT, _E.REOFFER)),
        _I.FAIL: (_S.ABORTED, (_E.TELL_ABORT, _E.UNPIN, _E.NOTIFY_FAILED)),
        _I.ABORT: (_S.ABORTED, (_E.UNPIN, _E.NOTIFY_FAILED)),
        _I.CANCEL: (_S.ABORTED, (_E.TELL_ABORT, _E.UNPIN)),
        _I.RELEASE: (_S.RELEASED, (_E.TELL_RELEASE, _E.UNPIN)),
        _I.EXPIRE: (_S.EXPIRED, (_E.TELL_ABORT, _E.UNPIN, _E.NOTIFY_FAILED)),
        _I.PEER_LOST: (_S.ABORTED, (_E.UNPIN, _E.NOTIFY_FAILED)),
    },
)

RECEIVER: Table = {
    (_S.OFFERED, _I.ADMIT): (_S.GRANTED, (_E.USE_LINK, _E.TELL_GRANT)),
    (_S.GRANTED, _I.RESEND): (_S.GRANTED, (_E.TELL_GRANT,)),
    (_S.GRANTED, _I.READY): (_S.SENDING, (_E.POST,)),
    (_S.SENDING, _I.READY): (_S.SENDING, (_E.POST,)),
    (_S.SENDING, _I.MOVED): (_S.SENDING, ()),
    (_S.SENDING, _I.COMPLETE): (_S.COMMITTED, (_E.TELL_COMMIT, _E.HAND_OVER)),
    (_S.COMMITTED, _I.RESEND): (_S.COMMITTED, (_E.TELL_COMMIT,)),
    (_S.COMMITTED, _I.ACK): (_S.RELEASED, ()),
    # The request is ours from the commit on: a sender that is gone or silent changes nothing.
    (_S.COMMITTED, _I.PEER_LOST): (_S.RELEASED, ()),
    (_S.COMMITTED, _I.EXPIRE): (_S.RELEASED, ()),
    # It ended, well or not, before the sender acknowledged: the sender must still learn that it may let go.
    (_S.COMMITTED, _I.CANCEL): (_S.RELEASED, (_E.TELL_COMMIT,)),
    # Only a sender whose lease had run out answers a commit with an abort: the request went on elsewhere.
    (_S.COMMITTED, _I.ABORT): (_S.ABORTED, (_E.REVOKE,)),
} | _from(
    (_S.OFFERED, _S.GRANTED, _S.SENDING),
    {
        _I.FAIL: (_S.ABORTED, (_E.TELL_ABORT, _E.UNPIN, _E.NOTIFY_DROPPED)),
        _I.ABORT: (_S.ABORTED, (_E.UNPIN, _E.NOTIFY_DROPPED)),
        _I.CANCEL: (_S.ABORTED, (_E.TELL_ABORT, _E.UNPIN, _E.NOTIFY_DROPPED)),
        _I.RELEASE: (_S.RELEASED, (_E.UNPIN, _E.NOTIFY_DROPPED)),
        _I.EXPIRE: (_S.EXPIRED, (_E.TELL_ABORT, _E.UNPIN, _E.NOTIFY_DROPPED)),
        _I.PEER_LOST: (_S.ABORTED, (_E.UNPIN, _E.NOTIFY_DROPPED)),
    },
)
