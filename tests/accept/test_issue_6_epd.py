"""EPD's table: what encoding apart and side by side gains before the first token, against the number of images.

Singh et al., 2025, MiniCPM-V 2.6 on eight A100s against workers that encode and compute prompts: first tokens up to
71.9 % earlier with five encode, two prefill and one decode worker and images of 12 megapixels; table 1, frames of a
video; table 4, encoding all images of a request on one worker. Table 1's times without encode workers set the speed of
the vision tower (`roofline.py`), table 4 the time before the tower sees a large image; the rest are predictions.

Table 4 was not measured with five encode workers. From two to six images the first token comes 0.05 s later for each,
the prompt's part alone; from six to eight 0.60 s: a second turn begins after the sixth image, and the authors' own
script for it (`automate_e2e.py` of their repository) starts six encode, one prefill and one decode worker.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from services.core.workload import WorkloadRow
from services.router import encoders
from services.sim.cluster import SimCluster
from services.sim.config import DelaysConfig, ImagesConfig, SimConfig
from services.sim.cost_model import Linear, WithImages
from services.sim.models import MODELS, ModelSpec, VisionSpec
from services.sim.network import Place
from services.sim.plan.config import GroupConfig, HardwareConfig
from services.sim.plan.goodput import Objective
from services.sim.plan.placement import Aim, Kind
from services.sim.plan.workload import Workload
from services.sim.pools import Options, SimPool
from services.sim.roofline import DEVICES, Roofline, vision_cost
from services.sim.search import Question, plan
from services.sim.speculation import Speculation
from tests.sim.runs import config_of

pytestmark = [pytest.mark.accept, pytest.mark.timeout(1800)]
MODEL, A100 = MODELS["minicpm-v-2.6"], DEVICES["a100-80g"]
assert MODEL.vision is not None
TOKENS = MODEL.vision.tokens
TEXT, OUTPUT = 22, 10
SPREAD = {2: 0.92, 4: 1.02, 6: 1.14, 8: 1.74}
ONE_WORKER = {2: 1.46, 4: 2.47, 6: 3.37, 8: 4.27}
"""Table 4: seconds to the first token by images, with a request's images on several workers, and on one."""
LARGE_IMAGE_MS = 440.0
"""Before the tower: by table 4, what its times have beside what each image adds (least squares of six of them)."""
VIDEO_MS = 40.0
"""The same of small frames: table 1 has 0.42 s of 8 and 3.08 s of 64, which leaves so much for none."""
VIDEO = {8: (0.42, 0.24), 16: (0.81, 0.30), 32: (1.54, 0.49), 64: (3.08, 1.00)}
"""Table 1: seconds to the first token by frames, with encoding beside prefill, and apart; one request a second."""


@dataclass(frozen=True)
class Setup:
    """What the times hang on.

    Attributes:
        door_ms: before a request's images reach the tower.
        model: with its images.
        tower: times as fast as an A100's.
    """

    door_ms: float = LARGE_IMAGE_MS
    model: ModelSpec = MODEL
    tower: float = 1.0


def pools(shares: dict[str, int], setup: Setup) -> list[SimPool]:
    """Workers of one device of one host; `beside` are those that encode and compute prompts."""
    language = Roofline(setup.model, A100)
    vision = vision_cost(setup.model, A100)
    cost = WithImages(language, Linear(vision.fixed / setup.tower, 0.0, vision.context / setup.tower))
    roles = {"encode": ("encode",), "prefill": ("prefill",), "beside": ("encode", "prefill"), "decode": ("decode",)}
    found, device = [], 0
    for name, workers in shares.items():
        places = tuple(Place(devices=(device + number,)) for number in range(workers))
        device += workers
        blocks, size = language.num_blocks(16), language.block_bytes(16)
        found.append(SimPool(name, roles[name], workers, cost, blocks, size, 1, 1, places))
    return found


def ttft_s(shares: dict[str, int], images: int, setup: Setup, rate: float | None = None) -> float:
    """Mean time to the first token of requests with so many images.

    Args:
        rate: requests a second, which come at random; None: each comes when the one before is over.
    """
    gaps = np.random.default_rng(7).exponential(1 / rate, 60) if rate else np.full(4, 10.0)
    at_s = np.cumsum(gaps)
    rows = [WorkloadRow(float(each), TEXT, OUTPUT, images=images) for each in at_s]
    assert setup.model.vision is not None
    sim = SimConfig(images=ImagesConfig(tokens=setup.model.vision.tokens), delays=DelaysConfig(door_ms=setup.door_ms))
    run = SimCluster(config_of(), pools(shares, setup), sim, Options(gaps=False, nvlink=True)).run(rows)
    return float(np.mean([sample.ttft_ms() for sample in run.samples])) / 1e3


DISTSERVE = {"beside": 7, "decode": 1}


def apart(encode: int) -> dict[str, int]:
    """So many encode workers, one that decodes, and the rest of eight computes prompts."""
    return {"encode": encode, "prefill": 7 - encode, "decode": 1}


@cache
def gain(images: int, rate: float | None = None, encode: int = 5, setup: Setup = Setup()) -> float:
    """How much earlier the first token is than with encoding beside prefill, on as many devices."""
    return 1 - ttft_s(apart(encode), images, setup, rate) / ttft_s(DISTSERVE, images, setup, rate)


def test_the_gain_grows_with_the_images() -> None:
    gains = {images: gain(images) for images in (0, 1, 2, 3, 4, 5)}
    print("earlier by:", {images: f"{each:.1%}" for images, each in gains.items()})
    assert abs(gains[0]) < 0.01, "text alone gains nothing"
    assert -0.15 < gains[1] < 0.01, "one image cannot be split; it has a hand-off more"
    assert all(gains[images] < gains[images + 1] for images in range(1, 5))
    loaded = {rate: gain(4, rate) for rate in (0.5, 1.5)}
    print("at four images, under load:", {rate: f"{each:.1%}" for rate, each in loaded.items()})
    assert gains[4] > loaded[0.5] > loaded[1.5] > 0.25, "workers that encode for all have queues of their own"


def test_the_papers_largest_gain() -> None:
    """Their figure 6 goes to 16 images; five workers share 15 of them best."""
    gains = {images: gain(images) for images in (5, 10, 15, 16)}
    print("earlier by:", {images: f"{each:.1%}" for images, each in gains.items()})
    assert max(gains.values()) == pytest.approx(0.719, rel=0.15)


def test_encoding_side_by_side_against_one_worker_for_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Table 4, whose six encode workers the times themselves show (see above): seconds, and their ratios."""
    spread = {images: ttft_s(apart(6), images, Setup()) for images in SPREAD}
    monkeypatch.setattr(encoders, "MOST_SHARDS", 1)
    alone = {images: ttft_s(apart(6), images, Setup()) for images in SPREAD}
    print("shared by six workers:", spread, "paper:", SPREAD)
    print("on one:", alone, "paper:", ONE_WORKER)
    for images, paper in SPREAD.items():
        assert spread[images] == pytest.approx(paper, rel=0.15), images
        assert alone[images] == pytest.approx(ONE_WORKER[images], rel=0.15), images
        assert alone[images] / spread[images] == pytest.approx(ONE_WORKER[images] / paper, rel=0.15), images


def test_five_workers_are_not_what_table_4_was_measured_with() -> None:
    """The last of six images waits for a second turn of one of five workers; in the table that is the seventh."""
    five = {images: ttft_s(apart(5), images, Setup()) for images in SPREAD}
    print("shared by five workers:", five)
    assert five[6] - five[4] > 5 * (SPREAD[6] - SPREAD[4]) / 2
    assert five[6] == pytest.approx(five[8], rel=0.1) and SPREAD[8] > 1.5 * SPREAD[6]


@cache
def video(frames: int) -> tuple[float, float]:
    """Times of table 1: one slice a frame."""
    setup = Setup(VIDEO_MS, replace(MODEL, vision=VisionSpec(428_000_000, 1024, 64)))
    found = ttft_s(DISTSERVE, frames, setup, 1.0), ttft_s(apart(5), frames, setup, 1.0)
    print(f"{frames} frames: {found[0]:.2f} and {found[1]:.2f} s; paper {VIDEO[frames][0]} and {VIDEO[frames][1]}")
    return found


def test_frames_of_a_video() -> None:
    for frames, (beside, own) in VIDEO.items():
        assert video(frames)[0] == pytest.approx(beside, rel=0.15), "which the tower's speed was read from"
        if frames > 8:
            assert 1 - video(frames)[1] / video(frames)[0] == pytest.approx(1 - own / beside, rel=0.15), frames


def test_eight_frames_of_a_video() -> None:
    """Known to fail, 59 % where the paper has 43: 0.18 s and not 0.24 with workers of their own.

    Two turns of 43 ms on the tower, 34 of the prompt and 40 before them are 0.16. The paper's own 0.30, 0.49 and 1.00 s
    of 16 to 64 frames lie on 0.07 s and 14.6 ms a frame, which leaves 0.18 for eight: 0.06 s of its 0.24 are of
    something that longer videos do not have.
    """
    beside, own = video(8)
    assert 1 - own / beside == pytest.approx(1 - VIDEO[8][1] / VIDEO[8][0], rel=0.15)


def test_the_answer_moves_with_the_hardware() -> None:
    assert gain(4, setup=Setup(tower=4.0)) < gain(4) - 0.1, "a faster tower leaves less to gain"
    assert gain(4, encode=2) < gain(4) - 0.1, "fewer encode workers gain less"
    assert gain(6, encode=6) > gain(6) + 0.05, "a worker for each image gains more"


def test_the_plan_allocates_the_three_stages() -> None:
    """Four A100s, four images a request: two encode, one computes prompts, one decodes, as the paper's 5, 2 and 1.

    Four are the mean; the objective is the paper's for eight (its table 9), more than which few have.
    """
    pictures = np.random.default_rng(3).poisson(4, 200)
    work = Workload(np.full(200, TEXT), np.full(200, OUTPUT), 1.0, 200, pictures=pictures, image_tokens=TOKENS)
    hardware = HardwareConfig(groups=(GroupConfig(device="a100-80g", hosts=1, devices_per_host=4),))
    objective = Objective(5100, 60, 0.9, LARGE_IMAGE_MS)
    guesses = Speculation(0.7, draft_ms=1.0)
    question = Question(MODEL, hardware, work, objective, Aim.GOODPUT, None, config_of(), 20, 40, 1, 0, guesses)
    found = plan(question)
    print(*found.found[:6], sep="\n")
    assert found.winner.kind is Kind.ENCODE_APART
    assert {pool.role: pool.replicas for pool in found.winner.pools} == {"encode": 2, "prefill": 1, "decode": 1}
    # Seven images on one worker take longer than the bound: without workers of their own hardly any rate is kept.
    others = [each.new.rate for each in found.validated if each.new.kind is not Kind.ENCODE_APART]
    assert found.winner.rate > 5 * max(others)
