"""Built models beside an original whose answers are known: the figures of a judge against their formulas."""

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

from edgepack.data import spill
from edgepack.data.reading import read
from edgepack.data.samples import Samples
from edgepack.errors import LabelsError, MetricError
from edgepack.metrics import resolve
from edgepack.metrics.base import AnyMetric
from edgepack.metrics.classes import top
from edgepack.metrics.judge import Judge, evaluate
from edgepack.metrics.merit import Quality
from edgepack.reference import Session
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
        metric = top(1) if self.samples.labels is not None else None
        return evaluate(self.original.run, self.built.run, self.samples, metric)


def logits_and_labels(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.standard_normal((count, CLASSES)).astype(np.float32), random.integers(0, CLASSES, count)


OFFSET = np.array([0.4, -0.3, 0.0, 0.2, -0.6], np.float32)


# --- a metric -------------------------------------------------------------------------------------------


@PROPERTY
@given(seeds, st.integers(2, 60))
def test_top1_of_both_and_the_drop(tmp_path_factory: pytest.TempPathFactory, seed: int, count: int) -> None:
    logits, labels = logits_and_labels(count, seed)
    quality = Judged(tmp_path_factory.getbasetemp(), logits, OFFSET, labels).quality()
    before, after = (100 * np.mean(scores.argmax(1) == labels) for scores in (logits, logits + OFFSET))
    assert (quality.metric, quality.unit, quality.higher_is_better) == ("top1", "points", True)
    assert quality.count == count
    assert (quality.original, quality.built) == (pytest.approx(before), pytest.approx(after))
    assert quality.drop == pytest.approx(before - after)
    assert quality.drop_low is not None and quality.drop_high is not None
    assert quality.drop_low - 1e-9 <= quality.drop <= quality.drop_high + 1e-9 or count < 10


def test_the_interval_is_that_of_the_paired_difference(tmp_path: Path) -> None:
    """Near ± 1.96 of its standard error, as McNemar's test has it from the counts of discordant pairs."""
    logits, labels = logits_and_labels(800, 3)
    quality = Judged(tmp_path, logits, OFFSET, labels).quality()
    right = [scores.argmax(1) == labels for scores in (logits, logits + OFFSET)]
    lost, won = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    error = 100 * math.sqrt((lost + won - (lost - won) ** 2 / 800) / 800**2)
    assert lost + won > 70
    assert quality.drop is not None
    assert quality.drop_low == pytest.approx(quality.drop - 1.96 * error, abs=0.2 * error)
    assert quality.drop_high == pytest.approx(quality.drop + 1.96 * error, abs=0.2 * error)


def test_one_sample_has_no_interval(tmp_path: Path) -> None:
    quality = Judged(tmp_path, np.eye(CLASSES, dtype=np.float32)[:1], OFFSET, np.array([0])).quality()
    assert quality.built == 100
    assert quality.drop_low is quality.drop_high is None


def test_without_labels_there_is_no_metric(tmp_path: Path) -> None:
    quality = Judged(tmp_path, logits_and_labels(20)[0], OFFSET).quality()
    assert quality.metric is quality.built is quality.original is quality.drop is quality.drop_low is None
    assert quality.agreement is not None
    assert quality.sqnr_db is not None


def test_a_fixed_batch_is_judged_row_by_row(tmp_path: Path) -> None:
    logits, labels = logits_and_labels(12)
    np.savez(tmp_path / "a.npz", x=logits, y=labels)
    shape = [4, CLASSES]
    node = helper.make_node("Identity", ["x"], ["z"])
    model = models.in_edgepack(models.model([node], {"x": shape}, {"z": shape}))
    session = Session(model)
    quality = evaluate(session.run, session.run, read(tmp_path / "a.npz", model), top(1))
    assert quality.built == pytest.approx(100 * np.mean(logits.argmax(1) == labels))
    assert quality.count == 12


def test_a_lower_figure_is_no_drop_where_lower_is_better(tmp_path: Path) -> None:
    """One text of five is read wrongly by the original, all are read rightly by the built model."""
    scores = np.zeros((5, 2, 3), np.float32)
    scores[:, 0, 1] = scores[:, 1, 2] = 1
    scores[0, 0] = [0.5, 0.2, 0]
    np.savez(tmp_path / "a.npz", x=scores, y=np.array(["ab"] * 5))
    original = models.in_edgepack(passing(2, 3))
    built = Session(models.in_edgepack(passing(2, 3, offset=np.array([-0.4, 0, 0]))))
    samples = read(tmp_path / "a.npz", original, truth="text")
    quality = evaluate(Session(original).run, built.run, samples, resolve("cer", classes=["a", "b"]))
    assert (quality.original, quality.built, quality.drop) == (10, 0, -10)
    assert quality.higher_is_better is False


@pytest.mark.parametrize("label", [CLASSES, -1, 1000])
@pytest.mark.parametrize("place", [0, 16, 36])
def test_labels_out_of_range_are_named(label: int, place: int, tmp_path: Path) -> None:
    logits, labels = logits_and_labels(37)
    labels[place] = label
    with pytest.raises(LabelsError, match=f"label {label} is out of range: the model has {CLASSES} classes"):
        Judged(tmp_path, logits, OFFSET, labels).quality()


def test_the_last_class_is_in_range(tmp_path: Path) -> None:
    logits, _ = logits_and_labels(3)
    assert Judged(tmp_path, logits, OFFSET, np.full(3, CLASSES - 1)).quality().built is not None


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
    assert (quality.sqnr_db, quality.agreement, quality.drop) == (200, 100, 0)
    assert (quality.drop_low, quality.drop_high) == (0, 0)


def test_scores_of_rank_3_agree_place_by_place(tmp_path: Path) -> None:
    answers = models.random((20, 7, CLASSES))
    quality = Judged(tmp_path, answers, OFFSET).quality()
    assert quality.agreement == pytest.approx(100 * np.mean(answers.argmax(-1) == (answers + OFFSET).argmax(-1)))


@pytest.mark.parametrize("shape", [(1,), (2, 3, 4)])
def test_what_is_no_score_has_no_agreement(shape: tuple[int, ...], tmp_path: Path) -> None:
    quality = Judged(tmp_path, models.random((6, *shape)), np.ones(1)).quality()
    assert quality.agreement is None
    assert quality.sqnr_db is not None


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
    quality = evaluate(run, run, samples, top(1))
    assert quality.built == pytest.approx(100 * np.mean(logits.argmax(1) == labels))
    assert quality.sqnr_db == 200


def test_whole_numbers_alone_have_no_figures(tmp_path: Path) -> None:
    run, samples = samples_for(several_outputs("class"), tmp_path)
    quality = evaluate(run, run, samples)
    assert (quality.sqnr_db, quality.agreement, quality.metric) == (None, None, None)
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
    judge = Judge(judged.original.run, judged.samples)
    judge.judge(judged.built.run, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (37, 37)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


# --- one original, many built models --------------------------------------------------------------------


class Counted:
    """A model's run, and how many samples it was fed."""

    def __init__(self, session: Session) -> None:
        self.session, self.fed = session, 0

    def run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.fed += len(next(iter(feed.values())))
        return self.session.run(feed)


@pytest.mark.parametrize("limit", [10**9, 100, 0])
def test_the_original_runs_once(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged after others, and with what is kept in a file, a model gets the figures it gets alone."""
    monkeypatch.setattr(spill, "LIMIT", limit)
    logits, labels = logits_and_labels(37)
    offsets = [OFFSET, np.zeros(CLASSES), -2 * OFFSET]
    judged = [Judged(tmp_path, logits, offset, labels) for offset in offsets]
    original = Counted(judged[0].original)
    judge = Judge(original.run, judged[0].samples, top(1))
    together = [judge.judge(one.built.run) for one in judged]
    assert together == [one.quality() for one in judged]
    assert original.fed - judged[0].samples.batch() == 37  # one batch shows whether answers can be told apart


def test_an_interrupted_comparison_leaves_a_judge_whole(tmp_path: Path) -> None:
    logits, labels = logits_and_labels(37)
    judged = Judged(tmp_path, logits, OFFSET, labels)
    judge = Judge(judged.original.run, judged.samples, top(1))

    def broken(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise KeyboardInterrupt

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for run, progress in ((broken, None), (judged.built.run, interrupt)):
        with pytest.raises(KeyboardInterrupt):
            judge.judge(run, progress)
    assert judge.judge(judged.built.run) == judged.quality()


def gathered(*, rows: int) -> onnx.ModelProto:
    """A detector that lists what it finds in all images of a batch, `rows` an image, as suppression inside one does."""
    node = helper.make_node
    return models.model(
        [node("Reshape", ["x", "shape"], ["z"])], {"x": ["N", rows, CLASSES]}, {"z": ["M", CLASSES]},
        {"shape": np.array([-1, CLASSES])},
    )  # fmt: skip


def test_answers_that_cannot_be_told_apart_are_asked_for_one_by_one(tmp_path: Path) -> None:
    fed: list[int] = []
    model = models.in_edgepack(gathered(rows=3))
    np.savez(tmp_path / "a.npz", x=models.random((20, 3, CLASSES)), y=np.arange(20))
    samples = read(tmp_path / "a.npz", model, truth="any")
    assert samples.batch() > 1
    (tmp_path / "counts.py").write_text(
        "def three(outputs, labels):\n    return 100 * sum(len(o['z']) == 3 for o in outputs) / 20\n"
    )
    session = Session(model)

    def run(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        fed.append(len(feed["x"]))
        return session.run(feed)

    quality = evaluate(session.run, run, samples, from_folder(tmp_path, "counts:three"))
    assert quality.original == 100 and set(fed) == {1}


def from_folder(folder: Path, name: str) -> AnyMetric | None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return resolve(name)


def test_the_first_sample_shows_what_does_not_fit(tmp_path: Path) -> None:
    logits, labels = logits_and_labels(37)
    labels[30] = CLASSES
    judged = Judged(tmp_path, logits, OFFSET, labels)
    with pytest.raises(LabelsError, match=f"label {CLASSES} is out of range"):
        Judge(judged.original.run, judged.samples, top(1)).check()
    with pytest.raises(MetricError, match="always right"):
        Judge(judged.original.run, judged.samples, top(5)).check()


@pytest.mark.parametrize("name", ["top1", "cer", "miou", "map"])
def test_a_metric_needs_its_labels(name: str, tmp_path: Path) -> None:
    judged = Judged(tmp_path, logits_and_labels(3)[0], OFFSET)
    metric = resolve(name, decode="yolov8" if name == "map" else None)
    with pytest.raises(LabelsError, match=f"--metric {name} needs labels, and .*judged.npz has none"):
        Judge(judged.original.run, judged.samples, metric)
