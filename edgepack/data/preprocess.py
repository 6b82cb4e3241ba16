"""The preprocessing declared once by --preprocess: a preset, a YAML file, or key=value pairs.

The code that does it is targets/device/preprocess.py, which the device runs too; here its specification is read.
"""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from edgepack import _root
from edgepack.errors import PreprocessError

Spec = dict[str, Any]

PRESETS: dict[str, Spec] = {
    "unit": {"scale": 255.0},
    "pixels": {},
    "minus-one-to-one": {"mean": [127.5], "std": [127.5]},
    "imagenet": {
        "size": [224, 224],
        "resize": "crop",
        "short": 256,
        "scale": 255.0,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
    "yolo": {"size": [640, 640], "resize": "letterbox", "scale": 255.0},
    "mnist": {"color": "gray", "size": [28, 28], "scale": 255.0, "mean": [0.1307], "std": [0.3081]},
}

_CHOICES = {
    "resize": ("stretch", "crop", "letterbox"),
    "filter": ("bilinear", "nearest"),
    "color": ("rgb", "bgr", "gray"),
    "layout": ("nchw", "nhwc"),
    "dtype": ("float32", "uint8"),
}


class _Code(Protocol):
    DEFAULTS: Spec

    def decode(self, source: str | bytes) -> np.ndarray: ...

    def apply(self, pixels: np.ndarray, spec: Spec) -> np.ndarray: ...


def code() -> _Code:
    """targets/device/preprocess.py, the very file that a bundle carries."""
    return cast(_Code, _root.load("edgepack.targets.preprocess", _root.TARGETS / "device" / "preprocess.py"))


def read(text: str) -> Spec:
    """A complete specification from what the user typed.

    Args:
        text: a preset's name, the path of a YAML file, or "key=value,key=value"; a preset may stand before
            the pairs: "imagenet,size=192x192".

    Raises:
        PreprocessError: naming the key.
    """
    import yaml

    given: Spec = {}
    path = Path(text)
    if path.suffix in (".yaml", ".yml", ".json"):
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise PreprocessError(f"{path} cannot be read: {error}", "it should be a YAML table of keys") from error
        if not isinstance(loaded, dict):
            raise PreprocessError(f"{path} is not a table of keys", f"keys: {', '.join(code().DEFAULTS)}")
        preset = loaded.pop("preset", None)
        given = {**(_preset(str(preset)) if preset else {}), **loaded}
    else:
        # Commas separate pairs, and the numbers of a mean: a part without "=" continues the pair before it.
        pairs: list[str] = []
        for part in text.split(","):
            if "=" in part or not pairs:
                pairs.append(part)
            else:
                pairs[-1] += "," + part
        for pair in pairs:
            key, equals, value = pair.partition("=")
            given.update({key.strip(): value.strip()} if equals else _preset(pair.strip()))
    return complete(given)


def _preset(name: str) -> Spec:
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        raise PreprocessError(
            f"no preprocessing preset {name!r}",
            f"did you mean {near[0]}?" if near else f"presets: {', '.join(PRESETS)}; or a YAML file, or key=value",
        )
    return PRESETS[name]


def complete(given: Spec) -> Spec:
    """Check every key and fill in the defaults."""
    spec = dict(code().DEFAULTS)
    for key, value in given.items():
        if key not in spec:
            near = difflib.get_close_matches(str(key), spec, 1)
            raise PreprocessError(
                f"unknown preprocessing key {key!r}",
                f"did you mean {near[0]}?" if near else f"keys: {', '.join(spec)}",
            )
        spec[key] = _value(key, value)
    channels = 1 if spec["color"] == "gray" else 3
    for key in ("mean", "std"):
        if len(spec[key]) not in (1, channels):
            raise PreprocessError(
                f"{key} has {len(spec[key])} numbers, the image {channels} channels",
                "color=gray has one channel, color=rgb three",
            )
    if min(abs(number) for number in [spec["scale"], *spec["std"]]) == 0:
        raise PreprocessError("scale and std must not be zero", "leave them out to change nothing")
    if spec["resize"] != "stretch" and spec["size"] is None:
        raise PreprocessError(f"resize={spec['resize']} needs a size", "add size=HEIGHTxWIDTH")
    if spec["resize"] == "crop" and spec["size"] and spec["short"] and spec["short"] < max(spec["size"]):
        raise PreprocessError(
            f"short={spec['short']} is smaller than size={spec['size']}", "raise short, or leave it out"
        )
    return spec


def _value(key: str, value: object) -> object:
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            raise PreprocessError(f"{key}={value} is not one of {', '.join(_CHOICES[key])}", "take one of these")
        return value
    if value is None and key in ("size", "short"):
        return None
    try:
        if key == "size":
            sides = str(value).lower().split("x") if isinstance(value, str | int) else list(cast(Any, value))
            numbers = [int(side) for side in sides]
            numbers = numbers * 2 if len(numbers) == 1 else numbers
            if len(numbers) != 2 or min(numbers) < 1:
                raise ValueError
            return numbers
        if key == "short":
            side = int(cast(Any, value))
            if side < 1:
                raise ValueError
            return side
        if key in ("mean", "std"):
            parts = value.replace("/", ",").split(",") if isinstance(value, str) else value
            return [_finite(part) for part in (parts if isinstance(parts, list) else [parts])]
        return _finite(value)
    except (TypeError, ValueError) as error:
        expected = {"size": "HEIGHTxWIDTH, such as 224x224", "short": "a whole number"}.get(key, "a number")
        raise PreprocessError(f"{key}={value} is not understood", f"it should be {expected}") from error


def _finite(value: object) -> float:
    number = float(cast(Any, value))
    if not math.isfinite(number):
        raise ValueError
    return number


def range_of(spec: Spec) -> tuple[float, float]:
    """The smallest and largest value that 8-bit pixels can become."""
    if spec["dtype"] == "uint8":
        return 0.0, 255.0
    mean, std = np.asarray(spec["mean"]), np.asarray(spec["std"])
    ends = np.concatenate([(0 / spec["scale"] - mean) / std, (255 / spec["scale"] - mean) / std])
    return float(ends.min()), float(ends.max())
