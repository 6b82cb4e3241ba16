"""top1, top5: is the labelled class among the k with the highest scores?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgepack.data.samples import Feed
from edgepack.errors import LabelsError, MetricError
from edgepack.metrics.base import Answer, Metric, Truth, additive, first_float, percent, shape_words


def top(k: int) -> Metric[np.ndarray]:
    """The share of samples whose class is among the k best scores [1, classes] of the first float output.

    Of equal scores the lower class counts as the higher, as argmax has it; a row with NaN is wrong. Records are
    [right, 1].
    """

    def record(answer: Answer, truth: Truth) -> np.ndarray:
        scores = class_scores(answer.outputs, k)
        label = int(truth)  # type: ignore[arg-type]
        check_labels([label], len(scores))
        better = np.count_nonzero(scores > scores[label]) + np.count_nonzero(scores[:label] == scores[label])
        return np.array([better < k and not np.isnan(scores).any(), 1])

    return Metric(
        name=f"top{k}",
        higher_is_better=True,
        truth="classes",
        record=record,
        scorer=additive(lambda sums: percent(sums[:, 0], sums[:, 1])),
    )


def class_scores(outputs: Feed, k: int) -> np.ndarray:
    name, scores = first_float(outputs)
    if scores is None or scores.ndim != 2 or len(scores) != 1 or scores.shape[1] < 2:
        found = f"{name} is {shape_words(scores)}" if scores is not None else "there is no float output"
        raise MetricError(
            f"top{k} needs an output of scores, [batch, classes], and {found}",
            "take another --metric, or a function of your own: --metric module:function",
        )
    if scores.shape[1] <= k:
        raise MetricError(f"top{k} of {scores.shape[1]} classes is always right", "take --metric top1")
    return np.asarray(scores[0])


def check_labels(labels: Sequence[int] | np.ndarray, classes: int) -> None:
    """
    Raises:
        LabelsError: a label is none of 0 to classes - 1.
    """
    wrong = [int(label) for label in labels if not 0 <= label < classes]
    if wrong:
        raise LabelsError(
            f"label {wrong[0]} is out of range: the model has {classes} classes, 0 to {classes - 1}",
            "the first class is 0",
        )
