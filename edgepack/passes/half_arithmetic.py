"""fp16 as numbers that are multiplied: a typed graph for runtimes that compute what its types say.

Weights and arithmetic are float16, with Casts wherever a float32 part begins or ends; inputs and outputs stay float32.
Q/DQ take float16 scales (opset 19), so that what stands between integer operators is float16 as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from edgepack.model import Model, constant
from edgepack.passes import PassResult

LARGEST = float(np.finfo(np.float16).max)
# Q and DQ have float16 scales from this opset on.
TYPED_SCALES = 19
# Rounding to float16 leaves 70 dB of what lies in its range.
_LEAST_DB = 40.0
_SCALE_ERROR = 0.01
# Their output's type is no input's.
_MAKERS = frozenset(
    {"Cast", "CastLike", "Constant", "ConstantOfShape", "EyeLike", "Range", "Bernoulli", "Multinomial", "RandomNormal",
     "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)  # fmt: skip
_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})
_SHAPES = frozenset({"Shape", "Size"})
# Set as a whole: clones share it.
_HALF = ir.TensorType(ir.DataType.FLOAT16)


def half_arithmetic(model: Model, wide: Collection[str] = frozenset()) -> PassResult:
    """Make `model` float16 within.

    1. A node computes in float16 if its operator does in ONNX, it holds no graphs of its own, and `wide` lacks it.
    2. It does not if a weight of its leaves float16's range, or most of its precision.
    3. Nor does what computes shapes, or an integer that a Cast makes of a float.
    4. Q follows what it reads, DQ what reads it; a scale that float16 does not hold keeps both and their readers
       float32.

    Args:
        wide: nodes that stay float32, by their first output.
    """
    result = model.clone()
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(result.ir)
    common.ShapeInferencePass(data_prop=False)(result.ir)
    graph = _Graph(result, frozenset(wide))
    graph.choose()
    graph.write()
    kept = Counter(node.op_type for node in graph.wide_nodes())
    computing = sum(node.op_type not in _PAIR for node in graph.half)
    note = f"{computing} operators in fp16"
    if kept:
        named = ", ".join(f"{count}× {name}" for name, count in kept.most_common(4))
        note += f", {kept.total()} in fp32 ({named})"
    return PassResult(model=result, note=note, figures={"half": float(computing), "wide": float(kept.total())})


@dataclass(kw_only=True)
class _Places:
    """Which inputs and outputs of a node may be float16."""

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()


@dataclass
class _Graph:
    model: Model
    wide: frozenset[str]
    half: set[ir.Node] = field(default_factory=set)
    shapes: set[ir.Node] = field(default_factory=set)
    places: dict[ir.Node, _Places] = field(default_factory=dict)

    @property
    def graph(self) -> ir.Graph:
        return self.model.ir.graph

    def choose(self) -> None:
        """Fill `half`."""
        self.shapes = _computing_shapes(self.graph)
        typed = self.model.opset >= TYPED_SCALES
        tight = {id(node.outputs[0]) for node in self.graph if _restores(node) and not (typed and _fits_scale(node))}
        for node in self.graph:
            if node.op_type in _PAIR or node in self.shapes:
                continue
            places = _places(node, self.model.opset)
            if not places.inputs or node.outputs[0].name in self.wide:
                continue
            if any(id(value) in tight for value in node.inputs) or not _weights_fit(node, places):
                continue
            if any(reader.op_type == "Cast" and _to_integer(reader) for reader, _ in node.outputs[0].uses()):
                continue
            self.half.add(node)
            self.places[node] = places
        for node in self.graph if typed else ():
            if node.op_type == "QuantizeLinear" and self._is_half(node.inputs[0]) and _fits_scale(node):
                self.half.add(node)
                self.places[node] = _Places(inputs=frozenset({0, 1}))

    def wide_nodes(self) -> Iterator[ir.Node]:
        """What computes float32 numbers though the operator knows others."""
        for node in self.graph:
            if node.op_type in _PAIR:
                continue
            if node not in self.half and node not in self.shapes and _places(node, self.model.opset).inputs:
                yield node

    def write(self) -> None:
        self._round_scales()
        for node in list(self.graph):
            if _restores(node):
                self._restore(node)
        for node in list(self.graph):
            if node in self.half:
                for index in self.places[node].outputs:
                    node.outputs[index].type = _HALF
        for value in [*self.graph.inputs, *(output for node in list(self.graph) for output in node.outputs)]:
            self._connect(value)
        for value in list(self.graph.initializers.values()):
            self._connect(value)
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                del self.graph.initializers[name]

    def _is_half(self, value: ir.Value | None) -> bool:
        producer = value.producer() if value is not None else None
        return producer in self.half and any(producer.outputs[i] is value for i in self.places[producer].outputs)

    def _wants_half(self, node: ir.Node, index: int) -> bool:
        return node in self.half and index in self.places[node].inputs

    def _round_scales(self) -> None:
        """Scales of which there will be a float16 form, as that holds them, so that both forms are one grid."""
        for node in self.graph:
            scale = node.inputs[1] if node.op_type in _PAIR else None
            array = constant(scale)
            if scale is not None and array is not None and array.dtype == np.float32 and _fits_scale(node):
                scale.const_value = ir.tensor(array.astype(np.float16).astype(np.float32), name=scale.name)

    def _restore(self, node: ir.Node) -> None:
        """A DQ for those that read float16, and another for those that read float32."""
        output = node.outputs[0]
        readers = [(reader, index) for reader, index in output.uses() if self._wants_half(reader, index)]
        if not readers:
            return
        if len(readers) < len(list(output.uses())) or output.is_graph_output():
            other = ir.node(
                "DequantizeLinear", list(node.inputs), attributes=dict(node.attributes), name=f"{node.name}_half"
            )
            other.outputs[0].name, other.outputs[0].shape = f"{output.name}_half", output.shape
            self.graph.insert_after(node, other)
            for reader, index in readers:
                reader.replace_input_with(index, other.outputs[0])
            node = other
        self.half.add(node)
        self.places[node] = _Places(inputs=frozenset({1}), outputs=frozenset({0}))
        node.outputs[0].type = _HALF

    def _connect(self, value: ir.Value) -> None:
        """Casts for those that read another type than the value has; a graph's output is float32."""
        if value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            return
        half = value.dtype == ir.DataType.FLOAT16
        others = [(node, index) for node, index in value.uses() if self._wants_half(node, index) != half]
        is_output = half and value.is_graph_output()
        if not others and not is_output:
            return
        name = str(value.name)
        if is_output:
            value.name = f"{name}_half"
        other = self._other(value, name if is_output else f"{name}_{'float' if half else 'half'}", half)
        for node, index in others:
            node.replace_input_with(index, other)
        if is_output:
            for index, output in enumerate(self.graph.outputs):
                if output is value:
                    self.graph.outputs[index] = other

    def _other(self, value: ir.Value, name: str, half: bool) -> ir.Value:
        """The value in the other of the two types."""
        array = constant(value) if value.producer() is None and not value.is_graph_input() else None
        if array is not None:
            made = ir.val(name, const_value=ir.tensor(array.astype(np.float32 if half else np.float16), name=name))
            self.graph.register_initializer(made)
            return made
        target = ir.DataType.FLOAT if half else ir.DataType.FLOAT16
        cast = ir.node("Cast", [value], attributes={"to": int(target)}, name=f"{name}_Cast")
        made = cast.outputs[0]
        made.name, made.type, made.shape = name, ir.TensorType(target), value.shape
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(next(iter(self.graph)), cast)
        else:
            self.graph.insert_after(producer, cast)
        return made


def _restores(node: ir.Node) -> bool:
    return node.op_type == "DequantizeLinear" and node.domain == ""


def _to_integer(node: ir.Node) -> bool:
    return not ir.DataType(node.attributes.get_int("to", 1)).is_floating_point()


def _places(node: ir.Node, opset: int) -> _Places:
    """Where ONNX lets a node read and write float16 instead of the float32 that is there; nowhere if it must not."""
    holds_graphs = any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    )
    if node.domain not in ("", "ai.onnx") or holds_graphs or node.op_type in _MAKERS:
        return _Places()
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return _Places()
    free = {c.type_param_str for c in schema.type_constraints if "tensor(float16)" in c.allowed_type_strs}
    known = [value.dtype for value in (*node.inputs, *node.outputs) if value is not None and value.name]
    if None in known:
        return _Places()
    inputs, outputs = (
        {
            index
            for index, value in enumerate(values)
            if value is not None
            and value.dtype == ir.DataType.FLOAT
            and formal
            and formal[min(index, len(formal) - 1)].type_str in free
        }
        for values, formal in ((node.inputs, schema.inputs), (node.outputs, schema.outputs))
    )
    return _Places(inputs=frozenset(inputs), outputs=frozenset(outputs))


def _weights_fit(node: ir.Node, places: _Places) -> bool:
    arrays = [constant(node.inputs[index]) for index in places.inputs]
    return all(array is None or holds(array) for array in arrays)


def holds(array: np.ndarray) -> bool:
    """Whether float16 holds the numbers of an array, by their energy."""
    if not array.size or not np.any(array):
        return True
    if not np.abs(array).max() <= LARGEST:
        return False
    exact = array.astype(np.float64)
    error = exact - array.astype(np.float16)
    return bool(np.sum(error**2) <= 10.0 ** (-_LEAST_DB / 10) * np.sum(exact**2))


def _fits_scale(node: ir.Node) -> bool:
    scale = constant(node.inputs[1])
    if scale is None:
        return False
    with np.errstate(over="ignore"):
        near = scale.astype(np.float16).astype(np.float64)
    return bool(np.all(np.isfinite(near)) and np.all(np.abs(near - scale) <= _SCALE_ERROR * np.abs(scale)))


def _computing_shapes(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that compute on nothing but shapes and constants."""
    found: set[ir.Node] = set()
    for node in graph:
        data = [value for value in node.inputs if value is not None and constant(value) is None]
        if node.op_type in _SHAPES or (data and all(value.producer() in found for value in data)):
            found.add(node)
    return found
