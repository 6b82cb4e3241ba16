"""ONNX Runtime's profile in terms of the original's names."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgepack.measuring.origin import COMPUTE, LAYOUT, QUANTIZE, Executed

# What its transformers add to a node's name, which is else that of a node or of a node's output.
_ADDED = re.compile(r"(_token_\d+|_nchwc|_nhwc|_quant|_transformed|/duplicated|_\d+_fused)$")
_QUANTIZE = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_LAYOUT = frozenset({"Transpose", "ReorderInput", "ReorderOutput"})


def prepare(folder: Path) -> None:
    """Write the chains of trivial operators by which profiler.py measures what the profiler itself takes."""
    for inputs, rank in ((1, 0), (8, 0), (8, 4), (1, 4)):
        others = [f"c{index}" for index in range(inputs - 1)]
        count = 40
        names = ["x", *(f"v{index}" for index in range(1, count)), "y"]
        nodes = [
            helper.make_node("Max", [names[index], *others], [names[index + 1]], name=f"probe{index}")
            if others
            else helper.make_node("Neg", [names[index]], [names[index + 1]], name=f"probe{index}")
            for index in range(count)
        ]
        shape = [1] * rank
        info = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "y")]
        arrays = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name in others]
        graph = helper.make_graph(nodes, "probe", info[:1], info[1:], arrays)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(model, folder / f"probe-{inputs}-{rank}.onnx")


def executed(raw: Mapping[str, Any], model: Path) -> list[Executed]:
    """The operators of a profile.

    Args:
        raw: what profiler.py found.
        model: the ONNX file that was profiled.
    """
    given = onnx.load(model, load_external_data=False).graph
    same = _same(given)
    outputs = {node.name: list(node.output) for node in given.node if node.name}
    ran, weights = _ran(raw.get("graph")), _weights(given)
    found = []
    for operator in raw["operators"]:
        plain = _plain(operator["name"])
        node = ran.get(operator["name"])
        names = [plain, *outputs.get(plain, ())]
        found.append(
            Executed(
                name=operator["name"] or operator["kind"],
                kind=operator["kind"],
                us=operator["us"],
                precision=operator["precision"],
                bytes=max(operator["bytes"], operator["activation_bytes"] + weights.get(plain, 0)),
                role=_role(operator["kind"]),
                claims=tuple(same.get(name, name) for name in names),
                reads=tuple(same.get(name, name) for name in node.input if name) if node else (),
                makes=tuple(same.get(name, name) for name in node.output if name) if node else (),
            )
        )
    return found


def _role(kind: str) -> str:
    return QUANTIZE if kind in _QUANTIZE else LAYOUT if kind in _LAYOUT else COMPUTE


def _plain(name: str) -> str:
    shorter = _ADDED.sub("", name)
    return shorter if shorter == name else _plain(shorter)


def _same(graph: onnx.GraphProto) -> dict[str, str]:
    """Tensors that are another one in integers, or back in floats, by name."""
    same: dict[str, str] = {}
    for node in graph.node:
        if node.op_type in _QUANTIZE and node.output and node.input:
            for name in node.output[:1]:
                same[name] = same.get(node.input[0], node.input[0])
    # Where the original's name went to the restored tensor, it is still that of what was quantized.
    back = {source: name for name, source in same.items() if source == f"{name}_float"}
    return {**{name: back.get(source, source) for name, source in same.items()}, **back}


def _weights(graph: onnx.GraphProto) -> dict[str, int]:
    """Bytes of the constants that a node reads, restored ones in integers, by its name and by its outputs'."""
    held = {tensor.name: _bytes(tensor) for tensor in graph.initializer}
    restored: dict[str, int] = {}
    found: dict[str, int] = {}
    for node in graph.node:
        count = sum(held.get(name, restored.get(name, 0)) for name in node.input)
        if node.op_type in _QUANTIZE and node.input[0] in held:
            restored[node.output[0]] = count
        found.update(dict.fromkeys((node.name, *node.output), count))
    return found


def _bytes(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _ran(encoded: str | None) -> dict[str, onnx.NodeProto]:
    """The nodes of the graph that ran, by name where a name is one node's only."""
    if not encoded:
        return {}
    nodes: dict[str, onnx.NodeProto] = {}
    twice = set()
    for node in onnx.ModelProto.FromString(base64.b64decode(encoded)).graph.node:
        if node.name in nodes:
            twice.add(node.name)
        nodes[node.name] = node
    return {name: node for name, node in nodes.items() if name and name not in twice}
