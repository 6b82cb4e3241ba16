"""Golden pairs: inputs with the answers a bundle must give, as verified here and as the float original gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgepack.data.samples import Feed, Samples, spread
from edgepack.errors import ShapeNeeded
from edgepack.metrics.merit import harness
from edgepack.model import Model, TensorSpec

COUNT = 8
_BYTES = 8_000_000
# docs/bundle.md says where these come from.
FLOAT_TOLERANCE = 1e-4
_FLOAT = ("fp32", "fp16", "w8")
INT8_FLOOR_DB = 20.0
# How many dB further from the float original than here a device may be; and one with another runtime, in integers.
REFERENCE_DB = 1.0
OTHER_RUNTIME_DB = 6.0
# How near to the runtime that stands in for it here another's answers should be.
_ELSEWHERE_DB = {"fp32": 60.0, "fp16": 35.0}
# Samples that a runtime's other kernels answer as well; they may be many times slower.
OTHERS = 2


def feeds(
    samples: Samples | None,
    model: Model,
    *,
    in_order: bool = False,
    also: Sequence[int] = (),
    shapes: Sequence[Mapping[str, tuple[int, ...]]] = (),
) -> tuple[list[Feed], bool]:
    """Up to COUNT feeds, and whether they are synthetic.

    Args:
        in_order: they are a sequence, so the first ones, and not some far apart.
        also: places of samples that should be among them.
        shapes: of inputs, for seeded feeds in turn.

    Raises:
        ShapeNeeded: there are no samples, and an open dimension leaves the shape unknown.
    """
    if samples is None:
        return [synthetic(model, seed, shapes[seed % len(shapes)] if shapes else {}) for seed in range(4)], True
    first = samples.read(0)
    size = sum(array.nbytes for array in first.values())
    count = max(1, min(COUNT, samples.count, _BYTES // max(size, 1)))
    places = list(range(count)) if in_order else list(dict.fromkeys([*also, *spread(samples.count, count)]))[:count]
    return [samples.read(index) for index in places], False


def synthetic(model: Model, seed: int, shapes: Mapping[str, tuple[int, ...]] = {}) -> Feed:
    """A seeded feed of standard normal numbers, or of zeros and ones for integers.

    Raises:
        ShapeNeeded: a dimension other than the first is open, or the feed does not fit into memory.
    """
    random = np.random.default_rng(seed)
    feed: Feed = {}
    for tensor in model.inputs:
        shape = shapes.get(tensor.name) or lengths(tensor)
        try:
            noise = random.standard_normal(shape) if tensor.is_float else random.integers(0, 2, shape)
            feed[tensor.name] = np.asarray(noise, dtype=tensor.dtype)
        except (MemoryError, ValueError) as error:  # ValueError beyond what an address can be
            raise ShapeNeeded(
                f"the input {tensor} is larger than this machine's memory", "make it smaller with --input-shape"
            ) from error
    return feed


def lengths(tensor: TensorSpec) -> tuple[int, ...]:
    """The input's shape, with 1 for an open first axis.

    Raises:
        ShapeNeeded: another axis is open.
    """
    shape = []
    for axis, dim in enumerate(tensor.shape):
        if isinstance(dim, int):
            shape.append(dim)
        elif axis == 0:
            shape.append(1)
        else:
            raise ShapeNeeded(
                f"the input {tensor} has an open dimension and there are no samples",
                f"add --input-shape {tensor.name}="
                + "x".join(str(d) if isinstance(d, int) else "1" for d in tensor.shape)
                + " with the lengths you use, or --data",
            )
    return tuple(shape)


def by_sample(feeds: Sequence[Feed]) -> Feed:
    """All arrays of all samples under <sample>/<name>, as the harness reads them."""
    return {f"{index}/{name}": array for index, feed in enumerate(feeds) for name, array in feed.items()}


def terms(
    model: Model,
    expected: Sequence[Feed],
    reference: Sequence[Feed],
    precision: str,
    *,
    exact: bool,
    same_runtime: bool,
    others: Sequence[Feed] | None = None,
    there: Sequence[Feed] | None = None,
) -> list[dict[str, Any]]:
    """What the device's answers are held against, output by output, for the manifest.

    Args:
        exact: integers and nothing else are computed, by kernels that agree on every CPU.
        same_runtime: the device has the runtime that made `expected`, perhaps in another version.
        others: what the runtime's other kernels answer to the first samples.
        there: what the device should answer, where another runtime stands in for its own here, and rounds otherwise.
    """
    exact = exact and same_runtime
    within = REFERENCE_DB if same_runtime or (precision in _FLOAT and there is None) else OTHER_RUNTIME_DB
    found = []
    for tensor in model.outputs:
        wanted = [sample[tensor.name] for sample in reference]
        found_db = [
            _sqnr(wanted, [sample[tensor.name] for sample in one]) for one in (expected, there) if one is not None
        ]
        apart = None if None in found_db else min(number for number in found_db if number is not None)
        tolerance = _tolerance(expected[0][tensor.name], precision, exact)
        if there is not None:
            floor = _ELSEWHERE_DB.get(precision, INT8_FLOOR_DB)
            # Two runtimes that are this far from the original need be no nearer to each other.
            tolerance = {"kind": "decibels", "at_least_db": floor if apart is None else min(floor, apart - within)}
        entry = {
            "name": tensor.name,
            "tolerance": tolerance,
            "reference_sqnr_db": apart,
            "reference_within_db": within,
        }
        if others is not None:
            kernels = _sqnr(wanted[: len(others)], [sample[tensor.name] for sample in others])
            allowed = REFERENCE_DB if precision in _FLOAT else OTHER_RUNTIME_DB
            if kernels is not None:
                entry["other_kernels"] = {"samples": len(others), "sqnr_db": kernels, "within_db": allowed}
        found.append(entry)
    return found


def _sqnr(reference: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float | None:
    """In dB over all samples; None for integers, and where shapes depend on the values (detections)."""
    same = all(one.shape == other.shape for one, other in zip(reference, expected, strict=True))
    if expected[0].dtype.kind != "f" or not same:
        return None
    return round(harness().sqnr_db(harness().flat(reference), harness().flat(expected)), 3)


def _tolerance(expected: np.ndarray, precision: str, exact: bool) -> dict[str, Any]:
    if exact:
        return {"kind": "exact"}
    if precision in _FLOAT and expected.dtype.kind == "f":
        return {"kind": "relative", "at_most": FLOAT_TOLERANCE}
    # Integers come from a comparison or an argmax: where floats differ by rounding, they may differ by a place.
    return {"kind": "decibels", "at_least_db": INT8_FLOOR_DB}
