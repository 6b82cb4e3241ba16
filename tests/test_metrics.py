"""Metrics against slow references and cases worked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepack.data.samples import Samples
from edgepack.errors import LabelsError, MetricError, UsageError
from edgepack.metrics import METRICS, bootstrap, default, resolve
from edgepack.metrics.base import Answer, AnyMetric
from edgepack.metrics.decode import KEYS, parse
from edgepack.metrics.text import edits

PROPERTY = settings(max_examples=60, deadline=None, database=None)
seeds = st.integers(0, 2**32 - 1)


def named(name: str, decode: str | None = None, **more: Any) -> AnyMetric:
    metric = resolve(name, decode=decode, **more)
    assert metric is not None
    return metric


def figure(metric: AnyMetric, outputs: Sequence[np.ndarray], truths: Sequence[Any]) -> float:
    """The metric of answers, each a first output without its batch axis."""
    records = [metric.record(Answer(outputs={"z": z[None]}), t) for z, t in zip(outputs, truths, strict=True)]
    return bootstrap.figure(metric.scorer(records), len(records))


# --- top1, top5 -----------------------------------------------------------------------------------------


@PROPERTY
@given(seeds, st.sampled_from([1, 5]))
def test_the_label_is_among_the_best(seed: int, k: int) -> None:
    """Scores are few whole numbers, so that many are equal."""
    random = np.random.default_rng(seed)
    scores, labels = random.integers(0, 4, (30, 9)).astype(np.float32), random.integers(0, 9, 30)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    right = [label in row for label, row in zip(labels, best, strict=True)]
    assert figure(named(f"top{k}"), list(scores), labels) == pytest.approx(100 * np.mean(right))


def test_nan_is_wrong() -> None:
    scores = np.array([np.nan, 1, 2], np.float32)
    assert [figure(named("top1"), [scores], [label]) for label in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("output", [np.zeros((3, 4)), np.zeros(1), np.zeros(5, int), np.zeros((2, 3, 4))])
def test_what_is_no_row_of_scores(output: np.ndarray) -> None:
    with pytest.raises(MetricError, match=r"top1 needs an output of scores, \[batch, classes\]"):
        figure(named("top1"), [output], [0])


def test_top5_of_five_is_no_figure() -> None:
    with pytest.raises(MetricError, match="top5 of 5 classes is always right"):
        figure(named("top5"), [np.zeros(5)], [0])


# --- cer, wer -------------------------------------------------------------------------------------------


def slow_edits(a: Sequence[str], b: Sequence[str]) -> int:
    """By the recursion itself."""
    if not a or not b:
        return len(a) + len(b)
    rest = slow_edits(a[1:], b[1:])
    return rest if a[0] == b[0] else 1 + min(rest, slow_edits(a[1:], b), slow_edits(a, b[1:]))


@PROPERTY
@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edits_are_the_fewest(a: str, b: str) -> None:
    assert edits(a, b) == slow_edits(a, b) == edits(b, a)


@pytest.mark.parametrize(
    ("a", "b", "count"),
    [
        ("kitten", "sitting", 3),
        ("Saturday", "Sunday", 3),
        ("", "abc", 3),
        ("abc", "", 3),
        ("", "", 0),
        ("日本", "日本語", 1),
    ],
)
def test_edits_of_the_textbook(a: str, b: str, count: int) -> None:
    assert edits(a, b) == count


def steps(text: str, charset: str = "abcdefghijklmnopqrstuvwxyz ") -> np.ndarray:
    """Scores [steps, classes] that read as `text`: "-" is the blank, class 0."""
    scores = np.zeros((len(text), len(charset) + 1), np.float32)
    for place, symbol in enumerate(text):
        scores[place, 0 if symbol == "-" else charset.index(symbol) + 1] = 1
    return scores


LOWER = list("abcdefghijklmnopqrstuvwxyz ")


@pytest.mark.parametrize(
    ("path", "text"), [("--hh-e-l-ll--oo", "hello"), ("ll", "l"), ("---", ""), ("a-a", "aa"), ("ab", "ab")]
)
def test_best_path_merges_repeats_and_drops_blanks(path: str, text: str) -> None:
    assert figure(named("cer", classes=LOWER), [steps(path)], [text or "x"]) == (0 if text else 100)


def test_cer_is_over_all_characters_together() -> None:
    outputs = [steps("a-b-c"), steps("x")]
    assert figure(named("cer", classes=LOWER), outputs, ["abd", "xyzxyzx"]) == pytest.approx(100 * (1 + 6) / 10)


def test_wer_counts_words() -> None:
    outputs = [steps("one two"), steps("to be")]
    assert figure(named("wer", classes=LOWER), outputs, ["one  two three", "to be"]) == pytest.approx(100 / 5)


def test_more_edits_than_characters_are_more_than_everything() -> None:
    assert figure(named("cer", classes=LOWER), [steps("abc")], ["x"]) == 300


@pytest.mark.parametrize(
    ("charset", "decode"),
    [
        (["", *LOWER], "ctc"),
        (LOWER, "ctc"),
        (LOWER[:-1], "ctc"),
        ([*LOWER[:-1], ""], "ctc"),
    ],
)
def test_blank_and_space_may_be_missing_from_the_characters(charset: list[str], decode: str) -> None:
    assert figure(named("cer", decode, classes=charset), [steps("a- -b")], ["a b"]) == 0


def test_the_blank_may_be_the_last_class() -> None:
    scores = np.roll(steps("h-i"), -1, axis=1)
    assert figure(named("cer", "ctc,blank=last", classes=LOWER), [scores], ["hi"]) == 0


@pytest.mark.parametrize("key", ["character", "dict"])
def test_characters_come_with_the_model(key: str) -> None:
    metric = named("cer", metadata={key: "\n".join(LOWER[:-1]) + "\n"})
    assert figure(metric, [steps("o-k")], ["ok"]) == 0


def test_characters_that_python_takes_for_line_ends() -> None:
    metric = named("cer", metadata={"character": "a\n\x85\nb"})
    scores = np.eye(4, dtype=np.float32)[[1, 2, 3]]
    assert figure(metric, [scores], ["a\x85b"]) == 0


def test_steps_first() -> None:
    metric = named("cer", "ctc,layout=tnc", classes=LOWER)
    record = metric.record(Answer(outputs={"z": steps("h-i")[:, None]}), "hi")
    assert record.tolist() == [0, 2] and metric.alone


def test_classes_instead_of_scores() -> None:
    assert figure(named("cer", classes=LOWER), [np.array([1, 1, 0, 2])], ["ab"]) == 0


def test_no_characters() -> None:
    with pytest.raises(LabelsError, match="which character") as caught:
        figure(named("cer"), [steps("a")], ["a"])
    assert "--labels" in caught.value.hint


def test_characters_that_do_not_fit() -> None:
    with pytest.raises(LabelsError, match="4 characters do not fit the model's 28 classes"):
        figure(named("cer", classes=list("abcd")), [steps("a")], ["a"])


def test_an_output_that_is_no_text() -> None:
    with pytest.raises(MetricError, match="--decode ctc takes an output of 2 or 3 axes"):
        figure(named("cer", classes=LOWER), [np.zeros((2, 3, 4))], ["a"])
    with pytest.raises(MetricError, match="is no"):
        figure(named("cer", classes=LOWER), [np.zeros(28)], ["a"])


# --- miou -----------------------------------------------------------------------------------------------


def slow_miou(found: np.ndarray, labels: np.ndarray, classes: int) -> float:
    shares = []
    kept = labels != 255
    for number in range(classes):
        one, other = (found == number) & kept, (labels == number) & kept
        if (one | other).any():
            shares.append((one & other).sum() / (one | other).sum())
    return 100 * float(np.mean(shares))


@PROPERTY
@given(seeds, st.sampled_from(["scores", "last", "classes"]))
def test_miou_of_all_pixels_together(seed: int, form: str) -> None:
    random = np.random.default_rng(seed)
    found, labels = random.integers(0, 4, (2, 6, 5, 7))
    labels[random.random(labels.shape) < 0.2] = 255
    scores = {"scores": np.eye(6)[found].transpose(0, 3, 1, 2), "last": np.eye(6)[found], "classes": found}[form]
    assert figure(named("miou"), list(scores), list(labels)) == pytest.approx(slow_miou(found, labels, 6))


def test_miou_by_hand() -> None:
    """Class 0: 1 of 2 pixels, class 1: 2 of 3; the ignored pixel counts nowhere, class 2 does not occur."""
    found, labels = np.array([[0, 1, 1, 2]]), np.array([[0, 0, 1, 255]])
    scores = np.eye(3)[found].transpose(2, 0, 1)
    assert figure(named("miou"), [scores], [labels]) == pytest.approx(100 * (1 / 2 + 1 / 2) / 2)


def test_one_channel_against_a_threshold() -> None:
    scores, labels = np.array([[[0.2, 0.6, 0.9]]]), np.array([[0, 0, 1]])
    assert figure(named("miou", "mask"), [scores], [labels]) == pytest.approx(50)
    assert figure(named("miou", "mask,threshold=0.7"), [scores], [labels]) == 100
    with pytest.raises(MetricError) as caught:
        figure(named("miou"), [scores], [labels])
    assert "--decode mask" in caught.value.hint


def test_maps_of_another_size() -> None:
    with pytest.raises(MetricError, match="answers 4×4 pixels, the labels have 8×8"):
        figure(named("miou"), [np.zeros((3, 4, 4))], [np.zeros((8, 8), int)])


def test_a_pixel_beyond_the_classes() -> None:
    with pytest.raises(LabelsError, match="a pixel is labelled 3, and the model has 3 classes"):
        figure(named("miou"), [np.zeros((3, 2, 2))], [np.full((2, 2), 3)])


# --- by name --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_found_by_its_name(name: str) -> None:
    decode = (METRICS[name] or (None,))[0]
    metric = named(name, decode)
    assert metric.name == name and metric.unit == "points"
    assert metric.higher_is_better == (name not in ("cer", "wer"))
    assert metric.drop(np.array(2.0), np.array(1.0)) == (1 if metric.higher_is_better else -1)


def test_no_metric_was_asked_for() -> None:
    assert resolve(None) is None


@pytest.mark.parametrize(
    ("name", "decode", "message", "hint"),
    [
        ("top3", None, "no metric 'top3'", "did you mean top"),
        ("accuracy", None, "no metric 'accuracy'", "one of top1, top5"),
        ("map", None, "--metric map needs to know how the outputs are boxes", "--decode yolov8"),
        ("map50", "ctc", "cannot judge what --decode ctc gives", "yolov8"),
        ("cer", "yolov8", "cannot judge what --decode yolov8 gives", "ctc"),
        ("top1", "argmax", "cannot judge what --decode argmax gives", "leave --decode out"),
        (None, "yolov8", "--decode says how --metric reads the outputs", "--metric"),
        ("map", "yolo8", "no decoding 'yolo8'", "did you mean yolov8?"),
        ("map", "yolov8,scores=0.1", "unknown key 'scores'", "did you mean score?"),
        ("map", "yolov8,score", "unknown key 'score'", "key=value"),
        ("map", "yolov8,iou=much", "iou=much is not understood", "a number from 0 to 1"),
        ("map", "yolov8,iou=7", "iou=7 is not understood", "a number from 0 to 1"),
        ("map", "yolov8,agnostic=perhaps", "agnostic=perhaps", "yes or no"),
        ("map", "boxes,format=polar", "format=polar", "xyxy"),
        ("map", "yolov8,max=many", "max=many", "a whole number"),
        ("cer", "ctc,blank=first", "blank=first", "last"),
        ("miou", "mask,threshold=nan", "threshold=nan", "a number"),
        ("mine:f", "yolov8", "gets the outputs as they are", "leave --decode out"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(name: str | None, decode: str | None, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(name, decode=decode)
    assert message in caught.value.message and hint in caught.value.hint


@pytest.mark.parametrize("name", KEYS)
def test_a_decoding_without_keys_has_its_defaults(name: str) -> None:
    assert parse(name).values == KEYS[name]


def test_values_have_the_type_of_their_defaults() -> None:
    values = parse("boxes,score=0.25,max=10,agnostic=yes,format=cxcywh,boxes=out0,background=0").values
    chosen = {key: values[key] for key in ("score", "max", "agnostic", "format", "boxes", "background")}
    assert chosen == {
        "score": 0.25, "max": 10, "agnostic": True, "format": "cxcywh", "boxes": "out0", "background": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "shape", "name"),
    [
        (np.arange(3), (3, 4), "top1"),
        (None, (3, 4), None),
        (np.arange(3), (3, 1), None),
        (np.arange(3), (3, 4, 5), None),
        (np.array(["a", "b", "c"]), (3, 4), None),
    ],
)
def test_top1_is_the_default_for_classes(labels: np.ndarray | None, shape: tuple[int, ...], name: str | None) -> None:
    samples = Samples(source="", count=3, read=lambda index: {}, digest=str, labels=labels)
    found = default(samples, {"index": np.zeros(3, int), "z": np.zeros(shape, np.float32)})
    assert (found.name if found is not None else None) == name


def test_the_docs_name_every_metric_and_every_key() -> None:
    text = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in [*METRICS, *KEYS])
    for keys in KEYS.values():
        assert all(f"`{key}=" in text for key in keys)


# --- the bootstrap --------------------------------------------------------------------------------------


def test_resamples_are_the_same_for_both_models_and_every_time() -> None:
    one, other = (np.concatenate(list(bootstrap.resamples(50, 20))) for _ in range(2))
    assert np.array_equal(one, other) and one.shape == (20, 50)
    assert (one.sum(axis=1) == 50).all() and len(np.unique(one, axis=0)) == 20


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(bootstrap.resamples(50, 20)))
    monkeypatch.setattr(bootstrap, "_LARGEST_CHUNK", 150)
    chunks = list(bootstrap.resamples(50, 20))
    assert len(chunks) == 7 and np.array_equal(np.concatenate(chunks), whole)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """300 experiments of 200 samples each, whose true drop is 3 points."""
    random = np.random.default_rng(1)
    metric = named("top1")
    covered = 0
    for _ in range(300):
        before = random.random(200) < 0.8
        after = np.where(random.random(200) < 0.1, random.random(200) < 0.5, before)
        rows = [[np.array([hit, 1]) for hit in part] for part in (before, after)]
        one, other = (bootstrap.distribution(metric.scorer(part), 200, 300) for part in rows)
        low, high = bootstrap.interval(metric.drop(one, other)) or (0, 0)
        covered += low <= 3.0 <= high
    assert 0.90 <= covered / 300 <= 0.99


def test_an_interval_of_nothing() -> None:
    assert bootstrap.interval(np.zeros(0)) is None
    assert bootstrap.interval(np.array([np.nan, np.nan, 1.0])) is None


def test_how_many_samples_are_needed() -> None:
    assert bootstrap.needed(100, -1, 1, 0.5) == 600  # four times as many, but never fewer than the rule of three says
    assert bootstrap.needed(1000, -1, 1, 0.5) == 4000
    assert bootstrap.needed(50, 0, 0, 1) == 300
