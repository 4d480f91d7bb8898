"""Links of a worker of several ranks: rank 0 tells every rank what to post, and merges what they answer."""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable

import numpy as np

from services.core.actions import (
    CloseLink,
    Event,
    OpenLink,
    PostReceive,
    PostSend,
)
from services.core.codec import decode, encode
from services.core.ports import LinkError
from services.engine.rank_group import RankGroup, Words
from services.worker.links import SHUTDOWN_S, Links
from services.worker.rank_answers import RankAnswers

logger = logging.getLogger(__name__)

LinkAction = OpenLink | CloseLink | PostSend | PostReceive
WORD = 8


def to_words(message: LinkAction | Event) -> Words:
    """A link action or its answer as numbers: the length in bytes, then JSON."""
    data = json.dumps(encode(message), separators=(",", ":")).encode()
    padded = data.ljust(-(-len(data) // WORD) * WORD)
    return np.concatenate([np.array([len(data)], dtype=np.int64), np.frombuffer(padded, dtype=np.int64)])


def from_words(words: Words) -> LinkAction | Event:
    """What `to_words` was given."""
    message: LinkAction | Event = decode(json.loads(words[1:].tobytes()[: int(words[0])]))
    return message


class RankLinks:
    """What `Links` is to a worker of one rank, at rank 0.

    Args:
        group: of all ranks, for these messages alone.
        post: takes merged events; called from several threads.
        lost: a rank is gone; called with the reason.
    """

    def __init__(self, group: RankGroup, post: Callable[[Event], None], lost: Callable[[str], None]) -> None:
        self._group = group
        self._post = post
        self._lost = lost
        self._lock = threading.Lock()
        self._answers = RankAnswers(group.ranks, self._tell_all)
        self._orders: queue.SimpleQueue[LinkAction | None] = queue.SimpleQueue()
        self._closed = False

    def start(self, local: Links) -> None:
        """Begin to tell and to listen.

        Args:
            local: links of rank 0 itself; their events go to `answer`.
        """
        self._local = local
        self._sender = threading.Thread(target=self._send, name="ranks tell", daemon=True)
        self._sender.start()
        for rank in range(1, self._group.ranks):
            threading.Thread(target=self._listen, args=(rank,), name=f"rank {rank} answers", daemon=True).start()

    def open(self, action: OpenLink) -> None:
        """Open a link at all ranks."""
        with self._lock:
            self._answers.opened(action.link)
        self._tell_all(action)

    def close(self, action: CloseLink) -> None:
        """Condemn a link at all ranks."""
        self._tell_all(action)

    def send(self, action: PostSend) -> None:
        """Queue a send at all ranks."""
        self._tell_all(action)

    def receive(self, action: PostReceive) -> None:
        """Queue a receive at all ranks."""
        self._tell_all(action)

    def active(self) -> int:
        """Links that live at some rank."""
        with self._lock:
            return self._answers.active

    def answer(self, event: Event) -> None:
        """One rank's answer, from any thread."""
        with self._lock:  # also while posting: a link's last event must come last
            merged = self._answers.take(event)
            if merged is not None:
                self._post(merged)

    def shutdown(self) -> None:
        """End every link and let the other ranks end."""
        self._orders.put(None)
        self._sender.join(timeout=SHUTDOWN_S + 1.0)

    def _tell_all(self, action: LinkAction) -> None:
        self._orders.put(action)

    def _send(self) -> None:
        others = range(1, self._group.ranks)
        try:
            while (action := self._orders.get()) is not None:
                self._group.send(to_words(action), others)
                perform(self._local, action)
            self._closed = True
            self._group.send([], others)
            self._local.shutdown()
        except LinkError as error:
            self._end(f"a rank takes no orders: {error}")

    def _listen(self, rank: int) -> None:
        try:
            while len(words := self._group.receive(rank)):
                message = from_words(words)
                assert not isinstance(message, LinkAction)
                self.answer(message)
        except LinkError as error:
            self._end(f"rank {rank} is gone: {error}")

    def _end(self, reason: str) -> None:
        if not self._closed:
            self._lost(reason)


def perform(links: Links, action: LinkAction) -> None:
    """Do what rank 0 decided."""
    match action:
        case OpenLink():
            links.open(action)
        case CloseLink():
            links.close(action)
        case PostSend():
            links.send(action)
        case PostReceive():
            links.receive(action)


def obey(links: Links, answers: queue.SimpleQueue[Event | None], group: RankGroup) -> None:
    """Perform rank 0's link actions at another rank until it says that no more come.

    Args:
        answers: where `links` posts its events; they are sent by a thread of their own.

    Raises:
        LinkError: rank 0 is gone.
    """
    threading.Thread(target=_report, args=(answers, group), name="answers", daemon=True).start()
    try:
        while len(words := group.receive(0)):
            action = from_words(words)
            assert isinstance(action, LinkAction)
            perform(links, action)
    finally:
        links.shutdown()
        answers.put(None)


def _report(answers: queue.SimpleQueue[Event | None], group: RankGroup) -> None:
    try:
        while (event := answers.get()) is not None:
            group.send(to_words(event), [0])
    except LinkError as error:
        logger.warning("rank 0 takes no answers: %s", error)
