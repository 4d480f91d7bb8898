"""What holds for every test: one OpenMP thread, hypothesis profiles by tier, no outside world in unit and property."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60, database=None)
hypothesis.settings.register_profile("accept", deadline=None, max_examples=2000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("TRIPTYCH_TIER", "ci"))

INSIDE = tuple(Path(__file__).parent / name for name in ("unit", "property"))


def forbidden(what: str) -> Callable[..., NoReturn]:
    """A function that fails the test which calls it."""

    def refuse(*_args: object, **_kwargs: object) -> NoReturn:
        pytest.fail(f"{what} is forbidden in tests/unit and tests/property: pass a fake or a virtual clock")

    return refuse


@pytest.fixture(autouse=True)
def no_outside_world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In tests/unit and tests/property: no Ray, no sockets, no processes, no sleep, and no first import of torch."""
    if not any(folder in request.path.parents for folder in INSIDE):
        yield
        return
    had_torch = "torch" in sys.modules
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", forbidden("time.sleep"))
        patch.setattr(socket.socket, "connect", forbidden("a socket"))
        patch.setattr(subprocess, "Popen", forbidden("a process"))  # also what ray.init starts its node with
        if "ray" in sys.modules:
            patch.setattr(sys.modules["ray"], "init", forbidden("ray.init"))
        yield
    if not had_torch and "torch" in sys.modules:
        pytest.fail("the test imported torch: tests/unit and tests/property stay without it")
