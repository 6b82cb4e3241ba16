"""What ONNX Runtime answers on an x86 CPU without an int8 dot product (AVX2, or AVX-512 without VNNI).

There VPMADDUBSW multiplies unsigned activations by signed weights and adds each product to its neighbour's in 16 bits,
with saturation. Neighbours are two entries of a layer's reduction, in the order in which the kernels walk: channels
within a kernel's place for convolutions, rows for matrices; the zero point is taken out afterwards, so the raw integers
meet (MLAS: QgemmU8X8KernelAvx2, ConvSymKernelAvx2, QgemvU8S8KernelAvx2). Depthwise convolutions and unsigned weights
have kernels that add in 32 bits. Here the integer layers are computed in numpy, all else by ONNX Runtime, which leaves
out what DynamicQuantizeLSTM loses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgepack.data.samples import Feed
from edgepack.model import Model, constant
from edgepack.quantization.layer import Window, window_of
from edgepack.quantization.pieces import pieces
from edgepack.reference import Session, fused

LOWEST, HIGHEST = -(2**15), 2**15 - 1
_LARGEST_ACTIVATION = 255
# The most weights that two neighbours may add up to, whatever they are multiplied with: 128.
SAFE_SUM = HIGHEST // _LARGEST_ACTIVATION
# Rows of a layer that are computed at a time, to bound memory.
_CHUNK = 4096
# Where the integer operators take their operands: data, weights, their zero points, scales, bias, and the output's
# scale and zero point; -1 where they take none.
_OPERANDS = {
    "QLinearConv": (0, 3, 2, 5, 1, 4, 8, 6, 7),
    "QLinearMatMul": (0, 3, 2, 5, 1, 4, -1, 6, 7),
    "QGemm": (0, 3, 2, 5, 1, 4, 6, 7, 8),
    "MatMulInteger": (0, 1, 2, 3, -1, -1, -1, -1, -1),
    "MatMulIntegerToFloat": (0, 1, 4, 5, 2, 3, 6, -1, -1),
}


def answers(model: Model, feed: Feed) -> Feed:
    """The outputs that a saturating CPU would give for an int8 model, static (Q/DQ, uint8 activations) or dynamic."""
    return SaturatingSession(model).run(feed)


def saturated_share(model: Model, feeds: Iterable[Feed]) -> dict[str, float]:
    """Of each layer's sums of two products, the share that saturates, by the name of the layer's output."""
    session = SaturatingSession(model)
    for feed in feeds:
        session.run(feed)
    return session.shares


def overflowing(weight: np.ndarray) -> np.ndarray:
    """Which neighbours can add up to more than 16 bits hold: int8 [..., K] -> bool [..., ⌈K/2⌉].

    Of no weights in [-64, 64] can they.
    """
    pairs = _paired(weight).astype(np.int32)
    return np.asarray((np.maximum(pairs, 0).sum(axis=-1) > SAFE_SUM) | (np.minimum(pairs, 0).sum(axis=-1) < -SAFE_SUM))


def saturated_sums(data: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, int]:
    """data · weightᵀ of raw integers as such a CPU adds it up, and how many sums of two saturate.

    Args:
        data: uint8 [M, K].
        weight: int8 [O, K].

    Returns:
        int64 [M, O].
    """
    # In float64, which has a fast product and holds these integers exactly.
    total = (data.astype(np.float64) @ weight.T.astype(np.float64)).astype(np.int64)
    risky = overflowing(weight)
    left, right = _paired(data).astype(np.int32), _paired(weight).astype(np.int32)
    large = left.sum(axis=2) * np.abs(right).max() > HIGHEST
    saturated = 0
    for pair in np.flatnonzero(risky.any(axis=0) & large.any(axis=0)):
        rows, channels = np.flatnonzero(large[:, pair]), np.flatnonzero(risky[:, pair])
        sums = left[rows, pair] @ right[channels, pair].T
        excess = np.clip(sums, LOWEST, HIGHEST) - sums
        total[np.ix_(rows, channels)] += excess
        saturated += int(np.count_nonzero(excess))
    return total, saturated


def _paired(array: np.ndarray) -> np.ndarray:
    """[..., K] -> [..., ⌈K/2⌉, 2], filled up with a zero."""
    if array.shape[-1] % 2:
        array = np.concatenate([array, np.zeros((*array.shape[:-1], 1), array.dtype)], axis=-1)
    return array.reshape(*array.shape[:-1], -1, 2)


class SaturatingSession:
    """A Q/DQ model ready to run as on a saturating CPU; like `reference.Session`."""

    def __init__(self, model: Model) -> None:
        """
        Raises:
            CleanupError: ONNX Runtime refuses the model.
        """
        self._proto = fused(model)
        graph = Model.from_proto(self._proto).ir.graph
        layers = {index: _layer(node) for index, node in enumerate(graph)}
        self._layers = {index: layer for index, layer in layers.items() if layer is not None}
        self._saturated = dict.fromkeys(self._layers, 0)
        self._sums = dict.fromkeys(self._layers, 0)
        self._sessions: dict[int, Session] = {}
        self.outputs = [output.name for output in self._proto.graph.output]

    @property
    def shares(self) -> dict[str, float]:
        """The share of sums that saturated in all runs so far, by layer."""
        return {layer.name: self._saturated[index] / max(self._sums[index], 1) for index, layer in self._layers.items()}

    def run(self, feed: Feed) -> Feed:
        """Outputs by name."""
        risky = [index for index, layer in self._layers.items() if layer.can_saturate]
        ends = sorted({*risky, *(index + 1 for index in risky), len(self._proto.graph.node)} - {0})
        values = dict(feed)
        start = 0
        for piece, end in zip(pieces(self._proto, ends, values), ends, strict=True):
            layer = self._layers.get(start)
            if layer is not None and layer.can_saturate:
                output, saturated = layer.run(values)
                values[piece.last.output[0]] = output
                self._saturated[start] += saturated
                self._sums[start] += output.size * -(-layer.weight.shape[2] // 2)
            else:
                if start not in self._sessions:
                    self._sessions[start] = Session(piece.proto)
                given = {name: values[name] for name in piece.inputs}
                values.update(self._sessions[start].run(given, piece.outputs))
            for name in values.keys() - piece.needed:
                del values[name]
            start = end
        return {name: values[name] for name in self.outputs}


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """An integer layer. `weight` is int8 [G, O, K] in the kernels' order; `walk` holds a convolution's attributes.

    `data` is the name of what it reads, `data_zero` that's zero point, or its name where it is computed.
    """

    name: str
    data: str
    weight: np.ndarray
    data_zero: int | str
    weight_zero: np.ndarray
    scale: np.ndarray | None
    bias: np.ndarray | None
    zero: np.ndarray | None
    kernel: tuple[int, ...]
    walk: ir.Node

    @property
    def can_saturate(self) -> bool:
        return bool(overflowing(self.weight).any())

    def run(self, values: Feed) -> tuple[np.ndarray, int]:
        """The layer's output, and how many sums of two saturate."""
        known = self.data_zero
        zero = known if isinstance(known, int) else int(values[known].reshape(-1)[0])
        rows, shape = self.rows(values[self.data], zero)
        parts = [self.sums(rows[start : start + _CHUNK], zero) for start in range(0, len(rows), _CHUNK)]
        output = self.finished(np.concatenate([total for total, _ in parts])).reshape(*shape, -1)
        if self.kernel:
            output = np.ascontiguousarray(np.moveaxis(output, -1, 1))
        return output, sum(saturated for _, saturated in parts)

    def sums(self, rows: np.ndarray, data_zero: int) -> tuple[np.ndarray, int]:
        """uint8 [M, G, K] -> int64 [M, G·O] without zero points, and how many sums of two saturate."""
        totals, saturated = [], 0
        zero = self.weight_zero.reshape(len(self.weight), -1) if self.weight_zero.size > 1 else self.weight_zero[None]
        for group, weight in enumerate(self.weight):
            total, count = saturated_sums(rows[:, group], weight)
            total -= data_zero * weight.sum(axis=1, dtype=np.int64)
            total -= zero[group % len(zero)] * (rows[:, group] - np.int64(data_zero)).sum(axis=1, keepdims=True)
            totals.append(total)
            saturated += count
        return np.concatenate(totals, axis=1), saturated

    def rows(self, data: np.ndarray, fill: int) -> tuple[np.ndarray, tuple[int, ...]]:
        """What the weights are multiplied with, [M, G, K], and the shape of M."""
        if not self.kernel:
            return data.reshape(-1, 1, data.shape[-1]), data.shape[:-1]
        window = window_of(self.walk, self.kernel, data.shape[2:])
        assert window is not None
        view = _windows(data, window, fill)  # [N, C, places…, taps…]
        rank = len(self.kernel)
        places = view.shape[2 : 2 + rank]
        groups = len(self.weight)
        view = view.reshape(len(data), groups, -1, int(np.prod(places)), int(np.prod(self.kernel)))
        return view.transpose(0, 3, 1, 4, 2).reshape(-1, groups, self.weight.shape[2]), (len(data), *places)

    def finished(self, total: np.ndarray) -> np.ndarray:
        """From sums to the output's type, rounding as MLAS does: in float32, half to even."""
        if self.scale is None:
            return total.astype(np.int32)
        if self.bias is not None and self.bias.dtype == np.int32:
            total = total + self.bias
        real = total.astype(np.float32) * self.scale
        if self.zero is None:
            return np.asarray(real if self.bias is None or self.bias.dtype == np.int32 else real + self.bias)
        limits, zero = np.iinfo(self.zero.dtype), int(self.zero.reshape(-1)[0])
        return np.asarray((np.rint(np.clip(real, limits.min - zero, limits.max - zero)) + zero).astype(self.zero.dtype))


def _windows(data: np.ndarray, window: Window, fill: int) -> np.ndarray:
    """A view of the padded data, [N, C, places…, taps…]."""
    padding = ((0, 0), (0, 0), *zip(window.begins, window.ends, strict=True))
    padded = np.pad(data, padding, constant_values=fill)
    spans = tuple((k - 1) * d + 1 for k, d in zip(window.kernel, window.dilations, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, padded.ndim)))
    steps = (slice(None, None, step) for step in (*window.strides, *window.dilations))
    return np.asarray(view[(slice(None), slice(None), *steps)])


def _layer(node: ir.Node) -> _Layer | None:
    """The node as a layer whose products are added in pairs; None for any other."""
    if node.op_type not in _OPERANDS:
        return None
    values = [node.inputs[place] if 0 <= place < len(node.inputs) else None for place in _OPERANDS[node.op_type]]
    held = [constant(value) for value in values]
    unknown = [place for place, value in enumerate(values) if value is not None and held[place] is None]
    if not {0} <= set(unknown) <= {0, 2} or (2 in unknown and node.op_type != "MatMulInteger"):
        return None
    _, weight, data_zero, weight_zero, data_scale, weight_scale, bias, scale, zero = held
    if weight is None or weight.dtype != np.int8 or (data_zero is not None and data_zero.dtype != np.uint8):
        return None
    matrix = _matrix(node, weight)
    if matrix is None:
        return None
    factor = None
    if data_scale is not None and weight_scale is not None:
        factor = np.float32(node.attributes.get_float("alpha", 1.0)) * data_scale.reshape(-1) * weight_scale.reshape(-1)
        factor = factor if scale is None else factor / scale.reshape(-1)
    return _Layer(
        name=str(node.name),
        data=str(values[0].name),  # type: ignore[union-attr]
        weight=np.ascontiguousarray(matrix),
        data_zero=_number_or_name(values[2], data_zero),
        weight_zero=np.zeros(1, np.int64) if weight_zero is None else weight_zero.reshape(-1).astype(np.int64),
        scale=factor,
        bias=bias,
        zero=zero,
        kernel=weight.shape[2:] if node.op_type == "QLinearConv" else (),
        walk=node,
    )


def _number_or_name(value: ir.Value | None, array: np.ndarray | None) -> int | str:
    if value is None:
        return 0
    return str(value.name) if array is None else int(array.reshape(-1)[0])


def _matrix(node: ir.Node, weight: np.ndarray) -> np.ndarray | None:
    """The weight as [G, O, K], K in the kernels' order; None where the products are not added in pairs."""
    if node.op_type == "QLinearConv":
        groups = node.attributes.get_int("group", 1)
        if weight.shape[1] == 1 and weight.shape[0] == groups:
            return None  # depthwise
        split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return split.swapaxes(2, 3).reshape(groups, split.shape[1], -1)
    if weight.ndim != 2 or node.attributes.get_int("transA", 0) == 1:
        return None
    return (weight if node.attributes.get_int("transB", 0) == 1 else weight.T)[None]
