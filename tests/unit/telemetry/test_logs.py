"""Log lines: one JSON object each with the process's role and name, or the same for people."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from services.telemetry.config import TelemetryConfig
from services.telemetry.logs import ROOT, configure


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the logger as it was."""
    logger = logging.getLogger(ROOT)
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def written(config: TelemetryConfig) -> io.StringIO:
    """A stream that takes the lines of a prefill worker."""
    stream = io.StringIO()
    configure(config, "prefill", "prefill-0", stream)
    return stream


def test_json_lines_carry_role_worker_and_the_calls_fields() -> None:
    stream = written(TelemetryConfig(log_format="json"))
    logging.getLogger("services.worker.links").warning("link %s failed", "a-b", extra={"request_id": "r-1"})
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        logging.getLogger("services.worker").exception("so it ended")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["role"], first["worker"], first["level"]) == ("prefill", "prefill-0", "warning")
    assert (first["message"], first["request_id"]) == ("link a-b failed", "r-1")
    assert first["time"].endswith("Z")
    assert "in two" in second["exception"]


def test_the_level_is_configured_and_a_second_call_replaces_the_first() -> None:
    earlier = written(TelemetryConfig())
    stream = written(TelemetryConfig(log_level="warning"))
    logging.getLogger("services.worker").info("not told")
    logging.getLogger("services.worker").warning("told", extra={"request_id": "r-2"})
    assert earlier.getvalue() == ""
    assert stream.getvalue().endswith("warning prefill-0: told request_id=r-2\n")
    assert "not told" not in stream.getvalue()


def test_the_running_call_is_named_unless_the_site_names_another() -> None:
    stream = io.StringIO()
    configure(TelemetryConfig(log_format="json"), "frontdoor", "f-1", stream, lambda: {"request_id": "r-5"})
    logging.getLogger("services.frontdoor").info("one")
    logging.getLogger("services.frontdoor").info("two", extra={"request_id": "r-6"})
    assert [json.loads(line)["request_id"] for line in stream.getvalue().splitlines()] == ["r-5", "r-6"]


def test_other_libraries_are_left_alone() -> None:
    stream = written(TelemetryConfig(log_level="debug"))
    logging.getLogger("ray").warning("something of Ray's")
    assert stream.getvalue() == ""


def test_what_a_library_puts_into_every_record_is_left_out() -> None:
    stream = written(TelemetryConfig(log_format="json"))
    logging.getLogger("services.worker").warning("told", extra={"_library_time_ns": 1, "request_id": "r-7"})
    line = json.loads(stream.getvalue())
    assert "_library_time_ns" not in line and line["request_id"] == "r-7"
