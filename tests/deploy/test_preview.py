"""Dashboards as pages: every panel at its place, with what a Prometheus answers to its own query."""

from __future__ import annotations

import html
import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from deploy.preview import DASHBOARDS, named, page, shown


class Answers(BaseHTTPRequestHandler):
    """Two series for every query, as Prometheus words them; one value is none."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        begin = float(query["start"][0])
        self.asked.append(query["query"][0])
        values = [[begin, "0.5"], [begin + 30, "NaN"], [begin + 60, "0.75"]]
        result = [{"metric": {"pool": pool}, "values": values} for pool in ("prefill", "decode")]
        body = json.dumps({"status": "success", "data": {"result": result}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def prometheus() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", sorted(path.stem for path in DASHBOARDS.glob("*.json")))
def test_every_panel_is_drawn_from_its_own_query(name: str, prometheus: str) -> None:
    model = json.loads((DASHBOARDS / f"{name}.json").read_text())
    panels = [panel for panel in model["panels"] if panel["type"] != "row"]
    Answers.asked.clear()
    text, full = page(model, prometheus, 1000.0, 1600.0, 20)
    assert full == len(panels) == text.count("<section ")
    assert all(html.escape(panel["title"]) in text for panel in panels)
    assert len(Answers.asked) == sum(len(panel["targets"]) for panel in panels)
    assert not any("$__" in query for query in Answers.asked)


def test_names_and_numbers_are_for_people() -> None:
    assert named("{{pool}} p99 {{gone}}", {"pool": "decode"}) == "decode p99"
    assert [shown(0.9, "percentunit"), shown(0.0123, "s"), shown(2.5, "s")] == ["90 %", "12.3 ms", "2.5 s"]
    assert [shown(3 << 20, "bytes"), shown(4.0, "reqps"), shown(7.0, "short")] == ["3 MiB", "4 /s", "7"]
