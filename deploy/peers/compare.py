"""Replays one small trace against llama.cpp's server and against Triptych, one after the other, and compares them.

`make peers` runs it. llama.cpp comes from PyPI into an environment of its own, with the GGUF file of the default model
that Triptych serves too. Both are asked over HTTP by the same client, and neither runs while the other is measured.
Whatever happens, no server is left running.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from services.core.errors import TriptychError
from services.engine.checkpoint import bundled_model

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BIN = Path(sys.executable).parent
ENVIRONMENT = ROOT / ".venv-peers"
START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 60
LAST_WORDS_S = 30
SLOTS, CONTEXT_TOKENS = 4, 2048
# Of 24 requests p99 is the latest one, and both servers take every core that the generator wants; the lag is in TTFT.
MAX_LAG_MS = 150
GENERATOR_LIMITED = 1  # exit status of `loadgen replay` whose numbers do not hold
TRACE = ROOT / "loadgen" / "samples" / "azure_2023_conv.csv"


class StepError(Exception):
    """A step that failed: what, and what to do."""


def options() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(prog="make peers PEERS_ARGS='...'", description=__doc__)
    parser.add_argument("--peer", metavar="URL", help="compare with this running OpenAI server; installs none")
    parser.add_argument("--out", type=Path, default=ROOT / "peers-run", help="folder of both runs (default: peers-run)")
    parser.add_argument("--window-s", type=float, default=15.0, help="how much of the trace is sent (default: 15)")
    parser.add_argument("--speed", type=float, default=0.25, help="so many times as fast as the trace (default: 0.25)")
    parser.add_argument(
        "--threads", type=int, default=2, help="of llama.cpp (default: 2, as of both workers of the default cluster)"
    )
    return parser.parse_args()


def install() -> Path:
    """The Python of the peer's environment, made and filled once for each change of requirements.txt."""
    python, stamp, wanted = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "stamp", HERE / "requirements.txt"
    if python.exists() and stamp.exists() and stamp.read_bytes() == wanted.read_bytes():
        return python
    say(f"installing {', '.join(packages(wanted))} into {ENVIRONMENT.name} (34 MB)")
    if not python.exists():
        step([sys.executable, "-m", "venv", ENVIRONMENT], f"remove {ENVIRONMENT} and try again")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--only-binary", ":all:"]
    advice = "see what pip says above: it uses pip's own configuration, and only compiled packages"
    step([*pip, "-r", wanted], f"{advice}; or name a running server: make peers PEERS_ARGS='--peer URL'")
    stamp.write_bytes(wanted.read_bytes())
    return python


def packages(requirements: Path) -> list[str]:
    """Lines that are no comment."""
    return [line for line in requirements.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]


def step(command: Sequence[object], advice: str) -> None:
    """Run a command to its end.

    Raises:
        StepError: it failed.
    """
    words = [str(each) for each in command]
    if code := subprocess.run(words, check=False).returncode:
        raise StepError(f"`{' '.join(words)}` ended with {code}; {advice}")


# ------------------------------------------------------------------ servers


@contextlib.contextmanager
def llama_cpp(threads: int, log: Path) -> Iterator[str]:
    """URL of a running llama.cpp; it ends with its stdin, so also when this process is killed."""
    model = bundled_model()
    command = [install(), HERE / "llama_server.py", model, threads, SLOTS, CONTEXT_TOKENS]
    with started(command, log) as process:
        try:
            yield first_line(process, log)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            ended(process)


@contextlib.contextmanager
def triptych(log: Path) -> Iterator[str]:
    """URL of the default cluster under a name and ports of its own."""
    name = ("--set", f"cluster.name=peers-{os.getpid()}")
    command = [BIN / "triptych", "up", "--json", "--http-port", free_port(), "--grpc-port", free_port(), *name]
    with started(command, log) as process:
        try:
            yield str(json.loads(first_line(process, log))["http"])
        finally:
            process.send_signal(signal.SIGINT)  # drains
            if not ended(process):
                step([BIN / "triptych", "down", "--now", *name], "see `ps`")


@contextlib.contextmanager
def started(command: Sequence[object], log: Path) -> Iterator[subprocess.Popen[str]]:
    """A server in a session of its own: Ctrl-C reaches this process, which ends it in order."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as errors:
        pipe = subprocess.PIPE
        words = [str(each) for each in command]
        process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=errors, text=True, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def first_line(process: subprocess.Popen[str], log: Path) -> str:
    """What a server says when it is ready.

    Raises:
        StepError: it ended, or was not ready in time.
    """
    assert process.stdout is not None
    said, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
    line = process.stdout.readline().strip() if said else ""
    if not line:
        why = "ended" if said else f"was not ready within {START_TIMEOUT_S} s"
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        raise StepError(f"{Path(str(process.args[0])).name} {why}; its last words, all of them in {log}:\n{last}")
    return line


def ended(process: subprocess.Popen[str]) -> bool:
    """Whether a server that was told to end did so."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    return process.returncode is not None


def free_port() -> int:
    """A port that nothing holds at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ------------------------------------------------------------------ runs


def replay(url: str, folder: Path, given: argparse.Namespace) -> bool:
    """One run; whether its numbers hold.

    Raises:
        StepError: it could not be done.
    """
    say(f"replaying against {url}")
    shape = ("--start-s", 0, "--window-s", given.window_s, "--scale", given.speed)
    lengths = (
        "--length-scale",
        0.03125,
        "--output-scale",
        0.5,
        "--max-output-tokens",
        16,
        "--slo-ttft-ms",
        3000,
        "--slo-tpot-ms",
        400,
        "--max-lag-ms",
        MAX_LAG_MS,
    )
    code = loadgen("replay", "--trace", TRACE, "-t", url, "-o", folder, *shape, *lengths)
    if code and not (code == GENERATOR_LIMITED and (folder / "report.json").exists()):
        raise StepError(f"`loadgen replay` against {url} ended with {code}; see above, and the logs in {folder.parent}")
    return code == 0


def loadgen(*arguments: object) -> int:
    """Exit status of a loadgen command; on Ctrl-C it may say its last words first."""
    process = subprocess.Popen([sys.executable, "-m", "loadgen", *map(str, arguments)], cwd=ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt:  # it has reached loadgen too
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LAST_WORDS_S)
        raise
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def peers(given: argparse.Namespace) -> int:
    """Both runs and their comparison; exit status."""
    out = given.out.absolute()
    folders = out / ("llama.cpp" if given.peer is None else "peer"), out / "triptych"
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    peer = contextlib.nullcontext(given.peer) if given.peer else llama_cpp(given.threads, out / "llama.cpp.log")
    with peer as url:
        held = [replay(url, folders[0], given)]
    say("starting a Triptych cluster")
    with triptych(out / "triptych.log") as url:
        held.append(replay(url, folders[1], given))
    page = out / "compare.html"
    if loadgen("compare", *folders, "--html", page):
        raise StepError("`loadgen compare` failed; see above")
    if given.peer is None:
        say("both served the same weights: llama.cpp as Q4_1, Triptych dequantised from it")
    if not all(held):
        say("the generator was the bottleneck, so the numbers do not hold; try an idle machine or a lower --speed")
    return 0 if all(held) else GENERATOR_LIMITED


def say(text: str, to: IO[str] = sys.stdout) -> None:
    """One line."""
    print(f"peers: {text}", file=to, flush=True)


def main() -> int:
    """Run it; a failure is one sentence on stderr."""
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(128 + signal.SIGTERM))
    try:
        return peers(options())
    except (StepError, TriptychError, OSError) as error:
        say(str(error), sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
