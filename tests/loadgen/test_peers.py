"""`make peers` where its peer is not there; the whole of it is in tests/accept/test_issue_5_peers.py."""

import subprocess
import sys
from pathlib import Path

from tests.loadgen.stub import ROOT


def test_a_peer_that_is_not_there_is_told_and_no_cluster_is_started(tmp_path: Path) -> None:
    script = ROOT / "deploy" / "peers" / "compare.py"
    command = [sys.executable, str(script), "--peer", "http://127.0.0.1:9", "--out", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 1
    assert "--target http://127.0.0.1:9: nobody answers" in " ".join(ran.stderr.split())
    assert "peers: `loadgen replay` against http://127.0.0.1:9 ended with 1" in ran.stderr
    assert "Traceback" not in ran.stderr and not (tmp_path / "triptych.log").exists()
