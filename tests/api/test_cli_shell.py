"""What a shell sees of the command: completion that installs and completes, help with examples, no colour unasked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cluster.harness import TRIPTYCH

COMMANDS = ("up", "status", "top", "drain", "scale", "doctor", "chat", "down", "keys", "replay-decisions")


def shell(script: str, home: Path, **environment: str) -> str:
    """stdout of a bash script in which `triptych` is found."""
    path = f"{Path(TRIPTYCH).parent}:{os.environ['PATH']}"
    clean = {"PATH": path, "HOME": str(home), "SHELL": "/bin/bash", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env={**clean, **environment}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def completed(words: str, home: Path) -> list[str]:
    """What bash offers after these words."""
    script = f"""
        source ~/.bashrc
        COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        $(complete -p triptych | sed 's/.*-F \\([^ ]*\\) .*/\\1/') triptych
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return shell(script, home).split()


def test_completion_installs_and_completes(tmp_path: Path) -> None:
    shell("triptych --install-completion bash", tmp_path)
    assert "triptych" in (tmp_path / ".bashrc").read_text()
    assert completed("triptych st", tmp_path) == ["status"]
    assert set(completed("triptych ''", tmp_path)) >= set(COMMANDS)
    assert completed("triptych scale pre", tmp_path) == ["prefill="]
    assert "--json" in completed("triptych status --j", tmp_path)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "keys"])
def test_help_has_examples_and_no_colour(command: str, tmp_path: Path) -> None:
    text = shell(f"triptych {command} --help", tmp_path, NO_COLOR="1")
    assert "\x1b[" not in text
    assert f"triptych {command}" in text.split("Examples:")[1]
    assert max(map(len, text.splitlines())) <= 80
    if command not in ("up",):
        assert "--json" in text


def test_colour_needs_a_terminal_and_respects_no_color(tmp_path: Path) -> None:
    script = "script -qec 'triptych doctor --quick --set model.path=/nowhere --set state_folder=~/s' /dev/null || true"
    assert "\x1b[" in shell(script, tmp_path, TERM="xterm")
    assert "\x1b[1;31m" not in shell(script, tmp_path, TERM="xterm", NO_COLOR="1")
