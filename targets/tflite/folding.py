"""What a graph computes from constants and known shapes alone, computed before it is lowered."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgepack.quantization.pieces import set_nodes


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all that depends on constants and known shapes alone computed."""
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    infos = itertools.chain(graph.input, graph.value_info, graph.output)
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in infos
        if info.type.tensor_type.HasField("shape")
        and all(dim.HasField("dim_value") for dim in info.type.tensor_type.shape.dim)
    }
    kept = []
    for node in graph.node:
        answers: Sequence[np.ndarray] | None = None
        if node.op_type == "Shape" and node.input[0] in shapes:
            attributes = {attribute.name: attribute.i for attribute in node.attribute}
            found = shapes[node.input[0]][slice(attributes.get("start", 0), attributes.get("end"))]
            answers = [np.array(found, np.int64)]
        elif (
            node.op_type not in ("DequantizeLinear", "QuantizeLinear", "RandomNormal", "RandomUniform", "If", "Loop")
            and all(name in constants for name in node.input if name)
            and node.domain in ("", "ai.onnx")
        ):
            single = helper.make_graph([node], "one", [], [helper.make_empty_tensor_value_info(o) for o in node.output])
            for name in dict.fromkeys(node.input):
                if name:
                    single.initializer.append(numpy_helper.from_array(constants[name], name))
            try:
                session = ReferenceEvaluator(helper.make_model(single, opset_imports=model.opset_import))
                answers = [np.asarray(answer) for answer in session.run(None, {})]
            except Exception:  # left for the walk to name
                answers = None
        if answers is None:
            kept.append(node)
            continue
        for name, answer in zip(node.output, answers, strict=True):
            constants[name] = np.asarray(answer)
            graph.initializer.append(numpy_helper.from_array(constants[name], name))
    set_nodes(graph, kept)
    return model
