"""A whole run: starts the sending processes together, shows how it goes, and keeps samples and facts in a folder.

    <folder>/samples-0.jsonl ...   one line a request, written as requests end; one file for each sending process
    <folder>/run.json              what the samples do not say
    <folder>/report.json           what `judge.py` makes of both

The sending processes do nothing else, so that drawing progress never makes a request late. They are told to start and
to stop over a pipe, and stop by themselves when the pipe closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import multiprocessing
import queue
import signal
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any

from loadgen.judge import RunFacts, Tally
from loadgen.replay import Interrupt, Limits, Replayer, noted_interrupt
from loadgen.schedule import Schedule, ScheduledRequest
from loadgen.targets import SimulatedTarget, Target, TargetSpec, make_target
from services.core.clock import NS_PER_MS, NS_PER_S, Clock, WallClock
from services.core.errors import ConfigError, InternalError, StartupError, TriptychError, UnavailableError
from services.core.heap import freeze_heap
from services.core.report import Report, report_from_json, report_to_json
from services.core.seeds import new_incarnation
from services.core.slo import RequestSample, Slo, sample_from_json

START_DELAY_NS = 200_000_000
PROGRESS_EVERY_S = 0.5
SAMPLES, FACTS, REPORT = "samples-{}.jsonl", "run.json", "report.json"


@dataclass(frozen=True, slots=True)
class Run:
    """One replay, as the command line or a search asks for it; travels to the sending processes.

    Attributes:
        schedule: makes the schedule, in each process anew.
        target: where to send.
        folder: where results are kept.
        slo: what requests are judged by.
        limits: of each process.
        processes: how many send; a session stays in one.
        max_lag_ms: above this p99 of send lag the generator was the bottleneck.
        seed: of the report's intervals.
        name: of the run.
        workload: what is sent, as a sentence.
        notes: warnings that belong into the report.
        connect: makes the target.
    """

    schedule: Schedule
    target: TargetSpec
    folder: Path
    slo: Slo = field(default_factory=Slo)
    limits: Limits = field(default_factory=Limits)
    processes: int = 1
    max_lag_ms: float = 25.0
    seed: int = 0
    name: str = "run"
    workload: str = ""
    notes: tuple[str, ...] = ()
    connect: Callable[[TargetSpec, Clock], Target] = make_target


@dataclass(slots=True)
class Snapshot:
    """How a run goes, over all its processes."""

    elapsed_s: float = 0.0
    offered: int = 0
    sent: int = 0
    in_flight: int = 0
    judged: int = 0
    met: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    ttft_ms: list[float] = field(default_factory=list)
    itl_ms: list[float] = field(default_factory=list)


# ------------------------------------------------------------------ a sending process


def share_of(requests: Iterator[ScheduledRequest], share: int, processes: int) -> Iterator[ScheduledRequest]:
    """The sessions that one process sends; the same split in every process."""
    return (each for each in requests if zlib.crc32(each.session.encode()) % processes == share)


def send_share(run: Run, share: int, pipe: Connection) -> None:
    """Main function of a sending process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    try:
        with (
            (run.folder / SAMPLES.format(share)).open("w", buffering=1, encoding="utf-8") as file,
            _writing(file) as write,
        ):
            last_words = asyncio.run(_send_share(run, share, pipe, write))
        _say(pipe, kind="done", **last_words)  # every sample is in its file by now
    except TriptychError as error:
        _say(pipe, kind="failed", message=error.message, field=type(error).__name__)


async def _send_share(run: Run, share: int, pipe: Connection, write: Callable[[RequestSample], None]) -> dict[str, Any]:
    clock = WallClock()
    target = run.connect(run.target, clock)
    try:
        await target.open()
        requests = share_of(run.schedule(), share, run.processes)
        limits = dataclasses.replace(run.limits, max_in_flight=max(1, run.limits.max_in_flight // run.processes))
        run_id = f"{run.name}-{new_incarnation():x}"
        allowed_lag_ns = int(run.max_lag_ms * NS_PER_MS)
        replayer = Replayer(requests, target, clock, limits, run.slo, write, run_id, allowed_lag_ns)
        replayer.prepare_start()
        freeze_heap(full_every=1000)
        commands: asyncio.Queue[int] = asyncio.Queue()
        asyncio.get_running_loop().add_reader(pipe.fileno(), _take_command, pipe, commands, replayer)
        _say(pipe, kind="ready")
        start_ns = await commands.get()
        if start_ns:
            reporting = asyncio.create_task(_tell_progress(pipe, replayer))
            await replayer.run(start_ns)
            reporting.cancel()
        asyncio.get_running_loop().remove_reader(pipe.fileno())
        return {**_progress(replayer), **_own_facts(replayer)}
    finally:
        await target.close()


def _take_command(pipe: Connection, commands: asyncio.Queue[int], replayer: Replayer) -> None:
    """`start` at a time, or `stop`; a closed pipe is a stop, too: whoever asked for the run is gone."""
    try:
        start_ns = int(pipe.recv_bytes())
    except (EOFError, OSError):
        start_ns = 0
        asyncio.get_running_loop().remove_reader(pipe.fileno())
    commands.put_nowait(start_ns)
    if not start_ns:
        replayer.stop()


@contextlib.contextmanager
def _writing(file: IO[str]) -> Iterator[Callable[[RequestSample], None]]:
    """A function that hands samples to a thread which writes them: a disk that stalls delays no request."""
    samples: queue.SimpleQueue[RequestSample | None] = queue.SimpleQueue()

    def write_all() -> None:
        while (sample := samples.get()) is not None:
            _write(file, sample)

    writer = threading.Thread(target=write_all, name="samples")
    writer.start()
    try:
        yield samples.put
    finally:
        samples.put(None)
        writer.join()


def _write(file: IO[str], sample: RequestSample) -> None:
    file.write(json.dumps(sample.to_json(), separators=(",", ":")) + "\n")


async def _tell_progress(pipe: Connection, replayer: Replayer) -> None:
    while True:
        await asyncio.sleep(PROGRESS_EVERY_S)
        _say(pipe, kind="progress", **_progress(replayer))


def _progress(replayer: Replayer) -> dict[str, Any]:
    seen = replayer.progress
    return {
        "offered": seen.offered,
        "sent": seen.sent,
        "in_flight": replayer.in_flight,
        "judged": seen.judged,
        "met": seen.met,
        "outcomes": seen.outcomes,
        "ttft_ms": list(seen.ttft_ms),
        "itl_ms": list(seen.itl_ms),
    }


def _own_facts(replayer: Replayer) -> dict[str, Any]:
    seen = replayer.progress
    return {
        "unsent": replayer.unsent,
        "waited": replayer.waited,
        "cpu_s": replayer.cpu_s,
        "loop_lags_ms": list(seen.loop_lags_ms),
        "rss_mib": list(seen.rss_mib),
        "examples": [[*key, message] for key, message in seen.examples.items()],
    }


def _say(pipe: Connection, **message: Any) -> None:
    with contextlib.suppress(OSError):  # the parent is gone; the pipe's end stops this process
        pipe.send_bytes(json.dumps(message).encode())


# ------------------------------------------------------------------ the process that starts and judges


def replay(run: Run, show: Callable[[Snapshot], None] = lambda _: None) -> Report:
    """Run it and judge it; Ctrl-C stops sending, and what was gathered is judged; a second one gives up.

    Raises:
        UnavailableError: nobody answers at the target.
        StartupError: the target's URL or model is wrong.
        InternalError: a sending process died.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    for old in run.folder.glob(SAMPLES.format("*")):
        old.unlink()
    clock = WallClock()
    with contextlib.ExitStack() as stack:
        with _sending(run) as pipes:
            for pipe in pipes:
                _expect(pipe, "ready")
            interrupt = stack.enter_context(noted_interrupt())
            started_unix_ms, start_ns = clock.unix_ms(), clock.now_ns() + START_DELAY_NS
            _tell_all(pipes, start_ns)
            ends, interrupted = _watch(pipes, clock, start_ns, show, interrupt)
        return finish(run, ends, started_unix_ms, interrupted)


@contextlib.contextmanager
def _sending(run: Run) -> Iterator[list[Connection]]:
    """Pipes to running processes; all of them are gone afterwards."""
    context = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    try:
        for share in range(run.processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=send_share, args=(run, share, theirs), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        yield pipes
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()


def _expect(pipe: Connection, kind: str) -> dict[str, Any]:
    """The next message, which must be of that kind.

    Raises:
        UnavailableError, StartupError, InternalError: the process says why it cannot, or died.
    """
    message = _receive(pipe)
    if message["kind"] == "failed":
        raise (UnavailableError if message["field"] == "UnavailableError" else StartupError)(message["message"])
    assert message["kind"] == kind, message
    return message


def _receive(pipe: Connection) -> dict[str, Any]:
    try:
        message: dict[str, Any] = json.loads(pipe.recv_bytes())
    except (EOFError, OSError):
        raise InternalError("a sending process died; its last words are on stderr") from None
    return message


def _tell_all(pipes: list[Connection], start_ns: int) -> None:
    for pipe in pipes:
        with contextlib.suppress(OSError):
            pipe.send_bytes(b"%d" % start_ns)


def _watch(
    pipes: list[Connection], clock: Clock, start_ns: int, show: Callable[[Snapshot], None], interrupt: Interrupt
) -> tuple[list[dict[str, Any]], bool]:
    """Last words of all processes, and whether Ctrl-C ended them."""
    latest: dict[Connection, dict[str, Any]] = {}
    ends: dict[Connection, dict[str, Any]] = {}
    interrupted = False
    while len(ends) < len(pipes):
        for ready in wait([pipe for pipe in pipes if pipe not in ends], PROGRESS_EVERY_S):
            assert isinstance(ready, Connection)
            latest[ready] = _receive(ready)
            if latest[ready]["kind"] == "done":
                ends[ready] = latest[ready]
        show(merge(list(latest.values()), (clock.now_ns() - start_ns) / NS_PER_S))
        if interrupt.came and not interrupted and len(ends) < len(pipes):
            interrupted = True
            _tell_all(pipes, 0)
    return list(ends.values()), interrupted


def merge(progress: list[dict[str, Any]], elapsed_s: float) -> Snapshot:
    """One snapshot of what several processes said last."""
    snapshot = Snapshot(max(0.0, elapsed_s))
    for each in progress:
        for name in ("offered", "sent", "in_flight", "judged", "met"):
            setattr(snapshot, name, getattr(snapshot, name) + each[name])
        snapshot.outcomes.update(each["outcomes"])
        snapshot.ttft_ms += each["ttft_ms"]
        snapshot.itl_ms += each["itl_ms"]
    return snapshot


# ------------------------------------------------------------------ results


def finish(run: Run, ends: list[dict[str, Any]], started_unix_ms: int, interrupted: bool) -> Report:
    """Write the facts and the report."""
    longest = max((len(each["rss_mib"]) for each in ends), default=0)
    places = [longest * tenth // 10 for tenth in range(10)] if longest >= 10 else list(range(longest))
    facts = RunFacts(
        name=run.name,
        target=run.target.url,
        workload=run.workload,
        notes=run.notes,
        seed=run.seed,
        started_unix_ms=started_unix_ms,
        interrupted=interrupted,
        unsent=sum(each["unsent"] for each in ends),
        processes=run.processes,
        cpu_s=sum(each["cpu_s"] for each in ends),
        rss_mib=tuple(sum(each["rss_mib"][place] for each in ends if place < len(each["rss_mib"])) for place in places),
        loop_lags_ms=[lag for each in ends for lag in each["loop_lags_ms"]],
        waited_for_a_slot=sum(each["waited"] for each in ends),
        max_lag_ms=run.max_lag_ms,
        examples={(outcome, reason): said for each in ends for outcome, reason, said in each["examples"]},
    )
    written = dataclasses.asdict(facts) | {"examples": [[*key, said] for key, said in facts.examples.items()]}
    written["slo"] = dataclasses.asdict(run.slo)
    (run.folder / FACTS).write_text(json.dumps(written) + "\n", encoding="utf-8")
    return judge_folder(run.folder)


def replay_simulated(run: Run, target: SimulatedTarget) -> Report:
    """The same run in virtual time: no process, no lag, the same folder and report."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with (run.folder / SAMPLES.format(0)).open("w", encoding="utf-8") as file:
        for sample in target.run(run.schedule()):
            _write(file, sample)
    return finish(run, [], 0, interrupted=False)


def judge_folder(folder: Path, slo: Slo | None = None) -> Report:
    """Judge a run's samples, by its own SLO or another, and write `report.json`.

    Raises:
        ConfigError: the folder holds no run.
    """
    try:
        data = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        own = Slo(**data.pop("slo"))
        data["examples"] = {(outcome, reason): said for outcome, reason, said in data["examples"]}
        facts = RunFacts(**data | {"notes": tuple(data["notes"]), "rss_mib": tuple(data["rss_mib"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError("folder", str(folder), f"holds no run of `loadgen replay` ({error})") from None
    tally, bad = Tally(slo or own), 0
    for path in sorted(folder.glob(SAMPLES.format("*"))):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                try:
                    tally.add(sample_from_json(json.loads(line)))
                except (ValueError, KeyError, TypeError):
                    bad += 1
    if bad:
        facts = dataclasses.replace(facts, notes=(*facts.notes, f"{bad} damaged sample lines were left out"))
    report = tally.report(facts)
    (folder / REPORT).write_text(json.dumps(report_to_json(report), indent=1) + "\n", encoding="utf-8")
    return report


def load_report(path: Path) -> Report:
    """The report in a file, or in the folder of a run.

    Raises:
        ConfigError: there is none, or it is of another schema.
    """
    file = path / REPORT if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError("report", str(path), f"cannot be read as a report ({error})") from None
    return report_from_json(data, str(file))
