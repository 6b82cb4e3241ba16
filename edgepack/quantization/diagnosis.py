"""`inspect --layers`: which layer int8 hurts, why, and what helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgepack import inputs, target
from edgepack.building.cleaning import cleaned, shaped
from edgepack.building.plan import scheme_for
from edgepack.building.runtimes import default_target
from edgepack.cost import layer_shares
from edgepack.data import preprocess as preprocessing
from edgepack.data import reading
from edgepack.device import find
from edgepack.errors import DataNeeded, UsageError
from edgepack.model import constant
from edgepack.passes.placement import place
from edgepack.quantization.layer import to_matrix
from edgepack.quantization.preparation import prepare
from edgepack.quantization.sensitivity import Injection, inject
from edgepack.reference import Session
from edgepack.statistics import Extent

_FEEDS = 8
# A layer that int8 brings this close to the float answers alone is harmless.
_HARMLESS_DB = 40.0
_TELLING_SHARE = 0.1
# How far the largest number lies out, in standard deviations, before one calls it an outlier.
_OUTLIER = 12.0
_SPREAD = 30.0


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One weighted layer in int8, the others float.

    `share` is its part of the sum of all such errors, `macs_share` of the multiply-accumulates. `range` is of the
    tensor it reads, `outlier` how many standard deviations from the mean its farthest number lies. `weight_spread` is
    the largest weight over the smallest channel's largest.
    """

    layer: str
    operator: str
    sqnr_db: float
    weights_db: float
    activations_db: float
    share: float
    macs_share: float
    range: tuple[float, float]
    outlier: float
    weight_spread: float
    advice: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The layers, worst first, and those that stay float whatever is asked: "why: operator" -> how many."""

    path: str
    target: str
    samples: int
    layers: list[LayerReport]
    left_float: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "layers", "format": 1, **asdict(self)}


def diagnose(
    path: str | Path,
    data: str | Path | None,
    *,
    device: str | None = None,
    target_name: str = "auto",
    preprocess: str | None = None,
    input_shape: Mapping[str, tuple[int, ...]] | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Diagnosis:
    """Round one layer after another and see what it does to the answers, on unlabelled samples.

    Args:
        data: calibration samples.
        preprocess: how images become tensors.

    Raises:
        EdgepackError: the model or the samples cannot be read, or nothing can be computed in int8.
    """
    if data is None:
        raise DataNeeded("--layers needs samples to see what rounding does", "add --data with a few dozen real inputs")
    original = inputs.load(Path(path))
    if original.is_quantized:
        raise UsageError("the model is already quantized", "--layers looks at a float model before it is")
    if not any(output.is_float for output in original.outputs):
        raise UsageError("no output is float, so there is nothing to see of rounding", "export the scores as an output")
    board = find(device) if device is not None else None
    name = target_name if target_name != "auto" else default_target(board) if board else "onnxruntime"
    scheme = scheme_for(target.load(name), board)
    progress("reading the model", 0, 0)
    model, _ = shaped(original, input_shape or {}, int8=True)
    spec = preprocessing.read(preprocess) if preprocess is not None else None
    given = reading.read(Path(data), model, spec)
    feeds = given.first(_FEEDS)
    progress("cleaning up", 0, 0)
    session = Session(original)
    model, _ = cleaned(model, session, feeds[:2], session.run(feeds[0]))
    ready = prepare(model, scheme, given, progress=lambda done, total: progress("calibrating", done, total))
    found = inject(
        ready.model,
        scheme,
        ready,
        feeds,
        parts=True,
        progress=lambda done, total: progress("rounding layer by layer", done, total),
    )
    shares = layer_shares(ready.model, {key: array.shape for key, array in feeds[0].items()})
    placement = place(ready.model, scheme, ready.unseen)
    noise = {injection.layer: 10 ** (-injection.both_db / 10) for injection in found}
    total = sum(noise.values()) or 1.0
    nodes = {str(node.outputs[0].name): node for node in placement.weighted}
    reports = []
    for injection in found:
        node = nodes[injection.layer]
        weight = constant(node.inputs[1])
        extent = ready.extents[str(node.inputs[0].name)]  # type: ignore[union-attr]
        assert weight is not None
        reports.append(
            _report(
                injection,
                share=noise[injection.layer] / total,
                macs_share=shares.get(injection.layer, 0.0),
                extent=extent,
                spread=_spread(to_matrix(node, weight)) if weight.ndim == 2 or node.op_type != "MatMul" else 1.0,
            )
        )
    return Diagnosis(
        path=str(path), target=name, samples=given.count, layers=reports, left_float=dict(placement.left_float)
    )


def _report(injection: Injection, *, share: float, macs_share: float, extent: Extent, spread: float) -> LayerReport:
    assert injection.weights_db is not None and injection.activations_db is not None
    deviation = extent.deviation or 1.0
    outlier = max(extent.mean - extent.low, extent.high - extent.mean) / deviation
    offset = extent.mean if abs(extent.mean) > _OUTLIER * deviation else None
    return LayerReport(
        layer=injection.layer,
        operator=injection.operator,
        sqnr_db=injection.both_db,
        weights_db=injection.weights_db,
        activations_db=injection.activations_db,
        share=share,
        macs_share=macs_share,
        range=(extent.low, extent.high),
        outlier=outlier,
        weight_spread=spread,
        advice=_advice(injection, share, macs_share, outlier, offset, spread),
    )


def _spread(matrix: np.ndarray) -> float:
    """The largest weight of all over the largest of the quietest channel that says anything."""
    largest = np.abs(matrix).max(axis=2).ravel()
    largest = largest[largest > 0]
    return float(largest.max() / largest.min()) if largest.size else 1.0


def _advice(
    injection: Injection, share: float, macs_share: float, outlier: float, offset: float | None, spread: float
) -> str:
    assert injection.weights_db is not None and injection.activations_db is not None
    if injection.both_db >= _HARMLESS_DB or share < _TELLING_SHARE:
        return ""
    cheap = ", which costs little here" if macs_share < 0.02 else f", for {100 * macs_share:.0f} % of the arithmetic"
    if injection.activations_db < injection.weights_db:
        if offset is not None:
            return (
                f"what it reads stays close to {offset:.3g}: take that out in preprocessing, or leave it float{cheap}"
            )
        if outlier > _OUTLIER:
            return f"few numbers lie far out: look at calibration samples with such peaks, or leave it float{cheap}"
        return f"what it reads or writes is too fine for 8 bits: leave it float{cheap}"
    if spread > _SPREAD:
        return f"its channels differ {spread:.0f}-fold: leave it float{cheap}, or train with weight decay on it"
    return f"its weights are too fine for 8 bits: leave it float{cheap}"
