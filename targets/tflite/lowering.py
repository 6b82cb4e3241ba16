"""An ONNX graph on its way to a TFLite one: what the operators' forms ask of it, values and their layouts above all.

Every value is stored in some order of its axes (a View). What computes on pictures stores them channels last; what
treats elements alike takes them as they come; only what needs ONNX's own order asks for a TRANSPOSE, and each value is
transposed once however many ask. So there is no pair of transposes around each operator to be cancelled later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .axes import Perm, identity
from .flatbuffer import Graph, Operator, Quantization, Tensor
from .units import Unit


@dataclass(frozen=True, kw_only=True)
class View:
    """Axis i of the tensor is axis `perm[i]` of the ONNX value."""

    tensor: Tensor
    perm: Perm


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

    # --- the graph --------------------------------------------------------------------------------------------

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def quantizer(self, name: str) -> onnx.NodeProto | None:
        reader = self.only_reader(name)
        return reader if reader is not None and reader.op_type == "QuantizeLinear" else None

    def grid(self, node: onnx.NodeProto) -> Quantization:
        scale = self.constants[node.input[1]]
        zero = self.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros_like(scale, np.int8)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        return Quantization(scale=np.asarray(scale), zero_point=np.asarray(zero), axis=axis if scale.ndim else 0)

    def grid_behind(self, name: str) -> Quantization | None:
        """The grid that a value is rounded to by its only reader."""
        quantizer = self.quantizer(name)
        return self.grid(quantizer) if quantizer is not None else None

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
