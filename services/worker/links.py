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
    LinkUp,
    OpenLink,
    PostReceive,
    PostSend,
    ReceiveDone,
    SendDone,
)
from services.core.clock import NS_PER_S, WallClock
from services.core.peer import LinkKey
from services.core.ports import ChecksumError, KvLink, LinkError
from services.core.request import WorkerRef

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 4.0
SHUTDOWN_S = 2.0
MAX_JOBS = 256
Post = PostSend | PostReceive


class LinkThread:
    """A link and its queue of posts: opens it, performs them in order, and ends with LinkLost.

    Args:
        link: made but not opened; only this thread calls it, but for `abort`.
        post: takes events, from this thread.
        max_jobs: posts that may wait.
    """

    def __init__(self, link: KvLink, post: Callable[[Event], None], source: str, max_jobs: int) -> None:
        self._link = link
        self._post = post
        self._source = source
        self._max_jobs = max_jobs
        self._jobs: queue.SimpleQueue[Post | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = ""
        self.thread = threading.Thread(target=self._run, name=f"link {link.key.name}", daemon=True)
        self.thread.start()

    def submit(self, job: Post) -> str:
        """Queue a post; "" or why this thread will not answer it."""
        with self._lock:
            if self._closed:
                return f"link: {self._closed}"
            if self._jobs.qsize() >= self._max_jobs:
                return f"link: {self._max_jobs} posts wait already"
            self._jobs.put(job)
            return ""

    def close(self, reason: str) -> None:
        """Break the link; whatever it is doing ends with an error."""
        self._shut(reason)
        self._link.abort()

    def _shut(self, reason: str) -> None:
        """Take no more posts; the first reason is the one that is told."""
        with self._lock:
            if not self._closed:
                self._closed = reason
                self._jobs.put(None)  # wakes the thread when it has nothing to do

    def _run(self) -> None:
        try:
            self._link.open(OPEN_TIMEOUT_S)
            self._post(LinkUp(self._source, self._link.key))
            while (job := self._jobs.get()) is not None:
                self._perform(job)
        except LinkError as error:
            self._shut(str(error) or "broken")
        except Exception as error:  # a bug of ours; the state of the group is unknown
            logger.exception("link %s failed", self._link.key.name)
            self._shut(f"{type(error).__name__}: {error}")
        self._link.abort()
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                self._post(answer(self._source, job, f"link: {self._closed}"))
        self._post(LinkLost(self._source, self._link.key, self._closed))

    def _perform(self, job: Post) -> None:
        """Do one post and answer it; whatever else than a wrong checksum happens is raised again."""
        named = (job.transfer_id, job.attempt, job.part, job.blocks, job.timeout_ns / NS_PER_S)
        error = ""
        try:
            if isinstance(job, PostSend):
                self._link.send(*named, job.step_id)
            else:
                self._link.receive(*named)
        except ChecksumError:
            error = "checksum"
        except Exception as failure:
            error = f"link: {failure or type(failure).__name__}"
            raise
        finally:
            self._post(answer(self._source, job, error))


def answer(source: str, job: Post, error: str) -> SendDone | ReceiveDone:
    """The event that answers a post."""
    kind = SendDone if isinstance(job, PostSend) else ReceiveDone
    return kind(source, job.link, job.transfer_id, job.attempt, job.part, error)


class Links:
    """All links of one worker. Every post is answered by one event; every opened link ends with one LinkLost.

    Args:
        me: the source of the events.
        post: takes events; called from link threads, so it must be thread-safe.
        make_link: makes one end of a link without opening it.
        max_jobs: posts that may wait on one link; more are answered with an error at once.
    """

    def __init__(
        self,
        me: WorkerRef,
        post: Callable[[Event], None],
        make_link: Callable[[OpenLink], KvLink],
        max_jobs: int = MAX_JOBS,
    ) -> None:
        self._source = me.worker_id
        self._post = post
        self._make_link = make_link
        self._max_jobs = max_jobs
        self._threads: dict[LinkKey, LinkThread] = {}

    def open(self, action: OpenLink) -> None:
        """Start the thread of a link; it opens the link and then performs its posts."""
        self._reap()
        assert action.link not in self._threads, f"{action.link.name} is opened twice"
        link = self._make_link(action)
        self._threads[action.link] = LinkThread(link, self._post, self._source, self._max_jobs)

    def send(self, action: PostSend) -> None:
        """Queue a send."""
        self._submit(action)

    def receive(self, action: PostReceive) -> None:
        """Queue a receive."""
        self._submit(action)

    def _submit(self, action: Post) -> None:
        thread = self._threads.get(action.link)
        refused = "link: not open" if thread is None else thread.submit(action)
        if refused:
            self._post(answer(self._source, action, refused))

    def close(self, action: CloseLink) -> None:
        """Condemn a link."""
        thread = self._threads.get(action.link)
        if thread is not None:
            # Breaking a group takes milliseconds while bytes flow; the event loop must not wait for that.
            threading.Thread(target=thread.close, args=(action.reason,), daemon=True).start()

    def active(self) -> int:
        """Links whose thread runs."""
        self._reap()
        return len(self._threads)

    def shutdown(self) -> None:
        """End every link; returns when their threads have ended, but after `SHUTDOWN_S` at the latest."""
        clock = WallClock()
        end_ns = clock.now_ns() + int(SHUTDOWN_S * NS_PER_S)
        for thread in self._threads.values():
            thread.close("shutdown")
        for thread in self._threads.values():
            thread.thread.join(max(0.0, (end_ns - clock.now_ns()) / NS_PER_S))

    def _reap(self) -> None:
        self._threads = {key: each for key, each in self._threads.items() if each.thread.is_alive()}
