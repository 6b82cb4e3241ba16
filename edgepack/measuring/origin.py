"""Which layers of the original model an operator of a runtime computes, from the names that survived.

Runtimes fuse, split and rename. What is certain is taken first, what is likely fills the gaps:

1. An operator computes the original nodes whose names, or whose outputs' names, it kept.
2. If it kept the names of what it reads and of what it makes, it computes all that lies between.
3. A layer with weights that nobody claimed was fused with what comes behind it.
4. What works element by element was fused with what comes before it.
5. Anything else went the nearer way down, or up.

A conversion of numbers or of a layout that is not in the original belongs to the layer whose tensor it converts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"})
ELEMENTWISE = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Erf", "Add",
     "Sub", "Mul", "Div", "BatchNormalization", "Identity", "Dropout", "Cast", "QuantizeLinear", "DequantizeLinear",
     "Softplus", "Mish", "Swish", "Min", "Max", "Pow", "Sqrt", "Exp"}
)  # fmt: skip
COMPUTE, QUANTIZE, LAYOUT = "compute", "quantize", "layout"


@dataclass(frozen=True, kw_only=True)
class Executed:
    """An operator as the runtime ran it.

    Attributes:
        us: microseconds a run.
        claims: names of nodes or of tensors, of the original as far as they are known there.
        reads, makes: names of tensors.
        role: whether it computes, converts between floats and integers, or changes a layout.
    """

    name: str
    kind: str
    us: float
    precision: str = ""
    bytes: int = 0
    role: str = COMPUTE
    claims: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Indices of original nodes, all of them and those counted here: a split layer counts once."""

    nodes: tuple[int, ...] = ()
    counted: tuple[int, ...] = ()


@dataclass(kw_only=True)
class _Walk:
    nodes: Sequence[onnx.NodeProto]
    executed: Sequence[Executed]
    producer: dict[str, int] = field(default_factory=dict)
    readers: dict[str, list[int]] = field(default_factory=dict)
    owner: dict[int, int] = field(default_factory=dict)
    shared: dict[int, set[int]] = field(default_factory=dict)


def flattened(graph: onnx.GraphProto, outside: frozenset[str] = frozenset()) -> list[onnx.NodeProto]:
    """Every node that computes something of the inputs; those inside branches and loops stand behind their holder.

    Args:
        outside: names of constants around the graph.
    """
    constants = {*outside, *(tensor.name for tensor in graph.initializer), ""}
    found = []
    for node in graph.node:
        inner = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
        if not inner and constants.issuperset(node.input):
            constants.update(node.output)
            continue
        found.append(node)
        for branch in inner:
            found += flattened(branch, frozenset(constants))
    return found


def origins(executed: Sequence[Executed], nodes: Sequence[onnx.NodeProto]) -> list[Origin]:
    """The original nodes of each operator, in the order of `executed`."""
    walk = _Walk(nodes=nodes, executed=executed)
    for index, node in enumerate(nodes):
        for name in filter(None, node.output):
            walk.producer[name] = index
        for name in filter(None, node.input):
            walk.readers.setdefault(name, []).append(index)
    _claim(walk)
    _between(walk)
    for index, node in enumerate(nodes):
        if index not in walk.owner and node.op_type in WEIGHTED:
            _give(walk, index, _behind(walk, index))
    for index, node in enumerate(nodes):
        if index not in walk.owner and node.op_type in ELEMENTWISE:
            _give(walk, index, _before(walk, index))
    for index in reversed(range(len(nodes))):
        if index not in walk.owner:
            _give(walk, index, _behind(walk, index))
    for index in range(len(nodes)):
        if index not in walk.owner:
            _give(walk, index, _before(walk, index, certain=False))
    return _answer(walk)


def _claim(walk: _Walk) -> None:
    by_name: dict[str, int] = {}
    for index, node in enumerate(walk.nodes):
        if node.name:
            by_name.setdefault(node.name, index)
    # Who makes a tensor owns its layer before who only has a part in it.
    for place, operator in sorted(enumerate(walk.executed), key=lambda one: not one[1].makes):
        kept = [*operator.makes, *operator.claims]
        found = [walk.producer.get(name, by_name.get(name)) for name in kept]
        for index in dict.fromkeys(index for index in found if index is not None):
            if operator.role != COMPUTE and walk.nodes[index].op_type not in _CONVERSIONS:
                continue
            walk.shared.setdefault(place, set()).add(index)
            walk.owner.setdefault(index, place)


_CONVERSIONS = frozenset(
    {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "QuantizeLinear", "DequantizeLinear",
     "DynamicQuantizeLinear", "Cast", "DepthToSpace", "SpaceToDepth"}
)  # fmt: skip


def _between(walk: _Walk) -> None:
    borders = {name for operator in walk.executed for name in (*operator.makes, *operator.reads)}
    for place, operator in enumerate(walk.executed):
        if operator.role != COMPUTE or not any(name in walk.readers for name in operator.reads):
            continue
        waiting = [walk.producer[name] for name in operator.makes if name in walk.producer]
        while waiting:
            for name in walk.nodes[waiting.pop()].input:
                index = walk.producer.get(name)
                if index is not None and name not in borders and index not in walk.owner:
                    walk.owner[index] = place
                    waiting.append(index)


def _give(walk: _Walk, index: int, place: int | None) -> None:
    if place is not None:
        walk.owner[index] = place


def _behind(walk: _Walk, index: int) -> int | None:
    """The owner of the nearest owned node that depends on this one."""
    waiting, seen = [index], {index}
    while waiting:
        node = walk.nodes[waiting.pop(0)]
        for name in node.output:
            for reader in walk.readers.get(name, ()):
                if reader in walk.owner:
                    return walk.owner[reader]
                if reader not in seen:
                    seen.add(reader)
                    waiting.append(reader)
    return None


def _before(walk: _Walk, index: int, *, certain: bool = True) -> int | None:
    """The owner of what this node reads: of the latest of its inputs, where all of them have one."""
    made = [walk.producer[name] for name in walk.nodes[index].input if name in walk.producer]
    owned = [source for source in made if source in walk.owner]
    if not owned or (certain and len(owned) < len(made)):
        return None
    return walk.owner[max(owned)]


def _answer(walk: _Walk) -> list[Origin]:
    owned: dict[int, list[int]] = {}
    for index, place in sorted(walk.owner.items()):
        owned.setdefault(place, []).append(index)
    nodes = {place: sorted({*owned.get(place, ()), *walk.shared.get(place, ())}) for place in range(len(walk.executed))}
    _adopt(walk, nodes)
    counted = _counted(walk, nodes, owned)
    return [
        Origin(nodes=tuple(nodes[place]), counted=tuple(counted.get(place, ()))) for place in range(len(walk.executed))
    ]


def _adopt(walk: _Walk, nodes: dict[int, list[int]]) -> None:
    """Operators that kept no name belong to who makes what they read, or reads what they make."""
    makers = {name: place for place, operator in enumerate(walk.executed) for name in operator.makes}
    readers = {name: place for place, operator in enumerate(walk.executed) for name in operator.reads}
    for _ in range(4):  # chains of them are short
        for place, operator in enumerate(walk.executed):
            if nodes[place]:
                continue
            original = [walk.producer[name] for name in operator.reads if name in walk.producer][:1]
            ahead = [walk.readers[name][0] for name in (*operator.makes, *operator.reads) if name in walk.readers][:1]
            near = [nodes[makers[name]][-1:] for name in operator.reads if name in makers]
            near += [nodes[readers[name]][:1] for name in operator.makes if name in readers]
            nodes[place] = original or next(filter(None, near), ahead)


def _counted(
    walk: _Walk, nodes: Mapping[int, Sequence[int]], owned: Mapping[int, Sequence[int]]
) -> dict[int, list[int]]:
    """Each node counts for one operator: of those that share it the one that multiplies, else the longest."""
    best: dict[int, int] = {}
    for place, indices in nodes.items():
        operator = walk.executed[place]
        if operator.role != COMPUTE:
            continue
        for index in indices:
            if index not in best or _weight(walk.executed[best[index]]) < _weight(operator):
                best[index] = place
    counted: dict[int, list[int]] = {}
    for index, place in best.items():
        counted.setdefault(place, []).append(index)
    return counted


def _weight(operator: Executed) -> tuple[bool, float]:
    kind = operator.kind.lower().replace("_", "").replace(" ", "")
    multiplies = any(word in kind for word in ("conv", "matmul", "gemm", "fullyconnected", "lstm", "gru", "rnn"))
    return multiplies and "convert" not in kind, operator.us
