"""A TFLite model as plain data, and its bytes by the schema that comes with ai-edge-litert."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgepack.errors import needs

from .runtimes import oldest_runtime
from .versions import version


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """real = scale · (integer − zero_point); arrays hold one scale a channel along `axis`."""

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int = 0

    def equals(self, other: Quantization | None) -> bool:
        return (
            other is not None
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )


@dataclass(eq=False, kw_only=True)
class Tensor:
    """A tensor of the graph; `data` where it is constant."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    data: np.ndarray | None = None
    quantization: Quantization | None = None


@dataclass(eq=False, kw_only=True)
class Operator:
    """`kind` is the schema's name, such as CONV_2D; `options` the fields of its options table, `table` the table."""

    kind: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    table: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Graph:
    """Operators in order; inputs and outputs by the names that the signature gives them."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)
    metadata: dict[str, bytes] = field(default_factory=dict)

    def tensors(self) -> list[Tensor]:
        """Every tensor once, in the order of first use."""
        found: dict[int, Tensor] = {}
        for tensor in itertools.chain(
            self.inputs.values(),
            *((*operator.inputs, *operator.outputs) for operator in self.operators),
            self.outputs.values(),
        ):
            if tensor is not None:
                found.setdefault(id(tensor), tensor)
        return list(found.values())


def serialize(graph: Graph, description: str) -> bytes:
    """The model as a flatbuffer."""
    schema = needs("ai_edge_litert.schema_py_generated")
    flatbuffers = needs("flatbuffers")
    types = {
        "float32": schema.TensorType.FLOAT32, "float16": schema.TensorType.FLOAT16, "int8": schema.TensorType.INT8,
        "uint8": schema.TensorType.UINT8, "int16": schema.TensorType.INT16, "int32": schema.TensorType.INT32,
        "int64": schema.TensorType.INT64, "bool": schema.TensorType.BOOL, "float64": schema.TensorType.FLOAT64,
        "uint32": schema.TensorType.UINT32,
    }  # fmt: skip
    tensors = graph.tensors()
    number = {id(tensor): index for index, tensor in enumerate(tensors)}
    model = schema.ModelT()
    model.version = 3
    model.description = description
    model.buffers = [_buffer(schema, b"")]
    held: dict[bytes, int] = {}
    subgraph = schema.SubGraphT()
    subgraph.name = "main"
    subgraph.tensors = []
    ends = {id(tensor) for tensor in (*graph.inputs.values(), *graph.outputs.values())}
    names = _unique([tensor.name for tensor in tensors], [id(tensor) in ends for tensor in tensors])
    for tensor, name in zip(tensors, names, strict=True):
        made = schema.TensorT()
        made.name, made.shape, made.hasRank = name, [int(size) for size in tensor.shape], True
        made.type = types[tensor.dtype.name]
        if tensor.data is not None:
            content = np.ascontiguousarray(tensor.data).tobytes()
            if content not in held:
                held[content] = len(model.buffers)
                model.buffers.append(_buffer(schema, content))
            made.buffer = held[content]
        made.quantization = _quantization(schema, tensor.quantization)
        subgraph.tensors.append(made)
    codes: dict[tuple[str, int], int] = {}
    model.operatorCodes = []
    subgraph.operators = []
    for operator in graph.operators:
        key = (operator.kind, version(operator.kind, operator.inputs, operator.outputs, operator.options))
        if key not in codes:
            codes[key] = len(model.operatorCodes)
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, operator.kind)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            code.version = key[1]
            model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex = codes[key]
        made.inputs = [-1 if tensor is None else number[id(tensor)] for tensor in operator.inputs]
        made.outputs = [number[id(tensor)] for tensor in operator.outputs]
        if operator.table:
            options = getattr(schema, f"{operator.table}T")()
            for field_name, value in operator.options.items():
                assert hasattr(options, field_name), (operator.table, field_name)
                setattr(options, field_name, value)
            made.builtinOptions = options
            made.builtinOptionsType = getattr(schema.BuiltinOptions, operator.table)
        subgraph.operators.append(made)
    subgraph.inputs = [number[id(tensor)] for tensor in graph.inputs.values()]
    subgraph.outputs = [number[id(tensor)] for tensor in graph.outputs.values()]
    model.subgraphs = [subgraph]
    model.signatureDefs = [_signature(schema, graph, number)]
    model.metadata = []
    # The buffer has 16 bytes wherever TensorFlow's tools read it.
    oldest = oldest_runtime(codes).encode().ljust(16, b"\0")
    for name, content in {"min_runtime_version": oldest, **graph.metadata}.items():
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, len(model.buffers)
        model.buffers.append(_buffer(schema, content))
        model.metadata.append(entry)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _buffer(schema: Any, content: bytes) -> Any:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, np.uint8) if content else None
    return buffer


def _quantization(schema: Any, given: Quantization | None) -> Any:
    if given is None:
        return None
    made = schema.QuantizationParametersT()
    made.scale = np.atleast_1d(given.scale).astype(np.float32).tolist()
    made.zeroPoint = np.atleast_1d(given.zero_point).astype(np.int64).tolist()
    made.quantizedDimension = given.axis
    return made


def _signature(schema: Any, graph: Graph, number: dict[int, int]) -> Any:
    made = schema.SignatureDefT()
    made.signatureKey = "serving_default"
    for side in ("inputs", "outputs"):
        entries = []
        for name, tensor in getattr(graph, side).items():
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name, number[id(tensor)]
            entries.append(entry)
        setattr(made, side, entries)
    return made


def _unique(names: Sequence[str], first: Sequence[bool]) -> list[str]:
    """Names with a number behind those that others have; the `first` ones come before all others."""
    seen: dict[str, int] = {}
    found = dict.fromkeys(range(len(names)), "")
    for place in sorted(found, key=lambda place: not first[place]):
        name = names[place]
        count = seen.get(name, 0)
        seen[name] = count + 1
        found[place] = name if not count else f"{name};{count}"
    return list(found.values())
