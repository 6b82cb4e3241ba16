"""A model: an onnx_ir graph, what goes in and out of it, and what it weighs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir import Node, TensorProtocol

# protobuf refuses messages of 2 GiB; weights go to a file of their own well before that.
LARGEST_MESSAGE = 1_800_000_000
QUANTIZED_OPS = frozenset(
    {
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger",
        "QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul", "QGemm", "QLinearGlobalAveragePool",
        "QLinearSigmoid", "QLinearConcat", "QLinearAveragePool", "QLinearLeakyRelu", "QLinearSoftmax",
        "MatMulNBits", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention",
        "GatherBlockQuantized",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output. A dimension is a length, or a name (or None) where it is open."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith("float") or self.dtype == "bfloat16"

    def __str__(self) -> str:
        dims = "×".join("?" if dim is None else str(dim) for dim in self.shape) or "scalar"
        return f"{self.name} {self.dtype} {dims}"


@dataclass(frozen=True, kw_only=True)
class Model:
    """An ONNX graph in memory. Passes never change it: they clone it and return another."""

    ir: ir.Model
    source: str = ""

    @classmethod
    def from_proto(cls, proto: onnx.ModelProto, source: str = "") -> Model:
        return cls(ir=ir.from_proto(proto), source=source)

    def proto(self) -> onnx.ModelProto:
        return ir.to_proto(self.ir)

    def clone(self) -> Model:
        return Model(ir=self.ir.clone(), source=self.source)

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        graph = self.ir.graph
        return tuple(_spec(value) for value in graph.inputs if value.name not in graph.initializers)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(_spec(value) for value in self.ir.graph.outputs)

    @property
    def opset(self) -> int:
        return self.ir.opset_imports.get("", self.ir.opset_imports.get("ai.onnx", 1))

    @cached_property
    def operators(self) -> Counter[str]:
        """How often each operator occurs, those inside control flow included."""
        return Counter(
            node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}" for node in self.nodes()
        )

    @property
    def is_quantized(self) -> bool:
        """True where the file already holds Q/DQ or integer operators."""
        return any(name.rpartition(".")[2] in QUANTIZED_OPS for name in self.operators)

    @property
    def computes_half(self) -> bool:
        """True where an operator gives float16."""
        return any(output.dtype == ir.DataType.FLOAT16 for node in self.nodes() for output in node.outputs)

    @property
    def has_control_flow(self) -> bool:
        return any(name in self.operators for name in ("If", "Loop", "Scan"))

    def nodes(self) -> Iterator[Node]:
        """Every node, those inside control flow and functions included."""
        yield from ir.traversal.RecursiveGraphIterator(self.ir.graph)
        for function in self.ir.functions.values():
            yield from ir.traversal.RecursiveGraphIterator(function)

    def tensors(self) -> Iterator[TensorProtocol]:
        """Every weight: initializers and Constant nodes, those inside control flow included."""
        for graph in self.ir.graphs():
            for value in graph.initializers.values():
                if value.const_value is not None:
                    yield value.const_value
        for node in self.nodes():
            held = node.attributes.get("value")
            if node.op_type == "Constant" and held is not None and held.type == ir.AttributeType.TENSOR:
                yield held.as_tensor()

    @cached_property
    def parameters(self) -> int:
        return sum(tensor.size for tensor in self.tensors())

    @cached_property
    def weight_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors())

    def digest(self) -> str:
        """A hash of the graph and of its weights."""
        digest = hashlib.sha256()
        for node in self.nodes():
            names = [value.name if value is not None else "" for value in (*node.inputs, *node.outputs)]
            digest.update(f"{node.domain}.{node.op_type}{names}".encode())
        for tensor in self.tensors():
            digest.update(f"{tensor.name}{tensor.dtype}{tensor.shape}".encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> tuple[str, ...]:
        """Write the model, its weights beside it where one file cannot hold them. Returns the file names."""
        if self.weight_bytes < LARGEST_MESSAGE:
            ir.save(self.ir, path)
            return (path.name,)
        weights = path.with_suffix(".weights").name
        ir.save(self.ir, path, external_data=weights)
        return (path.name, weights)


def _spec(value: ir.Value) -> TensorSpec:
    dims: list[int | str | None] = []
    for dim in value.shape or ():
        size = dim if isinstance(dim, int) else dim.value
        # Exporters write 0, -1 and "?" for "any".
        open_ended = size is None or size in ("", "?") or (isinstance(size, int) and size < 1)
        dims.append(None if open_ended else size)
    dtype = value.dtype.numpy().name if value.dtype is not None and value.dtype != ir.DataType.STRING else "str"
    return TensorSpec(name=value.name or "", dtype=dtype, shape=tuple(dims))


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer or of a Constant node's output, else None."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()
