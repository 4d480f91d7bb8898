"""Which of Ray's session folders a new cluster removes: old ones of nobody, and nothing else."""

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from services.cluster.supervise import KEPT_SESSIONS, prune_sessions


def session(folder: Path, number: int, old: bool = True) -> Path:
    """A session as Ray names it, an hour old or made just now."""
    made = folder / f"session_2026-11-{number:02d}_10-00-00_000000_{number}"
    (made / "logs").mkdir(parents=True)
    if old:
        os.utime(made, (0, 0))
    return made


def test_the_newest_those_in_use_and_others_folders_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = [session(tmp_path, number) for number in range(1, KEPT_SESSIONS + 5)]
    fresh = session(tmp_path, 0, old=False)
    other = tmp_path / "something_else"
    other.mkdir()
    (tmp_path / "session_latest").symlink_to(sessions[-1])
    command = ["raylet", f"--session-dir={sessions[1]}"]
    processes = [SimpleNamespace(info={"cmdline": command}), SimpleNamespace(info={"cmdline": None})]
    monkeypatch.setattr(psutil, "process_iter", lambda attributes: processes)
    removed = prune_sessions(tmp_path)
    assert sorted(removed) == [sessions[0], sessions[2], sessions[3]]
    assert not any(path.exists() for path in removed)
    assert all(path.exists() for path in (*sessions[4:], sessions[1], fresh, other, tmp_path / "session_latest"))


def test_nothing_to_do(tmp_path: Path) -> None:
    assert prune_sessions(tmp_path / "absent") == []
