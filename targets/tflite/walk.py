"""The walk over a graph's nodes: its inputs, each node by its form, its outputs; what has no form is named."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from .flatbuffer import Operator, Quantization, Tensor
from .lowering import Lowering
from .units import Form, NoForm, unit_of


def walk(low: Lowering, operators: Mapping[str, Form]) -> list[str]:
    """Lower every node; what has no form is named in the answer."""
    for name in low.inputs:
        tensor = Tensor(name=name, shape=low.shape(name), dtype=low.dtypes[name], quantization=_border(low, name))
        low.graph.inputs[name] = tensor
        low.store(name, tensor, None)
    refused = []
    for node in low.nodes:
        if id(node) in low.done:
            continue
        form = operators.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        try:
            if kind == "DequantizeLinear":
                _restored(low, node)
                continue
            if kind == "QuantizeLinear":
                _quantized(low, node)
                continue
            if form is None:
                raise NoForm("it has no TFLite form here")
            if not all(name in low.shapes for name in (*node.output, *node.input) if name):
                raise NoForm("its shape is open")
            form.lower(low, unit_of(low, node, operators))
        except NoForm as error:
            refused.append(f"{kind} {next(filter(None, node.output))!r}: {error}")
            for name in node.output:  # so that those behind are looked at too
                if name and name not in low.views:
                    low.store(name, Tensor(name=name, shape=low.shapes.get(name, ()), dtype=low.dtype(name)), None)
    if not refused:
        for name in low.outputs:
            low.graph.outputs[name] = _answered(low, name)
    return refused


def _border(low: Lowering, name: str) -> Quantization | None:
    """The grid of an input of integers: that of what restores them, perhaps in another order of axes."""
    for node in low.readers.get(name, []) if low.dtype(name) == np.int8 else []:
        found = low.grid(node) if node.op_type == "DequantizeLinear" else None
        if node.op_type in ("Transpose", "Identity"):
            found = _border(low, node.output[0])
        if found is not None:
            return found
    return None


def _answered(low: Lowering, name: str) -> Tensor:
    tensor = low.read(name)
    if tensor.data is not None or tensor in low.graph.inputs.values() or tensor in low.graph.outputs.values():
        copy = Tensor(name=name, shape=tensor.shape, dtype=tensor.dtype)  # an operator has to make it
        copy.quantization = tensor.quantization
        shape = Tensor(name=f"{name}/shape", shape=(len(tensor.shape),), dtype=np.dtype(np.int32))
        shape.data = np.array(tensor.shape, np.int32)
        low.graph.operators.append(
            Operator(
                kind="RESHAPE",
                inputs=[tensor, shape],
                outputs=[copy],
                table="ReshapeOptions",
                options={"newShape": list(tensor.shape)},
            )
        )
        return copy
    tensor.name = name
    return tensor


def _restored(low: Lowering, node: onnx.NodeProto) -> None:
    """Constants are folded when they are read in float; for the rest only the connection is noted."""
    low.integers[node.output[0]] = node.input[0]
    grid = low.grid(node)
    if not low.grids.setdefault(node.input[0], grid).equals(grid):
        raise NoForm("its integers have another scale elsewhere")
    low.shapes.setdefault(node.output[0], low.shapes[node.input[0]])
    low.dtypes[node.output[0]] = np.dtype(np.float32)


def _quantized(low: Lowering, node: onnx.NodeProto) -> None:
    """A Q that no operator took with it."""
    grid = low.grid(node)
    name, output = node.input[0], node.output[0]
    low.grids[output] = grid
    low.shapes.setdefault(output, low.shapes[name])
    source = low.integers.get(name)
    view = low.views[source] if source is not None and source in low.views else low.view(name)
    made = Tensor(name=output, shape=view.tensor.shape, dtype=np.dtype(np.int8), quantization=grid)
    low.add("QUANTIZE", [view.tensor], [made], "QuantizeOptions")
    low.store(output, made, view.perm)
