"""Synthesised traces against the public aggregates and models themselves, where they lie beside the checkout."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loadgen.synth.burstgpt import burstgpt_rows, burstgpt_shape, hourly
from loadgen.synth.category_prompts import CATEGORIES, questions
from loadgen.synth.lengths import Empirical, Fixed, Independent, empirical
from loadgen.synth.servegen import Pool, read_pool
from loadgen.synth.templates import HALVES, load_half

pytestmark = pytest.mark.accept
DATA = Path(__file__).parents[3] / "shared" / "data"
SMALL = "servegen/servegen_msmall_reason_mmimage.tar.xz"
DAY_S = 86_400


def public(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not beside the checkout (looked in {DATA.name}/): put the public data there")
    return path


def column(name: str, field: str) -> list[float]:
    with public(f"burstgpt_aggregates/{name}").open() as lines:
        return [float(row[field]) for row in csv.DictReader(lines)]


def test_the_shipped_shape_is_that_of_the_aggregates() -> None:
    shape = burstgpt_shape()
    hours = column("burstgpt_1_hour_of_day.csv", "mean_requests_per_hour")
    assert list(shape.hour_shares) == pytest.approx([each / sum(hours) for each in hours])
    requests, tokens = (column("burstgpt_1_daily.csv", name) for name in ("requests", "total_tokens"))
    assert list(shape.day_requests) == requests
    assert list(shape.day_tokens) == pytest.approx([each / many for each, many in zip(tokens, requests, strict=True)])


def by_minute(gap_cv: float, seed: int) -> tuple[float, float, np.ndarray]:
    """Share of minutes with traffic in the first week, CV of their tokens, and quantiles of those with traffic."""
    shape = replace(burstgpt_shape(), gap_cv=gap_cv)
    rows = list(burstgpt_rows(shape, hourly(shape, 0, 7 * DAY_S), 0, seed))
    places = [int(row.arrival_s // 60) for row in rows]
    return measured(np.bincount(places, [row.input_tokens + row.output_tokens for row in rows], 10_080)[:10_080])


def measured(tokens: np.ndarray) -> tuple[float, float, np.ndarray]:
    return float((tokens > 0).mean()), float(tokens.std() / tokens.mean()), np.percentile(
        tokens[tokens > 0], (5, 25, 50, 75, 95, 99)
    )  # fmt: skip


def test_the_first_week_by_minutes_over_ten_seeds() -> None:
    minutes = np.zeros(10_080)
    places = np.array(column("burstgpt_1_week1_minute_tokens_per_s.csv", "minute"), dtype=int)
    minutes[places] = np.array(column("burstgpt_1_week1_minute_tokens_per_s.csv", "total_tokens_per_s")) * 60
    wanted = measured(minutes)
    made = [by_minute(burstgpt_shape().gap_cv, seed) for seed in range(10)]
    active, cv = (float(np.mean([each[place] for each in made])) for place in (0, 1))
    quantiles = np.mean([each[2] for each in made], axis=0)
    print(f"minutes with traffic {active:.3f} of {wanted[0]:.3f}, CV {cv:.3f} of {wanted[1]:.3f}, {quantiles.round()}")
    assert active == pytest.approx(wanted[0], abs=0.03)
    assert cv == pytest.approx(wanted[1], rel=0.07)
    assert quantiles.tolist() == pytest.approx(wanted[2].tolist(), rel=0.2)
    for other in (1.0, 2.0):  # what a Poisson process and the upstream generator's burstiest setting would give
        assert by_minute(other, 0)[0] != pytest.approx(wanted[0], abs=0.03)


def test_two_months_at_their_own_rate() -> None:
    shape = burstgpt_shape()
    days, hours, failed, count = Counter[int](), Counter[int](), 0, 0
    for row in burstgpt_rows(shape, hourly(shape, 0, 61 * DAY_S), 0, 5):
        days[int(row.arrival_s // DAY_S)] += 1
        hours[int(row.arrival_s // 3600) % 24] += 1
        failed, count = failed + row.failed, count + 1
    assert count == pytest.approx(1_429_737, rel=0.01)
    assert [days[day] for day in range(61)] == pytest.approx(shape.day_requests, rel=0.2)
    assert [hours[hour] / count for hour in range(24)] == pytest.approx(shape.hour_shares, rel=0.05)
    assert failed / count == pytest.approx(0.0178, abs=0.0005)


Weighted = dict[int, float]


def quantiles(found: Weighted) -> list[float]:
    """50th, 90th and 99th percentile, and the mean."""
    values = np.array(sorted(found))
    weights = np.array([found[value] for value in values])
    places = np.searchsorted(np.cumsum(weights) / weights.sum(), (0.5, 0.9, 0.99))
    return [*values[places].tolist(), float((values * weights).sum() / weights.sum())]


def weighted(pool: Pool, own_rates: bool) -> tuple[Weighted, Weighted, Weighted]:
    """Lengths of prompts and outputs, and pictures, of all clients by how many requests they send: in each window by
    its own rate, or by the client's mean rate in all of them alike."""
    prompts, outputs, images = Counter[int](), Counter[int](), Counter[int]()
    for client in pool.clients.values():
        requests = [segment.rate * segment.length_s for segment in client.segments]
        starts = np.cumsum([0.0, *(segment.length_s for segment in client.segments)])[:-1]
        by_window: dict[int, float] = Counter()
        for start, many in zip(starts, requests, strict=True):
            by_window[id(client.content(float(start)))] += many
        for content in client.contents:
            many = by_window[id(content)] if own_rates else sum(requests) / len(client.contents)
            assert isinstance(content.lengths, Independent)
            pictures = content.images or empirical({0: 1.0})
            for into, length in (
                (prompts, content.lengths.prompt),
                (outputs, content.lengths.output),
                (images, pictures),
            ):
                assert isinstance(length, Empirical)
                shares = np.diff(length.cumulative, prepend=0) / length.cumulative[-1]
                for value, share in zip(length.values, shares, strict=True):
                    into[value] += many * float(share)
    return prompts, outputs, images


def test_the_multimodal_model_is_read_as_it_was_measured() -> None:
    prompts, outputs, images = weighted(read_pool(public(SMALL), 0, DAY_S, "mm-image", None), own_rates=False)
    assert quantiles(prompts) == pytest.approx([94, 1913, 3059, 568], abs=0.5)
    assert quantiles(outputs) == pytest.approx([98, 262, 583, 127], abs=0.5)
    assert quantiles(images) == pytest.approx([1, 3, 9, 1.51], abs=0.01)


@pytest.mark.parametrize(
    ("model", "days", "rate"), [("m-small", 2, None), ("deepseek-r1", 1, 16.0), ("mm-image", 1, 9.5)]
)
def test_a_mixture_of_public_clients_has_their_lengths(model: str, days: int, rate: float | None) -> None:
    pool = read_pool(public(SMALL), 0, days * DAY_S, model, None)
    own = pool.mean_rate()
    assert rate is None or own == pytest.approx(rate, rel=0.01)
    rows = list(pool.rows(3, 200_000 / (own * days * DAY_S)))
    assert len(rows) == pytest.approx(200_000, rel=0.05)
    drawn = tuple(Counter(getattr(row, name) for row in rows) for name in ("input_tokens", "output_tokens", "images"))
    wanted = weighted(pool, own_rates=True)
    for found, exact in zip(map(quantiles, drawn), map(quantiles, wanted), strict=True):
        print(model, dict(pool.counts), f"{own:.1f} requests/s, drawn {found}, exact {exact}")
        assert found == pytest.approx(exact, rel=0.1, abs=1)
    dropped = sum(count for reason, count in pool.counts.items() if reason.startswith("dropped"))
    assert pool.counts["read"] == pool.counts["kept"] + dropped


def test_clients_are_as_unequal_as_measured() -> None:
    every = Independent(Fixed(10), Fixed(10))
    pool = read_pool(public(SMALL), 0, 14 * DAY_S, "m-small", every)
    assert pool.counts["kept"] == 43 and pool.mean_rate() == pytest.approx(1174, rel=0.01)
    tenants = Counter(row.tenant for row in pool.rows(1, 50_000 / (1174 * 14 * DAY_S)))
    shares = [count / tenants.total() for _, count in tenants.most_common()]
    assert shares[0] == pytest.approx(0.299, abs=0.02) and sum(shares[:10]) == pytest.approx(0.928, abs=0.02)


@pytest.mark.parametrize("half", HALVES)
def test_a_half_gives_a_suite_for_a_gate(half: str) -> None:
    made = list(questions([each / 10 for each in range(3500)], load_half(half), CATEGORIES, 11))
    traps, paraphrases = (sum(each.kind == kind for each in made) for kind in ("trap", "paraphrase"))
    print(half, traps, "traps", paraphrases, "paraphrases")
    assert traps >= 300 and paraphrases >= 100
