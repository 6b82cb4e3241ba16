"""Operators that TFLite has no word for, written as formulas of those that it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .axes import Perm
from .flatbuffer import Tensor
from .lowering import Lowering
from .units import Unit

TABLES = {
    "ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions", "ABS": "AbsOptions",
    "NEG": "NegOptions", "EXP": "ExpOptions", "SIGN": "SignOptions", "COS": "CosOptions", "SQUARE": "SquareOptions",
    "HARD_SWISH": "HardSwishOptions", "MAXIMUM": "MaximumMinimumOptions", "MINIMUM": "MaximumMinimumOptions",
    "MEAN": "ReducerOptions", "SUM": "ReducerOptions", "REDUCE_MAX": "ReducerOptions", "CAST": "CastOptions",
    "REDUCE_MIN": "ReducerOptions", "REDUCE_PROD": "ReducerOptions", "FLOOR_MOD": "FloorModOptions",
    "SELECT_V2": "SelectV2Options", "LESS": "LessOptions", "GREATER": "GreaterOptions", "EQUAL": "EqualOptions",
    "NOT_EQUAL": "NotEqualOptions", "GREATER_EQUAL": "GreaterEqualOptions", "LESS_EQUAL": "LessEqualOptions",
    "LOGICAL_AND": "LogicalAndOptions", "LOGICAL_OR": "LogicalOrOptions", "LOGICAL_NOT": "LogicalNotOptions",
    "POW": "PowOptions", "SOFTMAX": "SoftmaxOptions", "LOG_SOFTMAX": "LogSoftmaxOptions", "GELU": "GeluOptions",
    "LEAKY_RELU": "LeakyReluOptions", "TRANSPOSE": "TransposeOptions", "BATCH_MATMUL": "BatchMatMulOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions", "SPLIT": "SplitOptions", "UNPACK": "UnpackOptions",
    "PACK": "PackOptions", "GATHER": "GatherOptions", "SLICE": "SliceOptions", "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "SPACE_TO_DEPTH": "SpaceToDepthOptions", "CONCATENATION": "ConcatenationOptions", "TILE": "TileOptions",
    "CUMSUM": "CumsumOptions", "TOPK_V2": "TopKV2Options", "ONE_HOT": "OneHotOptions", "GATHER_ND": "GatherNdOptions",
    "PAD": "PadOptions", "PADV2": "PadV2Options", "QUANTIZE": "QuantizeOptions", "DEQUANTIZE": "DequantizeOptions",
}  # fmt: skip
_TRUTH = frozenset({"LESS", "GREATER", "EQUAL", "NOT_EQUAL", "GREATER_EQUAL", "LESS_EQUAL"})


@dataclass(kw_only=True)
class Formula:
    """Steps on the way to a unit's output. Called with an operator's kind and its operands, it adds the operator.

    Operands that are numbers become constants of the type of the first tensor; the answer has the broadcast shape of
    the operands unless `shape` says otherwise.
    """

    low: Lowering
    unit: Unit
    count: int = 0

    def __call__(
        self,
        kind: str,
        *operands: Tensor | float | None,
        shape: tuple[int, ...] | None = None,
        dtype: np.dtype[Any] | None = None,
        **options: Any,
    ) -> Tensor:
        like = next(operand for operand in operands if isinstance(operand, Tensor))
        inputs = [
            self.constant(np.array(operand, like.dtype)) if isinstance(operand, (int, float)) else operand
            for operand in operands
        ]
        if shape is None:
            shape = np.broadcast_shapes(*(tensor.shape for tensor in inputs if tensor is not None))
        made = self.tensor(shape, dtype or (np.dtype(np.bool_) if kind in _TRUTH else like.dtype))
        return self.low.add(kind, inputs, [made], TABLES.get(kind, ""), options)

    def several(
        self, kind: str, inputs: list[Tensor | None], shapes: list[tuple[int, ...]], **options: Any
    ) -> list[Tensor]:
        """An operator with several outputs, all of the type of the last input."""
        dtype = next(tensor.dtype for tensor in reversed(inputs) if tensor is not None)
        made = [self.tensor(shape, dtype) for shape in shapes]
        self.low.add(kind, inputs, made, TABLES[kind], options)
        return made

    def tensor(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
        self.count += 1
        return Tensor(name=f"{self.unit.output}/{self.count}", shape=tuple(int(n) for n in shape), dtype=dtype)

    def constant(self, array: np.ndarray) -> Tensor:
        self.count += 1
        return self.low.constant(array, f"{self.unit.output}/{self.count}")

    def numbers(self, *values: int) -> Tensor:
        return self.constant(np.array(values, np.int32))

    def reshape(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        if tensor.shape == tuple(shape):
            return tensor
        return self.low.reshape(tensor, self.tensor(shape, tensor.dtype))

    def transpose(self, tensor: Tensor, order: tuple[int, ...]) -> Tensor:
        return self("TRANSPOSE", tensor, self.numbers(*order), shape=tuple(tensor.shape[axis] for axis in order))

    def square(self, tensor: Tensor) -> Tensor:
        return self("MUL", tensor, tensor)

    def over(self, kind: str, tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
        """A reduction over axes of the tensor, which are kept with the length 1."""
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(tensor.shape))
        return self(kind, tensor, self.numbers(*axes), shape=shape, keepDims=True)

    def answer(self, tensor: Tensor, perm: Perm | None = None, name: str = "") -> None:
        """The unit's output (or another of its node's) is this tensor, its axes in that order."""
        self.low.store(name or self.unit.output, tensor, perm)
