"""Intervals, verdicts, drift and modes, on samples whose truth is known."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgepack import _root

sys.path.insert(0, str(_root.TARGETS / "device"))
from edgepack_device.doubts import of_the_samples
from edgepack_device.estimates import drift, interval, ratio, t_quantile, two_modes, typical, verdict

Rounds = list[list[list[float]]]


def rounds(seed: int, processes: int = 10, spread: float = 0.0, scale: float = 1.0) -> Rounds:
    random = np.random.default_rng(seed)
    medians = scale * np.exp(spread * random.standard_normal((processes, 1, 1)))
    return (medians * np.exp(0.05 * random.standard_normal((processes, 20, 20)))).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("chance", "freedom", "value"),
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.3027),
        (0.975, 4, 2.7764),
        (0.975, 9, 2.2622),
        (0.975, 30, 2.0423),
        (0.995, 4, 4.6041),
        (0.9995, 5, 6.8688),
    ],
)
def test_student_t(chance: float, freedom: int, value: float) -> None:
    assert t_quantile(chance, freedom) == pytest.approx(value, abs=1e-4)


def test_few_values_have_students_interval() -> None:
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(
        (2.0, 2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-4
    )
    assert interval([5.0]) == (5.0, 5.0, 5.0)


def test_order_statistics_enclose_the_level() -> None:
    """Of ten values the second and ninth hold the median in 97.85 % of all cases, the third and eighth in 89.06 %."""
    middle, low, high = interval([float(value) for value in range(10)])
    assert middle == 4.5 and 1 < low < 2 and 7 < high < 8
    assert low == pytest.approx(9 - high)
    # 1 - 2 Phi(-z) interpolated: Hettmansperger and Sheather's weight for ten values
    share = (0.978515625 - 0.95) / (0.978515625 - 0.890625)
    assert low == pytest.approx(1 + (10 - 2) * share / (2 + (10 - 4) * share))


def test_one_process_out_of_line_does_no_harm() -> None:
    quiet = [0.001 * value for value in range(10)]
    _, low, high = interval(quiet)
    _, low_too, high_too = interval([*quiet[:9], 0.3])
    assert (low_too, high_too) == (low, high)


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ((1.05, 1.03, 1.07), "faster"),
        ((1.05, 1.001, 1.1), "faster"),
        ((0.95, 0.93, 0.97), "slower"),
        ((1.0, 0.99, 1.01), "same"),
        ((1.01, 1.005, 1.015), "same"),
        ((1.0, 0.9, 1.1), "unclear"),
        ((1.05, 0.99, 1.1), "unclear"),
        ((1.015, 1.005, 1.03), "unclear"),
    ],
)
def test_verdicts(figures: tuple[float, float, float], words: str) -> None:
    assert verdict(*figures, 0.02) == words


def test_the_ratio_finds_a_difference() -> None:
    found = ratio(rounds(1, scale=1.05), rounds(2))
    assert found["verdict"] == "faster" and found["low"] < 1.05 < found["high"]
    assert ratio(rounds(2), rounds(1, scale=1.05))["verdict"] == "slower"
    assert ratio(rounds(1), rounds(2))["verdict"] == "same"
    assert ratio(rounds(1, scale=1.05), rounds(2), equivalence=0.1)["verdict"] == "same"


def test_the_typical_median() -> None:
    middle, low, high = typical(rounds(3, spread=0.02))
    assert low < 1.0 < high and middle == pytest.approx(1.0, abs=0.02)


def test_drift_is_seen_and_noise_is_not() -> None:
    still = rounds(4, spread=0.01)
    slower = [[[run * (1 + 0.01 * index) for run in turn] for turn in turns] for index, turns in enumerate(still)]
    warming = [[[run * (1 - 0.005 * index) for run in turn] for index, turn in enumerate(turns)] for turns in still]
    assert drift(still) == 0.0
    assert drift(slower) == pytest.approx(0.09, abs=0.03)
    assert drift(warming) == pytest.approx(-0.075, abs=0.02)


def test_two_modes_are_seen_and_a_tail_is_not() -> None:
    random = np.random.default_rng(0)
    one = np.exp(0.05 * random.standard_normal(2000))
    modes = two_modes(np.concatenate([one, 1.5 * one[:600]]))
    assert modes is not None and modes["slow_ms"] == pytest.approx(1.5, rel=0.05)
    assert modes["slow_share"] == pytest.approx(600 / 2600, abs=0.03)
    for tail in (one, 1 + random.exponential(0.3, 2000), random.uniform(1, 2, 2000), 1 + random.gamma(2, 0.1, 2000)):
        assert two_modes(tail) is None


def figures(samples: Rounds) -> dict[str, object]:
    middle, low, high = typical(samples)
    return {
        "processes": [{"rounds_ms": turns} for turns in samples],
        "count": sum(len(turn) for turns in samples for turn in turns),
        "median_ms": middle, "median_low_ms": low, "median_high_ms": high,
    }  # fmt: skip


def names(samples: Rounds) -> list[str]:
    return [doubt["name"] for doubt in of_the_samples("model", figures(samples))]


def test_doubts_about_samples() -> None:
    quiet = rounds(5)
    assert names(quiet) == []
    assert names([[turn[:1] for turn in turns[:4]] for turns in quiet]) == ["few_samples"]
    assert names(quiet[:2]) == ["few_samples"]
    assert names(rounds(6, spread=0.3)) in (["few_samples"], ["few_samples", "two_modes"])
    drifting = [[[run * (1 + 0.01 * index) for run in turn] for turn in turns] for index, turns in enumerate(quiet)]
    assert "drift" in names(drifting)
    both = [[[run * (1 + index % 2) for index, run in enumerate(turn)] for turn in turns] for turns in quiet]
    assert names(both) == ["two_modes"]


@pytest.fixture
def intervals(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    return importlib.import_module("intervals")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["independent", "correlated", "spread"])
def test_intervals_hold_the_truth_as_often_as_they_say(intervals: ModuleType, case: str) -> None:
    """benchmarks/intervals.py has 2,000 trials; of 600, three standard errors either way are chance."""
    for row in (row for row in intervals.study(case, 10, 600) if row["method"] == "by process"):
        assert 95 - 3 * 0.89 <= row["coverage_percent"] <= 95 + 3 * 0.89, row
        assert row["drift_doubt_percent"] < 5


@pytest.mark.slow
def test_drift_raises_its_doubt(intervals: ModuleType) -> None:
    assert next(intervals.study("drifting", 10, 200))["drift_doubt_percent"] > 95
