"""--decode: what a model's outputs are, so that they become text, maps or boxes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgepack.data.samples import Feed
from edgepack.errors import MetricError, UsageError
from edgepack.metrics.base import shape_words

Value = str | float | int | bool

_DETECTIONS: dict[str, Value] = {"score": 0.001, "iou": 0.7, "max": 300, "agnostic": False, "ids": False}
_NAMED: dict[str, Value] = {
    "boxes": "boxes", "scores": "scores", "classes": "classes", "count": "", "format": "xyxy", "normalized": False,
    "background": -1, **_DETECTIONS, "iou": 0.5,
}  # fmt: skip
# What each decoding may be told, with what it takes unless told; the type of the default is the type of the value.
KEYS: dict[str, dict[str, Value]] = {
    "argmax": {"output": ""},
    "mask": {"output": "", "threshold": 0.5},
    "ctc": {"output": "", "blank": "0", "layout": "ntc"},
    "yolov8": {"output": "", "normalized": False, **_DETECTIONS},
    "yolov5": {"output": "", "normalized": False, **_DETECTIONS, "iou": 0.6},
    "boxes": _NAMED,
    "ssd": {
        **_NAMED, "boxes": "detection_boxes", "scores": "detection_scores", "classes": "detection_classes",
        "format": "yxyx", "normalized": True, "ids": True,
    },
    "dbnet": {"output": "", "threshold": 0.3, "box": 0.6, "unclip": 1.5, "smallest": 3, "max": 1000, "ids": False},
}  # fmt: skip
BOXES = ("yolov8", "yolov5", "boxes", "ssd", "dbnet")
_CHOICES = {"format": ("xyxy", "xywh", "cxcywh", "yxyx"), "layout": ("ntc", "tnc")}
_SHARES = {"score", "iou", "box"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """A decoding and all that it was told, each key with a value."""

    name: str
    values: Mapping[str, Value]

    def number(self, key: str) -> float:
        return float(self.values[key])

    def text(self, key: str) -> str:
        return str(self.values[key])

    def yes(self, key: str) -> bool:
        return bool(self.values[key])

    def named(self, outputs: Feed, key: str) -> np.ndarray:
        """The output that the value of `key` names.

        Raises:
            MetricError: there is none.
        """
        name = self.text(key)
        if name not in outputs:
            raise MetricError(
                f"the model has no output {name!r}",
                f"its outputs are {', '.join(outputs)}: --decode {self.name},{key}=NAME",
            )
        return outputs[name]

    def pick(self, outputs: Feed, ranks: tuple[int, ...]) -> tuple[str, np.ndarray]:
        """The output named by `output=`, else the first with as many axes as `ranks` allow, and its name.

        Raises:
            MetricError: there is none.
        """
        found = {self.text("output"): self.named(outputs, "output")} if self.text("output") else outputs
        for name, array in found.items():
            if array.ndim in ranks:
                return name, array
        shapes = ", ".join(f"{name} {shape_words(array)}" for name, array in found.items())
        raise MetricError(
            f"--decode {self.name} takes an output of {' or '.join(map(str, ranks))} axes, and there is {shapes}",
            f"another decoding may fit: {', '.join(KEYS)}",
        )


def parse(text: str) -> Options:
    """Options from what the user typed: a decoding, then key=value pairs, all separated by commas.

    Raises:
        UsageError: naming the part.
    """
    name, *pairs = [part.strip() for part in text.split(",")]
    if name not in KEYS:
        near = difflib.get_close_matches(name, KEYS, 1)
        raise UsageError(
            f"--decode: no decoding {name!r}", f"did you mean {near[0]}?" if near else f"one of {', '.join(KEYS)}"
        )
    values = dict(KEYS[name])
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if key not in values or not equals:
            near = difflib.get_close_matches(key, values, 1)
            raise UsageError(
                f"--decode {name}: unknown key {key!r}",
                f"did you mean {near[0]}?" if near and equals else f"keys: {', '.join(values)}, each as key=value",
            )
        values[key] = _value(key, value, values[key])
    return Options(name=name, values=values)


def _value(key: str, text: str, default: Value) -> Value:
    expected = "a number"
    try:
        if isinstance(default, bool):
            expected = "yes or no"
            return {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}[text.lower()]
        if key in _CHOICES:
            expected = f"one of {', '.join(_CHOICES[key])}"
            return _CHOICES[key][_CHOICES[key].index(text)]
        if key == "blank":
            expected = "a class number, or last"
            return text if text == "last" else str(abs(int(text)))
        if isinstance(default, int):
            expected = "a whole number"
            return int(text)
        if isinstance(default, float):
            expected = "a number from 0 to 1" if key in _SHARES else expected
            number = float(text)
            if not np.isfinite(number) or (key in _SHARES and not 0 <= number <= 1):
                raise ValueError
            return number
    except (KeyError, ValueError) as error:
        raise UsageError(f"--decode: {key}={text} is not understood", f"it should be {expected}") from error
    return text
