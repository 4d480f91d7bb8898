"""Builds everything inside one worker process: engine, pool, links, core, and what performs for it."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from services.core.actions import LinkRole, OpenLink, StepDone, WorkerReport
from services.core.clock import NS_PER_MS, WallClock
from services.core.decision_log import DecisionLog
from services.core.ports import KvLink, Runner
from services.core.request import WorkerRef
from services.core.seeds import new_incarnation
from services.core.wire import LinkProbe, WorkerInfo
from services.engine.kv_link import StoreServer
from services.engine.kv_pairs import make_link
from services.engine.model_runner import ModelRunner, load_runner
from services.engine.rank_group import RankGroup
from services.engine.timed_runner import TimedRunner
from services.engine.tp_runner import TpRunner
from services.telemetry.decisions import open_log
from services.telemetry.exporter import Exporter, MetricsTarget
from services.telemetry.workers import worker_samples
from services.worker.assemble import build_worker_core, log_header
from services.worker.config import WorkerSpec
from services.worker.core_ledger import CoreLedger
from services.worker.faults import Faults
from services.worker.lent_cores import LentCores
from services.worker.link_probe import probe_link
from services.worker.links import Links
from services.worker.peer_server import PeerServer
from services.worker.peers import PeerCall, Peers
from services.worker.performer import WorkerPerformer
from services.worker.rank_links import RankLinks
from services.worker.rank_process import call_ranks
from services.worker.step_thread import StepThread
from services.worker.subscriptions import Subscriptions
from services.worker.usage import Usage

logger = logging.getLogger(__name__)


Loaded = tuple[ModelRunner, RankGroup | None]


def load(spec: WorkerSpec) -> Loaded:
    """Load weights and make the KV pool; blocking, seconds.

    Returns:
        The runner, and the group for orders to the other ranks where there are any.
    """
    if spec.tp > 1:
        return call_ranks(spec)
    runner = load_runner(
        Path(spec.model_folder),
        spec.model.dtype,
        spec.cache.memory_bytes,
        spec.cache.block_size_tokens,
        spec.threads,
        testing_digests=spec.testing.enabled and spec.testing.logits_digests,
    )
    if spec.core_ledger is not None and runner.model.exact:
        runner.compare_threads(spec.threads, spec.threads + 1)
    for note in runner.notes:
        logger.warning("worker %s: %s", spec.worker_id, note)
    return runner, None


def steps_of(spec: WorkerSpec, runner: ModelRunner) -> Runner:
    """What runs the steps: the runner, behind the host's core ledger where there is one; or a test's stand-in."""
    if spec.testing.step_ms is not None:
        return TimedRunner(runner, spec.testing.step_ms)
    if spec.core_ledger is None:
        return runner
    ledger = CoreLedger(Path(spec.core_ledger), spec.worker_id, spec.threads, WallClock())
    return LentCores(runner, ledger, spec.threads, runner.set_threads, runner.any_threads)


class WorkerProcess:
    """The parts of one worker, wired; made on its event loop.

    Args:
        spec: what to be.
        loaded: model and pool, and the other ranks.
        call: reaches other workers.
    """

    def __init__(self, spec: WorkerSpec, loaded: Loaded, call: PeerCall) -> None:
        runner, ranks = loaded
        self.spec = spec
        self.me = WorkerRef(spec.worker_id, new_incarnation())
        self._clock = WallClock()
        self._report_sequence = 0
        self._last_report: WorkerReport | None = None
        self._usage = Usage(self._clock)
        self._log_file: TextIO | None = None
        self.faults = Faults(spec.worker_id, spec.testing.fault, spec.testing.enabled)
        self.store = StoreServer(spec.worker.host, spec.worker.store_ports)
        offset_ns = self._clock.unix_ms() * NS_PER_MS - self._clock.now_ns()
        built = (spec, self.me, runner.pool.num_blocks, self.store.address, offset_ns)
        self.core = build_worker_core(*built)
        log = None
        if spec.decision_log is not None:
            self._log_file = open_log(Path(spec.decision_log), f"{spec.worker_id}.{self.me.incarnation:x}")
            log = DecisionLog(self._log_file.write, self.core, "worker", log_header(*built))
        check = spec.testing.enabled and spec.testing.check
        self.performer = WorkerPerformer(self.core, self._clock, spec.worker_id, self, log, check)
        feed, news = self.performer.feed, self.core.block_news
        self.subscriptions = Subscriptions(self.me, spec.worker, self._clock, self._report, feed, news)
        self.peer_server = PeerServer(self.me, self.performer.feed, self.subscriptions)
        self._metrics = self._serve_metrics()
        self._runner = runner
        self._links = self._make_links(ranks)
        self._steps = StepThread(
            steps_of(spec, runner),
            lambda output: self.performer.feed_threadsafe(StepDone("runner", output)),
            self._end,
        )
        self.performer.connect(self._steps, self._links, Peers(self.me, call, self.performer.feed), self.subscriptions)

    def hit(self, point: str, value: int | None = None) -> str | None:
        """Pass a fault point; a dead store is performed here, other faults are the caller's."""
        fault = self.faults.hit(point, value)
        if fault == "store-death":
            self.store.close()
        return fault

    def _make_links(self, ranks: RankGroup | None) -> Links | RankLinks:
        if ranks is None:
            return Links(self.me, self.performer.feed_threadsafe, self._make_link)
        links = RankLinks(ranks, self.performer.feed_threadsafe, self._end)
        links.start(Links(self.me, links.answer, self._make_link))
        return links

    def _make_link(self, action: OpenLink) -> KvLink:
        runner, spec = self._runner, self.spec
        return make_link(action, runner.pool, spec.worker.host, self.hit, runner.progress, ranks=spec.tp)

    def _end(self, reason: str) -> None:
        """A part of this worker is gone, so all of it ends; the other ranks end when their connections do."""
        logger.error("worker %s ends: %s", self.spec.worker_id, reason)
        os._exit(1)

    async def probe_link(self, role: LinkRole, name: str, store_address: str, payload_bytes: int) -> LinkProbe:
        """One end of a probe (see link_probe.py)."""
        return await probe_link(role, name, store_address, self.spec.worker.host, payload_bytes, self.hit)

    def _serve_metrics(self) -> MetricsTarget | None:
        """Show the last report, which is a second old at most, in a thread of its own."""
        ports = self.spec.telemetry.metrics_ports
        if ports is None:
            return None
        exporter = Exporter("worker")
        exporter.add_source(lambda: () if self._last_report is None else worker_samples(self._last_report))
        return exporter.serve(self.spec.worker.host, ports)

    def info(self) -> WorkerInfo:
        """What the controller tells others of this worker."""
        return WorkerInfo(self.me, self.spec.pool, self.spec.roles, os.getpid(), self.store.address)

    def _report(self, dispatch_sequence: int) -> WorkerReport:
        self._report_sequence += 1
        usage = self._usage.counts()
        self._last_report = WorkerReport(
            source=self.me,
            pid=os.getpid(),
            pool=self.spec.pool,
            roles=self.spec.roles,
            stages=self.core.hosted,
            draining=self.core.draining,
            sequence=self._report_sequence,
            dispatch_sequence=dispatch_sequence,
            store_address=self.store.address,
            links=self._links.active(),
            threads=usage.threads,
            sockets=usage.sockets,
            metrics_address=self._metrics.address if self._metrics is not None else "",
            **asdict(self.core.load()),
        )
        return self._last_report

    def report(self) -> WorkerReport:
        """The report that answers the controller's heartbeat."""
        return self._report(0)

    def close(self) -> None:
        """End streams, links, the step thread and the store."""
        self.subscriptions.close()
        self.peer_server.close()
        if self._metrics is not None:
            self._metrics.close()
        self._links.shutdown()
        self._steps.stop()
        if isinstance(self._runner, TpRunner):
            self._runner.close()
        self.store.close()
        if self._log_file is not None:
            self._log_file.close()
