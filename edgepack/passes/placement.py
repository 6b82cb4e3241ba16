"""Which nodes of a graph compute in int8, and which tensors carry a scale: decided before anything is written."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgepack.model import Model, constant
from edgepack.passes.saturate import line, useful_range
from edgepack.quantization.layer import added_bias, addition, bias_of
from edgepack.target import Scheme

# Operators with weights that no scheme here quantizes; named when they stay float.
_FLOAT_ONLY = frozenset({"LSTM", "GRU", "RNN"})


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A decision about a graph; nodes and tensors are those of the model it was made for.

    `tensors` maps each tensor that gets a Q/DQ pair to the tensor whose scale it shares (often itself).
    `readers` are the places that read each of them quantized; what else reads it may be left the tensor itself.
    `limits` are the ends beyond which nothing that reads a tensor tells values apart, where there are any.
    `left_float` counts what stays float though it has weights: "why: operator" -> how many.
    """

    weighted: tuple[ir.Node, ...]
    light: tuple[ir.Node, ...]
    tensors: dict[str, str]
    readers: dict[str, tuple[tuple[ir.Node, int], ...]] = field(default_factory=dict)
    limits: dict[str, tuple[float, float]] = field(default_factory=dict)
    left_float: Counter[str] = field(default_factory=Counter)


def place(model: Model, scheme: Scheme, keep_float: frozenset[str] = frozenset()) -> Placement:
    """Decide the placement for `model` by `scheme`; nodes whose output `keep_float` names stay float.

    1. A weighted operator is quantized where its weights are constant.
    2. Its output is taken after a fused activation or chain, so that no Q/DQ stands between the two.
    3. A light operator is quantized if all it reads is, or could be, int8, and something int8 reads it.
    4. The output of a closed operator is always quantized, that of another only where an int8 operator reads it.
    5. Tensors around a same-scale operator share one scale.
    6. Behind a gate in integers, an operator that is fast only before a convolution is quantized only there.
    7. A residual sum reads the weighted operator before it in float, and only its shortcut in int8; another is float.
    8. Rule 3 looks through commuting operators, and none of their inputs or outputs is quantized for their own sake.
    9. A weighted operator that reads a single vector stays float where that gains nothing.
    10. Where float readers are left the tensor itself, an average is quantized only if nothing else reads it in float.
    """
    graph = model.ir.graph
    left_float = _nested(model, scheme)
    weighted = []
    vectors = _vectors(graph) if scheme.skips_vectors else set()
    for node in graph:
        if node.op_type in scheme.weighted and node.domain == "":
            reason = "left float" if node.outputs[0].name in keep_float else why_not(node)
            if not reason and id(node.inputs[0]) in vectors:  # rule 9
                reason = "it reads a single vector"
            if reason:
                left_float[f"{reason}: {node.op_type}"] += 1
            else:
                weighted.append(node)
        elif node.op_type in _FLOAT_ONLY:
            left_float[f"no int8 form: {node.op_type}"] += 1

    tails = {id(node): tail(node, scheme) for node in weighted}
    able = {id(value) for value in tails.values()} | {id(node.inputs[0]) for node in weighted}  # rule 3, forwards
    read_at: dict[int, tuple[int, ...]] = {id(node): (0,) for node in weighted}
    depths = _depths(graph, read_at.keys()) if scheme.residual else {}
    candidates = []
    for node in graph:
        if node.op_type in scheme.commuting and node.domain == "":  # rule 8
            data = data_inputs(node)
            if data and all(id(value) in able for value in data):
                candidates.append(node)
                able.update(id(output) for output in node.outputs)
        elif node.op_type in scheme.light and node.domain == "":
            read_at[id(node)] = places = _places(node, scheme, depths)
            data = [value for index in places if (value := node.inputs[index]) is not None]
            if (
                scheme.apart and node.op_type != "Add" and any(_read_in_float(value, scheme) for value in data)
            ):  # rule 10
                continue
            if node.op_type in scheme.saturating and line(node) is None:
                continue
            if not all(is_finite(array) for array in map(constant, node.inputs) if array is not None):
                continue
            if node.op_type in scheme.before_conv and _ends_a_swish(node, scheme):  # rule 6
                continue
            if data and all(id(value) in able and value.dtype in (ir.DataType.FLOAT, None) for value in data):
                candidates.append(node)
                tails[id(node)] = tail(node, scheme)
                able.update(id(output) for output in node.outputs)
                able.add(id(tails[id(node)]))

    carried = {id(node.inputs[0]) for node in weighted}
    wanted = set(carried)  # rule 3, backwards
    light = []
    for node in reversed(candidates):
        if node.op_type in scheme.commuting:
            if wanted & {id(output) for output in node.outputs}:
                wanted.update(id(value) for value in data_inputs(node))
        elif wanted & {id(tails[id(node)]), *(id(output) for output in node.outputs)}:
            light.append(node)
            carried.update(id(node.inputs[index]) for index in read_at[id(node)])
            wanted |= carried
    light.reverse()

    tensors: dict[str, str] = {}
    values: dict[str, ir.Value] = {}

    def root(name: str) -> str:
        while tensors[name] != name:
            name = tensors[name]
        return name

    def add(value: ir.Value | None) -> str:
        assert value is not None and value.name
        values[value.name] = value
        return root(tensors.setdefault(value.name, value.name))

    readers: defaultdict[str, list[tuple[ir.Node, int]]] = defaultdict(list)
    for node in (*weighted, *light):
        for index in read_at[id(node)]:
            readers[str(node.inputs[index].name)].append((node, index))  # type: ignore[union-attr]
    for node in weighted:
        add(node.inputs[0])
        if node.op_type in scheme.closed or id(tails[id(node)]) in carried:  # rule 4
            add(tails[id(node)])
    for node in light:
        inputs = [add(node.inputs[index]) for index in read_at[id(node)]]
        outputs = node.outputs if len(node.outputs) > 1 else [tails[id(node)]]
        for output in outputs:
            if scheme.commuting and id(output) not in carried:  # rule 8
                continue
            name = add(output)
            if node.op_type in scheme.same_scale:  # rule 5
                tensors[name] = root(inputs[0])
    limits = {name: useful_range(values[name]) for name in tensors}
    return Placement(
        weighted=tuple(weighted),
        light=tuple(light),
        tensors={name: root(name) for name in tensors},
        readers={name: tuple(places) for name, places in readers.items()},
        limits={name: ends for name, ends in limits.items() if ends != (-np.inf, np.inf)},
        left_float=left_float,
    )


def why_not(node: ir.Node) -> str:
    """Why a weighted node cannot be quantized; empty if it can."""
    data, weight = node.inputs[0], node.inputs[1]
    if data is None or constant(data) is not None:
        return "its data is constant"
    array = constant(weight)
    if array is None:
        return "both factors are activations" if node.op_type in ("MatMul", "Gemm") else "its weights are computed"
    if array.dtype != "float32" or data.dtype not in (ir.DataType.FLOAT, None):
        return "it is not float32"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    numbers = constant(bias)
    if not all(is_finite(held) for held in (array, numbers) if held is not None):
        return "its weights or bias are infinite"
    if node.op_type == "MatMul":
        if data.shape is not None and len(data.shape) == 1:  # OpenVINO answers with an axis too many
            return "its data is a vector"
        return "" if array.ndim >= 2 else "its weights are a vector"
    if bias is not None and numbers is None:
        return "its bias is computed"
    if node.op_type == "Gemm":
        if numbers is not None and numbers.ndim == 2 and numbers.shape[0] != 1:
            return "its bias differs by row"
        if node.attributes.get_float("alpha", 1.0) != 1.0 or node.attributes.get_float("beta", 1.0) != 1.0:
            return "alpha or beta is not 1"
        if node.attributes.get_int("transA", 0):
            return "its data is transposed"
    return ""


def bias_in(node: ir.Node, scheme: Scheme) -> np.ndarray | None:
    """The bias that the runtime adds in a node's own sum, one float64 a channel, be it an input or added behind it."""
    return added_bias(node) if node.op_type in scheme.biased else bias_of(node)


def is_finite(array: np.ndarray) -> bool:
    """Whether there is neither NaN nor infinity, found without an array of its size."""
    return array.dtype.kind != "f" or not array.size or bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def tail(node: ir.Node, scheme: Scheme) -> ir.Value:
    """The node's output, or that of what the runtime fuses with it: a bias, an activation, or whole chains of them
    and of sums and products with constants."""
    output = node.outputs[0]
    if node.op_type in scheme.biased and (added := addition(node)) is not None:
        output = added[0].outputs[0]
    while len(uses := list(output.uses())) == 1 and not output.is_graph_output():
        reader, index = uses[0]
        activation = reader.op_type in scheme.fused and index == 0
        if reader.domain != "" or not (activation or (scheme.fuses_chains and _with_constant(reader))):
            break
        output = reader.outputs[0]
        if not scheme.fuses_chains:
            break
    return output


def _with_constant(node: ir.Node) -> bool:
    return node.op_type in ("Add", "Mul") and any(constant(value) is not None for value in node.inputs)


def _ends_a_swish(node: ir.Node, scheme: Scheme) -> bool:
    """Whether a light node comes right behind a gate in integers, and leads to no convolution by light ones."""
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    makers = [] if before is None else [before, *before.predecessors()]
    if before is None or before.op_type not in ("HardSwish", "Mul"):
        return False
    if not any(maker.op_type in scheme.saturating for maker in makers):
        return False
    pending, seen = [node], {id(node)}
    while pending:
        for reader in pending.pop().successors():
            if reader.op_type == "Conv":
                return False
            if id(reader) not in seen and reader.op_type in scheme.light | scheme.fused:
                seen.add(id(reader))
                pending.append(reader)
    return True


def data_inputs(node: ir.Node) -> list[ir.Value]:
    """What a light node computes on: all operands where there are several, else the first input."""
    return [value for index in data_places(node) if (value := node.inputs[index]) is not None]


def data_places(node: ir.Node) -> tuple[int, ...]:
    """The numbers of these inputs; constants are none."""
    places = range(len(node.inputs)) if node.op_type in ("Add", "Mul", "Concat") else range(1)
    return tuple(i for i in places if node.inputs[i] is not None and constant(node.inputs[i]) is None)


def _places(node: ir.Node, scheme: Scheme, depths: Mapping[int, int]) -> tuple[int, ...]:
    """The inputs of a light node that are read in int8; none where it stays float."""
    places = data_places(node)
    if not scheme.residual or node.op_type != "Add":
        return places
    fused = {i: depth for i in places if (depth := depths.get(id(node.inputs[i].producer()))) is not None}  # type: ignore[union-attr]
    for index in list(fused):
        value = node.inputs[index]
        if value is None or len(list(value.uses())) > 1 or value.is_graph_output():
            del fused[index]
    if len(places) < 2 or not fused:  # rule 7
        return ()
    # The longer branch; of a shortcut that is a convolution itself, the block's own comes last.
    main = max(fused, key=lambda i: fused[i])
    return tuple(i for i in places if i != main)


def _read_in_float(value: ir.Value, scheme: Scheme) -> bool:
    known = scheme.weighted | scheme.light | scheme.commuting
    return value.is_graph_output() or any(reader.op_type not in known for reader, _ in value.uses())


# What makes one place of many, and many of one.
_GATHERS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean"})
_SPREADS = frozenset({"Resize", "Upsample", "Expand", "Tile", "ConvTranspose", "Pad"})


def _vectors(graph: ir.Graph) -> set[int]:
    """The tensors with one place of each channel: what a global average gives, and what is computed of it alone."""
    found: set[int] = set()
    for node in graph:
        data = [value for value in node.inputs if value is not None and constant(value) is None]
        if node.op_type in _GATHERS or (
            data and node.op_type not in _SPREADS and all(id(value) in found for value in data)
        ):
            found.update(id(output) for output in node.outputs)
    return found


def _depths(graph: ir.Graph, weighted: Collection[int]) -> dict[int, int]:
    """Of weighted nodes, by id: the most weighted nodes on a way from an input to it, itself included."""
    longest: dict[int, int] = {}
    found = {}
    for node in graph:
        depth = max((longest.get(id(value), 0) for value in node.inputs), default=0) + (id(node) in weighted)
        longest |= {id(output): depth for output in node.outputs}
        if id(node) in weighted:
            found[id(node)] = depth
    return found


def _nested(model: Model, scheme: Scheme) -> Counter[str]:
    """Weighted operators inside control flow, which stay as they are."""
    top = set(model.ir.graph)
    found: Counter[str] = Counter()
    for node in model.nodes():
        if node not in top and (node.op_type in scheme.weighted or node.op_type in _FLOAT_ONLY):
            found[f"inside control flow: {node.op_type}"] += 1
    return found


def integer_only(model: Model, scheme: Scheme) -> bool:
    """True where a quantized graph computes nothing in float but scales: its results depend on no rounding mode.

    Additions and multiplications of int8 tensors are left out, since kernels rescale them in float.
    """
    computing = scheme.weighted | scheme.same_scale | scheme.fused | {"QuantizeLinear", "DequantizeLinear"}
    return all(
        node.domain == ""
        and node.op_type in computing
        and (node.op_type not in scheme.weighted or all(_restored(value) for value in node.inputs[:2]))
        for node in model.nodes()
    )


def _restored(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    return producer is not None and producer.op_type == "DequantizeLinear"
