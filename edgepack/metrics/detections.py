"""A detector's outputs become boxes: YOLO's grids, lists of boxes and scores, and DB's probability maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgepack.data.samples import Feed
from edgepack.errors import MetricError
from edgepack.metrics.base import Answer, shape_words
from edgepack.metrics.dbnet import find_boxes
from edgepack.metrics.decode import Options

# More candidates than this go into suppression on no image, as in Ultralytics' validation.
_MOST_CANDIDATES = 30_000


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Boxes [n, 4] as x0, y0, x1, y1 in pixels of the model's input, scores [n] and classes [n], best first."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def detections(answer: Answer, options: Options) -> Detections:
    """
    Raises:
        MetricError: the outputs do not fit the decoding.
    """
    if options.name == "dbnet":
        boxes, scores = _from_map(answer, options)
        return _best(boxes, scores, np.zeros(len(scores), np.int64), options)
    if options.name in ("yolov8", "yolov5"):
        boxes, scores = _from_grid(answer.outputs, options)
        boxes = corners(boxes, "cxcywh")
        classes = None
    else:
        boxes, scores, classes = _from_lists(answer.outputs, options)
        boxes = corners(boxes, options.text("format"))
    if options.yes("normalized"):
        boxes = boxes * np.tile(_size(answer)[::-1], 2)
    if classes is not None:
        kept = scores > options.number("score")
        return _best(boxes[kept], scores[kept], classes[kept], options)
    places, classes = np.nonzero(scores > options.number("score"))
    return suppress(boxes[places], scores[places, classes], classes, options)


def corners(boxes: np.ndarray, form: str) -> np.ndarray:
    """Boxes [n, 4] of the form as x0, y0, x1, y1, in float64."""
    a, b, c, d = boxes.astype(np.float64).T
    if form == "yxyx":
        return np.stack([b, a, d, c], axis=1)
    if form == "xywh":
        return np.stack([a, b, a + c, b + d], axis=1)
    if form == "cxcywh":
        return np.stack([a - c / 2, b - d / 2, a + c / 2, b + d / 2], axis=1)
    return np.stack([a, b, c, d], axis=1)


def suppress(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, options: Options) -> Detections:
    """Greedy non-maximum suppression, within a class unless `agnostic`; at most `max` boxes stay."""
    order = np.argsort(-scores, kind="stable")[:_MOST_CANDIDATES]
    boxes, scores, classes = boxes[order], scores[order], classes[order]
    # Classes are laid side by side, so that boxes of two never overlap.
    apart = 0.0 if options.yes("agnostic") or not len(boxes) else float(np.abs(boxes).max()) * 2 + 1
    laid = boxes + (classes * apart)[:, None]
    areas = (laid[:, 2] - laid[:, 0]) * (laid[:, 3] - laid[:, 1])
    left = np.arange(len(laid))
    kept: list[int] = []
    while len(left) and len(kept) < options.number("max"):
        best, left = left[0], left[1:]
        kept.append(int(best))
        sides = np.minimum(laid[left, 2:], laid[best, 2:]) - np.maximum(laid[left, :2], laid[best, :2])
        shared = np.clip(sides, 0, None).prod(axis=1)
        left = left[shared <= options.number("iou") * (areas[left] + areas[best] - shared)]
    return Detections(boxes=boxes[kept], scores=scores[kept], classes=classes[kept])


def _best(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, options: Options) -> Detections:
    order = np.argsort(-scores, kind="stable")[: int(options.number("max"))]
    return Detections(boxes=boxes[order], scores=scores[order], classes=classes[order])


def _from_grid(outputs: Feed, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [anchors, 4] and scores [anchors, classes].

    1. yolov8: [1, 4 + classes, anchors]; a class's score is its own.
    2. yolov5: [1, anchors, 5 + classes]; it is multiplied by the box's objectness.
    """
    name, grid = options.pick(outputs, (3,))
    lead = 5 if options.name == "yolov5" else 4
    wanted = "[1, anchors, 5 + classes]" if lead == 5 else "[1, 4 + classes, anchors]"
    rows = grid[0] if lead == 5 else grid[0].T
    if len(grid) != 1 or rows.shape[1] <= lead or not np.issubdtype(grid.dtype, np.floating):
        raise MetricError(
            f"{name} is {shape_words(grid)}, {options.name} answers {wanted}",
            "export the model without its own suppression, or take --decode boxes with the names of its outputs",
        )
    rows = rows.astype(np.float64)
    return rows[:, :4], rows[:, 5:] * rows[:, 4:5] if lead == 5 else rows[:, 4:]


def _from_lists(outputs: Feed, options: Options) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Boxes [n, 4], scores and classes, of outputs with or without a batch axis of 1.

    1. Scores [n] come with classes [n], and are what the model has left after its own suppression.
    2. Scores [n, classes] need no classes; `background` is no class, and those above it move down by one
       unless `ids` says that they are category numbers.
    """
    boxes = _without_batch(options.named(outputs, "boxes"), 2)
    scores = options.named(outputs, "scores")
    one = scores.ndim == 3 or (scores.ndim == 2 and scores.shape == (1, len(boxes)))
    scores = (scores[0] if one else scores).astype(np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape[:1] != boxes.shape[:1] or scores.ndim > 2:
        raise MetricError(
            f"boxes are {shape_words(boxes)} and scores {shape_words(scores)}, not n×4 and n or n×classes",
            f"--decode {options.name},boxes=NAME,scores=NAME says which outputs they are",
        )
    if scores.ndim == 2:
        background = int(options.number("background"))
        if 0 <= background < scores.shape[1]:
            if options.yes("ids"):
                scores[:, background] = -np.inf
            else:
                scores = np.delete(scores, background, axis=1)
        return boxes, scores, None
    classes = _without_batch(options.named(outputs, "classes"), 1)
    if classes.shape != scores.shape:
        raise MetricError(
            f"{len(scores)} scores and {shape_words(classes)} classes", "each box has one score and one class"
        )
    count = int(options.named(outputs, "count").ravel()[0]) if options.text("count") else len(scores)
    return boxes[:count], scores[:count], classes[:count].astype(np.int64)


def _without_batch(array: np.ndarray, rank: int) -> np.ndarray:
    """Without the first axis where it is a batch of one."""
    return array[0] if array.ndim == rank + 1 and len(array) == 1 else array


def _from_map(answer: Answer, options: Options) -> tuple[np.ndarray, np.ndarray]:
    name, found = options.pick(answer.outputs, (3, 4))
    tall, wide = found.shape[-2:]
    if found.size != tall * wide or not np.issubdtype(found.dtype, np.floating):
        raise MetricError(
            f"{name} is {shape_words(found)}, dbnet answers one map, [1, 1, height, width]",
            "--decode dbnet,output=NAME takes another output",
        )
    boxes, scores = find_boxes(found.reshape(tall, wide), options)
    height, width = _size(answer)
    return boxes * np.tile([width / wide, height / tall], 2), scores


def _size(answer: Answer) -> tuple[int, int]:
    if answer.size is None:
        raise MetricError(
            "the boxes are relative to the input's height and width, and no input is an image of four axes",
            "--metric module:function can decode it",
        )
    return answer.size
