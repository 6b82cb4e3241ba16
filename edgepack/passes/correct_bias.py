"""Sequential bias correction: layer by layer, the mean output of the quantized net is brought back to the float net's.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), in the empirical form of
their appendix D: each layer is corrected with all layers before it quantized and corrected. The quantized net is cut
behind every layer, and each piece runs once on what the pieces before it gave.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from edgepack.layer import output_axis
from edgepack.model import Model
from edgepack.passes.placement import place
from edgepack.passes.quantize import Rounded, quantize
from edgepack.pieces import pieces
from edgepack.reference import Session
from edgepack.samples import Feed, Samples
from edgepack.statistics.stream import MEMORY, stream
from edgepack.target import Scheme

# Means settle quickly; more samples were measured to change little.
SAMPLES = 32
_CORRECTED = frozenset({"Conv", "ConvTranspose", "Gemm"})


@dataclass(kw_only=True)
class ChannelMean:
    """An observer: the mean of each channel, every sample counting alike."""

    tensor: str
    axis: int
    total: np.ndarray | float = 0.0
    rows: int = 0
    nbytes: int = 0

    def update(self, array: np.ndarray) -> None:
        self.total = self.total + channel_mean(array, self.axis) * len(array)
        self.rows += len(array)

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.total / max(self.rows, 1))


def channel_mean(array: np.ndarray, axis: int) -> np.ndarray:
    axis %= array.ndim
    return np.asarray(array.mean(axis=tuple(i for i in range(array.ndim) if i != axis), dtype=np.float64))


def correct_biases(
    model: Model,
    scheme: Scheme,
    ranges: Mapping[str, tuple[float, float]],
    layers: Mapping[str, Rounded],
    samples: Samples,
    keep_float: frozenset[str] = frozenset(),
    *,
    means: Mapping[str, np.ndarray] | None = None,
    memory: int = MEMORY,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Rounded]:
    """The layers with the shifts that bring each one's mean output back to the float model's.

    Args:
        model: the float model.
        layers: rounded weights by output name; layers without are rounded to nearest and left uncorrected.
        keep_float: layers that stay float. Correct after they are chosen: which they are changes every mean.
        means: what `output_means` gave for these samples; it is called if not given.
    """
    if means is None:
        means = output_means(model, scheme, layers, samples, keep_float, memory)
    few = replace(samples, count=min(samples.count, SAMPLES))
    corrected = _corrected(model, scheme, layers, keep_float)
    simulated = quantize(model, replace(scheme, bias_bits=0), ranges, layers, keep_float).model
    feeds = list(few.batches(few.batch()))
    live: list[dict[str, np.ndarray]] = [dict(feed) for feed in feeds]
    result = dict(layers)
    proto = simulated.proto()
    ends = {index + 1: name for index, node in enumerate(proto.graph.node) if (name := _layer_of(node, corrected))}
    for done, (piece, layer) in enumerate(zip(pieces(proto, ends, live[0]), ends.values(), strict=True)):
        session = Session(piece.proto)
        for values in live:
            values.update(session.run({name: values[name] for name in piece.inputs}, piece.outputs))
        axis, value = corrected[layer], piece.last.output[0]
        drift = _drift(live, value, axis, means[layer])
        _shift(live, value, axis, drift)
        known = result[layer]
        result[layer] = replace(known, shift=drift if known.shift is None else known.shift + drift)
        for values in live:
            for name in values.keys() - piece.needed:
                del values[name]
        if progress:
            progress(done + 1, len(corrected))
    return result


def output_means(
    model: Model,
    scheme: Scheme,
    layers: Mapping[str, Rounded],
    samples: Samples,
    keep_float: frozenset[str] = frozenset(),
    memory: int = MEMORY,
) -> dict[str, np.ndarray]:
    """The float model's mean output of each channel of each layer that can be corrected."""
    few = replace(samples, count=min(samples.count, SAMPLES))
    corrected = _corrected(model, scheme, layers, keep_float)
    wanted = [ChannelMean(tensor=name, axis=axis) for name, axis in corrected.items()]
    for _ in stream(model, wanted, few, memory):
        pass
    return {observer.tensor: observer.mean for observer in wanted}


def _corrected(
    model: Model, scheme: Scheme, layers: Mapping[str, Rounded], keep_float: frozenset[str]
) -> dict[str, int]:
    """The layers that are corrected, with the axis that counts their channels."""
    return {
        str(node.outputs[0].name): output_axis(node)
        for node in place(model, scheme, keep_float).weighted
        if node.op_type in _CORRECTED and str(node.outputs[0].name) in layers
    }


def _drift(live: Sequence[Feed], value: str, axis: int, mean: np.ndarray) -> np.ndarray:
    rows = sum(len(values[value]) for values in live)
    got = sum(channel_mean(values[value], axis) * len(values[value]) for values in live) / rows
    return np.asarray(got - mean)


def _shift(live: Sequence[Feed], value: str, axis: int, drift: np.ndarray) -> None:
    for values in live:
        array = values[value]
        shape = [1] * array.ndim
        shape[axis] = -1
        array -= drift.reshape(shape).astype(np.float32)


def _layer_of(node: onnx.NodeProto, layers: Collection[str]) -> str | None:
    """Which layer the node is; where its output is the graph's, quantizing renamed it."""
    if node.op_type not in _CORRECTED:
        return None
    name = node.output[0]
    return name if name in layers else name.removesuffix("_float") if name.removesuffix("_float") in layers else None
