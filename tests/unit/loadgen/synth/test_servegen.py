"""ServeGen's clients: read as literals, drawn with their rates, CVs and lengths, and malformed ones counted."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from loadgen.survey import gap_cv
from loadgen.synth.lengths import Fixed, Independent
from loadgen.synth.servegen import Pool, read_pool
from services.core.errors import ConfigError

LENGTHS = {"input_tokens": "{10: 0.25, 100: 0.75}", "output_tokens": "{5: 1.0}"}
LATER = {"input_tokens": "{7: 1.0}", "output_tokens": "{0: 1.0}"}
TRACE = "0,4.0,2.0,Gamma,0.25,1.0\n600,0,0,,0,0\n1200,8.0,0.5,Weibull,2.1,0.1\n1800,1,1,Gamma,1,1\n"


def client(folder: Path, name: str, trace: str = TRACE, dataset: object = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"chunk-{name}-trace.csv").write_text(trace)
    document = {"0": LENGTHS, "600": {"input_tokens": "{}", "output_tokens": "{}"}, "1200": LATER}
    if dataset != "none":
        text = dataset if isinstance(dataset, str) else json.dumps(dataset or document)
        (folder / f"chunk-{name}-dataset.json").write_text(text)
    return folder


def read(folder: Path, start_s: float = 0, length_s: float = 1800) -> Pool:
    return read_pool(folder, start_s, length_s, None, None)


def test_a_client_has_its_rates_cvs_and_lengths(tmp_path: Path) -> None:
    pool = read(client(tmp_path / "m", "0"))
    assert pool.mean_rate() == pytest.approx(4.0) and pool.name == "m"
    rows = list(pool.rows(seed=1, scale=5.0))
    times = np.array([row.arrival_s for row in rows])
    first, last = times[times < 600], times[times >= 1200]
    assert not np.any((times >= 600) & (times < 1200))
    assert len(first) / 600 == pytest.approx(20, rel=0.1) and len(last) / 600 == pytest.approx(40, rel=0.05)
    assert gap_cv(first) == pytest.approx(2.0, rel=0.1) and gap_cv(last) == pytest.approx(0.5, rel=0.1)
    assert {(row.tenant, row.model) for row in rows} == {("chunk-0", "m")}
    early = [row.input_tokens for row in rows if row.arrival_s < 600]
    assert set(early) == {10, 100} and early.count(100) / len(early) == pytest.approx(0.75, abs=0.02)
    assert {(row.input_tokens, row.output_tokens) for row in rows if row.arrival_s >= 1200} == {(7, 1)}


def test_a_stretch_begins_at_0_with_what_holds_there(tmp_path: Path) -> None:
    pool = read(client(tmp_path, "0"), start_s=900, length_s=900)
    times = [row.arrival_s for row in pool.rows(seed=1)]
    assert min(times) >= 300 and max(times) < 900
    assert pool.clients["chunk-0"].starts_s == (0.0, 300.0)


def test_one_more_client_changes_no_other(tmp_path: Path) -> None:
    alone = list(read(client(tmp_path / "one", "0")).rows(seed=3))
    both = read(client(client(tmp_path / "two", "0"), "1"))
    mixed = list(both.rows(seed=3))
    mine = [row for row in mixed if row.tenant == "chunk-0"]
    assert [(row.arrival_s, row.input_tokens) for row in mine] == [(row.arrival_s, row.input_tokens) for row in alone]
    assert len(mixed) > len(mine) and [row.arrival_s for row in mixed] == sorted(row.arrival_s for row in mixed)


def test_images_come_from_their_counts(tmp_path: Path) -> None:
    window = {"text_tokens": "{0: 1.0}", "image_count": "{0: 0.5, 3: 0.5}", "output_tokens": "{9: 1}"}
    rows = list(read(client(tmp_path, "0", dataset={"0": window}), length_s=600).rows(seed=1))
    assert {row.images for row in rows} == {0, 3} and {row.input_tokens for row in rows} == {1}


@pytest.mark.parametrize(
    ("trace", "dataset", "reason"),
    [
        (TRACE, "none", "no lengths"),
        (TRACE, {"0": {"input_tokens": "{}", "output_tokens": "{}"}}, "no lengths"),
        (TRACE, "{", "dataset is no JSON"),
        (TRACE, "[1]", "dataset is no JSON object of windows"),
        (TRACE, {"x": LENGTHS}, "bad time of lengths"),
        (TRACE, {"0": LENGTHS | {"output_tokens": "{5: -1.0}"}}, "bad output_tokens"),
        (TRACE, {"0": LENGTHS | {"input_tokens": "{5: 1.0"}}, "bad input_tokens"),
        (TRACE, {"0": LENGTHS | {"input_tokens": "[" * 100_000}}, "bad input_tokens"),
        (TRACE, {"0": {"output_tokens": "{5: 1.0}"}}, "bad text_tokens"),
        ("0,1,1,Gamma,1\n600,1,1,Gamma,1\n", None, "wrong number of columns"),
        (TRACE.replace("4.0", "many"), None, "bad rate"),
        (TRACE.replace("4.0", "-4"), None, "bad rate"),
        (TRACE.replace("2.0", "nan"), None, "bad CV"),
        (TRACE.replace("Weibull", "Pareto"), None, "unknown family"),
        (TRACE.replace("600", "0"), None, "bad time"),
        ("0,1,1,Gamma,1,1\n600,1,1,Gamma,1,1\n", None, "no model of that time (it covers 0 to 1200 s)"),
        ("", None, "bad time"),
    ],
)
def test_a_malformed_client_is_counted_and_the_others_stay(
    trace: str, dataset: object, reason: str, tmp_path: Path
) -> None:
    sound = list(read(client(tmp_path / "sound", "1")).rows(seed=1))
    pool = read(client(client(tmp_path / "mixed", "0", trace, dataset), "1"))
    assert dict(pool.counts) == {"read": 2, "kept": 1, f"dropped: {reason}": 1}
    assert [row.arrival_s for row in pool.rows(seed=1)] == [row.arrival_s for row in sound]


def test_a_file_that_is_code_is_not_run(tmp_path: Path) -> None:
    attack = f"open({str(tmp_path / 'ran')!r}, 'w')"
    folder = client(client(tmp_path / "m", "0", dataset={"0": LENGTHS | {"input_tokens": attack}}), "1")
    assert read(folder).counts["dropped: bad input_tokens"] == 1
    assert not (tmp_path / "ran").exists()


def test_lengths_can_be_given_for_clients_without(tmp_path: Path) -> None:
    folder = client(tmp_path, "0", dataset="none")
    pool = read_pool(folder, 0, 600, None, Independent(Fixed(64), Fixed(8)))
    assert {(row.input_tokens, row.output_tokens) for row in pool.rows(seed=0)} == {(64, 8)}
    assert pool.counts["clients without lengths of their own"] == 1


def test_a_cv_out_of_range_is_drawn_with_the_bound_and_counted(tmp_path: Path) -> None:
    pool = read(client(tmp_path, "0", TRACE.replace("2.0", "700")), length_s=600)
    assert pool.clients["chunk-0"].segments[0].cv == 100.0
    assert pool.counts["windows with a CV out of range"] == 1


def test_a_tar_of_several_models_needs_a_name(tmp_path: Path) -> None:
    client(tmp_path / "m-small", "0")
    client(tmp_path / "m-large", "0", TRACE.replace("4.0", "40"))
    path = tmp_path / "models.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        for name in ("m-small", "m-large"):
            archive.add(tmp_path / name, f"language/{name}")
    assert read_pool(path, 0, 600, "m-large", None).mean_rate() == pytest.approx(40)
    with pytest.raises(ConfigError, match="holds the models m-large, m-small; name one with --model"):
        read(path)
    with pytest.raises(ConfigError, match="--model"):
        read_pool(path, 0, 600, "m-mid", None)


def test_what_holds_no_client_is_named(tmp_path: Path) -> None:
    text = tmp_path / "x.tar"
    text.write_text("no tar")
    for path in (tmp_path / "missing", text, tmp_path):
        with pytest.raises(ConfigError, match="--clients"):
            read(path)
    idle = client(tmp_path / "idle", "0", "0,0,0,,0,0\n600,0,0,,0,0\n")
    with pytest.raises(ConfigError, match="no client sends anything"):
        read(idle, length_s=600)
