"""TensorRT on a Jetson: the graph's side is not written yet, so that nothing is built for it."""

from __future__ import annotations

from pathlib import Path

from edgepack.errors import MissingExtra
from edgepack.model import Model
from edgepack.target import Scheme

SCHEME = Scheme(
    activation_dtype="int8",
    symmetric_activations=True,
    weighted=frozenset(),
    light=frozenset(),
    same_scale=frozenset(),
    fused=frozenset(),
    closed=frozenset(),
    bias_bits=0,
)
PRECISIONS = ("fp32", "fp16", "int8")
REFUSED: dict[str, str] = {}
SINCE: dict[str, str] = {}
REQUIREMENTS: tuple[str, ...] = ()
FALLBACK: tuple[str, ...] = ()
FALLBACK_LACKS: tuple[str, ...] = ()
EXTRA = ""
FIXED_SHAPES = False
IO_DTYPES = ()


def check() -> None:
    raise MissingExtra("nothing is built for tensorrt yet", "take onnxruntime")


def lower(model: Model, folder: Path) -> str:
    return model.save(folder / "model.onnx")[0]


def baseline(model: Model, folder: Path) -> str | None:
    return None
