"""What a request is about reaches placement from both doors, and only under configured names."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from services.core.config import parse
from services.semcache.config import SemcacheConfig
from tests.api.harness import ask, serving
from tests.api.test_response_cache import question

CACHED = parse(SemcacheConfig, {"enabled": True, "semantic": False})
CODE = "def f(x): return x"


@pytest.mark.parametrize(
    ("semcache", "hint", "expected"),
    [
        (None, "FAQ", "faq"),
        (None, "made-up-by-a-client", ""),
        (None, "", ""),
        (CACHED, "faq", "faq"),
        (CACHED, "made-up-by-a-client", "code"),
        (CACHED, "", "code"),
    ],
)
async def test_hint_then_form(tmp_path: Path, semcache: SemcacheConfig | None, hint: str, expected: str) -> None:
    async with serving(tmp_path, semcache=semcache) as served:
        metadata = (("x-category", hint),) if hint else ()
        assert [each async for each in served.inference.Generate(question("step.1", CODE), metadata=metadata)]
        body = {"model": "tiny", "messages": [{"role": "user", "content": CODE + " "}], "max_tokens": 4}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.servers.http_port}") as client:
            answer = await client.post("/v1/chat/completions", json=body, headers=dict(metadata))
        assert answer.status_code == 200
        assert [request.category for _, _, request, _ in served.workers.submitted] == [expected, expected]


async def test_a_prompt_without_turns_has_a_form_too(tmp_path: Path) -> None:
    async with serving(tmp_path, semcache=CACHED) as served:
        assert [each async for each in served.inference.Generate(ask("step.1", CODE))]
        assert [request.category for _, _, request, _ in served.workers.submitted] == ["code"]
