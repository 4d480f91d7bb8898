"""One thread for each KV link: performs its posts in order and answers every one of them with exactly one event."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from services.core.actions import (
    CloseLink,
    Event,
    LinkLost,
    LinkRole,
    LinkUp,
    OpenLink,
    PostReceive,
    PostSend,
    ReceiveDone,
    SendDone,
)
from services.core.clock import NS_PER_S
from services.core.peer import LinkKey
from services.core.ports import ChecksumError, KvLink, LinkError
from services.core.request import WorkerRef

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 4.0
Post = PostSend | PostReceive


class LinkThread:
    """A link and its queue of posts; ends with LinkLost.

    Args:
        link: made but not opened; only this thread calls it, but for `abort`.
        post: takes events, from this thread.
    """

    def __init__(self, link: KvLink, post: Callable[[Event], None], source: str) -> None:
        self._link = link
        self._post = post
        self._source = source
        self._jobs: queue.SimpleQueue[Post | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = ""
        self.thread = threading.Thread(target=self._run, name=f"link {link.key.name}", daemon=True)
        self.thread.start()

    def submit(self, job: Post) -> bool:
        """Queue a post; False when the link is gone and will not answer."""
        with self._lock:
            if self._closed:
                return False
            self._jobs.put(job)
            return True

    def close(self, reason: str) -> None:
        """Break the link; whatever it is doing ends with an error."""
        self._shut(reason)
        self._link.abort()

    def _shut(self, reason: str) -> None:
        with self._lock:
            if not self._closed:
                self._closed = reason
                self._jobs.put(None)

    def _run(self) -> None:
        reason = ""
        try:
            self._link.open(OPEN_TIMEOUT_S)
            self._post(LinkUp(self._source, self._link.key))
            while not reason and (job := self._jobs.get()) is not None:
                reason = self._perform(job)
        except LinkError as error:
            reason = str(error)
        except Exception as error:
            logger.exception("link %s failed", self._link.key.name)
            reason = f"{type(error).__name__}: {error}"
        self._shut(reason or "closed")
        self._link.abort()
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                self._post(answer(self._source, job, "link: lost before its turn"))
        self._post(LinkLost(self._source, self._link.key, reason or self._closed))

    def _perform(self, job: Post) -> str:
        """Do one post; the reason why the link is unusable from here on, or an empty string."""
        timeout_s = job.timeout_ns / NS_PER_S
        arguments = (job.transfer_id, job.attempt, job.part, job.blocks, timeout_s)
        error = reason = ""
        try:
            if isinstance(job, PostSend):
                self._link.send(*arguments)
            else:
                self._link.receive(*arguments)
        except ChecksumError:
            error = "checksum"
        except Exception as failure:  # whatever it was, the state of the group is unknown
            if not isinstance(failure, LinkError):
                logger.exception("link %s failed", self._link.key.name)
            reason = str(failure) or type(failure).__name__
            error = f"link: {reason}"
        self._post(answer(self._source, job, error))
        return reason


def answer(source: str, job: Post, error: str) -> SendDone | ReceiveDone:
    """The event that answers a post."""
    kind = SendDone if isinstance(job, PostSend) else ReceiveDone
    return kind(source, job.link, job.transfer_id, job.attempt, job.part, error)


class Links:
    """All links of one worker.

    Args:
        me: the source of the events.
        post: takes events; called from link threads, so it must be thread-safe.
        make_link: makes one end of a link without opening it.
    """

    def __init__(
        self,
        me: WorkerRef,
        post: Callable[[Event], None],
        make_link: Callable[[LinkKey, LinkRole, str], KvLink],
    ) -> None:
        self._source = me.worker_id
        self._post = post
        self._make_link = make_link
        self._threads: dict[LinkKey, LinkThread] = {}

    def open(self, action: OpenLink) -> None:
        """Start the thread of a link; it opens the link and then performs its posts."""
        self._reap()
        link = self._make_link(action.link, action.role, action.store_address)
        self._threads[action.link] = LinkThread(link, self._post, self._source)

    def send(self, action: PostSend) -> None:
        """Queue a send."""
        self._submit(action)

    def receive(self, action: PostReceive) -> None:
        """Queue a receive."""
        self._submit(action)

    def _submit(self, action: Post) -> None:
        thread = self._threads.get(action.link)
        if thread is None or not thread.submit(action):
            self._post(answer(self._source, action, "link: not open"))

    def close(self, action: CloseLink) -> None:
        """Condemn a link."""
        thread = self._threads.get(action.link)
        if thread is not None:
            # Breaking a group may wait for its peer; the event loop must not.
            threading.Thread(target=thread.close, args=(action.reason,), daemon=True).start()

    def active(self) -> int:
        """Links whose thread runs."""
        self._reap()
        return len(self._threads)

    def shutdown(self) -> None:
        """End every link, within a bound."""
        for thread in self._threads.values():
            thread.close("shutdown")
        for thread in self._threads.values():
            thread.thread.join(timeout=1.0)

    def _reap(self) -> None:
        self._threads = {key: each for key, each in self._threads.items() if each.thread.is_alive()}
