"""fp16 weights in a TFLite graph."""

from __future__ import annotations

import numpy as np

from .flatbuffer import Graph, Tensor
from .restored import store_weights

_SMALLEST_TENSOR = 32


def store_in_half(graph: Graph) -> None:
    """Store float32 weights that float16 holds exactly as float16; no number changes."""
    store_weights(graph, _stored)


def _stored(tensor: Tensor, axis: int) -> Tensor | None:
    data = tensor.data
    if data is None or data.dtype != np.float32 or data.size < _SMALLEST_TENSOR:
        return None
    with np.errstate(over="ignore"):
        half = data.astype(np.float16)
    if not np.array_equal(half.astype(np.float32), data):
        return None
    return Tensor(name=f"{tensor.name}/half", shape=tensor.shape, dtype=half.dtype, data=half)
