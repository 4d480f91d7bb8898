"""Issue 5, replay: 200 long prompts a second for a minute, on time, within one core and in flat memory; both doors."""

import json
from pathlib import Path

import pytest

from loadgen.app import Run, replay
from loadgen.targets import TargetSpec
from services.core.slo import Slo
from tests.loadgen.schedules import Steady
from tests.loadgen.stub import stub_server

pytestmark = [pytest.mark.accept, pytest.mark.timeout(300)]
RATE, SECONDS, PROMPT, OUTPUT = 200.0, 60, 2000, 32
SAVED = Path(__file__).parents[2] / ".cache" / "accept"


@pytest.mark.parametrize("door", [0, 1], ids=["http", "grpc"])
def test_200_requests_a_second_are_sent_on_time(door: int, tmp_path: Path) -> None:
    with stub_server() as urls:
        schedule = Steady(int(RATE * SECONDS), RATE, PROMPT, OUTPUT)
        run = Run(schedule, TargetSpec(urls[door]), tmp_path, Slo(1000, 100), max_lag_ms=5.0)
        report = replay(run)
    truth = report.generator
    assert truth.send_lag_ms is not None and truth.loop_lag_ms is not None
    numbers = {
        "send_lag_p50_ms": truth.send_lag_ms.p50.value,
        "send_lag_p99_ms": truth.send_lag_ms.p99.value,
        "send_lag_max_ms": truth.send_lag_ms.max,
        "loop_lag_p99_ms": truth.loop_lag_ms.p99.value,
        "cpu_cores": truth.cpu_cores,
        "rss_mib": truth.rss_mib,
        "achieved": truth.achieved,
        "succeeded": report.succeeded,
    }
    print(json.dumps(numbers))
    SAVED.mkdir(parents=True, exist_ok=True)
    (SAVED / f"issue_5_replay_{('http', 'grpc')[door]}.json").write_text(json.dumps(numbers, indent=1))
    assert report.succeeded == report.sent == RATE * SECONDS
    assert report.output_tokens == report.sent * OUTPUT
    assert truth.send_lag_ms.p99.value <= 5.0
    assert truth.cpu_cores < 1.0
    # Flat: from the first tenth, when buffers have been filled once, to the last by less than a tenth.
    assert truth.rss_mib[-1] <= 1.1 * truth.rss_mib[1]
    assert truth.bottleneck == ()
