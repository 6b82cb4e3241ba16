"""Models of one operator each, by name, for the TFLite tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests import models
from tests.models import random

INT, BOOL = TensorProto.INT64, TensorProto.BOOL


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model and how its inputs are drawn: standard normal, or whole numbers below `below`."""

    proto: onnx.ModelProto
    below: int = 6
    positive: bool = False
    feeds: Mapping[str, np.ndarray] = field(default_factory=dict)

    def feed(self, seed: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        found = dict(self.feeds)
        for info in self.proto.graph.input:
            kind = info.type.tensor_type
            shape = [dim.dim_value for dim in kind.shape.dim]
            if info.name in found:
                continue
            if kind.elem_type == TensorProto.FLOAT:
                drawn = rng.standard_normal(shape)
                found[info.name] = np.asarray(np.abs(drawn) + 0.1 if self.positive else drawn, np.float32)
            elif kind.elem_type == BOOL:
                found[info.name] = rng.integers(0, 2, shape).astype(bool)
            else:
                found[info.name] = rng.integers(0, self.below, shape)
        return found


def one(
    op: str,
    *shapes: Sequence[int],
    weights: Sequence[np.ndarray | None] = (),
    opset: int = 17,
    outputs: int = 1,
    out_type: int | None = None,
    types: Sequence[int] = (),
    below: int = 6,
    positive: bool = False,
    feeds: Mapping[str, np.ndarray] | None = None,
    **attributes: object,
) -> Case:
    """A model of one node: inputs of these shapes, then constants; None leaves an input out."""
    names = [f"x{i}" for i in range(len(shapes))]
    constants = {f"w{i}": array for i, array in enumerate(weights) if array is not None}
    read = names + [f"w{i}" if array is not None else "" for i, array in enumerate(weights)]
    node = helper.make_node(op, read, [f"y{i}" for i in range(outputs)], name=op, **attributes)
    return case(
        [node],
        dict(zip(names, shapes, strict=True)),
        constants,
        opset=opset,
        outputs=outputs,
        out_type=out_type,
        types=dict(zip(names, types, strict=False)),
        below=below,
        positive=positive,
        feeds=feeds,
    )


def case(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int]],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    outputs: int = 1,
    out_type: int | None = None,
    types: Mapping[str, int] | None = None,
    below: int = 6,
    positive: bool = False,
    feeds: Mapping[str, np.ndarray] | None = None,
) -> Case:
    """Outputs are the last node's, their shapes inferred."""
    names = nodes[-1].output[:outputs]
    proto = models.model(nodes, inputs, {name: [] for name in names if name}, constants, opset=opset, types=types or {})
    del proto.graph.output[:]
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    known = {info.name: info for info in inferred.graph.value_info}
    for name in names:
        if name:
            info = known.get(name) or helper.make_tensor_value_info(name, out_type or TensorProto.FLOAT, None)
            proto.graph.output.append(info)
    return Case(proto=proto, below=below, positive=positive, feeds=feeds or {})


def n(op: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def _recurrent(
    op: str,
    gates: int,
    *,
    steps: int = 5,
    batch: int = 2,
    directions: int = 1,
    outputs: int = 2,
    initial: bool = True,
    computed: bool = False,
    **attributes: object,
) -> Case:
    d, width, hidden = directions, 3, 4
    weights = {
        "w": random((d, gates * hidden, width), 1, 0.5),
        "r": random((d, gates * hidden, hidden), 2, 0.5),
        "b": random((d, 2 * gates * hidden), 3, 0.3),
    }
    inputs: dict[str, Sequence[int]] = {"x": [steps, batch, width]}
    states = ["h", "c"][: 2 if op == "LSTM" else 1]
    for name in states if initial else []:
        if computed:
            inputs[name] = [d, batch, hidden]
        else:
            weights[name] = random((d, batch, hidden), 5, 0.5)
    read = ["x", "w", "r", "b", "", *(states if initial else [])]
    made = ["y", "yh", "yc"][:outputs]
    node = helper.make_node(op, read, made, hidden_size=hidden, **attributes)
    return case([node], inputs, weights, outputs=outputs)


def _around_conv(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray] | None = None,
    size: int = 6,
    outputs: int = 1,
    out_type: int | None = None,
) -> Case:
    """A convolution, and what follows reads its answer `c` [1, 4, size, size], which is stored channels last."""
    conv = n("Conv", "x w", "c", pads=[1, 1, 1, 1])
    weights = {"w": random((4, 3, 3, 3), 9, 0.3), **(constants or {})}
    return case([conv, *nodes], {"x": [1, 3, size, size]}, weights, outputs=outputs, out_type=out_type)


W = random
CONVOLUTIONS = {
    "conv": one("Conv", [1, 3, 8, 8], weights=[W((5, 3, 3, 3)), W((5,), 1)]),
    "conv_same": one("Conv", [1, 3, 8, 9], weights=[W((5, 3, 3, 3))], pads=[1, 1, 1, 1]),
    "conv_uneven_pads": one("Conv", [1, 3, 8, 8], weights=[W((5, 3, 3, 3))], pads=[2, 0, 1, 3]),
    "conv_stride": one("Conv", [1, 3, 9, 8], weights=[W((5, 3, 3, 3))], pads=[1, 1, 1, 1], strides=[2, 2]),
    "conv_stride_even": one("Conv", [1, 3, 8, 8], weights=[W((5, 3, 3, 3))], pads=[1, 1, 1, 1], strides=[2, 1]),
    "conv_same_upper": one("Conv", [1, 3, 8, 8], weights=[W((5, 3, 4, 4))], auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv_same_lower": one("Conv", [1, 3, 8, 8], weights=[W((5, 3, 4, 4))], auto_pad="SAME_LOWER", strides=[2, 2]),
    "conv_dilated": one("Conv", [1, 3, 12, 12], weights=[W((5, 3, 3, 3))], dilations=[2, 3], pads=[2, 3, 2, 3]),
    "conv_dilated_uneven": one("Conv", [1, 3, 12, 12], weights=[W((5, 3, 3, 3))], dilations=[2, 2], pads=[3, 1, 0, 1]),
    "conv_groups": one("Conv", [1, 6, 8, 8], weights=[W((8, 3, 3, 3)), W((8,), 1)], group=2, pads=[1, 1, 1, 1]),
    "conv_batch": one("Conv", [3, 3, 8, 8], weights=[W((5, 3, 1, 1)), W((5,), 1)]),
    "depthwise": one("Conv", [1, 6, 8, 8], weights=[W((6, 1, 3, 3)), W((6,), 1)], group=6, pads=[1, 1, 1, 1]),
    "depthwise_stride": one("Conv", [1, 6, 8, 8], weights=[W((6, 1, 5, 5))], group=6, strides=[2, 2], pads=[2] * 4),
    "depthwise_multiplier": one("Conv", [1, 4, 8, 8], weights=[W((12, 1, 3, 3)), W((12,), 1)], group=4),
    "depthwise_dilated": one("Conv", [1, 4, 9, 9], weights=[W((4, 1, 3, 3))], group=4, dilations=[2, 2], pads=[2] * 4),
    "conv_1d": one("Conv", [1, 3, 20], weights=[W((5, 3, 4)), W((5,), 1)], strides=[3], pads=[2, 1]),
    "conv_1d_dilated": one("Conv", [2, 3, 20], weights=[W((5, 3, 3))], dilations=[4], pads=[8, 0]),
    "conv_1d_depthwise": one("Conv", [1, 3, 20], weights=[W((3, 1, 3)), W((3,), 1)], group=3, pads=[1, 1]),
    "conv_signal": one(
        "Conv", [1, 1, 64, 1], weights=[W((5, 1, 12, 1)), W((5,), 1)], strides=[4, 1], pads=[5, 0, 6, 0]
    ),
    "conv_signal_1d": one("Conv", [2, 1, 45], weights=[W((5, 1, 7))], strides=[3], pads=[2, 3]),
    "conv_signal_stereo": one("Conv", [1, 2, 1, 34], weights=[W((5, 2, 1, 6))], strides=[1, 4]),
    "conv_signal_unread": one("Conv", [1, 1, 34], weights=[W((5, 1, 4))], strides=[4]),
    "transposed": one("ConvTranspose", [1, 3, 5, 6], weights=[W((3, 4, 3, 3)), W((4,), 1)], strides=[2, 2]),
    "transposed_plain": one("ConvTranspose", [1, 3, 5, 5], weights=[W((3, 4, 2, 2)), W((4,), 1)], strides=[2, 2]),
    "transposed_pads": one("ConvTranspose", [1, 3, 5, 6], weights=[W((3, 4, 3, 3))], strides=[2, 2], pads=[1] * 4),
    "transposed_uneven": one(
        "ConvTranspose", [1, 3, 5, 6], weights=[W((3, 4, 4, 4))], strides=[2, 3], pads=[1, 0, 2, 1]
    ),
    "transposed_output_padding": one(
        "ConvTranspose",
        [1, 3, 5, 6],
        weights=[W((3, 4, 3, 3)), W((4,), 1)],
        strides=[2, 2],
        pads=[1] * 4,
        output_padding=[1, 1],
    ),
    "transposed_beyond": one(
        "ConvTranspose", [1, 3, 5, 6], weights=[W((3, 4, 3, 3)), W((4,), 1)], strides=[2, 2], output_padding=[1, 1]
    ),
    "transposed_groups": one("ConvTranspose", [1, 4, 5, 5], weights=[W((4, 2, 3, 3)), W((4,), 1)], group=2),
    "transposed_dilated": one("ConvTranspose", [1, 3, 5, 5], weights=[W((3, 4, 3, 3))], dilations=[2, 2]),
    "transposed_1d": one("ConvTranspose", [1, 3, 7], weights=[W((3, 4, 4)), W((4,), 1)], strides=[2], pads=[1, 1]),
    "transposed_same": one(
        "ConvTranspose", [1, 3, 5, 5], weights=[W((3, 4, 3, 3))], strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "conv_relu": case(
        [n("Conv", "x w b", "c"), n("Relu", "c", "y")], {"x": [1, 3, 8, 8]}, {"w": W((5, 3, 3, 3)), "b": W((5,))}
    ),
    "conv_clip": case(
        [n("Conv", "x w b", "c"), n("Clip", "c low high", "y")],
        {"x": [1, 3, 8, 8]},
        {"w": W((5, 3, 3, 3)), "b": W((5,)), "low": scalar(0), "high": scalar(6)},
    ),
    "conv_clip_odd": case(
        [n("Conv", "x w b", "c"), n("Clip", "c low high", "y")],
        {"x": [1, 3, 8, 8]},
        {"w": W((5, 3, 3, 3)), "b": W((5,)), "low": scalar(-0.5), "high": scalar(2.5)},
    ),
}

PRODUCTS = {
    "gemm": one("Gemm", [2, 6], weights=[W((6, 4)), W((4,), 1)]),
    "gemm_turned": one("Gemm", [1, 6], weights=[W((4, 6)), W((4,), 1)], transB=1),
    "gemm_factors": one("Gemm", [3, 6], weights=[W((4, 6)), W((4,), 1)], transB=1, alpha=0.5, beta=2.0),
    "gemm_trans_a": one("Gemm", [6, 3], weights=[W((6, 4))], transA=1),
    "gemm_no_bias": one("Gemm", [3, 6], weights=[W((6, 4))]),
    "gemm_bias_by_row": one("Gemm", [3, 6], weights=[W((6, 4)), W((3, 1), 1)]),
    "gemm_bias_number": one("Gemm", [3, 6], weights=[W((6, 4)), W((1,), 1)]),
    "gemm_computed": one("Gemm", [3, 6], [5, 6], [5], transB=1, alpha=0.7, beta=1.5),
    "matmul": one("MatMul", [2, 6], weights=[W((6, 4))]),
    "matmul_rank_3": one("MatMul", [2, 5, 6], weights=[W((6, 4))]),
    "matmul_rank_4": one("MatMul", [1, 2, 5, 6], weights=[W((6, 4))]),
    "matmul_vector": one("MatMul", [6], weights=[W((6, 4))]),
    "matmul_by_vector": one("MatMul", [2, 5, 6], weights=[W((6,))]),
    "matmul_vectors": one("MatMul", [6], [6]),
    "matmul_batches": one("MatMul", [2, 3, 5, 6], [2, 3, 6, 4]),
    "matmul_broadcast": one("MatMul", [2, 3, 5, 6], [3, 6, 4]),
    "matmul_weights_by_batch": one("MatMul", [2, 5, 6], weights=[W((2, 6, 4))]),
    "matmul_rank_5": one("MatMul", [2, 1, 3, 5, 6], [2, 1, 3, 6, 4]),
    "matmul_rank_5_one": one("MatMul", [2, 2, 3, 5, 6], [6, 4]),
    "matmul_constant_first": case([n("MatMul", "w x", "y")], {"x": [2, 6, 4]}, {"w": W((5, 6))}),
    "einsum_batches": one("Einsum", [2, 3, 4, 5], [2, 3, 6, 5], equation="bhid,bhjd->bhij"),
    "einsum_mixed": one("Einsum", [2, 4, 3, 5], [2, 3, 6, 5], equation="bihd,bhjd->bjhi"),
    "einsum_matrix": one("Einsum", [4, 5], [5, 6], equation="ij,jk->ki"),
    "einsum_outer": one("Einsum", [4], [6], equation="i,j->ij"),
    "matmul_relu": case([n("MatMul", "x z", "m"), n("Relu", "m", "y")], {"x": [3, 4], "z": [4, 5]}),
    "matmul_bias": case(
        [n("MatMul", "x w", "m"), n("Add", "b m", "y")], {"x": [2, 3, 4]}, {"w": W((4, 5)), "b": W((5,))}
    ),
    "matmul_bias_relu": case(
        [n("MatMul", "x w", "m"), n("Add", "m b", "a"), n("Relu", "a", "y")],
        {"x": [2, 3, 4]},
        {"w": W((4, 5)), "b": W((1, 1, 5))},
    ),
    "matmul_bias_by_row": case(
        [n("MatMul", "x w", "m"), n("Add", "m b", "y")], {"x": [2, 3, 4]}, {"w": W((4, 5)), "b": W((3, 1))}
    ),
    "matmul_keys": case(
        [n("Transpose", "k", "t", perm=[0, 1, 3, 2]), n("MatMul", "q t", "y")], {"q": [1, 2, 3, 4], "k": [1, 2, 5, 4]}
    ),
    "gemm_relu": case([n("Gemm", "x w b", "m"), n("Relu", "m", "y")], {"x": [3, 4]}, {"w": W((4, 5)), "b": W((5,))}),
}

POOLING = {
    "max_pool": one("MaxPool", [1, 3, 8, 8], kernel_shape=[2, 2], strides=[2, 2]),
    "max_pool_pads": one("MaxPool", [1, 3, 8, 8], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "max_pool_odd": one("MaxPool", [1, 3, 9, 7], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 0, 1]),
    "max_pool_ceil": one("MaxPool", [1, 3, 8, 9], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "max_pool_ceil_pads": one("MaxPool", [1, 3, 8, 8], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[1] * 4),
    "max_pool_same": one("MaxPool", [1, 3, 8, 8], kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    "max_pool_1d": one("MaxPool", [1, 3, 11], kernel_shape=[3], strides=[2], pads=[1, 1]),
    "average_pool": one("AveragePool", [1, 3, 8, 8], kernel_shape=[2, 2], strides=[2, 2]),
    "average_pool_large": one("AveragePool", [1, 3, 14, 14], kernel_shape=[6, 6], strides=[2, 2]),
    "average_pool_pads": one("AveragePool", [1, 3, 8, 8], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "average_pool_uneven": one("AveragePool", [1, 3, 8, 8], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 1, 2]),
    "average_pool_include": one(
        "AveragePool", [1, 3, 8, 8], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, count_include_pad=1
    ),
    "average_pool_ceil": one("AveragePool", [1, 3, 8, 9], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "average_pool_ceil_include": one(
        "AveragePool",
        [1, 3, 8, 8],
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1] * 4,
        ceil_mode=1,
        count_include_pad=1,
        opset=19,
    ),
    "average_pool_1d": one("AveragePool", [1, 3, 11], kernel_shape=[3], strides=[2]),
    "global_average": one("GlobalAveragePool", [1, 3, 7, 5]),
    "global_average_1d": one("GlobalAveragePool", [1, 3, 7]),
    "global_max": one("GlobalMaxPool", [1, 3, 7, 5]),
    "global_l2": one("GlobalLpPool", [1, 3, 7, 5], p=2),
    "average_pool_relu": case(
        [n("AveragePool", "x", "p", kernel_shape=[3, 3], pads=[1, 0, 1, 2]), n("Relu", "p", "y")], {"x": [1, 3, 8, 8]}
    ),
}

FUNCTIONS = {
    **{
        op.lower(): one(op, [1, 3, 4, 5])
        for op in (
            "Relu",
            "Sigmoid",
            "Tanh",
            "HardSwish",
            "Exp",
            "Abs",
            "Neg",
            "Sin",
            "Cos",
            "Tan",
            "Floor",
            "Ceil",
            "Round",
            "Sign",
            "Softplus",
            "Softsign",
            "Selu",
            "Celu",
            "Elu",
            "Erf",
            "HardSigmoid",
            "LeakyRelu",
            "Identity",
            "ThresholdedRelu",
        )
    },
    "mish": one("Mish", [2, 7], opset=18),
    "log": one("Log", [2, 7], positive=True),
    "sqrt": one("Sqrt", [2, 7], positive=True),
    "reciprocal": one("Reciprocal", [2, 7], positive=True),
    "elu_alpha": one("Elu", [2, 7], alpha=0.3),
    "celu_alpha": one("Celu", [2, 7], alpha=2.5),
    "leaky_alpha": one("LeakyRelu", [2, 7], alpha=0.3),
    "hard_sigmoid_alpha": one("HardSigmoid", [2, 7], alpha=1 / 6, beta=0.5),
    "gelu": one("Gelu", [2, 7], opset=20),
    "gelu_tanh": one("Gelu", [2, 7], opset=20, approximate="tanh"),
    "prelu": one("PRelu", [1, 3, 4, 5], weights=[W((3, 1, 1))]),
    "prelu_one": one("PRelu", [1, 3, 4], weights=[W((1,))]),
    "prelu_matrix": one("PRelu", [2, 6], weights=[W((6,))]),
    "clip": one("Clip", [2, 7], weights=[scalar(-0.3), scalar(0.7)]),
    "clip_low": one("Clip", [2, 7], weights=[scalar(-0.3)]),
    "clip_high": one("Clip", [2, 7], weights=[None, scalar(0.7)]),
    "clip_six": one("Clip", [2, 7], weights=[scalar(0), scalar(6)]),
    "clip_nothing": one("Clip", [2, 7]),
    "cast_bool": one("Cast", [2, 7], to=BOOL),
    "cast_int": one("Cast", [2, 7], to=TensorProto.INT32),
    "cast_float": one("Cast", [2, 7], types=[INT], to=TensorProto.FLOAT),
    "cast_same": one("Cast", [2, 7], to=TensorProto.FLOAT),
    "not": one("Not", [2, 7], types=[BOOL]),
    "isnan": one("IsNaN", [2, 7]),
    "silu": case([n("Sigmoid", "x", "s"), n("Mul", "x s", "y")], {"x": [2, 7]}),
}


def gelu(scaled: onnx.NodeProto, total: str, *tail: onnx.NodeProto) -> Case:
    """x scaled to d, one and its Erf e summed in that order to a, and what makes y of them."""
    constants = {"half": 0.5, "one": 1, "two": 2, "root": 2**0.5, "inverse": 0.5**0.5}
    nodes = [scaled, n("Erf", "d", "e"), n("Add", total, "a"), *tail]
    read = {name for node in nodes for name in node.input}
    return case(nodes, {"x": [3, 7]}, {name: scalar(value) for name, value in constants.items() if name in read})


GELUS = {
    "gelu_divided": gelu(n("Div", "x root", "d"), "e one", n("Mul", "x a", "m"), n("Mul", "m half", "y")),
    "gelu_half_first": gelu(n("Mul", "x inverse", "d"), "one e", n("Mul", "x half", "h"), n("Mul", "h a", "y")),
    "gelu_half_between": gelu(n("Div", "x root", "d"), "e one", n("Mul", "half a", "m"), n("Mul", "m x", "y")),
    "gelu_halved": gelu(n("Div", "x root", "d"), "e one", n("Mul", "x a", "m"), n("Div", "m two", "y")),
}

ARITHMETIC = {
    **{
        f"{op.lower()}_{name}": one(op, *shapes, positive=op == "Div")
        for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")
        for name, shapes in {
            "alike": ([1, 3, 4, 5], [1, 3, 4, 5]),
            "channel": ([1, 3, 4, 5], [3, 1, 1]),
            "number": ([2, 7], []),
            "both": ([2, 1, 5], [4, 1]),
        }.items()
    },
    **{
        op.lower(): one(op, [2, 7], [2, 7], types=[INT, INT], below=3)
        for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
    },
    **{op.lower(): one(op, [2, 7], [1, 7], types=[BOOL, BOOL]) for op in ("And", "Or", "Xor")},
    "greater_float": one("Greater", [2, 7], [7]),
    "sum_three": one("Sum", [2, 7], [7], [2, 7]),
    "mean_three": one("Mean", [2, 7], [7], [2, 7]),
    "max_one": one("Max", [2, 7]),
    "add_int": one("Add", [2, 7], [7], types=[INT, INT]),
    "mul_int": one("Mul", [2, 7], [7], types=[INT, INT]),
    "pow_square": one("Pow", [2, 7], weights=[scalar(2)]),
    "pow_cube": one("Pow", [2, 7], weights=[scalar(3)]),
    "pow_root": one("Pow", [2, 7], weights=[scalar(0.5)], positive=True),
    "pow_inverse": one("Pow", [2, 7], weights=[scalar(-0.5)], positive=True),
    "pow_odd": one("Pow", [2, 7], weights=[scalar(1.7)], positive=True),
    "pow_int": one("Pow", [2, 7], weights=[ints(2)]),
    "pow_computed": one("Pow", [2, 7], [2, 7], positive=True),
    "mod_int": one("Mod", [2, 7], weights=[ints(4)], types=[INT], feeds={"x0": np.arange(-7, 7).reshape(2, 7)}),
    "mod_float": one("Mod", [2, 7], weights=[scalar(0.3)], fmod=1),
    "where": one("Where", [2, 7], [2, 7], [7], types=[BOOL, TensorProto.FLOAT, TensorProto.FLOAT]),
    "where_number": one("Where", [1, 1, 7], [2, 3, 7], weights=[scalar(-9)], types=[BOOL, TensorProto.FLOAT]),
    "add_relu": case([n("Add", "x z", "a"), n("Relu", "a", "y")], {"x": [2, 7], "z": [7]}),
}

NORMALIZATIONS = {
    "batch_norm": one(
        "BatchNormalization", [1, 3, 4, 5], weights=[W((3,)), W((3,), 1), W((3,), 2), np.abs(W((3,), 3)) + 0.1]
    ),
    "batch_norm_rank_2": one(
        "BatchNormalization", [2, 3], weights=[W((3,)), W((3,), 1), W((3,), 2), np.abs(W((3,), 3)) + 0.1]
    ),
    "batch_norm_rank_3": one(
        "BatchNormalization", [2, 3, 5], weights=[W((3,)), W((3,), 1), W((3,), 2), np.abs(W((3,), 3)) + 0.1]
    ),
    "layer_norm": one("LayerNormalization", [2, 5, 6], weights=[W((6,)), W((6,), 1)]),
    "layer_norm_no_bias": one("LayerNormalization", [2, 5, 6], weights=[W((6,))]),
    "layer_norm_axes": one("LayerNormalization", [2, 5, 6], weights=[W((5, 6)), W((5, 6), 1)], axis=1, epsilon=0.01),
    "instance_norm": one("InstanceNormalization", [2, 3, 5, 6], weights=[W((3,)), W((3,), 1)]),
    "instance_norm_1d": one("InstanceNormalization", [2, 3, 9], weights=[W((3,)), W((3,), 1)], epsilon=0.01),
    "group_norm_spelled": case(
        [n("Reshape", "x a", "r"), n("InstanceNormalization", "r s o", "i"), n("Reshape", "i b", "y")],
        {"x": [1, 6, 4, 4]},
        {"a": ints(1, 2, -1), "b": ints(1, 6, 4, 4), "s": floats(1, 1), "o": floats(0, 0)},
    ),
    "group_norm": one("GroupNormalization", [2, 6, 4, 4], weights=[W((6,)), W((6,), 1)], num_groups=2, opset=21),
    "l2_norm": one("LpNormalization", [2, 5, 6], axis=1, p=2),
    "softmax": one("Softmax", [2, 5, 6]),
    "softmax_axis": one("Softmax", [2, 5, 6], axis=1),
    "softmax_old": one("Softmax", [2, 5, 6], axis=1, opset=11),
    "log_softmax": one("LogSoftmax", [2, 6]),
    "log_softmax_axis": one("LogSoftmax", [2, 3, 4, 4], axis=1),
}

REDUCTIONS = {
    **{
        f"{op.lower()}_{name}": one(op, [2, 3, 4, 5], positive="Log" in op or "Prod" in op, **attributes)
        for op in (
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSum",
            "ReduceLogSumExp",
        )
        for name, attributes in {
            "all": {},
            "kept": {"axes": [2, 3]},
            "dropped": {"axes": [1, -1], "keepdims": 0},
        }.items()
    },
    "reduce_sum": one("ReduceSum", [2, 3, 4], weights=[ints(-1)], keepdims=0),
    "reduce_sum_noop": one("ReduceSum", [2, 3, 4], noop_with_empty_axes=1),
    "reduce_mean_input": one("ReduceMean", [2, 3, 4], weights=[ints(1)], opset=18),
    "reduce_sum_int": one("ReduceSum", [2, 3], weights=[ints(1)], types=[INT]),
    "argmax": one("ArgMax", [2, 3, 4], axis=1),
    "argmax_dropped": one("ArgMax", [2, 3, 4], axis=-1, keepdims=0),
    "argmin": one("ArgMin", [2, 3, 4], axis=0),
    "cumsum": one("CumSum", [2, 5], weights=[np.array(1)]),
    "cumsum_reverse": one("CumSum", [2, 5], weights=[np.array(0)], exclusive=1, reverse=1),
    "topk": one("TopK", [2, 9], weights=[ints(3)], outputs=2),
    "topk_axis": one("TopK", [5, 4], weights=[ints(2)], axis=0, outputs=2),
}

SHAPES = {
    "reshape": one("Reshape", [2, 3, 4], weights=[ints(0, -1)]),
    "flatten": one("Flatten", [2, 3, 4], axis=2),
    "squeeze": one("Squeeze", [2, 1, 3, 1], weights=[ints(1)]),
    "unsqueeze": one("Unsqueeze", [2, 3], weights=[ints(0, 3)]),
    "transpose": one("Transpose", [2, 3, 4, 5], perm=[0, 3, 1, 2]),
    "transpose_rank_5": one("Transpose", [2, 1, 3, 4, 5], perm=[0, 4, 2, 1, 3]),
    "transpose_plain": one("Transpose", [2, 3, 4]),
    "concat": case([n("Concat", "x z w", "y", axis=1)], {"x": [1, 2, 3, 3], "z": [1, 4, 3, 3]}, {"w": W((1, 1, 3, 3))}),
    "concat_last": one("Concat", [2, 3], [2, 4], axis=-1),
    "split": one("Split", [2, 6, 3], axis=1, outputs=3),
    "split_uneven": one("Split", [2, 7], weights=[ints(2, 5)], axis=1, outputs=2),
    "expand": one("Expand", [2, 1, 3], weights=[ints(2, 4, 3)]),
    "expand_rank": one("Expand", [3, 1], weights=[ints(2, 3, 4)]),
    "tile": one("Tile", [2, 3], weights=[ints(2, 3)]),
    "depth_to_space": one("DepthToSpace", [1, 12, 3, 4], blocksize=2),
    "depth_to_space_crd": one("DepthToSpace", [1, 12, 3, 4], blocksize=2, mode="CRD"),
    "space_to_depth": one("SpaceToDepth", [1, 3, 4, 6], blocksize=2),
    "pixel_shuffle": case(
        [n("Reshape", "x a", "r"), n("Transpose", "r", "t", perm=[0, 1, 4, 2, 5, 3]), n("Reshape", "t b", "y")],
        {"x": [1, 8, 3, 4]},
        {"a": ints(1, 2, 2, 2, 3, 4), "b": ints(1, 2, 6, 8)},
    ),
    "slice": one("Slice", [4, 6, 5], weights=[ints(1, 0), ints(3, 99), ints(0, 2)]),
    "slice_steps": one("Slice", [4, 6, 5], weights=[ints(0, 1), ints(4, 6), ints(0, 1), ints(2, 3)]),
    "slice_negative": one("Slice", [4, 6, 5], weights=[ints(-1, 4), ints(-99, 0), ints(0, 1), ints(-1, -2)]),
    "slice_from_end": one("Slice", [4, 6], weights=[ints(-3), ints(-1), ints(1)]),
    "gather": one("Gather", [5, 4], weights=[ints(3, -1, 0)]),
    "gather_axis": one("Gather", [2, 5, 4], weights=[np.array([[1, 2], [0, -2]])], axis=1),
    "gather_one": one("Gather", [2, 5, 4], weights=[np.array(1)], axis=1),
    "gather_ids": case([n("Gather", "w i", "y")], {"i": [2, 3]}, {"w": W((6, 4))}, types={"i": INT}),
    "gather_nd": one("GatherND", [3, 4, 5], weights=[np.array([[0, 1], [2, -1]])]),
    "one_hot": one("OneHot", [2, 3], weights=[np.array(6), floats(0, 1)], types=[INT]),
    "one_hot_axis": one(
        "OneHot",
        [2, 3],
        weights=[np.array(6), floats(-1, 2)],
        types=[INT],
        axis=1,
        feeds={"x0": np.array([[0, -1, 5], [2, -6, 1]])},
    ),
    "pad": one("Pad", [1, 2, 4, 5], weights=[ints(0, 0, 1, 2, 0, 0, 3, 0)]),
    "pad_value": one("Pad", [2, 5], weights=[ints(0, 1, 2, 0), scalar(1.5)]),
    "pad_negative": one("Pad", [2, 5], weights=[ints(0, -1, 2, 0)]),
    "pad_reflect": one("Pad", [1, 2, 4, 5], weights=[ints(0, 0, 2, 1, 0, 0, 1, 3)], mode="reflect"),
    "pad_edge": one("Pad", [1, 2, 4, 5], weights=[ints(0, 0, 2, 1, 0, 0, 1, 3)], mode="edge"),
    "pad_wrap": one("Pad", [2, 4], weights=[ints(0, 2, 0, 1)], mode="wrap", opset=19),
    "pad_axes": one("Pad", [2, 3, 4], weights=[ints(1, 2), scalar(0), ints(-1)], opset=18),
}


def _resize(
    shape: Sequence[int], scales: Sequence[float] = (), sizes: Sequence[int] = (), **attributes: object
) -> Case:
    weights: list[np.ndarray | None] = [None, floats(*scales) if scales else None]
    return one("Resize", shape, weights=[*weights, ints(*sizes)] if sizes else weights, opset=18, **attributes)


_BY = "coordinate_transformation_mode"
RESIZES = {
    **{
        f"linear_{by}": _resize([1, 3, 4, 5], (1, 1, 2, 3), mode="linear", **{_BY: by})
        for by in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    },
    "linear_down": _resize([1, 3, 8, 9], sizes=(1, 3, 4, 3), mode="linear"),
    "linear_odd": _resize([1, 3, 4, 5], sizes=(1, 3, 7, 8), mode="linear"),
    **{
        f"nearest_{by}_{rounding}": _resize(
            [1, 3, 4, 5], (1, 1, 2, 3), mode="nearest", nearest_mode=rounding, **{_BY: by}
        )
        for by in ("half_pixel", "asymmetric", "align_corners")
        for rounding in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    },
    "nearest_odd": _resize([1, 3, 4, 5], sizes=(1, 3, 7, 8), mode="nearest"),
    "nearest_down": _resize(
        [1, 3, 8, 6], (1, 1, 0.5, 0.5), mode="nearest", nearest_mode="floor", **{_BY: "asymmetric"}
    ),
    "nearest_fraction": _resize(
        [1, 3, 5, 5], (1, 1, 1.5, 1.3), mode="nearest", nearest_mode="floor", **{_BY: "asymmetric"}
    ),
    "nearest_1d": _resize([1, 3, 7], (1, 1, 2), mode="nearest", nearest_mode="floor", **{_BY: "asymmetric"}),
    "upsample": one("Upsample", [1, 3, 4, 5], weights=[floats(1, 1, 2, 2)], opset=9, mode="nearest"),
}

RECURRENT = {
    "lstm": _recurrent("LSTM", 4, outputs=3),
    "lstm_reverse": _recurrent("LSTM", 4, outputs=3, direction="reverse"),
    "lstm_both": _recurrent("LSTM", 4, outputs=3, directions=2, direction="bidirectional"),
    "lstm_no_state": _recurrent("LSTM", 4, outputs=1, initial=False),
    "lstm_computed_state": _recurrent("LSTM", 4, outputs=3, directions=2, direction="bidirectional", computed=True),
    "lstm_one_step": _recurrent("LSTM", 4, outputs=3, steps=1, batch=1),
    "gru": _recurrent("GRU", 3),
    "gru_behind": _recurrent("GRU", 3, linear_before_reset=1),
    "gru_both": _recurrent("GRU", 3, directions=2, direction="bidirectional", linear_before_reset=1, initial=False),
    "gru_computed_state": _recurrent("GRU", 3, computed=True),
    "rnn": _recurrent("RNN", 1),
    "rnn_reverse": _recurrent("RNN", 1, direction="reverse", initial=False),
}

BEHIND_CONV = {
    "flatten": _around_conv([n("Flatten", "c", "y")]),
    "transpose": _around_conv([n("Transpose", "c", "y", perm=[0, 2, 3, 1])]),
    "transpose_to_words": _around_conv(
        [n("Reshape", "c s", "r"), n("Transpose", "r", "y", perm=[0, 2, 1])], {"s": ints(1, 4, -1)}
    ),
    "concat_channels": _around_conv([n("Relu", "c", "r"), n("Concat", "c r", "y", axis=1)]),
    "concat_rows": _around_conv([n("Concat", "c c", "y", axis=2)]),
    "concat_with_input": case(
        [n("Conv", "x w", "c", pads=[1, 1, 1, 1]), n("Concat", "c x", "y", axis=1)],
        {"x": [1, 3, 6, 6]},
        {"w": W((4, 3, 3, 3))},
    ),
    "split_channels": _around_conv([n("Split", "c", "a b", axis=1), n("Concat", "b a", "y", axis=1)]),
    "split_rows": _around_conv([n("Split", "c", "a b", axis=3)], outputs=2),
    "mean": _around_conv([n("ReduceMean", "c", "y", axes=[2, 3], keepdims=0)]),
    "mean_of_channels": _around_conv([n("ReduceMean", "c", "y", axes=[1], keepdims=0)]),
    "mean_of_rows": _around_conv([n("ReduceMean", "c", "y", axes=[2], keepdims=0)]),
    "add_constant": _around_conv([n("Add", "c k", "y")], {"k": W((4, 1, 1))}),
    "add_row": _around_conv([n("Add", "c k", "y")], {"k": W((6,))}),
    "add_row_first": _around_conv([n("Add", "k c", "y")], {"k": W((6, 1))}),
    "add_computed": case(
        [n("Conv", "x w", "c", pads=[1] * 4), n("Add", "c z", "y")],
        {"x": [1, 3, 6, 6], "z": [4, 1, 6]},
        {"w": W((4, 3, 3, 3))},
    ),
    "gate": _around_conv([n("GlobalAveragePool", "c", "g"), n("Sigmoid", "g", "s"), n("Mul", "c s", "y")]),
    "softmax_channels": _around_conv([n("Softmax", "c", "y", axis=1)]),
    "softmax_rows": _around_conv([n("Softmax", "c", "y", axis=3)]),
    "slice": _around_conv(
        [n("Slice", "c s e a t", "y")], {"s": ints(-1, 0), "e": ints(-99, 4), "a": ints(1, 2), "t": ints(-1, 2)}
    ),
    "gather_channel": _around_conv([n("Gather", "c i", "y", axis=1)], {"i": ints(2, 0)}),
    "gather_one_channel": _around_conv([n("Gather", "c i", "y", axis=1)], {"i": np.array(-2)}),
    "tokens": _around_conv(
        [
            n("Reshape", "c s", "r"),
            n("Transpose", "r", "t", perm=[0, 2, 1]),
            n("Add", "t p", "a"),
            n("MatMul", "a k", "m"),
            n("Add", "a m", "b"),
            n("MatMul", "b k", "y"),
        ],
        {"s": ints(1, 4, -1), "p": W((1, 36, 4)), "k": W((4, 4))},
    ),
    "argmax": _around_conv([n("ArgMax", "c", "y", axis=1)], out_type=INT),
    "batch_norm": _around_conv(
        [n("BatchNormalization", "c s o m v", "y")], {k: np.abs(W((4,), i)) for i, k in enumerate("somv")}
    ),
    "layer_norm": _around_conv([n("LayerNormalization", "c s", "y")], {"s": W((6,))}),
    "instance_norm": _around_conv([n("InstanceNormalization", "c s o", "y")], {"s": W((4,)), "o": W((4,), 2)}),
    "pad_channels": _around_conv([n("Pad", "c p", "y")], {"p": ints(0, 1, 0, 2, 0, 0, 3, 0)}),
    "where": _around_conv([n("Greater", "c z", "g"), n("Where", "g c k", "y")], {"z": scalar(0), "k": W((4, 1, 1))}),
    "prelu": _around_conv([n("PRelu", "c k", "y")], {"k": W((4, 1, 1))}),
    "squeeze": _around_conv([n("GlobalAveragePool", "c", "g"), n("Squeeze", "g a", "y")], {"a": ints(2, 3)}),
    "matmul": _around_conv([n("MatMul", "c k", "y")], {"k": W((6, 5))}),
    "matmul_itself": _around_conv([n("Transpose", "c", "t", perm=[0, 1, 3, 2]), n("MatMul", "c t", "y")]),
    "topk": _around_conv([n("TopK", "c k", "y i", axis=1)], {"k": ints(2)}, outputs=2),
    "cumsum": _around_conv([n("CumSum", "c a", "y")], {"a": np.array(1)}),
    "expand": _around_conv([n("GlobalMaxPool", "c", "g"), n("Expand", "g s", "y")], {"s": ints(1, 4, 3, 3)}),
    "pow": _around_conv([n("Pow", "c k", "y")], {"k": scalar(2)}),
    "both_read": _around_conv(
        [n("Conv", "c k", "d"), n("ReduceMax", "c", "m", axes=[1]), n("Add", "d m", "y")], {"k": W((4, 4, 1, 1))}
    ),
    "output_twice": _around_conv([n("Identity", "c", "i"), n("Identity", "i", "y")]),
}

FLOAT: dict[str, Case] = {}
for _family in (
    CONVOLUTIONS,
    PRODUCTS,
    POOLING,
    FUNCTIONS,
    GELUS,
    ARITHMETIC,
    NORMALIZATIONS,
    REDUCTIONS,
    SHAPES,
    RESIZES,
    RECURRENT,
):
    assert not FLOAT.keys() & _family.keys(), FLOAT.keys() & _family.keys()
    FLOAT |= _family
FLOAT |= {f"conv_then_{name}": case_ for name, case_ in BEHIND_CONV.items()}


# ONNX Runtime's own integer average of "average_pool_ceil_include" is 8 steps from its float one.
INT8: dict[str, Case] = {
    **CONVOLUTIONS,
    **{
        name: PRODUCTS[name]
        for name in (
            "gemm",
            "gemm_turned",
            "gemm_no_bias",
            "gemm_bias_number",
            "matmul",
            "matmul_rank_3",
            "matmul_rank_4",
            "matmul_weights_by_batch",
            "matmul_bias",
            "matmul_bias_relu",
            "gemm_relu",
        )
    },
    **{
        name: case_
        for name, case_ in POOLING.items()
        if name.startswith(("max", "average", "global_average")) and name != "average_pool_ceil_include"
    },
    **{f"{op}_{how}": ARITHMETIC[f"{op}_{how}"] for op in ("add", "mul") for how in ("alike", "channel", "both")},
    **{
        name: FUNCTIONS[name] for name in ("hardswish", "hardsigmoid", "hard_sigmoid_alpha", "leakyrelu", "leaky_alpha")
    },
    **{
        name: SHAPES[name]
        for name in (
            "reshape",
            "flatten",
            "squeeze",
            "unsqueeze",
            "transpose",
            "transpose_rank_5",
            "transpose_plain",
            "concat",
            "concat_last",
            "split",
            "split_uneven",
            "slice",
            "slice_steps",
            "slice_negative",
            "slice_from_end",
        )
    },
    **{name: case_ for name, case_ in RESIZES.items() if name != "upsample"},
    "add_constant": case([n("Add", "x k", "y")], {"x": [1, 3, 4, 5]}, {"k": W((3, 1, 1))}),
    "mul_constant": case([n("Mul", "k x", "y")], {"x": [1, 3, 4, 5]}, {"k": W((3, 1, 1))}),
    "mul_number": case([n("Mul", "x k", "y")], {"x": [1, 3, 4, 5]}, {"k": scalar(3.7)}),
    "add_then_relu": case([n("Add", "x z", "a"), n("Relu", "a", "y")], {"x": [1, 3, 4, 5], "z": [1, 3, 4, 5]}),
    "add_then_six": case(
        [n("Add", "x z", "a"), n("Clip", "a low high", "y")],
        {"x": [1, 3, 4, 5], "z": [1, 3, 4, 5]},
        {"low": scalar(0), "high": scalar(6)},
    ),
    "add_large": case(
        [n("Mul", "z k", "m"), n("Add", "x m", "y")], {"x": [1, 3, 4, 5], "z": [1, 3, 4, 5]}, {"k": scalar(40)}
    ),
    "gate": case([n("HardSigmoid", "x", "g", alpha=1 / 6), n("Mul", "x g", "y")], {"x": [1, 3, 4, 5]}),
}

# What has no int8 form, or a faster one in float (a table, by XNNPACK).
IN_FLOAT = frozenset(
    {
        "matmul_weights_by_batch",
        "average_pool_uneven",
        "average_pool_ceil",
        "average_pool_relu",
        "hardswish",
        "hardsigmoid",
        "hard_sigmoid_alpha",
        "gate",
    }
)
