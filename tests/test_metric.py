"""Figures of merit against their textbook formulas, on models whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgepack.errors import LabelsError
from edgepack.metric import Quality, evaluate, harness, holds_scores
from edgepack.reference import Session
from edgepack.samples import Samples, read
from tests import models

PROPERTY = settings(max_examples=25, deadline=None, database=None)
CLASSES = 5
seeds = st.integers(0, 2**32 - 1)


def passing(*shape: int, offset: np.ndarray | None = None, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """A model that answers with its input, plus `offset`: its logits are whatever the test feeds."""
    shift = np.zeros(1, np.float32) if offset is None else offset.astype(np.float32)
    return models.model(
        [helper.make_node("Add", ["x", "shift"], ["sum"]), helper.make_node("Cast", ["sum"], ["z"], to=kind)],
        {"x": ["N", *shape]},
        {"z": ["N", *shape]},
        {"shift": shift},
        types={"z": kind},
    )


class Judged:
    """An original, a built model that shifts its answers, and samples for both."""

    def __init__(self, folder: Path, logits: np.ndarray, offset: np.ndarray, labels: np.ndarray | None = None) -> None:
        arrays = {"x": logits} if labels is None else {"x": logits, "y": labels}
        np.savez(folder / "judged.npz", **arrays)  # type: ignore[arg-type]
        original = models.in_edgepack(passing(*logits.shape[1:]))
        self.samples = read(folder / "judged.npz", original)
        self.original = Session(original)
        self.built = Session(models.in_edgepack(passing(*logits.shape[1:], offset=offset)))

    def quality(self) -> Quality:
        return evaluate(self.original.run, self.built.run, self.samples)


def logits_and_labels(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.standard_normal((count, CLASSES)).astype(np.float32), random.integers(0, CLASSES, count)


OFFSET = np.array([0.4, -0.3, 0.0, 0.2, -0.6], np.float32)


# --- accuracy -------------------------------------------------------------------------------------------


@PROPERTY
@given(seeds, st.integers(2, 60))
def test_accuracy_drop_and_its_paired_standard_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int
) -> None:
    logits, labels = logits_and_labels(count, seed)
    quality = Judged(tmp_path_factory.getbasetemp(), logits, OFFSET, labels).quality()
    before = [int(row.argmax()) == label for row, label in zip(logits, labels, strict=True)]
    after = [int((row + OFFSET).argmax()) == label for row, label in zip(logits, labels, strict=True)]
    # From the counts of discordant pairs, as McNemar's test has them.
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    won = sum(a and not b for b, a in zip(before, after, strict=True))
    variance = (lost + won - (lost - won) ** 2 / count) / (count - 1)
    assert quality.count == count
    assert quality.original_accuracy == pytest.approx(100 * sum(before) / count)
    assert quality.accuracy == pytest.approx(100 * sum(after) / count)
    assert quality.drop == pytest.approx(100 * (lost - won) / count)
    assert quality.drop_error == pytest.approx(100 * math.sqrt(variance / count))


def test_one_sample_has_no_standard_error(tmp_path: Path) -> None:
    quality = Judged(tmp_path, np.eye(CLASSES, dtype=np.float32)[:1], OFFSET, np.array([0])).quality()
    assert quality.accuracy == 100
    assert quality.drop_error is None


def test_without_labels_there_is_no_accuracy(tmp_path: Path) -> None:
    quality = Judged(tmp_path, logits_and_labels(20)[0], OFFSET).quality()
    assert quality.accuracy is quality.original_accuracy is quality.drop is quality.drop_error is None
    assert quality.agreement is not None
    assert quality.sqnr_db is not None


def test_a_fixed_batch_is_judged_row_by_row(tmp_path: Path) -> None:
    logits, labels = logits_and_labels(12)
    np.savez(tmp_path / "a.npz", x=logits, y=labels)
    shape = [4, CLASSES]
    node = helper.make_node("Identity", ["x"], ["z"])
    model = models.in_edgepack(models.model([node], {"x": shape}, {"z": shape}))
    session = Session(model)
    quality = evaluate(session.run, session.run, read(tmp_path / "a.npz", model))
    assert quality.accuracy == pytest.approx(100 * np.mean(logits.argmax(1) == labels))


@pytest.mark.parametrize("label", [CLASSES, -1, 1000])
@pytest.mark.parametrize("place", [0, 16, 36])
def test_labels_out_of_range_are_named(label: int, place: int, tmp_path: Path) -> None:
    logits, labels = logits_and_labels(37)
    labels[place] = label
    with pytest.raises(LabelsError, match=f"label {label} is out of range: the model has {CLASSES} classes"):
        Judged(tmp_path, logits, OFFSET, labels).quality()


def test_the_last_class_is_in_range(tmp_path: Path) -> None:
    logits, _ = logits_and_labels(3)
    assert Judged(tmp_path, logits, OFFSET, np.full(3, CLASSES - 1)).quality().accuracy is not None


# --- agreement and SQNR ---------------------------------------------------------------------------------


@PROPERTY
@given(seeds, st.integers(1, 60))
def test_agreement_counts_equal_answers(tmp_path_factory: pytest.TempPathFactory, seed: int, count: int) -> None:
    logits, _ = logits_and_labels(count, seed)
    quality = Judged(tmp_path_factory.getbasetemp(), logits, OFFSET).quality()
    same = sum(int(row.argmax()) == int((row + OFFSET).argmax()) for row in logits)
    assert quality.agreement == pytest.approx(100 * same / count)


@PROPERTY
@given(seeds, st.integers(1, 60), st.sampled_from([(CLASSES,), (3, CLASSES), (2, 4, CLASSES)]))
def test_sqnr_is_over_all_samples_together(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, shape: tuple[int, ...]
) -> None:
    """Power of all answers over power of all errors: not the mean of one ratio a batch."""
    answers = models.random((count, *shape), seed) * np.linspace(0.1, 10, count, dtype=np.float32).reshape(
        -1, *[1] * len(shape)
    )
    quality = Judged(tmp_path_factory.getbasetemp(), answers, OFFSET).quality()
    noise = ((answers + OFFSET).astype(np.float64) - answers) ** 2
    expected = 10 * math.log10(float(np.square(answers, dtype=np.float64).mean() / noise.mean()))
    assert quality.sqnr_db == pytest.approx(expected, abs=1e-3)


def test_equal_answers(tmp_path: Path) -> None:
    logits, labels = logits_and_labels(20)
    quality = Judged(tmp_path, logits, np.zeros(CLASSES), labels).quality()
    assert (quality.sqnr_db, quality.agreement, quality.drop, quality.drop_error) == (200, 100, 0, 0)


def test_scores_of_rank_3_agree_place_by_place(tmp_path: Path) -> None:
    answers = models.random((20, 7, CLASSES))
    quality = Judged(tmp_path, answers, OFFSET, np.zeros(20, int)).quality()
    assert quality.agreement == pytest.approx(100 * np.mean(answers.argmax(-1) == (answers + OFFSET).argmax(-1)))
    assert quality.accuracy is None


@pytest.mark.parametrize("shape", [(1,), (2, 3, 4)])
def test_what_is_no_score_has_no_agreement(shape: tuple[int, ...], tmp_path: Path) -> None:
    quality = Judged(tmp_path, models.random((6, *shape)), np.ones(1)).quality()
    assert quality.agreement is None
    assert quality.sqnr_db is not None


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


# --- outputs of other kinds -----------------------------------------------------------------------------


def several_outputs(*names: str) -> onnx.ModelProto:
    """Class numbers and logits, in the order asked for."""
    kinds: dict[str, list[int | str | None]] = {"class": ["N"], "z": ["N", CLASSES]}
    return models.model(
        [
            helper.make_node("ArgMax", ["x"], ["class"], axis=1, keepdims=0),
            helper.make_node("Identity", ["x"], ["z"]),
        ],
        {"x": ["N", CLASSES]},
        {name: kinds[name] for name in names},
        types={"class": TensorProto.INT64},
    )


def samples_for(proto: onnx.ModelProto, folder: Path) -> tuple[Callable[..., dict[str, np.ndarray]], Samples]:
    logits, labels = logits_and_labels(20)
    np.savez(folder / "a.npz", x=logits, y=labels)
    model = models.in_edgepack(proto)
    return Session(model).run, read(folder / "a.npz", model)


def test_the_first_float_output_is_judged(tmp_path: Path) -> None:
    run, samples = samples_for(several_outputs("class", "z"), tmp_path)
    logits, labels = logits_and_labels(20)
    quality = evaluate(run, run, samples)
    assert quality.accuracy == pytest.approx(100 * np.mean(logits.argmax(1) == labels))
    assert quality.sqnr_db == 200


def test_whole_numbers_alone_have_no_figures(tmp_path: Path) -> None:
    run, samples = samples_for(several_outputs("class"), tmp_path)
    quality = evaluate(run, run, samples)
    assert (quality.sqnr_db, quality.agreement, quality.accuracy) == (None, None, None)
    assert quality.count == 20


def test_half_precision_outputs_are_summed_without_overflow(tmp_path: Path) -> None:
    """The square of 60000 is beyond float16."""
    answers = np.full((8, CLASSES), 60000, np.float32)
    np.savez(tmp_path / "a.npz", x=answers)
    half = TensorProto.FLOAT16
    original = models.in_edgepack(passing(CLASSES, kind=half))
    built = models.in_edgepack(passing(CLASSES, offset=np.full(CLASSES, -6000), kind=half))
    quality = evaluate(Session(original).run, Session(built).run, read(tmp_path / "a.npz", original))
    assert quality.sqnr_db == pytest.approx(20, abs=0.1)


def test_progress_counts_up_to_all_samples(tmp_path: Path) -> None:
    judged = Judged(tmp_path, logits_and_labels(37)[0], OFFSET)
    seen: list[tuple[int, int]] = []
    evaluate(judged.original.run, judged.built.run, judged.samples, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (37, 37)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


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
