"""Latency targets and priorities that proxies put into headers."""

from __future__ import annotations

import pytest

from services.core.errors import InvalidRequestError
from services.frontdoor.slo_headers import SloHeaders, slo_headers


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, SloHeaders()),
        ({"x-slo-ttft-ms": "250", "x-slo-tpot-ms": "40.4", "x-priority": "-5"}, SloHeaders(250, 40, -5)),
        ({"x-llm-d-slo-ttft-ms": "300", "x-llm-d-slo-tpot-ms": "50"}, SloHeaders(300, 50)),
        ({"x-sgl-ttft-slo-ms": "0.2", "x-sgl-tps-slo": "20"}, SloHeaders(1, 50)),
        ({"x-sgl-ttft-slo-ms": "7", "x-slo-ttft-ms": "8"}, SloHeaders(8)),
        ({"x-sgl-tps-slo": "1e-300"}, SloHeaders(tpot_ms=2**32 - 1)),
    ],
)
def test_targets_have_several_names(headers: dict[str, str], found: SloHeaders) -> None:
    assert slo_headers(headers) == found


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-slo-ttft-ms", "0"), ("x-slo-tpot-ms", "nan"), ("x-sgl-tps-slo", "fast"), ("x-priority", "1.5"),
     ("x-slo-ttft-ms", "1e300"), ("x-priority", "")],
)  # fmt: skip
def test_wrong_values_name_their_header(name: str, value: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        slo_headers({name: value})
    assert caught.value.field == name
