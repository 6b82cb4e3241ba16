"""Average precision against pycocotools, against the definition, and by hand; boxes from outputs."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepack.data.samples import Boxes
from edgepack.errors import MetricError
from edgepack.metrics import bootstrap, resolve
from edgepack.metrics.base import Answer
from edgepack.metrics.boxes import THRESHOLDS, Matches, match, overlaps, scorer
from edgepack.metrics.dbnet import regions
from edgepack.metrics.decode import parse
from edgepack.metrics.detections import Detections, detections, suppress

PROPERTY = settings(max_examples=40, deadline=None, database=None)
seeds = st.integers(0, 2**32 - 1)
Scene = tuple[list[Detections], list[Boxes]]


def truth_of(boxes: list[list[float]], classes: list[int], crowd: list[bool] | None = None) -> Boxes:
    numbers = np.array(classes, np.int64)
    marks = np.array(crowd or [False] * len(classes), bool)
    return Boxes(boxes=np.array(boxes, float).reshape(-1, 4), classes=numbers, ids=numbers, crowd=marks)


def found_of(boxes: list[list[float]], scores: list[float], classes: list[int]) -> Detections:
    return Detections(
        boxes=np.array(boxes, float).reshape(-1, 4), scores=np.array(scores), classes=np.array(classes, np.int64)
    )


def scene(seed: int, images: int = 12, crowds: bool = True, ties: bool = True) -> Scene:
    """Images with boxes of four classes, and detections near them, beside them, twice, or missing."""
    random = np.random.default_rng(seed)
    founds, truths = [], []
    for _ in range(images):
        count = int(random.integers(0, 6))
        corner, size = random.uniform(0, 80, (count, 2)), random.uniform(5, 40, (count, 2))
        boxes = np.concatenate([corner, corner + size], axis=1)
        classes = random.integers(0, 4, count)
        crowd = random.random(count) < (0.2 if crowds else 0)
        truths.append(Boxes(boxes=boxes, classes=classes, ids=classes, crowd=crowd))
        near = np.repeat(np.arange(count), random.integers(0, 4, count))
        moved = boxes[near] + random.normal(0, 2.5, (len(near), 4))
        strays = random.uniform(0, 60, (int(random.integers(0, 4)), 2))
        every = np.concatenate([moved, np.concatenate([strays, strays + 20], axis=1)])
        every[:, 2:] = np.maximum(every[:, 2:], every[:, :2] + 1)
        kinds = np.concatenate([classes[near], random.integers(0, 5, len(strays))])
        # Few scores, so that many are equal: their order decides too.
        scores = random.integers(1, 12, len(every)) / 12 if ties else random.random(len(every))
        order = np.argsort(-scores, kind="stable")
        founds.append(Detections(boxes=every[order], scores=scores[order], classes=kinds[order]))
    return founds, truths


def figure(name: str, founds: list[Detections], truths: list[Boxes]) -> float:
    records = [match(found, truth, THRESHOLDS[name]) for found, truth in zip(founds, truths, strict=True)]
    return bootstrap.figure(scorer(records), len(records))


# --- against others -------------------------------------------------------------------------------------


def coco_figures(founds: list[Detections], truths: list[Boxes]) -> tuple[float, float]:
    """AP and AP50 by pycocotools."""
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    evaluation = pytest.importorskip("pycocotools.cocoeval")

    def wide(box: np.ndarray) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    annotations = [
        {
            "image_id": image, "category_id": int(number), "bbox": wide(box), "iscrowd": int(crowd),
            "area": float((box[2] - box[0]) * (box[3] - box[1])),
        }
        for image, truth in enumerate(truths, 1)
        for box, number, crowd in zip(truth.boxes, truth.classes, truth.crowd, strict=True)
    ]  # fmt: skip
    results = [
        {"image_id": image, "category_id": int(number), "bbox": wide(box), "score": float(score)}
        for image, found in enumerate(founds, 1)
        for box, score, number in zip(found.boxes, found.scores, found.classes, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = coco.COCO()
        reference.dataset = {
            "images": [{"id": image} for image in range(1, len(truths) + 1)],
            "categories": [{"id": number} for number in range(5)],
            "annotations": [{"id": place, **one} for place, one in enumerate(annotations, 1)],
        }
        reference.createIndex()
        judged = evaluation.COCOeval(reference, reference.loadRes(results), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return 100 * judged.stats[0], 100 * judged.stats[1]


@pytest.mark.parametrize("seed", range(25))
def test_it_is_what_pycocotools_says(seed: int) -> None:
    founds, truths = scene(seed)
    whole, half = coco_figures(founds, truths)
    assert figure("map", founds, truths) == pytest.approx(whole, abs=1e-9)
    assert figure("map50", founds, truths) == pytest.approx(half, abs=1e-9)


def test_more_than_a_hundred_detections_a_class_as_pycocotools() -> None:
    random = np.random.default_rng(3)
    corner = random.uniform(0, 300, (150, 2))
    boxes = np.concatenate([corner, corner + 20], axis=1)
    scores = np.sort(random.random(150))[::-1]
    found = Detections(boxes=boxes + random.normal(0, 1, boxes.shape), scores=scores, classes=np.zeros(150, int))
    truth = truth_of(boxes.tolist(), [0] * 150)
    assert figure("map50", [found], [truth]) == pytest.approx(coco_figures([found], [truth])[1], abs=1e-9)
    assert figure("map50", [found], [truth]) < 70


def slow_precision(founds: list[Detections], truths: list[Boxes], number: int, least: float) -> float | None:
    """Average precision of a class, step by step from its definition."""
    wanted = sum(int(((truth.classes == number) & ~truth.crowd).sum()) for truth in truths)
    if not wanted:
        return None
    rows = []
    for image, found in enumerate(founds):
        rows += [(-score, image, place) for place, score in enumerate(found.scores) if found.classes[place] == number]
    taken: set[tuple[int, int]] = set()
    hits = []
    for _, image, place in sorted(rows):
        truth = truths[image]
        best, owner = least, None
        for other in np.flatnonzero((truth.classes == number) & ~truth.crowd):
            share = slow_overlap(founds[image].boxes[place], truth.boxes[other])
            if share >= best and (image, int(other)) not in taken:
                best, owner = share, (image, int(other))
        hits.append(owner is not None)
        if owner is not None:
            taken.add(owner)
    total = 0.0
    for recall in np.linspace(0, 1, 101):
        precisions = [
            sum(hits[: end + 1]) / (end + 1) for end in range(len(hits)) if sum(hits[: end + 1]) / wanted >= recall
        ]
        total += max(precisions, default=0.0)
    return total / 101


def slow_overlap(one: np.ndarray, other: np.ndarray) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(shared / (sum(areas) - shared))


@PROPERTY
@given(seeds)
def test_it_is_what_the_definition_says(seed: int) -> None:
    founds, truths = scene(seed, images=5, crowds=False)
    by_class = [[slow_precision(founds, truths, number, least) for least in THRESHOLDS["map"]] for number in range(5)]
    known = [row for row in by_class if row[0] is not None]
    expected = 100 * float(np.mean(np.array(known, float))) if known else float("nan")
    assert figure("map", founds, truths) == pytest.approx(expected, nan_ok=True)


# --- by hand --------------------------------------------------------------------------------------------

A, B = [0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]


def test_a_right_a_wrong_and_a_right_one() -> None:
    """Recall 1/2 at precision 1, recall 1 at precision 2/3: 51 recalls of the first, 50 of the second."""
    found = found_of([A, [50, 50, 60, 60], B], [0.9, 0.8, 0.7], [0, 0, 0])
    assert figure("map50", [found], [truth_of([A, B], [0, 0])]) == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)


def test_a_box_is_found_once() -> None:
    found = found_of([A, A], [0.9, 0.8], [0, 0])
    assert figure("map50", [found], [truth_of([A], [0])]) == pytest.approx(100)
    assert figure("map50", [found_of([A, A], [0.9, 0.9], [0, 0])] * 2, [truth_of([A], [0])] * 2) < 100


def test_the_share_decides() -> None:
    """3/4 of the box: within six of the ten thresholds, 0.50 to 0.75."""
    found = found_of([[0, 0, 10, 7.5]], [0.9], [0])
    assert figure("map", [found], [truth_of([A], [0])]) == pytest.approx(60)


def test_a_crowd_need_not_be_found_and_is_no_mistake() -> None:
    truth = truth_of([A, [40, 40, 90, 90]], [0, 0], [False, True])
    alone = found_of([A], [0.5], [0])
    within = found_of([[45, 45, 50, 50], [60, 60, 70, 70], A], [0.9, 0.8, 0.5], [0, 0, 0])
    assert figure("map50", [alone], [truth]) == figure("map50", [within], [truth]) == pytest.approx(100)


def test_classes_that_do_not_occur_do_not_count() -> None:
    found = found_of([A, B], [0.9, 0.8], [0, 3])
    assert figure("map50", [found], [truth_of([A], [0])]) == pytest.approx(100)
    assert figure("map50", [found], [truth_of([A, B], [0, 1])]) == pytest.approx(50)


def test_nothing_found() -> None:
    assert figure("map", [found_of([], [], [])], [truth_of([A], [0])]) == 0


def test_nothing_to_find_is_no_figure() -> None:
    assert np.isnan(figure("map", [found_of([A], [0.5], [0])], [truth_of([], [])]))


def test_boxes_without_area() -> None:
    assert overlaps(np.zeros((1, 4)), np.zeros((1, 4)), np.array([False])).tolist() == [[0]]


# --- resampled ------------------------------------------------------------------------------------------


@PROPERTY
@given(seeds)
def test_a_weight_is_as_many_copies(seed: int) -> None:
    """All weights of a resample in one go give what its images, copied, give."""
    founds, truths = scene(seed, images=6, ties=False)
    records: list[Matches] = [
        match(found, truth, THRESHOLDS["map"]) for found, truth in zip(founds, truths, strict=True)
    ]
    weights = np.random.default_rng(seed).integers(0, 4, (3, 6)).astype(float)
    weights[0, 0] += 1
    together = scorer(records)(weights)
    for row, got in zip(weights.astype(int), together, strict=True):
        copies = [records[place] for place in np.repeat(np.arange(6), row)]
        expected = bootstrap.figure(scorer(copies), len(copies)) if copies else float("nan")
        assert got == pytest.approx(expected, nan_ok=True)


# --- boxes from outputs ---------------------------------------------------------------------------------


def boxes_of(text: str, size: tuple[int, int] | None = (100, 200), **outputs: np.ndarray) -> Detections:
    return detections(Answer(outputs=outputs, size=size), parse(text))


GRID = np.array(
    [[50, 50, 20, 10, 0.1, 0.9], [52, 50, 20, 10, 0.0, 0.8], [150, 50, 20, 10, 0.6, 0.7], [9, 9, 2, 2, 0.0, 0.0]]
)


def test_yolov8() -> None:
    """The second box overlaps the first and goes; the third is of two classes."""
    found = boxes_of("yolov8,score=0.2", y=GRID.T[None].astype(np.float32))
    assert found.boxes.tolist() == [[40, 45, 60, 55], [140, 45, 160, 55], [140, 45, 160, 55]]
    assert found.scores == pytest.approx([0.9, 0.7, 0.6]) and found.classes.tolist() == [1, 1, 0]


def test_yolov8_relative_to_the_input() -> None:
    grid = GRID.copy()
    grid[:, :4] /= [200, 100, 200, 100]
    plain, scaled = (boxes_of(f"yolov8{more}", y=g.T[None]) for more, g in (("", GRID), (",normalized=yes", grid)))
    assert np.allclose(plain.boxes, scaled.boxes)


def test_yolov5_multiplies_by_the_objectness() -> None:
    grid = np.insert(GRID, 4, [0.5, 1, 1, 1], axis=1)[None]
    found = boxes_of("yolov5,score=0.2", y=grid)
    assert found.scores == pytest.approx([0.8, 0.7, 0.6])
    assert found.boxes[0].tolist() == [42, 45, 62, 55]


def test_suppression_across_classes() -> None:
    assert len(boxes_of("yolov8,score=0.05,agnostic=yes", y=GRID.T[None]).scores) == 2
    assert len(boxes_of("yolov8,score=0.05,agnostic=yes,max=1", y=GRID.T[None]).scores) == 1


@PROPERTY
@given(seeds, st.booleans())
def test_suppression_is_greedy(seed: int, agnostic: bool) -> None:
    random = np.random.default_rng(seed)
    corner = random.uniform(-20, 40, (30, 2))
    boxes = np.concatenate([corner, corner + random.uniform(5, 30, (30, 2))], axis=1)
    scores, classes = random.permutation(30) / 30, random.integers(0, 3, 30)
    kept: list[int] = []
    for place in np.argsort(-scores):
        rivals = [other for other in kept if agnostic or classes[other] == classes[place]]
        if all(slow_overlap(boxes[place], boxes[other]) <= 0.5 for other in rivals):
            kept.append(int(place))
    found = suppress(boxes, scores, classes, parse(f"yolov8,iou=0.5,agnostic={'yes' if agnostic else 'no'}"))
    assert found.scores.tolist() == scores[kept].tolist() and found.classes.tolist() == classes[kept].tolist()


@pytest.mark.parametrize(
    ("form", "box"),
    [("xyxy", [10, 20, 40, 60]), ("xywh", [10, 20, 30, 40]), ("cxcywh", [25, 40, 30, 40]), ("yxyx", [20, 10, 60, 40])],
)
@pytest.mark.parametrize("batch", [True, False])
def test_boxes_in_lists(form: str, box: list[float], batch: bool) -> None:
    outputs = {
        "boxes": np.array([box, box], np.float32), "scores": np.array([0.3, 0.9]), "classes": np.array([7.0, 2.0]),
    }  # fmt: skip
    if batch:
        outputs = {name: array[None] for name, array in outputs.items()}
    found = boxes_of(f"boxes,format={form},score=0.1", **outputs)
    assert found.boxes.tolist() == [[10, 20, 40, 60]] * 2
    assert found.scores.tolist() == [0.9, 0.3] and found.classes.tolist() == [2, 7]


def test_ssd_of_tensorflow() -> None:
    found = boxes_of(
        "ssd,count=num_detections,score=0.1",
        detection_boxes=np.array([[[0.1, 0.2, 0.5, 0.6], [0, 0, 0, 0]]], np.float32),
        detection_scores=np.array([[0.9, 0.8]], np.float32),
        detection_classes=np.array([[17.0, 1.0]], np.float32),
        num_detections=np.array([1.0], np.float32),
    )
    assert np.allclose(found.boxes, [[40, 10, 120, 50]]) and found.classes.tolist() == [17]


def test_scores_of_each_class_are_suppressed_here() -> None:
    outputs = {
        "boxes": np.array([[[0, 0, 10, 10], [1, 0, 10, 10]]], np.float32),
        "scores": np.array([[[0.9, 0.6, 0.0], [0.1, 0.5, 0.4]]], np.float32),
    }
    assert boxes_of("boxes", **outputs).classes.tolist() == [0, 1, 2]
    assert boxes_of("boxes,background=0", **outputs).classes.tolist() == [0, 1]
    assert boxes_of("boxes,background=0,ids=yes", **outputs).classes.tolist() == [1, 2]


def test_category_numbers_instead_of_classes() -> None:
    metric = resolve("map50", decode="boxes,ids=yes")
    assert metric is not None
    truth = Boxes(boxes=np.array([A]), classes=np.array([0]), ids=np.array([17]), crowd=np.array([False]))
    outputs = {"boxes": np.array([A]), "scores": np.array([0.5]), "classes": np.array([17])}
    record = metric.record(Answer(outputs=outputs), truth)
    assert bootstrap.figure(metric.scorer([record]), 1) == pytest.approx(100)


# --- probability maps -----------------------------------------------------------------------------------


def test_dbnet_grows_its_regions() -> None:
    """8 × 4 pixels of 0.9: the box grows by 32 · 1.5 / 24 = 2 on each side; half the size doubles."""
    chart = np.zeros((1, 1, 50, 100), np.float32)
    chart[0, 0, 10:14, 20:28] = 0.9
    chart[0, 0, 30:34, 60:68] = 0.5  # too weak
    chart[0, 0, 40:42, 5:50] = 0.9  # too narrow
    found = boxes_of("dbnet", m=chart)
    assert found.boxes.tolist() == [[36, 16, 60, 32]] and found.scores == pytest.approx([0.9])
    assert len(boxes_of("dbnet,box=0.4,smallest=1", m=chart).scores) == 3


def slow_regions(mask: np.ndarray) -> list[tuple[int, ...]]:
    """By filling."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    bounds = []
    while left:
        fill = [left.pop()]
        region = list(fill)
        while fill:
            y, x = fill.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            fill += near
            region += near
        rows, columns = zip(*region, strict=True)
        bounds.append((min(columns), min(rows), max(columns) + 1, max(rows) + 1))
    return sorted(bounds)


@PROPERTY
@given(seeds, st.floats(0, 0.7))
def test_regions_are_connected(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((14, 17)) < share
    assert sorted(tuple(row) for row in regions(mask).tolist()) == slow_regions(mask)


# --- outputs that do not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "outputs", "message"),
    [
        ("yolov8", {"y": np.zeros((1, 4, 100))}, "y is 1×4×100, yolov8 answers [1, 4 + classes, anchors]"),
        ("yolov5", {"y": np.zeros((1, 100, 5))}, "y is 1×100×5, yolov5 answers [1, anchors, 5 + classes]"),
        ("yolov8", {"y": np.zeros((1, 10))}, "--decode yolov8 takes an output of 3 axes, and there is y 1×10"),
        ("yolov8,output=z", {"y": np.zeros((1, 9, 10))}, "the model has no output 'z'"),
        ("boxes", {"y": np.zeros((1, 9, 10))}, "the model has no output 'boxes'"),
        ("boxes", {"boxes": np.zeros((1, 9, 5)), "scores": np.zeros((1, 9))}, "boxes are 9×5"),
        (
            "boxes",
            {"boxes": np.zeros((9, 4)), "scores": np.zeros(9), "classes": np.zeros(8)},
            "9 scores and 8 classes",
        ),
        ("dbnet", {"m": np.zeros((1, 2, 8, 8))}, "m is 1×2×8×8, dbnet answers one map"),
    ],
)
def test_outputs_that_do_not_fit(text: str, outputs: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(MetricError) as caught:
        boxes_of(text, **outputs)
    assert message in caught.value.message and caught.value.hint


def test_relative_boxes_need_an_image() -> None:
    with pytest.raises(MetricError, match="relative to the input's height and width"):
        boxes_of("yolov8,normalized=yes", size=None, y=GRID.T[None])
