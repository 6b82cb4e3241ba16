"""fp16 weights in a TFLite graph: stored as float16, with a DEQUANTIZE that XNNPACK folds when the model is loaded.

Builtin kernels compute it once, since what it restores is constant.
"""

from __future__ import annotations

import numpy as np

from .flatbuffer import Graph, Operator, Tensor

# Where weights stand among what these operators read.
_WEIGHTS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "TRANSPOSE_CONV": 1, "FULLY_CONNECTED": 1, "GATHER": 0}
_SMALLEST_TENSOR = 32


def store_in_half(graph: Graph) -> None:
    """Store float32 weights that float16 holds exactly as float16; no number changes."""
    restored: dict[int, Tensor] = {}
    made: list[Operator] = []
    for operator in graph.operators:
        place = _WEIGHTS.get(operator.kind)
        weights = operator.inputs[place] if place is not None else None
        if weights is None or place is None or not _fits(weights):
            continue
        if id(weights) not in restored:
            restored[id(weights)], dequantize = _restored(weights)
            made.append(dequantize)
        operator.inputs[place] = restored[id(weights)]
    graph.operators[:0] = made


def _fits(tensor: Tensor) -> bool:
    data = tensor.data
    if data is None or data.dtype != np.float32 or data.size < _SMALLEST_TENSOR:
        return False
    with np.errstate(over="ignore"):
        return bool(np.array_equal(data.astype(np.float16).astype(np.float32), data))


def _restored(tensor: Tensor) -> tuple[Tensor, Operator]:
    assert tensor.data is not None
    half = tensor.data.astype(np.float16)
    stored = Tensor(name=f"{tensor.name}/half", shape=tensor.shape, dtype=half.dtype, data=half)
    single = Tensor(name=tensor.name, shape=tensor.shape, dtype=np.dtype(np.float32))
    return single, Operator(kind="DEQUANTIZE", inputs=[stored], outputs=[single], table="DequantizeOptions")
