"""The walk from an ONNX graph to a TFLite one: layouts, quantization, and which nodes become one operator.

Every value is stored in some order of its axes (a View). What computes on pictures stores them channels last; what
treats elements alike takes them as they come; only what needs ONNX's own order asks for a TRANSPOSE, and each value is
transposed once however many ask. So there is no pair of transposes around each operator to be cancelled later.

A Q/DQ graph is read as it was meant: a node between DequantizeLinear and QuantizeLinear is an int8 operator on the
integers themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgepack.pieces import set_nodes

from .flatbuffer import Graph, Operator, Quantization, Tensor

Perm = tuple[int, ...]
Lower = Callable[["Lowering", "Unit"], None]
# Activations that an operator may take with it, by what they clip to.
FUSED = {(0.0, np.inf): 1, (-1.0, 1.0): 2, (0.0, 6.0): 3}
FUSES = frozenset({"Conv", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "MaxPool", "AveragePool"})


class NoForm(Exception):
    """A node has no TFLite form; the message says why."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Axis i of the tensor is axis `perm[i]` of the ONNX value."""

    tensor: Tensor
    perm: Perm


@dataclass(kw_only=True)
class Unit:
    """A node and what goes with it: a fused activation (the schema's number) and, if `int8`, the Q and DQ around it."""

    node: onnx.NodeProto
    output: str
    activation: int = 0
    int8: bool = False
    quantization: Quantization | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Form:
    """How an operator is lowered, and whether a node of it computes on integers where it could."""

    lower: Lower
    int8: Callable[[Lowering, onnx.NodeProto], bool]


class Lowering:
    """One graph being lowered. `graph` grows with the walk."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
        self.graph = Graph()
        proto = model.graph
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.initializer}
        self.shapes: dict[str, tuple[int, ...]] = {name: array.shape for name, array in self.constants.items()}
        self.dtypes: dict[str, np.dtype[Any]] = {name: array.dtype for name, array in self.constants.items()}
        for info in (*proto.input, *proto.output, *proto.value_info):
            kind = info.type.tensor_type
            if info.name in self.constants or not kind.HasField("shape"):
                continue
            if all(dim.HasField("dim_value") for dim in kind.shape.dim):
                self.shapes[info.name] = tuple(dim.dim_value for dim in kind.shape.dim)
            if kind.elem_type:
                self.dtypes[info.name] = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        self.nodes = list(proto.node)
        self.inputs = [info.name for info in proto.input if info.name not in self.constants]
        self.outputs = [info.name for info in proto.output]
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in filter(None, node.input):
                self.readers.setdefault(name, []).append(node)
        self.views: dict[str, View] = {}
        self.integers: dict[str, str] = {}
        self.grids: dict[str, Quantization] = {}
        self.done: set[int] = set()
        self._stored: dict[tuple[str, Perm], Tensor] = {}
        self._forms: Mapping[str, Form] = {}

    # --- the walk ---------------------------------------------------------------------------------------------

    def run(self, operators: Mapping[str, Form]) -> list[str]:
        """Lower every node; what has no form is named in the answer."""
        self._forms = operators
        for name in self.inputs:
            tensor = Tensor(name=name, shape=self.shape(name), dtype=self.dtypes[name], quantization=self._border(name))
            self.graph.inputs[name] = tensor
            self.store(name, tensor, None)
        refused = []
        for node in self.nodes:
            if id(node) in self.done:
                continue
            form = operators.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
            try:
                if kind == "DequantizeLinear":
                    self._restored(node)
                    continue
                if kind == "QuantizeLinear":
                    self._quantized(node)
                    continue
                if form is None:
                    raise NoForm("it has no TFLite form here")
                if not all(name in self.shapes for name in (*node.output, *node.input) if name):
                    raise NoForm("its shape is open")
                form.lower(self, self.unit(node))
            except NoForm as error:
                refused.append(f"{kind} {next(filter(None, node.output))!r}: {error}")
                for name in node.output:  # so that those behind are looked at too
                    if name and name not in self.views:
                        self.store(
                            name, Tensor(name=name, shape=self.shapes.get(name, ()), dtype=self.dtype(name)), None
                        )
        if not refused:
            for name in self.outputs:
                self.graph.outputs[name] = self._answered(name)
        return refused

    def _border(self, name: str) -> Quantization | None:
        """The grid of an input of integers: that of what restores them, perhaps in another order of axes."""
        for node in self.readers.get(name, []) if self.dtype(name) == np.int8 else []:
            found = self.grid(node) if node.op_type == "DequantizeLinear" else None
            if node.op_type in ("Transpose", "Identity"):
                found = self._border(node.output[0])
            if found is not None:
                return found
        return None

    def _answered(self, name: str) -> Tensor:
        tensor = self.read(name)
        if tensor.data is not None or tensor in self.graph.inputs.values() or tensor in self.graph.outputs.values():
            copy = Tensor(name=name, shape=tensor.shape, dtype=tensor.dtype)  # an operator has to make it
            copy.quantization = tensor.quantization
            shape = Tensor(name=f"{name}/shape", shape=(len(tensor.shape),), dtype=np.dtype(np.int32))
            shape.data = np.array(tensor.shape, np.int32)
            self.graph.operators.append(
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

    def _restored(self, node: onnx.NodeProto) -> None:
        """Constants are folded when they are read in float; for the rest only the connection is noted."""
        self.integers[node.output[0]] = node.input[0]
        grid = self.grid(node)
        if not self.grids.setdefault(node.input[0], grid).equals(grid):
            raise NoForm("its integers have another scale elsewhere")
        self.shapes.setdefault(node.output[0], self.shapes[node.input[0]])
        self.dtypes[node.output[0]] = np.dtype(np.float32)

    def _quantized(self, node: onnx.NodeProto) -> None:
        """A Q that no operator took with it."""
        grid = self.grid(node)
        name, output = node.input[0], node.output[0]
        self.grids[output] = grid
        self.shapes.setdefault(output, self.shapes[name])
        source = self.integers.get(name)
        view = self.views[source] if source is not None and source in self.views else self.view(name)
        made = Tensor(name=output, shape=view.tensor.shape, dtype=np.dtype(np.int8), quantization=grid)
        self.add("QUANTIZE", [view.tensor], [made], "QuantizeOptions")
        self.store(output, made, view.perm)

    def grid(self, node: onnx.NodeProto) -> Quantization:
        scale = self.constants[node.input[1]]
        zero = self.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros_like(scale, np.int8)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        return Quantization(scale=np.asarray(scale), zero_point=np.asarray(zero), axis=axis if scale.ndim else 0)

    def unit(self, node: onnx.NodeProto) -> Unit:
        """The node, with the activation and the quantizer that can go with it."""
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        outputs = [name for name in node.output if name]
        unit = Unit(node=node, output=outputs[0], attributes=attributes)
        integers = self._reads_integers(node)
        if len(outputs) > 1:
            unit.int8 = integers and all(self._quantizer(name) is not None for name in outputs) and self._has_int8(node)
            return unit
        follower = self.only_reader(unit.output) if self._fuses(node) else None
        limits = self.limits(follower) if follower is not None else None
        quantizer = self._quantizer(follower.output[0] if follower is not None and limits else unit.output)
        grid = self.grid(quantizer) if quantizer is not None else None
        free = integers and grid is not None and limits is not None and _holds(limits, grid)
        fused = limits in FUSED or free
        if follower is not None and limits is not None and fused:
            unit.activation, unit.output = 0 if free else FUSED[limits], follower.output[0]
            self.done.add(id(follower))
        elif follower is not None:
            quantizer = self._quantizer(unit.output)
            grid = self.grid(quantizer) if quantizer is not None else None
        if integers and grid is not None and self._has_int8(node):
            unit.int8, unit.quantization = True, grid
        if unit.int8:
            assert quantizer is not None
            self.done.add(id(quantizer))
            unit.output = quantizer.output[0]
            self.grids[unit.output] = unit.quantization  # type: ignore[assignment]
            self.shapes.setdefault(unit.output, self.shapes[quantizer.input[0]])
        return unit

    def _fuses(self, node: onnx.NodeProto) -> bool:
        if node.op_type in ("Gemm", "MatMul"):  # a product of two activations takes nothing with it
            array = self.value(node.input[1])
            return array is not None and array.ndim == 2
        return node.op_type in FUSES

    def _has_int8(self, node: onnx.NodeProto) -> bool:
        form = self._forms.get(node.op_type)
        return form is not None and form.int8(self, node)

    def grid_behind(self, name: str) -> Quantization | None:
        """The grid that a value is rounded to by its only reader."""
        quantizer = self._quantizer(name)
        return self.grid(quantizer) if quantizer is not None else None

    def _quantizer(self, name: str) -> onnx.NodeProto | None:
        reader = self.only_reader(name)
        return reader if reader is not None and reader.op_type == "QuantizeLinear" else None

    def _reads_integers(self, node: onnx.NodeProto) -> bool:
        """Whether all that it computes on are integers, or constants that can be."""
        data = [name for name in node.input if name and self.dtype(name) == np.float32]
        return any(name in self.integers for name in data) and all(
            name in self.integers for name in data if not self._parameter(node, name)
        )

    def _parameter(self, node: onnx.NodeProto, name: str) -> bool:
        """Inputs that are numbers of the operator's, such as a Clip's limits or a Pad's value."""
        return node.op_type in ("Clip", "Pad", "Resize") and node.input[0] != name

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def limits(self, node: onnx.NodeProto) -> tuple[float, float] | None:
        """What a Relu or Clip clips to; None for another node."""
        if node.op_type == "Relu":
            return 0.0, np.inf
        if node.op_type != "Clip":
            return None
        found = {"min": -np.inf, "max": np.inf}
        found.update({a.name: a.f for a in node.attribute if a.name in found})
        for index, key in ((1, "min"), (2, "max")):
            if len(node.input) > index and node.input[index]:
                array = self.value(node.input[index])
                if array is None or array.size != 1:
                    return None
                found[key] = float(array.reshape(()))
        return found["min"], found["max"]

    # --- values -----------------------------------------------------------------------------------------------

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def dtype(self, name: str) -> np.dtype[Any]:
        return self.dtypes.get(name, np.dtype(np.float32))

    def value(self, name: str) -> np.ndarray | None:
        """A constant, also one that is restored from integers."""
        if name in self.constants:
            return self.constants[name]
        source = self.integers.get(name)
        if source is None or source not in self.constants:
            return None
        grid, integers = self.grids[source], self.constants[source]
        around = [1] * integers.ndim
        if grid.scale.ndim:
            around[grid.axis] = -1
        real = (integers.astype(np.float32) - grid.zero_point.reshape(around)) * grid.scale.reshape(around)
        return np.asarray(real, np.float32)

    def store(self, name: str, tensor: Tensor, perm: Perm | None) -> None:
        self.views[name] = View(tensor=tensor, perm=perm if perm is not None else identity(len(tensor.shape)))

    def view(self, name: str) -> View:
        """A value as it is stored; integers are restored to float where `name` is their restored form."""
        if name in self.views:
            return self.views[name]
        array = self.value(name)
        if array is not None:
            self.store(name, self.constant(array, name, self.grids.get(name)), None)
            return self.views[name]
        source = self.integers[name]
        view = self.views[source]
        made = Tensor(name=name, shape=view.tensor.shape, dtype=np.dtype(np.float32))
        self.add("DEQUANTIZE", [view.tensor], [made], "DequantizeOptions")
        self.store(name, made, view.perm)
        return self.views[name]

    def data(self, unit: Unit, index: int) -> str:
        """The name of what a unit reads: the integers where it computes on them."""
        name = unit.node.input[index]
        return self.integers[name] if unit.int8 and name in self.integers else name

    def perm(self, name: str) -> Perm:
        return self.view(name).perm

    def read(self, name: str, perm: Perm | None = None) -> Tensor:
        """A value with its axes in that order (ONNX's own if none is given)."""
        rank = len(self.shape(name))
        wanted = perm if perm is not None else identity(rank)
        key = (name, wanted)
        if key not in self._stored:
            self._stored[key] = self._ordered(name, wanted)
        return self._stored[key]

    def _ordered(self, name: str, wanted: Perm) -> Tensor:
        view = self.view(name)
        if view.perm == wanted:
            return view.tensor
        if view.tensor.data is not None:
            data = np.transpose(view.tensor.data, [view.perm.index(axis) for axis in wanted])
            return self.constant(data, name, view.tensor.quantization)
        order = [view.perm.index(axis) for axis in wanted]
        shape = tuple(view.tensor.shape[place] for place in order)
        made = Tensor(name=f"{name}/ordered", shape=shape, dtype=view.tensor.dtype)
        made.quantization = view.tensor.quantization
        moving = [place for place in order if view.tensor.shape[place] > 1]
        if moving == sorted(moving):  # nothing moves in memory
            self.reshape(view.tensor, made)
        else:
            self.add("TRANSPOSE", [view.tensor, self.numbers(order, f"{name}/order")], [made], "TransposeOptions")
        return made

    def constant(self, array: np.ndarray, name: str, quantization: Quantization | None = None) -> Tensor:
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        return Tensor(name=name, shape=array.shape, dtype=array.dtype, data=array, quantization=quantization)

    def numbers(self, values: Sequence[int] | np.ndarray, name: str) -> Tensor:
        return self.constant(np.asarray(values, np.int32), name)

    # --- operators --------------------------------------------------------------------------------------------

    def add(
        self,
        kind: str,
        inputs: list[Tensor | None],
        outputs: list[Tensor],
        table: str = "",
        options: dict[str, Any] | None = None,
    ) -> Tensor:
        self.graph.operators.append(
            Operator(kind=kind, inputs=inputs, outputs=outputs, table=table, options=options or {})
        )
        return outputs[0]

    def reshape(self, source: Tensor, made: Tensor) -> Tensor:
        shape = self.numbers(made.shape, f"{made.name}/shape")
        return self.add("RESHAPE", [source, shape], [made], "ReshapeOptions", {"newShape": list(made.shape)})

    def temporary(self, unit: Unit, shape: Sequence[int], what: str, like: Tensor | None = None) -> Tensor:
        """A tensor on the way, of the unit's kind, or with the type and scale of another."""
        dtype = like.dtype if like is not None else np.dtype(np.int8 if unit.int8 else np.float32)
        grid = like.quantization if like is not None else unit.quantization
        return Tensor(name=f"{unit.output}/{what}", shape=tuple(shape), dtype=dtype, quantization=grid)

    def result(self, unit: Unit, perm: Perm | None = None, name: str | None = None) -> Tensor:
        """The tensor for a unit's output, stored in that order."""
        name = name if name is not None else unit.output
        shape = self.shape(name)
        order = perm if perm is not None else identity(len(shape))
        if unit.int8:
            dtype, grid = np.dtype(np.int8), self.grids[name]
        else:
            dtype, grid = self.dtype(name), None
        made = Tensor(name=name, shape=tuple(shape[axis] for axis in order), dtype=dtype, quantization=grid)
        self.store(name, made, order)
        return made


def _holds(limits: tuple[float, float], grid: Quantization) -> bool:
    """Whether the grid ends within the limits, so that rounding to it clips as they do."""
    low, high = ((end - float(grid.zero_point)) * float(grid.scale) for end in (-128, 127))
    half = 0.501 * float(grid.scale)
    return limits[0] <= low + half and high - half <= limits[1]


def identity(rank: int) -> Perm:
    return tuple(range(rank))


def last(rank: int) -> Perm:
    """Channels last."""
    return (0, *range(2, rank), 1) if rank > 2 else identity(rank)


def common(perms: Sequence[Perm]) -> Perm:
    """The order that most are stored in, any but ONNX's own first."""
    counted = sorted(perms, key=lambda perm: (perm == identity(len(perm)), -perms.count(perm)))
    return counted[0]


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
