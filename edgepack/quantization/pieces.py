"""A graph cut into pieces, each a model of its own that runs on what the pieces before it gave."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of a graph; `needed` are the values that later pieces read or the graph gives."""

    proto: onnx.ModelProto
    inputs: list[str]
    outputs: list[str]
    needed: set[str]

    @property
    def last(self) -> onnx.NodeProto:
        return self.proto.graph.node[-1]


def pieces(proto: onnx.ModelProto, ends: Iterable[int], values: Mapping[str, np.ndarray]) -> Iterator[Piece]:
    """The graph up to the last of `ends`, cut before the node of each of these numbers.

    Args:
        values: holds what a piece reads by the time it is asked for.
    """
    graph = proto.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    reads = [set(_reads(node)) - constants.keys() for node in graph.node]
    last = {name: index for index, names in enumerate(reads) for name in names}
    last |= {output.name: len(graph.node) for output in graph.output}
    for start, end in itertools.pairwise([0, *ends]):
        stretch = graph.node[start:end]
        made = {name for node in stretch for name in node.output if name}
        inputs = sorted({name for names in reads[start:end] for name in names} - made)
        outputs = sorted(name for name in made if last.get(name, -1) >= end or name == stretch[-1].output[0])
        held = {name for node in stretch for name in _reads(node) if name in constants}
        body = helper.make_graph(
            stretch,
            "piece",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values[name].dtype), None)
                for name in inputs
            ],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [constants[name] for name in sorted(held)],
        )
        part = onnx.ModelProto(ir_version=proto.ir_version, graph=body, opset_import=proto.opset_import)
        part.functions.extend(proto.functions)
        needed = {name for name, index in last.items() if index >= end}
        yield Piece(proto=part, inputs=inputs, outputs=outputs, needed=needed)


def separate(proto: onnx.ModelProto) -> None:
    """Give each reader of a DequantizeLinear one of its own, right before it.

    So what passes between pieces are integers, and a runtime finds in each piece the patterns that it fuses.
    """
    graph = proto.graph
    restoring = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    shared = {output.name for output in graph.output}
    for node in graph.node:
        shared |= set(_reads(node)) - set(node.input)
    nodes = []
    for number, node in enumerate(graph.node):
        if node.op_type == "DequantizeLinear" and node.output[0] not in shared:
            continue
        for place, name in enumerate(node.input):
            if name in restoring:
                own = onnx.NodeProto()
                own.CopyFrom(restoring[name])
                own.name = own.output[0] = node.input[place] = f"{name}/{number}/{place}"
                nodes.append(own)
        nodes.append(node)
    set_nodes(graph, nodes)


def set_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Make these the graph's nodes, of which some may be its own."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, through the graphs inside it too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            made = {name for inner in graph.node for name in inner.output} | {t.name for t in graph.initializer}
            made |= {info.name for info in graph.input}
            yield from (name for inner in graph.node for name in _reads(inner) if name not in made)
