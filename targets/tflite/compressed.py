"""int8 weights that meet float activations: a scale by channel, in the file as they are.

With a DEQUANTIZE behind them the arithmetic is float (w8). Without one, kernels round the activations of each run to 8
bits and multiply integers (TFLite's dynamic range).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .flatbuffer import Graph, Operator, Quantization, Tensor

# Where weights stand among what these operators read, and the axis of their channels.
_WEIGHTS = {
    "CONV_2D": (1, 0),
    "DEPTHWISE_CONV_2D": (1, 3),
    "TRANSPOSE_CONV": (1, 0),
    "FULLY_CONNECTED": (1, 0),
    "GATHER": (0, 0),
}
# Those with kernels for float activations and integer weights of a scale a channel, that gain by them.
_MIXED = frozenset({"CONV_2D", "FULLY_CONNECTED"})


def store_in_int8(graph: Graph, scales: Mapping[str, np.ndarray], *, mixed: bool) -> None:
    """Store float weights that lie on a grid as its integers; no number changes.

    Args:
        scales: of each channel, by the name of the restored weights.
        mixed: let kernels round activations, where there are such kernels.
    """
    restored: dict[int, Tensor] = {}
    made: list[Operator] = []
    for operator in graph.operators:
        place, axis = _WEIGHTS.get(operator.kind, (None, 0))
        weights = operator.inputs[place] if place is not None else None
        stored = _stored(weights, scales, axis) if weights is not None else None
        if stored is None or weights is None or place is None:
            continue
        if mixed and operator.kind in _MIXED:
            operator.inputs[place] = stored
            if operator.kind == "FULLY_CONNECTED":
                operator.options["asymmetricQuantizeInputs"] = True
            continue
        if id(weights) not in restored:
            single = Tensor(name=weights.name, shape=weights.shape, dtype=np.dtype(np.float32))
            made.append(Operator(kind="DEQUANTIZE", inputs=[stored], outputs=[single], table="DequantizeOptions"))
            restored[id(weights)] = single
        operator.inputs[place] = restored[id(weights)]
    graph.operators[:0] = made


def _stored(tensor: Tensor, scales: Mapping[str, np.ndarray], axis: int) -> Tensor | None:
    """The integers of a weight; None where it is computed, or lies on no grid along that axis."""
    scale = scales.get(tensor.name)
    if scale is None or tensor.data is None or scale.size not in (1, tensor.shape[axis]):
        return None
    along = [1] * len(tensor.shape)
    along[axis] = -1
    spread = np.broadcast_to(scale.reshape(-1), (tensor.shape[axis],)).astype(np.float32)
    integers = np.rint(tensor.data / spread.reshape(along))
    if np.abs(integers).max(initial=0) > 127 or not np.array_equal(
        integers.astype(np.float32) * spread.reshape(along), tensor.data
    ):
        return None
    grid = Quantization(scale=spread, zero_point=np.zeros(spread.size, np.int64), axis=axis)
    return Tensor(
        name=f"{tensor.name}/int8",
        shape=tensor.shape,
        dtype=np.dtype(np.int8),
        data=integers.astype(np.int8),
        quantization=grid,
    )
