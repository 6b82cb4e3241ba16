"""Pictures made larger or smaller."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..axes import Perm, last
from ..flatbuffer import Tensor
from ..lowering import Lowering
from ..units import NoForm, Unit
from .registry import keeps_grid, operator, optional
from .slicing import gathered

_SCALES = {"Upsample": 1, "Resize": 2}


@operator("Resize", "Upsample", int8=keeps_grid)
def _resize(low: Lowering, unit: Unit) -> None:
    """Bilinear where TFLite has the coordinates; nearest by the places that are read, where it has none."""
    shape, out = low.shape(unit.node.input[0]), low.shape(unit.node.output[0])
    rank = len(shape)
    mode = unit.attributes.get("mode", b"nearest")
    if unit.attributes.get("antialias") or unit.attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise NoForm("antialias or a policy for the aspect")
    by = unit.attributes.get("coordinate_transformation_mode", b"half_pixel")
    rounding = unit.attributes.get("nearest_mode", b"round_prefer_floor")
    if unit.node.op_type == "Upsample" or low.opset < 11:
        by, rounding = b"asymmetric", b"floor"
    scales = _scales(low, unit, shape, out)
    if mode == b"nearest":
        _nearest(low, unit, scales, by, rounding)
    elif mode == b"linear":
        if rank != 4 or shape[:2] != out[:2]:
            raise NoForm("linear along other axes than height and width")
        _bilinear(low, unit, scales, by)
    else:
        raise NoForm(f"mode {mode.decode()}")


def _scales(low: Lowering, unit: Unit, shape: tuple[int, ...], out: tuple[int, ...]) -> list[float]:
    if "scales" in unit.attributes:
        return [float(scale) for scale in unit.attributes["scales"]]
    index = 1 if unit.node.op_type == "Upsample" or low.opset < 11 else 2
    held = low.value(unit.node.input[index]) if optional(unit, index) else None
    found = [o / s for o, s in zip(out, shape, strict=True)]
    if held is None or not held.size:
        return found
    axes = [int(axis) % len(shape) for axis in unit.attributes.get("axes", range(len(shape)))]
    for axis, scale in zip(axes, held, strict=True):
        found[axis] = float(scale)
    return found


def _bilinear(low: Lowering, unit: Unit, scales: list[float], by: bytes) -> None:
    shape, out = low.shape(unit.node.input[0]), low.shape(unit.node.output[0])
    if by == b"pytorch_half_pixel" and 1 in out[2:]:
        raise NoForm("pytorch_half_pixel to a single row or column")
    if by not in (b"half_pixel", b"pytorch_half_pixel", b"align_corners", b"asymmetric"):
        raise NoForm(f"coordinates by {by.decode()}")
    whole = all(abs(scale * s - o) < 1e-3 for scale, s, o in zip(scales, shape, out, strict=True))
    if by != b"align_corners" and not whole:
        raise NoForm("a scale that the sizes do not have")
    x, made = low.read(low.data(unit, 0), last(4)), low.result(unit, last(4))
    size = low.numbers(out[2:], f"{unit.output}/size")
    options = {"alignCorners": by == b"align_corners", "halfPixelCenters": by.endswith(b"half_pixel")}
    low.add("RESIZE_BILINEAR", [x, size], [made], "ResizeBilinearOptions", options)


def _nearest(low: Lowering, unit: Unit, scales: list[float], by: bytes, rounding: bytes) -> None:
    shape, out = low.shape(unit.node.input[0]), low.shape(unit.node.output[0])
    rank, name = len(shape), low.data(unit, 0)
    perm: Perm = last(rank) if rank == 4 else low.perm(name)
    places = {
        axis: _read_places(shape[axis], out[axis], scales[axis], by, rounding)
        for axis in range(rank)
        if shape[axis] != out[axis] or scales[axis] != 1.0
    }
    x = low.read(name, perm)
    if not places:
        low.store(unit.output, x, perm)
        return
    if rank == 4 and set(places) <= {2, 3} and _is_native(shape, out, places):
        size = low.numbers(out[2:], f"{unit.output}/size")
        options = {"alignCorners": False, "halfPixelCenters": False}
        low.add("RESIZE_NEAREST_NEIGHBOR", [x, size], [low.result(unit, perm)], "ResizeNearestNeighborOptions", options)
        return
    made: Tensor = low.result(unit, perm)
    for number, (axis, found) in enumerate(places.items()):
        x = gathered(low, unit, x, perm.index(axis), found, made if number == len(places) - 1 else None)


def _is_native(shape: tuple[int, ...], out: tuple[int, ...], places: dict[int, np.ndarray]) -> bool:
    """Whether TFLite's plain operator reads the same places; it computes them in float32."""
    return all(
        np.array_equal(found, np.floor(np.arange(out[axis]) * np.float32(shape[axis] / out[axis])).astype(int))
        and (out[axis] % shape[axis] == 0 or shape[axis] % out[axis] == 0)
        for axis, found in places.items()
    )


def _read_places(size: int, out: int, scale: float, by: bytes, rounding: bytes) -> np.ndarray:
    """Which of `size` numbers each of `out` is read from, as ONNX defines it."""
    x = np.arange(out, dtype=np.float32)
    step = np.float32(scale)
    if by == b"asymmetric":
        at = x / step
    elif by == b"align_corners":
        at = x * np.float32(size - 1) / np.float32(out - 1) if out > 1 else np.zeros(1, np.float32)
    elif by in (b"half_pixel", b"pytorch_half_pixel"):
        at = (x + np.float32(0.5)) / step - np.float32(0.5)
        if by == b"pytorch_half_pixel" and out == 1:
            at = np.zeros(1, np.float32)
    else:
        raise NoForm(f"coordinates by {by.decode()}")
    round_by: dict[bytes, Callable[[np.ndarray], np.ndarray]] = {
        b"floor": np.floor, b"ceil": np.ceil, b"round_prefer_floor": lambda v: np.ceil(v - 0.5),
        b"round_prefer_ceil": lambda v: np.floor(v + 0.5),
    }  # fmt: skip
    rounded = round_by[rounding](at)
    return np.asarray(np.clip(rounded, 0, size - 1), np.int64)
