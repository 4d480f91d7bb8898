"""Random texts of the kinds that break detokenizers, and their way through both doors, one token in a step."""

from __future__ import annotations

import json
import random

import httpx

from services.frontdoor.tokenizer import Tokenizer
from services.pb import inference_pb2 as pb
from tests.api.harness import Served

ALPHABETS = {
    "emoji": ["🙂", "👩‍👩‍👧", "🇫🇷", "👍🏽", "🏴\U000e0067\U000e0062\U000e007f", "❤️"],
    "cjk": ["日本語", "漢", "字", "한국어", "中文", "𠮷", "ｶﾅ", "、"],
    "combining": ["e\u0301", "a\u0308\u0304", "n\u0303", "Z\u0351\u036f\u0316", "क्षि", "ก็"],
    "right_to_left": ["שלום", "مرحبا", "ع", "\u202eabc\u202c", "ﷺ", "\u200f"],
    "plain": [" ", "\n", "a", "B7", "…", "\u2028", "\u0085"],
}


def texts(seed: int, count: int) -> list[str]:
    """Texts of 1 to 12 pieces, each of one alphabet or mixed."""
    stream = random.Random(seed)
    kinds = list(ALPHABETS.values())
    found = []
    for number in range(count):
        pieces = kinds[number % len(kinds)] if number % 3 else [piece for kind in kinds for piece in kind]
        found.append("".join(stream.choice(pieces) for _ in range(stream.randint(1, 12))))
    return found


async def over_sse(served: Served, http: httpx.AsyncClient, ids: tuple[int, ...], name: str) -> list[str]:
    """The pieces of an echo that come as events."""
    body = {"model": "tiny", "prompt": list(ids), "max_tokens": len(ids), "stream": True}
    answer = await http.post("/v1/completions", json=body, headers={"x-request-id": f"step.{name}"})
    events = [event for event in answer.content.decode("utf-8").split("\n\n") if event]
    assert events.pop() == "data: [DONE]"
    return [json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in events]


async def over_grpc(served: Served, ids: tuple[int, ...], name: str) -> list[str]:
    """The pieces of an echo that come as messages."""
    request = pb.GenerateRequest(request_id=f"step.{name}", prompt_token_ids=ids)
    request.sampling.max_tokens = len(ids)
    return [message.delta.text async for message in served.inference.Generate(request)]


async def check_both_doors(served: Served, tokenizer: Tokenizer, found: list[str]) -> int:
    """Send each text through both doors.

    Returns:
        How many pieces had to be held back because they ended within a character.
    """
    held = 0
    base = f"http://127.0.0.1:{served.servers.http_port}"
    async with httpx.AsyncClient(base_url=base, timeout=60) as http:
        for number, text in enumerate(found):
            ids = tokenizer.encode(text)
            sse = await over_sse(served, http, ids, f"h{number}")
            grpc = await over_grpc(served, ids, f"g{number}")
            for pieces in (sse, grpc):
                assert "".join(pieces) == text, (text, pieces)
                assert not any("\ufffd" in piece for piece in pieces)
            held += sum(1 for token_id in ids if tokenizer.spell(token_id)[0].count("\ufffd"))
    return held
