"""Weights as integers, arithmetic as it was: 8 bits a channel anywhere, 4 bits a block where a runtime multiplies so.

In 8 bits a weight is written as Cast and Mul, which ONNX Runtime folds into float when it loads the model and OpenVINO
keeps as compressed weights. (Behind a DequantizeLinear ONNX Runtime would quantize the activations of a MatMul too, and
restore the weights of a Conv anew in each run: docs/architecture.md.) Rows of a table are looked up as integers.
In 4 bits a matrix becomes the operand of MatMulNBits, which both runtimes read in any opset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgepack.device import BLOCKS
from edgepack.errors import UnsupportedOperator
from edgepack.model import Model
from edgepack.passes import PassResult
from edgepack.passes.blocks import Layout, Rounded, Rounding, nearest
from edgepack.passes.edits import MICROSOFT, bias_of, drop, initializer, replace
from edgepack.passes.weights import Weight, Weights, find_weights, matrix_of
from edgepack.target import ACTIVATION_GROUP, Scheme

_BYTE = Layout(bits=8)
# MatMulNBits multiplies in float, or (4) with activations rounded to 8 bits in the same blocks.
_FLOAT_LEVEL, _INT8_LEVEL = 0, 4


def store_in_8_bits(
    model: Model, scheme: Scheme, rounding: Rounding = nearest, moments: Mapping[str, np.ndarray] | None = None
) -> PassResult:
    """Every weight in int8 with a scale a channel; the arithmetic stays float.

    Args:
        moments: second moments [in, in] of a layer's input by the weight's name, for `rounding`.

    Raises:
        UnsupportedOperator: there is no weight to store so; it says why.
    """
    result = model.clone()
    weights = find_weights(result)
    refuse_none(weights, "w8")
    for weight in weights.found:
        compress(result.ir.graph, weight, scheme, rounding, (moments or {}).get(weight.name))
    result.ir.metadata_props[ACTIVATION_GROUP] = "0"
    note = f"{len(weights.found)} weights in 8 bits, arithmetic in float{words(weights.left_float)}"
    return PassResult(model=result, note=note, figures={"int8": float(len(weights.found))})


def store_in_4_bits(
    model: Model,
    scheme: Scheme,
    layout: Layout,
    *,
    int8_activations: bool,
    rounding: Rounding = nearest,
    moments: Mapping[str, np.ndarray] | None = None,
) -> PassResult:
    """Matrices in blocks of 4 bits, every other weight in 8.

    Args:
        layout: of 4 bits; its block is one of `edgepack.device.BLOCKS`.
        int8_activations: let the kernel round activations to 8 bits in the same blocks, which is far below what
            4 bits do to the weights, and faster where there are such kernels.
        moments: second moments [in, in] of a layer's input by the weight's name, for `rounding`.

    Raises:
        UnsupportedOperator: there is no matrix to store so; it says why.
    """
    assert layout.bits == 4 and layout.block in BLOCKS
    result = model.clone()
    graph = result.ir.graph
    weights = find_weights(result)
    counts: Counter[str] = Counter()
    level = _INT8_LEVEL if int8_activations else _FLOAT_LEVEL
    for weight in weights.found:
        moment = (moments or {}).get(weight.name)
        matrix = matrix_of(weight, graph)
        if matrix is not None and matrix.shape[1] >= layout.block:
            _write_nbits(graph, weight, rounding(matrix, layout, moment), matrix.shape, layout, level)
            counts["4"] += 1
        else:
            compress(graph, weight, scheme, rounding, moment)
            counts["8"] += 1
    if not counts["4"]:
        refuse_none(Weights(found=(), left_float=weights.left_float), "w4")
    result.ir.opset_imports[MICROSOFT] = 1
    result.ir.metadata_props[ACTIVATION_GROUP] = str(layout.block if int8_activations else 0)
    kind = "symmetric" if layout.symmetric else "asymmetric"
    note = f"{counts['4']} matrices in 4 bits ({kind} blocks of {layout.block}), {counts['8']} other weights in 8 bits"
    return PassResult(
        model=result, note=note + words(weights.left_float), figures={"w4": counts["4"], "w8": counts["8"]}
    )


def refuse_none(weights: Weights, precision: str) -> None:
    if not weights.found:
        what = "matrix that activations are multiplied by" if precision == "w4" else "weight large enough"
        raise UnsupportedOperator(
            f"there is no {what} for {precision} in this model" + words(weights.left_float),
            "build it with --precision w8, fp16 or fp32" if precision == "w4" else "build it with --precision fp32",
        )


def words(left_float: Counter[str]) -> str:
    """What stays float, as the end of a note."""
    named = ", ".join(f"{count}× {what}" for what, count in left_float.most_common(4))
    return f"; float: {named}" if named else ""


def compress(
    graph: ir.Graph, weight: Weight, scheme: Scheme, rounding: Rounding, moments: np.ndarray | None = None
) -> None:
    """Replace a float weight by an int8 one and what restores it."""
    rounded = rounding(weight.as_matrix(), _BYTE, moments)
    integers = initializer(graph, f"{weight.name}_int8", weight.from_matrix(rounded.integers))
    scale = initializer(graph, f"{weight.name}_scale", weight.from_matrix(rounded.scale))
    others = False
    for node, _ in weight.uses:
        if not scheme.keeps_compressed and node.graph is graph and _looks_up_rows(node, weight):
            _write_lookup(graph, node, integers, scale)
        else:
            others = True
    if others:
        cast = ir.node("Cast", [integers], attributes={"to": int(ir.DataType.FLOAT)}, name=f"{weight.name}_cast")
        restore = ir.node("Mul", [cast.outputs[0], scale], name=f"{weight.name}_restore")
        restored = restore.outputs[0]
        restored.name, restored.dtype = f"{weight.name}_restored", ir.DataType.FLOAT
        restored.shape = ir.Shape(weight.array.shape)
        graph.insert_before(next(iter(graph)), [cast, restore])
        weight.value.replace_all_uses_with(restored)
    drop(graph, weight.value)


def _looks_up_rows(node: ir.Node, weight: Weight) -> bool:
    is_table = weight.array.ndim == 2 and weight.channels == (0,)
    return is_table and node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0


def _write_lookup(graph: ir.Graph, node: ir.Node, integers: ir.Value, scale: ir.Value) -> None:
    """Gather the integers and their scales, and multiply: the table itself stays int8 in memory."""
    output = node.outputs[0]
    rows = ir.node("Gather", [integers, node.inputs[1]], attributes={"axis": 0}, name=f"{output.name}_rows")
    scales = ir.node("Gather", [scale, node.inputs[1]], attributes={"axis": 0}, name=f"{output.name}_scales")
    cast = ir.node("Cast", [rows.outputs[0]], attributes={"to": int(ir.DataType.FLOAT)}, name=f"{output.name}_cast")
    product = ir.node("Mul", [cast.outputs[0], scales.outputs[0]], name=f"{output.name}_restore")
    replace(graph, node, [rows, scales, cast, product])


def _write_nbits(
    graph: ir.Graph, weight: Weight, rounded: Rounded, shape: tuple[int, ...], layout: Layout, level: int
) -> None:
    rows, columns = shape
    stem = f"{weight.name}_int4"
    inputs = [
        initializer(graph, stem, _packed_weights(rounded, layout.block)),
        initializer(graph, f"{stem}_scale", rounded.scale),
    ]
    if not layout.symmetric:
        inputs.append(initializer(graph, f"{stem}_zero_point", _packed(rounded.zero_point.astype(np.int16) + 8)))
    attributes = {"K": columns, "N": rows, "bits": 4, "block_size": layout.block, "accuracy_level": level}
    for node, _ in weight.uses:
        product = ir.node(
            "MatMulNBits",
            [node.inputs[0], *inputs],
            attributes=attributes,
            domain=MICROSOFT,
            name=f"{node.outputs[0].name}_int4",
        )
        replace(graph, node, [product, *bias_of(node, product.outputs[0])])
    drop(graph, weight.value)


def _packed_weights(rounded: Rounded, block: int) -> np.ndarray:
    """[rows, blocks, block / 2] bytes, the earlier of two weights in the lower half; 8 stands for a symmetric zero."""
    rows, columns = rounded.integers.shape
    blocks = rounded.scale.shape[1]
    # What is beyond the row is never read into the sum; the zero point keeps it zero all the same.
    filled = np.repeat(rounded.zero_point, block, axis=1)
    filled[:, :columns] = rounded.integers
    return _packed(filled.astype(np.int16) + 8).reshape(rows, blocks, block // 2)


def _packed(nibbles: np.ndarray) -> np.ndarray:
    """[rows, n] integers of 0 to 15 as [rows, ceil(n / 2)] bytes."""
    padded = np.pad(nibbles.astype(np.uint8), ((0, 0), (0, nibbles.shape[1] % 2)))
    packed: np.ndarray = padded[:, 0::2] | (padded[:, 1::2] << 4)
    return packed
