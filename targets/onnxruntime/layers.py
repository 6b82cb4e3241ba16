"""ONNX Runtime's profile in terms of the original's names."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from edgepack.origin import COMPUTE, LAYOUT, QUANTIZE, Executed

# What its transformers add to a node's name, which is else that of a node or of a node's output.
_ADDED = re.compile(r"(_token_\d+|_nchwc|_nhwc|_quant|_transformed|/duplicated|_\d+_fused)$")
_QUANTIZE = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_LAYOUT = frozenset({"Transpose", "ReorderInput", "ReorderOutput"})


def executed(raw: Mapping[str, Any], model: Path) -> list[Executed]:
    """The operators of a profile.

    Args:
        raw: what profiler.py found.
        model: the ONNX file that was profiled.
    """
    given = onnx.load(model, load_external_data=False).graph
    same = _same(given)
    outputs = {node.name: list(node.output) for node in given.node if node.name}
    ran = _ran(raw.get("graph"))
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
                bytes=operator["bytes"],
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
