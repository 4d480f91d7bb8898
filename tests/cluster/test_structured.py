"""Outputs of a form through two processes: the prefill worker draws the first token, the decode worker all others."""

from __future__ import annotations

import json

import jsonschema
import openai
import pytest

from services.pb import inference_pb2 as pb
from tests.cluster.harness import Cluster
from tests.cluster.sampling import read

pytestmark = pytest.mark.cluster

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 16},
        "country": {"enum": ["France", "Peru", "Chad"]},
        "inhabitants": {"type": "integer", "minimum": 1000, "maximum": 99_999_999},
    },
    "required": ["city", "country", "inhabitants"],
    "additionalProperties": False,
}
QUESTION = "Name the capital of France, its country and how many people live there, as JSON."


def test_a_streamed_answer_is_of_its_schema(cluster: Cluster) -> None:
    cluster.wait_serving()
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
    with openai.OpenAI(base_url=f"http://127.0.0.1:{cluster.http_port}/v1", api_key="none", max_retries=0) as client:
        model = client.models.list().data[0].id
        for temperature in (0.0, 1.2):
            with client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": QUESTION}], response_format=form,
                temperature=temperature, seed=3, max_tokens=120, stream=True, stream_options={"include_usage": True},
            ) as stream:  # fmt: skip
                chunks = list(stream)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            jsonschema.validate(json.loads(text), SCHEMA)
            assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
            assert len(chunks) > 10, "token by token"
    wanted = pb.Structured(json_schema=json.dumps(SCHEMA))
    got = cluster.generate(QUESTION, max_tokens=120, structured=wanted)
    where = {name: worker for name, worker, _ in got.timeline}
    assert (where["prefill_end"], where["decode_start"]) == ("prefill-0", "decode-0")
    jsonschema.validate(json.loads(got.text), SCHEMA)
    cluster.wait_idle()


def test_several_outputs_of_a_choice_and_a_form_that_cannot_be(cluster: Cluster) -> None:
    texts = ["left", "right", "straight on"]
    wanted = pb.Structured(choice=pb.Choices(texts=texts))
    got = read(cluster.stream("Where do we go?", n=6, temperature=2.0, seed=9, structured=wanted, logprobs=0))
    assert len(got.outputs) == 6 and all(output.logprobs for output in got.outputs.values())
    assert all(finished.finish_reason == pb.FINISH_REASON_STOP for finished in got.finishes.values())
    failed = cluster.generate("Where?", structured=pb.Structured(regex="("))
    assert failed.error is not None and "sampling.structured.regex" in (failed.details or "")
    cluster.wait_idle()
