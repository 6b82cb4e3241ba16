"""GELU as exporters spell it, found and written as one node.

x · 0.5 · (1 + erf(x / √2)), Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016); its three factors come in any
order, the 0.5 also as a division by 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgepack.quantization.pieces import set_nodes

_CLOSE = 1e-3


def fused_gelus(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with each spelled-out GELU as one Gelu node; it is changed in place."""
    graph = model.graph
    found = [gelu for node in graph.node if node.op_type == "Erf" and (gelu := _Spelling(graph, node).gelu())]
    if found:
        ends = {node.output[0]: node for node in found}
        nodes = [ends.get(node.output[0], node) if node.output else node for node in graph.node]
        set_nodes(graph, _needed(graph, nodes))
    return model


def _needed(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes that something reads."""
    wanted = {output.name for output in graph.output}
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


class _Spelling:
    """An Erf and what stands around it."""

    def __init__(self, graph: onnx.GraphProto, erf: onnx.NodeProto) -> None:
        self.erf = erf
        self.constants: Mapping[str, np.ndarray] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if len(tensor.dims) <= 1
        }
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {output.name for output in graph.output}

    def gelu(self) -> onnx.NodeProto | None:
        """The Gelu node; None where the spelling is another."""
        scaled = self.scaled(self.erf.input[0])
        raised = self.only_reader(self.erf.output[0], "Add")
        if scaled is None or abs(scaled[1] - math.sqrt(0.5)) > _CLOSE or raised is None:
            return None
        if self.other(raised, self.erf.output[0])[1] != 1.0:
            return None
        name, rest = scaled[0], {"x", "half"}
        value = raised.output[0]
        while rest:
            factor: tuple[str | None, float | None] = (None, None)
            product = self.only_reader(value, "Mul")
            if product is None and "half" in rest:
                half = self.only_reader(value, "Div")
                product = half if half is not None and half.input[0] == value else None
                factor = (None, 0.5 if half is not None and self.number(half.input[1]) == 2.0 else None)
            elif product is not None:
                factor = self.other(product, value)
            if product is None:
                return None
            taken = self.taken(factor, name, rest)
            if not taken:
                return None
            rest -= taken
            value = product.output[0]
        return helper.make_node("Gelu", [name], [value], name=self.erf.name)

    def taken(self, factor: tuple[str | None, float | None], name: str, rest: set[str]) -> set[str]:
        """Which of the missing factors this one is."""
        if factor[1] == 0.5:
            return {"half"} & rest
        if factor[0] is None:
            return set()
        if factor[0] == name:
            return {"x"} & rest
        scaled = self.scaled(factor[0])
        halved = scaled is not None and scaled[0] == name and scaled[1] == 0.5
        return rest if halved and rest == {"x", "half"} else set()

    def scaled(self, name: str) -> tuple[str, float] | None:
        """The value and the number that make up a product or quotient."""
        maker = self.makers.get(name)
        if maker is None or maker.op_type not in ("Mul", "Div"):
            return None
        for index in (1, 0) if maker.op_type == "Mul" else (1,):
            number = self.number(maker.input[index])
            if number:
                return maker.input[1 - index], number if maker.op_type == "Mul" else 1 / number
        return None

    def other(self, node: onnx.NodeProto, name: str) -> tuple[str | None, float | None]:
        """The operand that is not `name`, and its number if it is one."""
        found = node.input[1] if node.input[0] == name else node.input[0]
        return found, self.number(found)

    def number(self, name: str) -> float | None:
        array = self.constants.get(name)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def only_reader(self, name: str, op_type: str) -> onnx.NodeProto | None:
        readers = self.readers.get(name, [])
        single = len(readers) == 1 and name not in self.outputs and readers[0].op_type == op_type
        return readers[0] if single else None
