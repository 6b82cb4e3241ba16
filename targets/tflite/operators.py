"""ONNX operators in TFLite's words, one function for each kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .flatbuffer import Quantization, Tensor
from .lowering import Lowering, NoForm, Perm, Unit, common, identity, last

Lower = Callable[[Lowering, Unit], None]
OPERATORS: dict[str, Lower] = {}
SAME, VALID = 0, 1


def operator(*names: str) -> Callable[[Lower], Lower]:
    def register(function: Lower) -> Lower:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


# --- convolutions and products --------------------------------------------------------------------------------


@operator("Conv")
def _conv(low: Lowering, unit: Unit) -> None:
    node, shape = unit.node, low.shape(unit.node.input[0])
    rank = len(shape)
    if rank not in (3, 4):
        raise NoForm(f"a convolution over {rank - 2} dimensions")
    weight, scales = _weights(low, unit, 1)
    spatial = rank - 2
    kernel = weight.shape[2:]
    strides, dilations = (_ints(unit, key, [1] * spatial) for key in ("strides", "dilations"))
    group = int(unit.attributes.get("group", 1))
    pads = _pads(unit, shape[2:], kernel, strides, dilations)
    x = low.read(low.data(unit, 0), last(rank))
    if rank == 3:  # as a picture of one row
        x = _picture(low, unit, x)
        weight = weight[:, :, None, :]
        strides, dilations = [1, *strides], [1, *dilations]
        pads = [0, pads[0], 0, pads[1]]
    x, padding = _padded(low, unit, x, weight.shape[2:], strides, dilations, pads)
    bias = _bias(low, unit, 2, scales, weight.shape[0], x)
    options = {
        "padding": padding,
        "strideH": strides[0],
        "strideW": strides[1],
        "dilationHFactor": dilations[0],
        "dilationWFactor": dilations[1],
        "fusedActivationFunction": unit.activation,
    }
    channels = shape[1]
    made = _made(low, unit, rank)
    if group == channels and group > 1:
        multiplier = weight.shape[0] // group
        filters = _filter(
            low, node.input[1], weight.reshape(weight.shape[0], *weight.shape[2:])[None], (0, 2, 3, 1), scales, 3
        )
        low.add(
            "DEPTHWISE_CONV_2D", [x, filters, bias], [made], "DepthwiseConv2DOptions",
            {**options, "depthMultiplier": multiplier},
        )  # fmt: skip
    else:
        filters = _filter(low, node.input[1], weight, (0, 2, 3, 1), scales, 0)
        low.add("CONV_2D", [x, filters, bias], [made], "Conv2DOptions", options)
    _unpicture(low, unit, made, rank)


@operator("ConvTranspose")
def _conv_transpose(low: Lowering, unit: Unit) -> None:
    shape = low.shape(unit.node.input[0])
    if len(shape) != 4:
        raise NoForm(f"a transposed convolution over {len(shape) - 2} dimensions")
    if int(unit.attributes.get("group", 1)) != 1:
        raise NoForm("a transposed convolution in groups")
    if any(dilation != 1 for dilation in _ints(unit, "dilations", [1, 1])):
        raise NoForm("a transposed convolution with dilation")
    weight, scales = _weights(low, unit, 1)
    kernel, strides = weight.shape[2:], _ints(unit, "strides", [1, 1])
    out = low.shape(unit.node.output[0])
    full = [(shape[2 + i] - 1) * strides[i] + kernel[i] for i in range(2)]
    pads = _ints(unit, "pads", [0, 0, 0, 0])
    if unit.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        total = [max(full[i] - out[2 + i], 0) for i in range(2)]
        pads = [*(t // 2 for t in total), *(t - t // 2 for t in total)]
    x = low.read(low.data(unit, 0), last(4))
    bias = _bias(low, unit, 2, scales, weight.shape[1], x)
    filters = _filter(low, unit.node.input[1], weight, (1, 2, 3, 0), scales, 0)
    # The full answer; what the padding cuts away is sliced off, and what reaches beyond it is the bias alone.
    reach = [max(full[i], pads[i] + out[2 + i]) for i in range(2)]
    if any(reach[i] - full[i] >= strides[i] for i in range(2)):
        raise NoForm("an output padding of a whole stride")
    whole = (shape[0], *reach, weight.shape[1])
    exact = pads[:2] == [0, 0] and list(out[2:]) == reach
    made = low.result(unit, last(4))
    answer = made if exact else low.temporary(unit, whole, "whole")
    low.add(
        "TRANSPOSE_CONV",
        [low.numbers(whole, f"{unit.output}/whole_shape"), filters, x, bias],
        [answer],
        "TransposeConvOptions",
        {"padding": VALID, "strideH": strides[0], "strideW": strides[1]},
    )
    if not exact:
        _sliced(low, answer, made, [0, pads[0], pads[1], 0])


@operator("Gemm")
def _gemm(low: Lowering, unit: Unit) -> None:
    if (
        unit.attributes.get("transA")
        or unit.attributes.get("alpha", 1.0) != 1.0
        or unit.attributes.get("beta", 1.0) != 1.0
    ):
        raise NoForm("transA, alpha or beta")
    array = low.value(unit.node.input[1])
    if array is None:
        raise NoForm("its second factor is computed")
    _fully_connected(low, unit, out_first=bool(unit.attributes.get("transB", 0)))


@operator("MatMul")
def _matmul(low: Lowering, unit: Unit) -> None:
    second = low.value(unit.node.input[1])
    if second is not None and second.ndim == 2:
        _fully_connected(low, unit, out_first=False)
        return
    first, other = (low.read(low.data(unit, index)) for index in (0, 1))
    rank = max(len(first.shape), len(other.shape))
    if min(len(first.shape), len(other.shape)) < 2 or rank > 5:
        raise NoForm("a product of vectors")
    low.add("BATCH_MATMUL", [first, other], [low.result(unit)], "BatchMatMulOptions", {"adjX": False, "adjY": False})


def _fully_connected(low: Lowering, unit: Unit, out_first: bool) -> None:
    name = unit.node.input[1]
    array, scales = _weights(low, unit, 1)
    if not out_first:
        array = array.T
    x = low.read(low.data(unit, 0))
    filters = _filter(low, name, array, (0, 1), scales, 0)
    bias = _bias(low, unit, 2, scales, array.shape[0], x)
    made = low.result(unit)
    options = {"fusedActivationFunction": unit.activation, "keepNumDims": len(made.shape) > 2}
    low.add("FULLY_CONNECTED", [x, filters, bias], [made], "FullyConnectedOptions", options)


def _weights(low: Lowering, unit: Unit, index: int) -> tuple[np.ndarray, Quantization | None]:
    """Constant weights, integers with their scales in an int8 unit, else float."""
    name = unit.node.input[index]
    if unit.int8:
        source = low.integers[name]
        if source not in low.constants:
            raise NoForm("its weights are computed")
        return low.constants[source], low.grids[source]
    array = low.value(name)
    if array is None:
        raise NoForm("its weights are computed")
    return array, None


def _filter(
    low: Lowering, name: str, array: np.ndarray, order: Sequence[int], scales: Quantization | None, axis: int
) -> Tensor:
    if scales is not None:
        count = array.transpose(order).shape[axis]
        scale = np.broadcast_to(scales.scale.reshape(-1), (count,))
        scales = Quantization(scale=scale, zero_point=np.zeros(count, np.int64), axis=axis)
    return low.constant(array.transpose(order), name, scales)


def _bias(low: Lowering, unit: Unit, index: int, scales: Quantization | None, count: int, x: Tensor) -> Tensor:
    """The bias, int32 of scale s_in·s_w in an int8 unit; zeros where the node has none."""
    name = unit.node.input[index] if len(unit.node.input) > index else ""
    if scales is None:
        array = low.value(name) if name else np.zeros(count, np.float32)
        if array is None:
            raise NoForm("its bias is computed")
        return low.constant(np.broadcast_to(array.reshape(-1), (count,)), name or f"{unit.output}/bias")
    assert x.quantization is not None
    scale = np.float64(x.quantization.scale) * np.broadcast_to(scales.scale.reshape(-1), (count,))
    integers = np.zeros(count, np.int32)
    if name:
        source = low.integers.get(name)
        held = low.constants.get(source) if source is not None else None
        if held is None:
            raise NoForm("its bias is computed")
        integers = np.broadcast_to(held.reshape(-1), (count,)).astype(np.int32)
    grid = Quantization(scale=scale.astype(np.float32), zero_point=np.zeros(count, np.int64), axis=0)
    return low.constant(integers, name or f"{unit.output}/bias", grid)


# --- windows ----------------------------------------------------------------------------------------------------


@operator("MaxPool", "AveragePool")
def _pool(low: Lowering, unit: Unit) -> None:
    shape = low.shape(unit.node.input[0])
    rank = len(shape)
    if rank not in (3, 4):
        raise NoForm(f"pooling over {rank - 2} dimensions")
    if len([name for name in unit.node.output if name]) > 1:
        raise NoForm("the places of its maxima")
    spatial = rank - 2
    kernel = _ints(unit, "kernel_shape", [])
    strides, dilations = (_ints(unit, key, [1] * spatial) for key in ("strides", "dilations"))
    if any(step != 1 for step in dilations):
        raise NoForm("pooling with dilation")
    pads = _pads(unit, shape[2:], kernel, strides, dilations)
    average = unit.node.op_type == "AveragePool"
    out = low.shape(unit.node.output[0])[2:]
    if unit.attributes.get("ceil_mode", 0):
        if average and any(
            (out[i] - 1) * strides[i] + kernel[i] > shape[2 + i] + pads[i] + pads[spatial + i] for i in range(spatial)
        ):
            raise NoForm("an average over a window that reaches beyond its padding (ceil_mode)")
        for i in range(spatial):
            beyond = (out[i] - 1) * strides[i] + kernel[i] - shape[2 + i] - pads[i]
            pads[spatial + i] = max(pads[spatial + i], beyond)
    x = low.read(low.data(unit, 0), last(rank))
    if rank == 3:
        x = _picture(low, unit, x)
        kernel, strides, pads = [1, *kernel], [1, *strides], [0, pads[0], 0, pads[1]]
    padding = _same(x.shape[1:3], kernel, strides, [1, 1], pads)
    counts_padding = average and bool(unit.attributes.get("count_include_pad", 0))
    if padding is None or (padding == SAME and counts_padding and any(pads)):
        if average and not counts_padding:
            raise NoForm("an average that leaves out an uneven padding")
        x = _pad(low, unit, x, pads, 0.0 if average else None)
        padding = VALID
    options = {
        "padding": padding, "strideH": strides[0], "strideW": strides[1],
        "filterHeight": kernel[0], "filterWidth": kernel[1], "fusedActivationFunction": unit.activation,
    }  # fmt: skip
    made = _made(low, unit, rank)
    kind = "AVERAGE_POOL_2D" if average else "MAX_POOL_2D"
    low.add(kind, [x], [made], "Pool2DOptions", options)
    _unpicture(low, unit, made, rank)


@operator("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(low: Lowering, unit: Unit) -> None:
    rank = len(low.shape(unit.node.input[0]))
    x = low.read(low.data(unit, 0), last(rank))
    kind = "MEAN" if unit.node.op_type == "GlobalAveragePool" else "REDUCE_MAX"
    axes = low.numbers(range(1, rank - 1), f"{unit.output}/axes")
    low.add(kind, [x, axes], [low.result(unit, last(rank))], "ReducerOptions", {"keepDims": True})


def _made(low: Lowering, unit: Unit, rank: int) -> Tensor:
    """Where a 4-D operator answers: the unit's result, or a picture of one row that becomes it."""
    if rank == 4:
        return low.result(unit, last(4))
    batch, channels, length = low.shape(unit.output)
    return low.temporary(unit, (batch, 1, length, channels), "row")


def _unpicture(low: Lowering, unit: Unit, made: Tensor, rank: int) -> None:
    if rank == 3:
        low.reshape(made, low.result(unit, last(3)))


def _picture(low: Lowering, unit: Unit, x: Tensor) -> Tensor:
    batch, length, channels = x.shape
    return low.reshape(x, low.temporary(unit, (batch, 1, length, channels), "picture", x))


def _pads(
    unit: Unit, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Begins, then ends."""
    auto = unit.attributes.get("auto_pad", b"NOTSET")
    spatial = len(kernel)
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        total = [
            max((-(-sizes[i] // strides[i]) - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - sizes[i], 0)
            for i in range(spatial)
        ]
        small = [t // 2 for t in total]
        large = [t - t // 2 for t in total]
        return [*small, *large] if auto == b"SAME_UPPER" else [*large, *small]
    if auto == b"VALID":
        return [0] * (2 * spatial)
    return _ints(unit, "pads", [0] * (2 * spatial))


def _same(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: Sequence[int]
) -> int | None:
    """TFLite's word for a padding; None where it has none."""
    if not any(pads):
        return VALID
    half = len(kernel)
    for i in range(half):
        span = (kernel[i] - 1) * dilations[i] + 1
        total = max((-(-sizes[i] // strides[i]) - 1) * strides[i] + span - sizes[i], 0)
        if (pads[i], pads[half + i]) != (total // 2, total - total // 2):
            return None
    return SAME


def _padded(
    low: Lowering,
    unit: Unit,
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> tuple[Tensor, int]:
    """What a convolution reads, and its padding: TFLite's own where that is the same, else a PAD before it."""
    padding = _same(x.shape[1:3], kernel, strides, dilations, pads)
    if padding is not None:
        return x, padding
    return _pad(low, unit, x, pads, 0.0), VALID


def _pad(low: Lowering, unit: Unit, x: Tensor, pads: Sequence[int], value: float | None) -> Tensor:
    """A picture with rows and columns around it: of `value`, or of the lowest number there is."""
    if any(pad < 0 for pad in pads):
        raise NoForm("a negative padding")
    around = np.array([[0, 0], [pads[0], pads[2]], [pads[1], pads[3]], [0, 0]], np.int32)
    shape = tuple(int(size + sum(pair)) for size, pair in zip(x.shape, around, strict=True))
    made = low.temporary(unit, shape, "padded", x)
    numbers = low.constant(around, f"{unit.output}/pads")
    if value == 0.0:
        return low.add("PAD", [x, numbers], [made], "PadOptions")
    lowest = np.array(np.iinfo(np.int8).min if x.dtype == np.int8 else np.finfo(np.float32).min, x.dtype)
    return low.add(
        "PADV2", [x, numbers, low.constant(lowest, f"{unit.output}/lowest", x.quantization)], [made], "PadV2Options"
    )


# --- elementwise --------------------------------------------------------------------------------------------------

_UNARY = {
    "Relu": "RELU", "Sigmoid": "LOGISTIC", "Tanh": "TANH", "HardSwish": "HARD_SWISH", "Exp": "EXP", "Log": "LOG",
    "Sqrt": "SQRT", "Abs": "ABS", "Neg": "NEG", "Sin": "SIN", "Cos": "COS", "Floor": "FLOOR", "Ceil": "CEIL",
    "Round": "ROUND", "Elu": "ELU", "Not": "LOGICAL_NOT", "Sign": "SIGN",
}  # fmt: skip
_TABLES = {"HARD_SWISH": "HardSwishOptions", "EXP": "ExpOptions", "ABS": "AbsOptions", "NEG": "NegOptions", "COS": "CosOptions", "SIGN": "SignOptions"}  # fmt: skip


@operator(*_UNARY)
def _unary(low: Lowering, unit: Unit) -> None:
    if unit.node.op_type == "Elu" and unit.attributes.get("alpha", 1.0) != 1.0:
        raise NoForm("an alpha other than 1")
    name = low.data(unit, 0)
    perm = low.perm(name)
    kind = _UNARY[unit.node.op_type]
    low.add(kind, [low.read(name, perm)], [low.result(unit, perm)], _TABLES.get(kind, ""))


@operator("LeakyRelu")
def _leaky(low: Lowering, unit: Unit) -> None:
    name = low.data(unit, 0)
    perm = low.perm(name)
    alpha = float(unit.attributes.get("alpha", 0.01))
    low.add("LEAKY_RELU", [low.read(name, perm)], [low.result(unit, perm)], "LeakyReluOptions", {"alpha": alpha})


@operator("PRelu")
def _prelu(low: Lowering, unit: Unit) -> None:
    name, rank = low.data(unit, 0), len(low.shape(unit.node.input[0]))
    perm = last(rank)
    slope = low.value(unit.node.input[1])
    if slope is None or rank < 3:
        raise NoForm("a slope that is computed, or no channels")
    full = slope.reshape([1] * (rank - slope.ndim) + list(slope.shape)).transpose(perm)[0]
    grid = low.grids.get(low.integers.get(unit.node.input[1], "")) if unit.int8 else None
    if unit.int8:
        held = low.constants[low.integers[unit.node.input[1]]]
        full = held.reshape([1] * (rank - held.ndim) + list(held.shape)).transpose(perm)[0]
    low.add("PRELU", [low.read(name, perm), low.constant(full, unit.node.input[1], grid)], [low.result(unit, perm)])


@operator("Clip")
def _clip(low: Lowering, unit: Unit) -> None:
    limits = low.limits(unit.node)
    if limits is None:
        raise NoForm("limits that are computed")
    name = low.data(unit, 0)
    perm = low.perm(name)
    x, made = low.read(name, perm), low.result(unit, perm)
    if limits == (0.0, 6.0):
        low.add("RELU6", [x], [made])
        return
    if unit.int8:
        raise NoForm("limits other than a Relu's, in integers")
    steps = [(kind, end) for kind, end in (("MAXIMUM", limits[0]), ("MINIMUM", limits[1])) if np.isfinite(end)]
    for place, (kind, end) in enumerate(steps):
        out = made if place == len(steps) - 1 else low.temporary(unit, x.shape, "above")
        x = low.add(
            kind, [x, low.constant(np.array(end, x.dtype), f"{unit.output}/{kind}")], [out], "MaximumMinimumOptions"
        )
    if not steps:
        low.reshape(x, made)


@operator("HardSigmoid")
def _hard_sigmoid(low: Lowering, unit: Unit) -> None:
    """α·x + β, clipped to [0, 1]: a product with a sum, and RELU_0_TO_1."""
    name = low.data(unit, 0)
    perm = low.perm(name)
    x = low.read(name, perm)
    alpha, beta = (np.array(unit.attributes.get(k, d), np.float32) for k, d in (("alpha", 0.2), ("beta", 0.5)))
    sloped = low.temporary(unit, x.shape, "sloped")
    raised = low.temporary(unit, x.shape, "raised")
    low.add("MUL", [x, low.constant(alpha, f"{unit.output}/alpha")], [sloped], "MulOptions")
    low.add("ADD", [sloped, low.constant(beta, f"{unit.output}/beta")], [raised], "AddOptions")
    low.add("RELU_0_TO_1", [raised], [low.result(unit, perm)])


_BINARY = {
    "Add": ("ADD", "AddOptions"), "Sub": ("SUB", "SubOptions"), "Mul": ("MUL", "MulOptions"),
    "Div": ("DIV", "DivOptions"), "Pow": ("POW", "PowOptions"), "Max": ("MAXIMUM", "MaximumMinimumOptions"),
    "Min": ("MINIMUM", "MaximumMinimumOptions"), "Greater": ("GREATER", "GreaterOptions"),
    "GreaterOrEqual": ("GREATER_EQUAL", "GreaterEqualOptions"), "Less": ("LESS", "LessOptions"),
    "LessOrEqual": ("LESS_EQUAL", "LessEqualOptions"), "Equal": ("EQUAL", "EqualOptions"),
    "And": ("LOGICAL_AND", "LogicalAndOptions"), "Or": ("LOGICAL_OR", "LogicalOrOptions"),
}  # fmt: skip


@operator(*_BINARY)
def _binary(low: Lowering, unit: Unit) -> None:
    if len(unit.node.input) != 2:
        raise NoForm(f"{len(unit.node.input)} operands")
    kind, table = _BINARY[unit.node.op_type]
    names = [low.data(unit, index) for index in (0, 1)]
    perm = _joint(low, names, len(low.shape(unit.output)))
    operands = [_operand(low, name, perm) for name in names]
    options = {"fusedActivationFunction": unit.activation} if kind in ("ADD", "SUB", "MUL", "DIV") else {}
    low.add(kind, list(operands), [low.result(unit, perm)], table, options)


@operator("Where")
def _where(low: Lowering, unit: Unit) -> None:
    perm = _joint(low, list(unit.node.input), len(low.shape(unit.output)))
    operands = [_operand(low, name, perm) for name in unit.node.input]
    low.add("SELECT_V2", list(operands), [low.result(unit, perm)], "SelectV2Options")


def _joint(low: Lowering, names: Sequence[str], rank: int) -> Perm:
    """The order in which values of that rank meet."""
    perms = [low.perm(name) for name in names if len(low.shape(name)) == rank and low.view(name).tensor.data is None]
    return common(perms) if perms else identity(rank)


def _operand(low: Lowering, name: str, perm: Perm) -> Tensor:
    """A value to be broadcast against others stored in that order; one of fewer axes gets those in front."""
    shape, rank = low.shape(name), len(perm)
    missing = rank - len(shape)
    if not missing:
        return low.read(name, perm)
    view = low.view(name)
    if perm == identity(rank) or int(np.prod(shape)) == 1:
        return low.read(name)
    array = view.tensor.data
    if array is not None:
        return low.constant(array.reshape([1] * missing + list(shape)).transpose(perm), name, view.tensor.quantization)
    plain = low.read(name)
    whole = Tensor(
        name=f"{name}/whole", shape=(1,) * missing + tuple(shape), dtype=plain.dtype, quantization=plain.quantization
    )
    low.reshape(plain, whole)
    made = Tensor(
        name=f"{name}/ordered",
        shape=tuple(whole.shape[a] for a in perm),
        dtype=plain.dtype,
        quantization=plain.quantization,
    )
    return low.add("TRANSPOSE", [whole, low.numbers(perm, f"{name}/order")], [made], "TransposeOptions")


@operator("Gelu")
def _gelu(low: Lowering, unit: Unit) -> None:
    name = low.data(unit, 0)
    perm = low.perm(name)
    approximate = unit.attributes.get("approximate", b"none") == b"tanh"
    low.add("GELU", [low.read(name, perm)], [low.result(unit, perm)], "GeluOptions", {"approximate": approximate})


@operator("Reciprocal")
def _reciprocal(low: Lowering, unit: Unit) -> None:
    name = low.data(unit, 0)
    perm = low.perm(name)
    one = low.constant(np.array(1, np.float32), f"{unit.output}/one")
    low.add("DIV", [one, low.read(name, perm)], [low.result(unit, perm)], "DivOptions")


@operator("BatchNormalization")
def _batch_norm(low: Lowering, unit: Unit) -> None:
    rank = len(low.shape(unit.node.input[0]))
    arrays = [low.value(name) for name in unit.node.input[1:5]]
    if any(array is None for array in arrays):
        raise NoForm("numbers that are computed")
    gain, offset, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    factor = gain / np.sqrt(variance + unit.attributes.get("epsilon", 1e-5))
    perm = last(rank)
    around = [1] * (rank - 1) + [-1] if rank > 2 else [1, -1]
    x = low.read(low.data(unit, 0), perm)
    scaled = low.temporary(unit, x.shape, "scaled")
    low.add(
        "MUL",
        [x, low.constant(factor.astype(np.float32).reshape(around), f"{unit.output}/factor")],
        [scaled],
        "MulOptions",
    )
    shift = (offset - mean * factor).astype(np.float32).reshape(around)
    low.add("ADD", [scaled, low.constant(shift, f"{unit.output}/shift")], [low.result(unit, perm)], "AddOptions")


@operator("Cast")
def _cast(low: Lowering, unit: Unit) -> None:
    name = unit.node.input[0]
    perm = low.perm(name)
    low.add("CAST", [low.read(name, perm)], [low.result(unit, perm)], "CastOptions")


@operator("Identity", "Dropout")
def _identity(low: Lowering, unit: Unit) -> None:
    name = low.data(unit, 0)
    low.views[unit.output] = low.view(name)
    if unit.int8:
        _reordered(low, unit, low.view(name).tensor, low.perm(name))


# --- sums over axes, and what is made of them -----------------------------------------------------------------------

_REDUCTIONS = {
    "ReduceMean": "MEAN", "ReduceMax": "REDUCE_MAX", "ReduceMin": "REDUCE_MIN", "ReduceSum": "SUM",
    "ReduceProd": "REDUCE_PROD",
}  # fmt: skip


@operator(*_REDUCTIONS)
def _reduce(low: Lowering, unit: Unit) -> None:
    name = low.data(unit, 0)
    rank = len(low.shape(unit.node.input[0]))
    axes = _axes(low, unit, list(range(rank)))
    keep = bool(unit.attributes.get("keepdims", 1))
    perm = low.perm(name)
    x = low.read(name, perm)
    numbers = low.numbers(sorted(perm.index(axis) for axis in axes), f"{unit.output}/axes")
    left = [axis for axis in perm if axis not in axes]
    new = perm if keep else tuple(sorted(left).index(axis) for axis in left)
    made = low.result(unit, new)
    low.add(_REDUCTIONS[unit.node.op_type], [x, numbers], [made], "ReducerOptions", {"keepDims": keep})


@operator("ArgMax", "ArgMin")
def _arg(low: Lowering, unit: Unit) -> None:
    if unit.attributes.get("select_last_index"):
        raise NoForm("the last of equal maxima")
    name, rank = unit.node.input[0], len(low.shape(unit.node.input[0]))
    axis = int(unit.attributes.get("axis", 0)) % rank
    x = low.read(name)
    kind = "ARG_MAX" if unit.node.op_type == "ArgMax" else "ARG_MIN"
    shape = tuple(size for place, size in enumerate(x.shape) if place != axis)
    keep = bool(unit.attributes.get("keepdims", 1))
    made = low.result(unit)
    found = Tensor(name=f"{unit.output}/found", shape=shape, dtype=np.dtype(np.int64)) if keep else made
    low.add(
        kind,
        [x, low.numbers([axis], f"{unit.output}/axis")],
        [found],
        "ArgMaxOptions" if kind == "ARG_MAX" else "ArgMinOptions",
        {"outputType": 4},
    )
    if keep:
        low.reshape(found, made)


@operator("Softmax")
def _softmax(low: Lowering, unit: Unit) -> None:
    name, shape = low.data(unit, 0), low.shape(unit.node.input[0])
    rank = len(shape)
    if low.opset < 13:
        axis = int(unit.attributes.get("axis", 1)) % rank
        if any(size != 1 for size in shape[axis + 1 :]):
            raise NoForm("all axes from its own on, before opset 13")
    axis = int(unit.attributes.get("axis", -1 if low.opset >= 13 else 1)) % rank
    perm = (*(a for a in range(rank) if a != axis), axis)
    if low.perm(name)[-1] == axis:
        perm = low.perm(name)
    low.add("SOFTMAX", [low.read(name, perm)], [low.result(unit, perm)], "SoftmaxOptions", {"beta": 1.0})


@operator("LayerNormalization")
def _layer_norm(low: Lowering, unit: Unit) -> None:
    """Its sums, differences and products one by one."""
    if len([name for name in unit.node.output if name]) > 1:
        raise NoForm("its mean and deviation as outputs")
    shape = low.shape(unit.node.input[0])
    rank = len(shape)
    axis = int(unit.attributes.get("axis", -1)) % rank
    axes = low.numbers(range(axis, rank), f"{unit.output}/axes")
    x = low.read(low.data(unit, 0))
    small = (*shape[:axis], *[1] * (rank - axis))

    def step(
        kind: str, inputs: list[Tensor | None], size: Sequence[int], what: str, table: str = "", **options: Any
    ) -> Tensor:
        return low.add(kind, inputs, [low.temporary(unit, size, what)], table, options)

    mean = step("MEAN", [x, axes], small, "mean", "ReducerOptions", keepDims=True)
    apart = step("SUB", [x, mean], shape, "apart", "SubOptions")
    square = step("MUL", [apart, apart], shape, "square", "MulOptions")
    variance = step("MEAN", [square, axes], small, "variance", "ReducerOptions", keepDims=True)
    epsilon = low.constant(np.array(unit.attributes.get("epsilon", 1e-5), np.float32), f"{unit.output}/epsilon")
    raised = step("ADD", [variance, epsilon], small, "raised", "AddOptions")
    inverse = step("RSQRT", [raised], small, "inverse")
    gain, offset = (unit.node.input[i] if len(unit.node.input) > i else "" for i in (1, 2))
    made = low.result(unit)
    scaled = made if not gain and not offset else low.temporary(unit, shape, "normal")
    low.add("MUL", [apart, inverse], [scaled], "MulOptions")
    if gain:
        grown = made if not offset else low.temporary(unit, shape, "grown")
        scaled = low.add("MUL", [scaled, low.read(gain)], [grown], "MulOptions")
    if offset:
        low.add("ADD", [scaled, low.read(offset)], [made], "AddOptions")


# --- what only moves numbers ------------------------------------------------------------------------------------------


@operator("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(low: Lowering, unit: Unit) -> None:
    low.reshape(low.read(low.data(unit, 0)), low.result(unit))


@operator("Transpose")
def _transpose(low: Lowering, unit: Unit) -> None:
    """Nothing but another name for the axes; who needs them in order asks for it."""
    name = low.data(unit, 0)
    rank = len(low.shape(unit.node.input[0]))
    order = _ints(unit, "perm", list(range(rank))[::-1])
    view = low.view(name)
    # Axis j of the input is axis order.index(j) of the output.
    _reordered(low, unit, view.tensor, tuple(order.index(axis) for axis in view.perm))


def _reordered(low: Lowering, unit: Unit, tensor: Tensor, perm: Perm) -> None:
    low.store(unit.output, tensor, perm)


@operator("Concat")
def _concat(low: Lowering, unit: Unit) -> None:
    names = [low.data(unit, index) for index in range(len(unit.node.input))]
    rank = len(low.shape(unit.output))
    perm = _joint(low, names, rank)
    axis = perm.index(int(unit.attributes["axis"]) % rank)
    parts: list[Tensor | None] = [low.read(name, perm) for name in names]
    low.add("CONCATENATION", parts, [low.result(unit, perm)], "ConcatenationOptions", {"axis": axis})


@operator("Split")
def _split(low: Lowering, unit: Unit) -> None:
    name, rank = low.data(unit, 0), len(low.shape(unit.node.input[0]))
    perm = low.perm(name)
    axis = int(unit.attributes.get("axis", 0)) % rank
    outputs = [output for output in unit.node.output]
    lengths = [low.shape(output)[axis] for output in outputs]
    made = []
    for output in outputs:
        target = output
        if unit.int8:
            quantizer = low.only_reader(output)
            assert quantizer is not None
            low.done.add(id(quantizer))
            target = quantizer.output[0]
            low.grids[target] = low.grid(quantizer)
            low.shapes.setdefault(target, low.shape(output))
        made.append(low.result(unit, perm, target))
    numbers = low.numbers(lengths, f"{name}/lengths")
    where = low.numbers(np.array(perm.index(axis)), f"{name}/axis")
    low.add("SPLIT_V", [low.read(name, perm), numbers, where], made, "SplitVOptions", {"numSplits": len(made)})


@operator("Slice")
def _slice(low: Lowering, unit: Unit) -> None:
    name, shape = low.data(unit, 0), low.shape(unit.node.input[0])
    rank, perm = len(shape), low.perm(low.data(unit, 0))

    def given(index: int, key: str) -> list[int] | None:
        if low.opset < 10:
            return list(unit.attributes[key]) if key in unit.attributes else None
        if len(unit.node.input) <= index or not unit.node.input[index]:
            return None
        array = low.value(unit.node.input[index])
        if array is None:
            raise NoForm("ends that are computed")
        return [int(number) for number in array.reshape(-1)]

    starts, ends = given(1, "starts"), given(2, "ends")
    assert starts is not None and ends is not None
    axes = given(3, "axes") or list(range(len(starts)))
    steps = given(4, "steps") or [1] * len(starts)
    begin, end, stride = [0] * rank, list(shape), [1] * rank
    for axis, a, b, step in zip(axes, starts, ends, steps, strict=True):
        axis %= rank
        begin[axis], end[axis], stride[axis] = *slice(a, b, step).indices(shape[axis])[:2], step
    mask = sum(1 << place for place, axis in enumerate(perm) if stride[axis] < 0 and end[axis] < 0)
    numbers: list[Tensor | None] = [
        low.numbers([values[axis] for axis in perm], f"{unit.output}/{what}")
        for values, what in ((begin, "begin"), (end, "end"), (stride, "stride"))
    ]
    options = {"beginMask": 0, "endMask": mask, "ellipsisMask": 0, "newAxisMask": 0, "shrinkAxisMask": 0}
    low.add("STRIDED_SLICE", [low.read(name, perm), *numbers], [low.result(unit, perm)], "StridedSliceOptions", options)


def _sliced(low: Lowering, x: Tensor, made: Tensor, begin: Sequence[int]) -> None:
    numbers = [low.numbers(values, f"{made.name}/{what}") for values, what in ((begin, "begin"), (made.shape, "size"))]
    low.add("SLICE", [x, *numbers], [made], "SliceOptions")


@operator("Gather")
def _gather(low: Lowering, unit: Unit) -> None:
    rank = len(low.shape(unit.node.input[0]))
    axis = int(unit.attributes.get("axis", 0)) % rank
    name = low.data(unit, 0)
    size = low.shape(unit.node.input[0])[axis]
    places = low.value(unit.node.input[1])
    if places is not None:
        wrapped = np.where(places < 0, places + size, places).astype(np.int32)
        where = low.constant(wrapped, unit.node.input[1])
    else:
        where = low.read(unit.node.input[1])
    low.add("GATHER", [low.read(name), where], [low.result(unit)], "GatherOptions", {"axis": axis, "batchDims": 0})


@operator("Expand")
def _expand(low: Lowering, unit: Unit) -> None:
    shape = low.shape(unit.output)
    x = low.read(low.data(unit, 0))
    low.add("BROADCAST_TO", [x, low.numbers(shape, f"{unit.output}/shape")], [low.result(unit)], "BroadcastToOptions")


@operator("Tile")
def _tile(low: Lowering, unit: Unit) -> None:
    times = low.value(unit.node.input[1])
    if times is None:
        raise NoForm("repeats that are computed")
    low.add(
        "TILE",
        [low.read(low.data(unit, 0)), low.numbers(times, f"{unit.output}/times")],
        [low.result(unit)],
        "TileOptions",
    )


@operator("Pad")
def _pad_node(low: Lowering, unit: Unit) -> None:
    name, rank = low.data(unit, 0), len(low.shape(unit.node.input[0]))
    mode = unit.attributes.get("mode", b"constant")
    if low.opset < 11:
        pads, value = list(unit.attributes["pads"]), float(unit.attributes.get("value", 0.0))
    else:
        held = low.value(unit.node.input[1])
        fill = low.value(unit.node.input[2]) if len(unit.node.input) > 2 and unit.node.input[2] else np.zeros(())
        if held is None or fill is None or (len(unit.node.input) > 3 and unit.node.input[3]):
            raise NoForm("a padding that is computed, or axes")
        pads, value = [int(pad) for pad in held], float(fill.reshape(()))
    if any(pad < 0 for pad in pads):
        raise NoForm("a negative padding")
    perm = low.perm(name)
    around = np.array([[pads[axis], pads[rank + axis]] for axis in perm], np.int32)
    x, made = low.read(name, perm), low.result(unit, perm)
    numbers = low.constant(around, f"{unit.output}/pads")
    if mode == b"reflect":
        low.add("MIRROR_PAD", [x, numbers], [made], "MirrorPadOptions", {"mode": 0})
    elif mode != b"constant":
        raise NoForm(f"mode {mode.decode()}")
    elif value == 0.0:
        low.add("PAD", [x, numbers], [made], "PadOptions")
    elif unit.int8:
        raise NoForm("a padding with other numbers than zero, in integers")
    else:
        low.add(
            "PADV2",
            [x, numbers, low.constant(np.array(value, np.float32), f"{unit.output}/value")],
            [made],
            "PadV2Options",
        )


@operator("Resize", "Upsample")
def _resize(low: Lowering, unit: Unit) -> None:
    shape, out = low.shape(unit.node.input[0]), low.shape(unit.node.output[0])
    if len(shape) != 4 or shape[:2] != out[:2]:
        raise NoForm("other axes than height and width")
    mode = unit.attributes.get("mode", b"nearest")
    by = unit.attributes.get("coordinate_transformation_mode", b"half_pixel")
    if unit.node.op_type == "Upsample":
        by = b"asymmetric"
    x, made = low.read(low.data(unit, 0), last(4)), low.result(unit, last(4))
    size = low.numbers(out[2:], f"{unit.output}/size")
    options = {"alignCorners": by == b"align_corners", "halfPixelCenters": by in (b"half_pixel", b"pytorch_half_pixel")}
    if mode == b"linear":
        if by == b"pytorch_half_pixel" and 1 in out[2:]:
            raise NoForm("pytorch_half_pixel to a single row or column")
        if by not in (b"half_pixel", b"pytorch_half_pixel", b"align_corners", b"asymmetric"):
            raise NoForm(f"coordinates by {by.decode()}")
        low.add("RESIZE_BILINEAR", [x, size], [made], "ResizeBilinearOptions", options)
        return
    if mode != b"nearest":
        raise NoForm(f"mode {mode.decode()}")
    rounding = unit.attributes.get("nearest_mode", b"round_prefer_floor" if unit.node.op_type == "Resize" else b"floor")
    whole = all(out[i] % shape[i] == 0 for i in (2, 3))
    # A whole factor reads each pixel as often, whichever way halves are rounded, unless it rounds whole pixels up.
    if (
        whole
        and by == b"asymmetric"
        and rounding == b"floor"
        or whole
        and by == b"half_pixel"
        and rounding.startswith(b"round")
    ):
        options = {"alignCorners": False, "halfPixelCenters": False}
    elif by == b"asymmetric" and rounding == b"floor":
        options = {"alignCorners": False, "halfPixelCenters": False}
    elif by == b"half_pixel" and rounding == b"floor":
        options = {"alignCorners": False, "halfPixelCenters": True}
    else:
        raise NoForm(f"nearest by {by.decode()}, {rounding.decode()}")
    low.add("RESIZE_NEAREST_NEIGHBOR", [x, size], [made], "ResizeNearestNeighborOptions", options)


@operator("DepthToSpace", "SpaceToDepth")
def _blocks(low: Lowering, unit: Unit) -> None:
    block = int(unit.attributes["blocksize"])
    x, made = low.read(low.data(unit, 0), last(4)), low.result(unit, last(4))
    if unit.node.op_type == "DepthToSpace":
        if unit.attributes.get("mode", b"DCR") != b"DCR":
            raise NoForm("mode CRD")
        low.add("DEPTH_TO_SPACE", [x], [made], "DepthToSpaceOptions", {"blockSize": block})
    else:
        low.add("SPACE_TO_DEPTH", [x], [made], "SpaceToDepthOptions", {"blockSize": block})


def _ints(unit: Unit, key: str, default: Sequence[int]) -> list[int]:
    return [int(number) for number in unit.attributes.get(key, default)]


def _axes(low: Lowering, unit: Unit, default: Sequence[int]) -> list[int]:
    """Axes by attribute or by input, counted from the front."""
    rank = len(low.shape(unit.node.input[0]))
    if "axes" in unit.attributes:
        return [axis % rank for axis in _ints(unit, "axes", [])]
    if len(unit.node.input) > 1 and unit.node.input[1]:
        array = low.value(unit.node.input[1])
        if array is None:
            raise NoForm("axes that are computed")
        if array.size:
            return [int(axis) % rank for axis in array.reshape(-1)]
    return list(default)
