"""Weights in fp16, arithmetic in fp32: half the size wherever fp16 arithmetic pays nothing.

CPU runtimes fold the casts when they load the model (ONNX Runtime) or read them as compressed weights (OpenVINO).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgepack.model import Model
from edgepack.passes import PassResult

_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST_TENSOR = 32


def half(model: Model) -> PassResult:
    """Store float32 weights as float16 followed by a Cast.

    Weights beyond fp16's range stay float32 and are named in the note.
    """
    result = model.clone()
    stored = 0
    kept: list[str] = []
    for graph in result.ir.graphs():
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < _SMALLEST_TENSOR:
                continue
            array = tensor.numpy()
            if not np.all(np.abs(array) <= _LARGEST):
                kept.append(name)
                continue
            if value.is_graph_output() or value.is_graph_input():
                continue
            small = ir.val(f"{name}_fp16", const_value=ir.tensor(array.astype(np.float16), name=f"{name}_fp16"))
            cast = ir.node("Cast", [small], attributes={"to": int(ir.DataType.FLOAT)}, name=f"{name}_cast")
            cast.outputs[0].name = f"{name}_fp32"
            cast.outputs[0].dtype = ir.DataType.FLOAT
            cast.outputs[0].shape = value.shape
            value.replace_all_uses_with(cast.outputs[0])
            del graph.initializers[name]
            graph.register_initializer(small)
            first = next(iter(graph))
            graph.insert_before(first, cast)
            stored += 1
    note = f"{stored} weights in fp16"
    if kept:
        note += f"; beyond its range and left in fp32: {', '.join(kept[:5])}"
    return PassResult(model=result, note=note, figures={"weights": stored, "kept": len(kept)})
