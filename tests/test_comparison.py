"""Two results held against each other: figures, intervals, verdicts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgepack
from edgepack.errors import BrokenBundle, NotComparable, UnreadableResult
from edgepack.results.comparison import BETTER, SAME, UNCLEAR, WORSE, Comparison, Row, _apart, compare
from edgepack.results.figures import typical
from tests.measured import ABOUT, built, diagnosis, doubt, measurement, quality, saved, times
from tests.test_benchmark import SHORT
from tests.test_inspection import small_bundle


def of(folder: Path, before: object, after: object | None = None, **more: Any) -> Comparison:
    second = saved(folder, "after.json", after) if after is not None else None
    return compare(saved(folder, "before.json", before), second, **more)


def row(found: Comparison, metric: str, at: int = 0) -> Row:
    return next(row for row in found.pairs[at].rows if row.metric == metric)


# --- times ------------------------------------------------------------------------------------------------


def test_what_is_slower_is_called_slower(tmp_path: Path) -> None:
    found = of(tmp_path, measurement(times(2.0, seed=1)), measurement(times(2.2, seed=2)))
    median = row(found, "median")
    assert (median.verdict, median.words) == (WORSE, "slower")
    assert median.change == pytest.approx(1.1, abs=0.02)
    assert median.low is not None and median.high is not None and 1.02 < median.low < median.change < median.high
    assert row(found, "throughput").verdict == WORSE and row(found, "throughput").change < 1
    assert row(found, "memory").verdict == SAME


def test_a_result_is_the_same_as_another_of_the_same_model(tmp_path: Path) -> None:
    verdicts = [
        row(of(tmp_path, measurement(times(2, seed=seed)), measurement(times(2, seed=seed + 50))), "median").verdict
        for seed in range(40)
    ]
    assert sum(verdict in (BETTER, WORSE) for verdict in verdicts) <= 2


@pytest.mark.parametrize("count", [3, 10])
def test_the_interval_of_two_separate_measurements_covers_the_truth(count: int) -> None:
    """Of processes that differ by 5 %, 1,000 times each. Few processes are covered too often: 98.6 % for three."""
    rng, covered = np.random.default_rng(count), 0
    for _ in range(1000):
        before, after = (typical(np.exp(rng.normal(math.log(middle), 0.05, count)).tolist()) for middle in (2.0, 2.1))
        _, low, high = _apart(before, after)
        assert low is not None and high is not None
        covered += low <= 1.05 <= high
    assert 0.94 <= covered / 1000 <= 0.995


def test_percentiles_are_of_the_typical_process(tmp_path: Path) -> None:
    raw = times(2.0, processes=7)
    raw[0] = [[10 * run for run in turn] for turn in raw[0]]
    p90 = row(of(tmp_path, measurement(raw), measurement(raw)), "p90")
    each = sorted(np.percentile(np.ravel(process), 90) for process in raw)
    assert p90.before == p90.after == pytest.approx(each[3])


def test_one_process_has_no_interval(tmp_path: Path) -> None:
    one = times(2.0, processes=1)
    median = row(of(tmp_path, measurement(one), measurement(times(3.0))), "median")
    assert (median.low, median.high, median.verdict) == (None, None, UNCLEAR)


def test_two_models_of_one_measurement_are_compared_turn_by_turn(tmp_path: Path) -> None:
    """Both drift by half meanwhile, which their ratio does not feel."""
    drift = np.linspace(1, 1.5, 10)
    before, after = (
        [[[float(run * slow) for run in turn] for turn in process] for process, slow in zip(raw, drift, strict=True)]
        for raw in (times(2.0, seed=1, between=0), times(2.1, seed=2, between=0))
    )
    result = measurement(after, before)
    found = of(tmp_path, result)
    median = row(found, "median")
    assert found.pairs[0].interleaved and found.before == "net 0, onnxruntime, int8"
    assert (median.change, median.low, median.high) == pytest.approx(
        tuple(1 / result["ratio"][key] for key in ("median", "high", "low"))
    )
    assert median.verdict == WORSE
    apart = row(of(tmp_path, measurement(before), measurement(after)), "median")
    assert apart.verdict == UNCLEAR


def test_a_baseline_is_the_original(tmp_path: Path) -> None:
    found = of(tmp_path, measurement(times(1.0), times(2.0), to="baseline"))
    assert found.before == "net 0, onnxruntime, float original"
    assert row(found, "median").verdict == BETTER


def test_a_measurement_of_one_model_has_nothing_to_be_held_against(tmp_path: Path) -> None:
    with pytest.raises(NotComparable, match="alone holds nothing"):
        of(tmp_path, measurement(times(1.0)))


def test_real_measurements_are_compared(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = small_bundle(tmp_path_factory)
    edgepack.bench(bundle, **SHORT, output=tmp_path / "a.json")
    edgepack.bench(bundle, **SHORT, against=bundle, output=tmp_path / "b.json")
    found = edgepack.compare(tmp_path / "a.json", tmp_path / "b.json")
    assert {"median", "p90", "p99", "mean", "throughput", "load", "first", "memory"} <= {
        row.metric for row in found.pairs[0].rows
    }
    assert not found.pairs[0].differences and any("not interleaved" in note for note in found.notes)
    assert edgepack.compare(tmp_path / "b.json").pairs[0].interleaved
    json.dumps(found.to_json(), allow_nan=False)


# --- what makes them differ otherwise ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (measurement(times(2.0), threads=4), "threads 1 and 4"),
        (measurement(times(2.0), batch=8), "batch 1 and 8"),
        (measurement(times(2.0), board="Raspberry Pi 4"), "board Raspberry Pi 5 and Raspberry Pi 4"),
        (measurement(times(2.0), power_mode="15W"), "power mode None and 15W"),
    ],
)
def test_other_settings_and_machines_are_said(other: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert of(tmp_path, measurement(times(2.0)), other).pairs[0].differences == (words,)


def test_versions_are_noted(tmp_path: Path) -> None:
    newer = measurement(times(2.0))
    newer["models"]["model"]["versions"] = {"onnxruntime": "1.40"}
    found = of(tmp_path, measurement(times(2.0)), newer)
    assert not found.pairs[0].differences and "not the same: onnxruntime 1.31.1 and 1.40" in found.notes


def test_what_is_not_valid_is_said(tmp_path: Path) -> None:
    bad = measurement(times(2.0), doubts=[doubt("throttled", "invalid", "the clock was held down"), doubt()])
    assert of(tmp_path, measurement(times(2.0)), bad).pairs[0].invalid == ("the clock was held down",)


def test_sweeps_are_compared_where_they_meet(tmp_path: Path) -> None:
    def sweep(*threads: int) -> dict[str, Any]:
        return {"kind": "sweep", "format": 2, "measurements": [measurement(times(2.0), threads=n) for n in threads]}

    found = of(tmp_path, sweep(1, 2), sweep(2, 4))
    assert [pair.threads for pair in found.pairs] == [2]
    assert any("1 threads and batch 1, 4 threads and batch 1" in note for note in found.notes)


# --- sizes and answers ------------------------------------------------------------------------------------


def test_builds_are_compared_in_all(tmp_path: Path) -> None:
    found = of(tmp_path, built(), built(quality(84.0, 2.0), size=2_000_000))
    size, accuracy = row(found, "size", 1), row(found, "accuracy", 1)
    assert (size.before, size.after, size.words) == (3.0, 2.0, "smaller")
    assert (accuracy.title, accuracy.change, accuracy.verdict) == ("top1", -1.0, WORSE)
    # Each loss is known to 0.3, so their difference to the root of the sum of squares.
    assert (accuracy.low, accuracy.high) == pytest.approx((-1 - 0.3 * 2**0.5, -1 + 0.3 * 2**0.5))
    assert row(found, "median").verdict in (SAME, UNCLEAR)


def test_an_error_rate_is_better_when_it_is_lower(tmp_path: Path) -> None:
    rates = {"metric": "cer", "higher_is_better": False, "original": 5.0}
    found = of(tmp_path, built(quality(6.0, 1.0, **rates)), built(quality(8.0, 3.0, **rates)))
    worse = row(found, "accuracy", 1)
    assert (worse.title, worse.change, worse.verdict) == ("cer", 2.0, WORSE)
    assert worse.low is not None and worse.high is not None and worse.low < 2 < worse.high


def test_a_change_within_chance_is_unclear(tmp_path: Path) -> None:
    assert row(of(tmp_path, built(quality(85.0, 1.0)), built(quality(84.9, 1.1))), "accuracy", 1).verdict == UNCLEAR


def test_another_original_leaves_no_interval(tmp_path: Path) -> None:
    found = row(of(tmp_path, built(), built(quality(90.0, 1.0, original=91.0))), "accuracy", 1)
    assert (found.change, found.low, found.verdict) == (5.0, None, UNCLEAR)


@pytest.mark.parametrize(
    ("judged", "words"),
    [(quality(count=500), "500"), (quality(metric="top5"), "top5")],
)
def test_answers_to_other_questions_are_not_compared(judged: dict[str, Any], words: str, tmp_path: Path) -> None:
    found = of(tmp_path, built(), built(judged))
    assert "accuracy" not in {row.metric for row in found.pairs[1].rows}
    assert any("not compared" in note and words in note for note in found.notes)


def test_bundles_are_compared_by_size_and_say_how_to_time_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = small_bundle(tmp_path_factory)
    archive = bundle.with_name(f"{bundle.name}.tar.gz")
    found = compare(bundle, archive)
    assert {row.metric: row.verdict for row in found.pairs[0].rows if row.exact} == {"size": SAME, "archive": SAME}
    assert any("--against" in note for note in found.notes)


# --- what cannot be read ----------------------------------------------------------------------------------


def test_a_bundle_and_a_measurement_have_nothing_in_common(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(NotComparable, match="no figure in common"):
        compare(small_bundle(tmp_path_factory), saved(tmp_path, "m.json", measurement(times(1.0))))


def test_a_diagnosis_is_not_compared(tmp_path: Path) -> None:
    with pytest.raises(NotComparable, match="is a diagnosis"):
        of(tmp_path, built(), diagnosis())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '"x"',
        "{}",
        '{"kind": "other"}',
        '{"kind": "measurement"}',
        '{"kind": "measurement", "format": 1}',
        '{"kind": "measurement", "format": 2}',
        '{"kind": "sweep", "format": 2, "measurements": [3]}',
        '{"kind": "sweep", "format": 2, "measurements": []}',
        '{"kind": "build", "format": 1}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_what_is_no_result_is_one_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    for pair in ((path, saved(tmp_path, "b.json", built())), (saved(tmp_path, "a.json", built()), path)):
        with pytest.raises((UnreadableResult, NotComparable)) as caught:
            compare(*pair)
        assert "broken.json" in caught.value.message


def test_a_missing_file_and_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(UnreadableResult, match="does not exist"):
        compare(tmp_path / "nothing.json", tmp_path)
    with pytest.raises(BrokenBundle):
        compare(tmp_path, tmp_path)


def test_a_cut_measurement_names_its_file(tmp_path: Path) -> None:
    damaged = measurement(times(1.0))
    del damaged["models"]["model"]["processes"][0]["rounds_ms"]
    with pytest.raises(UnreadableResult, match=r"after\.json is damaged: 'rounds_ms' is missing"):
        of(tmp_path, measurement(times(1.0), about=ABOUT), damaged)
