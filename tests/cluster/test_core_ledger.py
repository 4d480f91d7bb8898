"""The core ledger between real processes: a borrower is killed with -9, or stopped, in the middle of its step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.core.clock import WallClock
from services.worker.core_ledger import CoreLedger

BORROWER = """
import sys, time
from pathlib import Path
from services.core.clock import WallClock
from services.worker.core_ledger import CoreLedger
ledger = CoreLedger(Path(sys.argv[1]), "decode-0", 1, WallClock())
while ledger.begin(may_borrow=True) < 2:
    ledger.end()
    time.sleep(0.005)
print("borrowed", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_the_owner_gets_its_core_back(tmp_path: Path, how: signal.Signals) -> None:
    path = tmp_path / "cores"
    owner = CoreLedger(path, "prefill-0", 1, WallClock())
    borrower = subprocess.Popen([sys.executable, "-c", BORROWER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert borrower.stdout is not None and borrower.stdout.readline() == "borrowed\n"
        os.kill(borrower.pid, how)
        assert owner.begin(may_borrow=False) == 1
        owner.check()
        used = [slot.used for slot in owner.slots()]
        assert used == ([1, 0] if how == signal.SIGKILL else [1, 1])
        owner.end()
        owner.close()
    finally:
        borrower.kill()
        borrower.wait()
        if borrower.stdout is not None:
            borrower.stdout.close()
