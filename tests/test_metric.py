"""Arithmetic shared with the device, against its formulas, and what a quality says of its samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepack.metrics.merit import Quality, harness, holds_scores, too_few

PROPERTY = settings(max_examples=25, deadline=None, database=None)


def quality(count: int, low: float | None, high: float | None) -> Quality:
    return Quality(
        source="", count=count, sqnr_db=30.0, agreement=99.0, metric="top1", unit="points", higher_is_better=True,
        original=90.0, built=89.9, drop=0.1, drop_low=low, drop_high=high,
    )  # fmt: skip


# --- enough samples -------------------------------------------------------------------------------------


def test_too_few_samples_say_how_many_are_needed() -> None:
    words = too_few(quality(2000, -0.9, 1.1), 0.5)
    assert "2,000 samples tell the drop in top1 to ± 1 points" in words and "8,000 are needed" in words


def test_enough_samples_say_nothing() -> None:
    assert too_few(quality(10_000, -0.1, 0.3), 0.5) == ""


def test_no_difference_among_few_samples_proves_little() -> None:
    assert "600 are needed" in too_few(quality(16, 0.0, 0.0), 0.5)


def test_no_number_of_samples_shows_a_drop_of_nothing() -> None:
    assert too_few(quality(9, 0.0, 0.0), 0) == ""
    assert "no number of samples" in too_few(quality(9, 0.0, 1.0), 0)
    assert too_few(quality(600, 0.0, 0.0), 0.5) == ""


def test_no_interval() -> None:
    assert "no interval" in too_few(quality(1, None, None), 0.5)
    assert too_few(Quality(source="", count=1, sqnr_db=None, agreement=None), 0.5) == ""


@pytest.mark.parametrize(
    ("array", "yes"),
    [
        (np.zeros((2, 5), np.float32), True),
        (np.zeros((2, 7, 5), np.float16), True),
        (np.zeros((2, 1), np.float32), False),
        (np.zeros((5,), np.float32), False),
        (np.zeros((2, 5, 8, 8), np.float32), False),
        (np.zeros((2, 5), np.int64), False),
    ],
)
def test_scores_are_floats_over_classes(array: np.ndarray, yes: bool) -> None:
    assert holds_scores(array) is yes


# --- the arithmetic the device shares -------------------------------------------------------------------


@PROPERTY
@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_decibels(signal: float, noise: float) -> None:
    assert harness().decibels(signal, noise) == pytest.approx(10 * (math.log10(signal) - math.log10(noise)), abs=1e-6)


@pytest.mark.parametrize(
    ("signal", "noise", "decibels"),
    [
        (1.0, 0.0, 200),
        (0.0, 0.0, 200),
        (0.0, 1.0, -200),
        (1.0, math.nan, -200),
        (math.inf, 1.0, -200),
        (1e30, 1e-30, 200),
    ],
)
def test_decibels_at_the_ends(signal: float, noise: float, decibels: float) -> None:
    assert harness().decibels(signal, noise) == decibels


def test_relative_error_is_of_the_largest_magnitude() -> None:
    error = harness().relative_error
    assert error(np.array([1.0, -4.0]), np.array([1.5, -4.0])) == 0.125
    assert error(np.zeros(2), np.array([0.0, 0.25])) == 0.25
    assert error(np.zeros((0, 3)), np.zeros((0, 3))) == 0
    assert math.isnan(error(np.array([1.0]), np.array([math.nan])))
