"""int8 weights that meet float activations: a scale by channel, in the file as they are.

With a DEQUANTIZE behind them the arithmetic is float (w8). Without one, kernels round the activations of each run to 8
bits and multiply integers (TFLite's dynamic range).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .flatbuffer import Graph, Quantization, Tensor
from .restored import store_weights

# Those with kernels for float activations and integer weights of a scale a channel, that gain by them.
_MIXED = frozenset({"CONV_2D", "FULLY_CONNECTED"})


def store_in_int8(graph: Graph, scales: Mapping[str, np.ndarray], *, mixed: bool) -> None:
    """Store float weights that lie on a grid as its integers; no number changes.

    Args:
        scales: of each channel, by the name of the restored weights.
        mixed: let kernels round activations, where there are such kernels.
    """
    store_weights(graph, lambda weights, axis: _stored(weights, scales, axis), _MIXED if mixed else frozenset())
    for operator in graph.operators:
        if operator.kind == "FULLY_CONNECTED" and _mixes(operator.inputs):
            operator.options["asymmetricQuantizeInputs"] = True


def _mixes(inputs: Sequence[Tensor | None]) -> bool:
    """Whether float activations meet int8 weights."""
    x, weights = inputs[0], inputs[1]
    return x is not None and weights is not None and x.dtype == np.float32 and weights.dtype == np.int8


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
