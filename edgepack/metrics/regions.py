"""miou: the mean over classes of intersection over union, of pixels (Everingham et al., 2010)."""

from __future__ import annotations

import numpy as np

from edgepack.errors import LabelsError, MetricError
from edgepack.metrics.base import Answer, Metric, Truth, additive, percent, shape_words
from edgepack.metrics.decode import Options

IGNORE = 255


def miou(options: Options) -> Metric[np.ndarray]:
    """Mean IoU over the classes that occur in the truth or in the answers; pixels labelled 255 count nowhere.

    Of the confusion matrix only what IoU needs is kept: a record is [3 × classes], the pixels of each class that
    are right, labelled so, and answered so.
    """

    def record(answer: Answer, truth: Truth) -> np.ndarray:
        assert isinstance(truth, np.ndarray)
        found, classes = class_map(answer, truth.shape, options)
        kept = truth != IGNORE
        labels, found = truth[kept], found[kept]
        wrong = labels[(labels < 0) | (labels >= classes)]
        if len(wrong):
            raise LabelsError(
                f"a pixel is labelled {int(wrong[0])}, and the model has {classes} classes, 0 to {classes - 1}",
                f"label pixels that do not count {IGNORE}",
            )
        return np.concatenate([np.bincount(of, minlength=classes) for of in (labels[labels == found], labels, found)])

    return Metric(name="miou", higher_is_better=True, truth="maps", record=record, scorer=additive(_mean_iou))


def _mean_iou(sums: np.ndarray) -> np.ndarray:
    right, labelled, answered = np.split(sums, 3, axis=1)
    union = labelled + answered - right
    occurs = union > 0
    shares = np.divide(right, union, out=np.zeros_like(right), where=occurs)
    count = occurs.sum(axis=1)
    return percent(shares.sum(axis=1), count)


def class_map(answer: Answer, shape: tuple[int, ...], options: Options) -> tuple[np.ndarray, int]:
    """Class numbers [height, width] of one answer, and how many classes there are.

    1. Scores [1, classes, height, width] or [1, height, width, classes]: the best class.
    2. One channel, with `--decode mask`: 1 above the threshold, else 0.
    3. Whole numbers [1, height, width]: the classes themselves, 0 to 254.
    """
    name, scores = options.pick(answer.outputs, (3, 4))
    if len(scores) != 1:
        raise MetricError(f"{name} is {shape_words(scores)}, not one map a sample", "export it with a batch axis")
    scores = scores[0]
    if scores.ndim == 3 and 1 in (scores.shape[0], scores.shape[2]):
        scores = scores[0] if scores.shape[0] == 1 else scores[..., 0]
    if scores.ndim == 2 and options.name == "mask":
        return _fit(name, (scores > options.number("threshold")).astype(np.int64), shape), 2
    if scores.ndim == 2 and np.issubdtype(scores.dtype, np.integer):
        return _fit(name, np.clip(scores, 0, IGNORE).astype(np.int64), shape), IGNORE
    if scores.ndim == 2:
        raise MetricError(
            f"{name} has one channel, which has no best class", "add --decode mask,threshold=0.5 (0 for logits)"
        )
    axis = 2 if scores.shape[:2] == shape else 0
    return _fit(name, scores.argmax(axis=axis), shape), scores.shape[axis]


def _fit(name: str, found: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if found.shape != shape:
        raise MetricError(
            f"{name} answers {shape_words(found)} pixels, the labels have {'×'.join(map(str, shape))}",
            "resize y to what the model answers, by the nearest pixel",
        )
    return found
