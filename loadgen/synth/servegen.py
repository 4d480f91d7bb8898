"""ServeGen's models of clients (Xiang et al., 2025): files to segments of arrivals and lengths, and these to rows.

A client is two files: `chunk-i-trace.csv` with time, rate, CV, family and two parameters of each window of ten minutes,
and `chunk-i-dataset.json` with the distributions of lengths every few hours. The latter are Python dicts in strings;
they are read as literals, never evaluated.
"""

from __future__ import annotations

import ast
import csv
import json
import math
import tarfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from loadgen.arrivals import FAMILIES, Segment, mixture
from loadgen.synth.lengths import Empirical, Independent, Lengths, empirical
from services.core.errors import ConfigError
from services.core.seeds import numpy_stream
from services.core.workload import WorkloadRow

TRACE, DATASET = "-trace.csv", "-dataset.json"
LEAST_CV, MOST_CV = 0.01, 100.0
"""What arrivals are drawn with (`loadgen/arrivals.py`); models beyond are drawn with the bound, and counted."""


class BadClient(Exception):
    """Files that are no client; says why in a word, for the count."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a client asks for in a window.

    Attributes:
        lengths: of prompt and output.
        images: pictures in a prompt; None where the model has none.
    """

    lengths: Lengths
    images: Empirical | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """One client over the asked stretch of time.

    Attributes:
        segments: its arrivals.
        starts_s: when each of `contents` begins to hold, from the beginning of the stretch; the first at 0.
    """

    segments: tuple[Segment, ...]
    starts_s: tuple[float, ...]
    contents: tuple[Content, ...]

    def content(self, at_s: float) -> Content:
        """What holds at that time."""
        return self.contents[max(bisect_right(self.starts_s, at_s) - 1, 0)]


@dataclass(slots=True)
class Pool:
    """The clients of a model.

    Attributes:
        name: of the model.
        clients: by name.
        counts: `read`, `kept`, `dropped: <reason>`, and what was done to those that were kept.
    """

    name: str
    clients: dict[str, Client]
    counts: Counter[str]

    def mean_rate(self) -> float:
        """Requests per second of all clients over their stretch."""
        every = [each for client in self.clients.values() for each in client.segments]
        first = next(iter(self.clients.values()), None)
        length_s = math.fsum(each.length_s for each in first.segments) if first is not None else 0.0
        return math.fsum(each.rate * each.length_s for each in every) / length_s if length_s else 0.0

    def rows(self, seed: int, scale: float = 1.0) -> Iterator[WorkloadRow]:
        """Requests of all clients in order of arrival, each client as a tenant.

        Each client has streams of its own, so that one more changes no other.

        Args:
            scale: all rates are multiplied by it; their CV stays.
        """
        segments: dict[str, Sequence[Segment]] = {
            name: [replace(each, rate=each.rate * scale) for each in client.segments]
            for name, client in self.clients.items()
        }
        streams = {name: numpy_stream(seed, f"loadgen/synth/client/{name}") for name in self.clients}
        for at_s, name in mixture(segments, seed):
            yield _row(at_s, name, self.name, self.clients[name].content(at_s), streams[name])


def _row(at_s: float, tenant: str, model: str, content: Content, draws: np.random.Generator) -> WorkloadRow:
    prompt, output = content.lengths.pair(draws)
    images = 0
    if content.images is not None:
        images = content.images.draw(draws)
    return WorkloadRow(at_s, prompt, output, images=images, tenant=tenant, model=model)


# ------------------------------------------------------------------ files


def read_pool(path: Path, start_s: float, length_s: float, model: str | None, fallback: Lengths | None) -> Pool:
    """The clients of a folder or a tar over one stretch of the model's time.

    What is malformed drops its client, and is counted; what lies outside the stretch is not looked at.

    Args:
        path: a folder or tar with `*-trace.csv` and `*-dataset.json`.
        start_s, length_s: the stretch, on the model's clock.
        model: the folder inside, where there are several.
        fallback: lengths of clients that have rates and no dataset; None drops these.

    Raises:
        ConfigError: nothing there, several models, no client left, or nobody who sends anything.
    """
    files = _files(path, model)
    counts: Counter[str] = Counter()
    clients = {}
    for name in sorted(each.removesuffix(TRACE) for each in files if each.endswith(TRACE)):
        counts["read"] += 1
        try:
            dataset = _text(files[name + DATASET]) if name + DATASET in files else "{}"
            starts_s, contents = _contents(dataset, start_s, length_s)
            if not contents and fallback is None:
                raise BadClient("no lengths")
            segments = _segments(_text(files[name + TRACE]), start_s, length_s, counts)
        except BadClient as reason:
            counts[f"dropped: {reason}"] += 1
            continue
        if not contents and fallback is not None:
            starts_s, contents = (0.0,), (Content(fallback),)
            counts["clients without lengths of their own"] += 1
        counts["kept"] += 1
        clients[PurePosixPath(name).name] = Client(segments, starts_s, contents)
    pool = Pool(model or PurePosixPath(next(iter(files))).parent.name, clients, counts)
    if not pool.mean_rate() > 0:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        raise ConfigError("--clients", str(path), f"no client sends anything from {start_s:g} s on; {reasons}")
    return pool


def _files(path: Path, model: str | None) -> dict[str, Callable[[], bytes]]:
    """The client files of one model, each with what reads it."""
    found: dict[str, Callable[[], bytes]] = {}
    if path.is_dir():
        files = (each for each in sorted(path.resolve().rglob("*")) if _named(each))
        found = {each.as_posix(): each.read_bytes for each in files}
    elif path.is_file():
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    opened = archive.extractfile(member) if _named(PurePosixPath(member.name)) else None
                    if opened is not None:
                        found[member.name] = partial(_given, opened.read())
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ConfigError("--clients", str(path), f"is no folder and no tar ({error})") from None
    else:
        raise ConfigError("--clients", str(path), "is not there")
    folders = sorted({str(PurePosixPath(each).parent) for each in found if each.endswith(TRACE)})
    if model is not None:
        folders = [each for each in folders if PurePosixPath(each).name == model]
    if len(folders) != 1:
        names = ", ".join(PurePosixPath(each).name for each in folders)
        fix = f"holds the models {names}; name one with --model" if names else "holds no *-trace.csv of such a model"
        raise ConfigError("--clients" if names or model is None else "--model", model or str(path), fix)
    return {name: read for name, read in found.items() if str(PurePosixPath(name).parent) == folders[0]}


def _named(path: PurePosixPath | Path) -> bool:
    return path.name.endswith((TRACE, DATASET)) and not path.name.startswith(".")


def _given(data: bytes) -> bytes:
    return data


def _text(read: Callable[[], bytes]) -> str:
    try:
        return read().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        raise BadClient("unreadable file") from None


# ------------------------------------------------------------------ one client


def _segments(text: str, start_s: float, length_s: float, counts: Counter[str]) -> tuple[Segment, ...]:
    """Windows of a trace file, cut to the stretch."""
    windows = [_window(row) for row in csv.reader(text.splitlines()) if row]
    starts = [at_s for at_s, *_ in windows]
    if len(windows) < 2 or any(later <= at_s for at_s, later in pairwise(starts)):
        raise BadClient("bad time")
    ends = [*starts[1:], 2 * starts[-1] - starts[-2]]
    if not starts[0] <= start_s < start_s + length_s <= ends[-1]:
        raise BadClient(f"no model of that time (it covers {starts[0]:g} to {ends[-1]:g} s)")
    found = []
    for (at_s, rate, cv, family), end_s in zip(windows, ends, strict=True):
        overlap_s = min(end_s, start_s + length_s) - max(at_s, start_s)
        if overlap_s <= 0:
            continue
        bound = min(max(cv, LEAST_CV), MOST_CV)
        if rate > 0 and bound != cv:
            counts["windows with a CV out of range"] += 1
        found.append(Segment(overlap_s, rate, bound, family) if rate > 0 else Segment(overlap_s, 0.0))
    return tuple(found)


def _window(row: list[str]) -> tuple[float, float, float, str]:
    """Time, rate, CV and family; the CV is the measured one, which the fitted parameters give only nearly."""
    if len(row) != 6:
        raise BadClient("wrong number of columns")
    at_s, rate, cv = (_number(text, name) for text, name in zip(row, ("time", "rate", "CV"), strict=False))
    family = row[3].strip().lower()
    if rate > 0 and family not in FAMILIES:
        raise BadClient("unknown family")
    return at_s, rate, cv, family


def _number(text: str, name: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise BadClient(f"bad {name}")
    return found


def _contents(text: str, start_s: float, length_s: float) -> tuple[tuple[float, ...], tuple[Content, ...]]:
    """Distributions of lengths over the stretch; a window that has none goes on with the one before."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise BadClient("dataset is no JSON") from None
    if not isinstance(document, dict) or not all(isinstance(each, dict) for each in document.values()):
        raise BadClient("dataset is no JSON object of windows")
    windows = [(_number(key, "time of lengths"), document[key]) for key in document]
    windows.sort(key=lambda each: each[0])
    filled = [(at_s, value) for at_s, value in windows if any(each != "{}" for each in value.values())]
    first = max((place for place, (at_s, _) in enumerate(filled) if at_s <= start_s), default=0)
    used = [each for place, each in enumerate(filled) if place == first or start_s < each[0] < start_s + length_s]
    if not used:
        return (), ()
    starts = [max(at_s - start_s, 0.0) for at_s, _ in used]
    return (0.0, *starts[1:]), tuple(_content(value) for _, value in used)


def _content(window: Mapping[str, Any]) -> Content:
    """A window's distributions. Prompts of the multimodal model are text and pictures; sound and video are left out."""
    prompt = _distribution(window, "input_tokens" if "input_tokens" in window else "text_tokens")
    images = _distribution(window, "image_count") if "image_count" in window else None
    return Content(Independent(prompt, _distribution(window, "output_tokens")), images)


def _distribution(window: Mapping[str, Any], name: str) -> Empirical:
    text = window.get(name)
    try:
        found = ast.literal_eval(text) if isinstance(text, str) else text
        if isinstance(found, dict):
            return empirical(found)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    raise BadClient(f"bad {name}")
