"""Metrics: a file a family, each a value (`base.Metric`); here they are found by name and given their truth."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from edgepack.data.samples import Feed, Samples
from edgepack.errors import LabelsError, UsageError
from edgepack.metrics.base import AnyMetric, Truth, first_float
from edgepack.metrics.decode import BOXES, Options, parse

# Each metric, and the decodings of outputs it can judge; the first is taken unless --decode says otherwise.
METRICS: dict[str, tuple[str, ...]] = {
    "top1": (),
    "top5": (),
    "map50": BOXES,
    "map": BOXES,
    "miou": ("argmax", "mask"),
    "cer": ("ctc",),
    "wer": ("ctc",),
}
_TRUTH_HINTS = {
    "classes": "y holds class numbers, or images lie in class folders or are listed in labels.csv",
    "text": "y holds strings, or labels.csv lists the text of each image",
    "maps": "y holds whole numbers [n, height, width]",
    "boxes": "add --annotations with a COCO JSON file or a folder of YOLO .txt files",
}


def resolve(
    name: str | None,
    *,
    decode: str | None = None,
    classes: Sequence[str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> AnyMetric | None:
    """The metric of that name; None where none was asked for.

    Args:
        decode: what --decode says.
        classes: the lines of --labels.
        metadata: the model's, for the characters of a recognizer.

    Raises:
        UsageError: there is no such metric or decoding, or they do not go together.
        MetricError: the user's function cannot be loaded.
    """
    options = parse(decode) if decode is not None else None
    if name is None:
        if options is not None:
            raise UsageError("--decode says how --metric reads the outputs, and there is none", "add --metric")
        return None
    if ":" in name:
        if options is not None:
            raise UsageError(f"--metric {name} gets the outputs as they are", "leave --decode out")
        from edgepack.metrics.own import own

        return own(name)
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, 1)
        known = f"one of {', '.join(METRICS)}, or module:function"
        raise UsageError(f"no metric {name!r}", f"did you mean {near[0]}?" if near else known)
    return _built_in(name, _decoding(name, options), classes, metadata or {})


def _decoding(name: str, options: Options | None) -> Options | None:
    able = METRICS[name]
    if options is None:
        if able == BOXES:
            raise UsageError(
                f"--metric {name} needs to know how the outputs are boxes", f"add --decode {', '.join(BOXES)}"
            )
        return parse(able[0]) if able else None
    if options.name not in able:
        hint = f"it takes {', '.join(able)}" if able else "leave --decode out"
        raise UsageError(f"--metric {name} cannot judge what --decode {options.name} gives", hint)
    return options


def _built_in(
    name: str, options: Options | None, classes: Sequence[str] | None, metadata: Mapping[str, str]
) -> AnyMetric:
    from edgepack.metrics.boxes import average_precision
    from edgepack.metrics.classes import top
    from edgepack.metrics.regions import miou
    from edgepack.metrics.text import error_rate

    if options is None:
        return top(int(name.removeprefix("top")))
    if name == "miou":
        return miou(options)
    if name in ("cer", "wer"):
        return error_rate(name, options, classes, metadata)
    return average_precision(name, options)


def default(samples: Samples, outputs: Feed) -> AnyMetric | None:
    """top1 where labels are class numbers and the first float output is [batch, classes]; else none."""
    from edgepack.metrics.classes import top

    labels = samples.labels
    _, scores = first_float(outputs)
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return None
    return top(1) if scores is not None and scores.ndim == 2 and scores.shape[1] > 1 else None


def truths(metric: AnyMetric, samples: Samples) -> list[Truth]:
    """What each answer is judged by, in order.

    Raises:
        LabelsError: the samples lack it.
    """
    labels, boxes = samples.labels, samples.boxes
    if metric.truth in ("boxes", "any") and boxes is not None:
        return list(boxes)
    if metric.truth == "any" and labels is None:
        return [None] * samples.count
    if metric.truth == "boxes" or labels is None:
        raise LabelsError(
            f"--metric {metric.name} needs labels, and {samples.source} has none", _TRUTH_HINTS[metric.truth]
        )
    if labels.ndim > 1:
        return [np.asarray(label) for label in labels]
    return labels.tolist()  # type: ignore[no-any-return]
