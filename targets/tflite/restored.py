"""Weights that are stored in another type than they are multiplied in, with a DEQUANTIZE behind them.

XNNPACK folds it when the model is loaded; builtin kernels compute it once, since what it restores is constant.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .flatbuffer import Graph, Operator, Tensor

# Where weights stand among what these operators read, and the axis of their channels.
_WEIGHTS = {
    "CONV_2D": (1, 0),
    "DEPTHWISE_CONV_2D": (1, 3),
    "TRANSPOSE_CONV": (1, 0),
    "FULLY_CONNECTED": (1, 0),
    "GATHER": (0, 0),
}


def store_weights(
    graph: Graph, stored: Callable[[Tensor, int], Tensor | None], direct: frozenset[str] = frozenset()
) -> None:
    """Replace weights by what they are stored as.

    Args:
        stored: of a weight and the axis of its channels; None where it is to stay as it is.
        direct: kinds of operators that read it as it is stored.
    """
    restored: dict[int, Tensor] = {}
    made: list[Operator] = []
    for operator in graph.operators:
        if operator.kind not in _WEIGHTS:
            continue
        place, axis = _WEIGHTS[operator.kind]
        weights = operator.inputs[place]
        small = stored(weights, axis) if weights is not None else None
        if weights is None or small is None:
            continue
        if operator.kind in direct:
            operator.inputs[place] = small
            continue
        if id(weights) not in restored:
            single = Tensor(name=weights.name, shape=weights.shape, dtype=np.dtype(np.float32))
            made.append(Operator(kind="DEQUANTIZE", inputs=[small], outputs=[single], table="DequantizeOptions"))
            restored[id(weights)] = single
        operator.inputs[place] = restored[id(weights)]
    graph.operators[:0] = made
