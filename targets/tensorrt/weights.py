"""Integer weights as TensorRT before 10 reads them: floats behind a QuantizeLinear and a DequantizeLinear.

Its documentation up to 8.6: "Weights of Q/DQ models may be specified using FP32 data type", and the builder rounds them
by the QuantizeLinear's scale. What lies on the grid is rounded to itself, so the integers stay what they were.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgepack.model import Model, constant


def in_pairs(model: Model) -> None:
    """Write the integers behind each DequantizeLinear of constants as floats, in the model itself."""
    graph = model.ir.graph
    for node in list(graph):
        integers = constant(node.inputs[0]) if node.op_type == "DequantizeLinear" else None
        scale = constant(node.inputs[1]) if integers is not None else None
        if integers is None or scale is None:
            continue
        axis = node.attributes.get_int("axis", 1)
        if scale.ndim:
            scale = np.expand_dims(scale, tuple(i for i in range(integers.ndim) if i != axis % integers.ndim))
        old, name = node.inputs[0], f"{node.inputs[0].name}_float"  # type: ignore[union-attr]
        floats = (integers * scale).astype(scale.dtype)
        if name in graph.initializers:
            name = f"{name}_{node.name}"
        weight = ir.val(name, const_value=ir.tensor(floats, name=name))
        graph.register_initializer(weight)
        attributes = {"axis": axis} if scale.ndim else {}
        pair = ir.node(
            "QuantizeLinear", [weight, *node.inputs[1:]], attributes=attributes, name=f"{name}_QuantizeLinear"
        )
        output = pair.outputs[0]
        output.name, output.dtype, output.shape = f"{name}_integers", ir.DataType.INT8, ir.Shape(integers.shape)
        graph.insert_before(node, pair)
        node.replace_input_with(0, output)
        if old is not None and old.name in graph.initializers and not old.uses():
            del graph.initializers[str(old.name)]
