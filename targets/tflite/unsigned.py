"""uint8 at the border of a TFLite graph that computes in int8: a QUANTIZE behind each input and before each output."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .flatbuffer import Graph, Operator, Quantization, Tensor

_OFFSET = 128


def unsigned_border(graph: Graph) -> None:
    """The same scale and a zero point of 128 more: the same numbers."""
    for name, tensor in graph.inputs.items():
        if tensor.dtype == np.int8:
            graph.inputs[name] = outer = _outer(name, tensor)
            graph.operators.insert(0, _requantize(outer, tensor))
    for name, tensor in graph.outputs.items():
        if tensor.dtype == np.int8:
            graph.outputs[name] = outer = _outer(name, tensor)
            graph.operators.append(_requantize(tensor, outer))


def _outer(name: str, tensor: Tensor) -> Tensor:
    grid = tensor.quantization
    assert grid is not None
    tensor.name = f"{name}/int8"
    outer: Quantization = replace(grid, zero_point=grid.zero_point.astype(np.int16) + _OFFSET)
    return Tensor(name=name, shape=tensor.shape, dtype=np.dtype(np.uint8), quantization=outer)


def _requantize(source: Tensor, made: Tensor) -> Operator:
    return Operator(kind="QUANTIZE", inputs=[source], outputs=[made], table="QuantizeOptions")
