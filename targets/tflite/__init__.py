"""TFLite (LiteRT) on ARM and x86 CPUs: the Q/DQ graph becomes a flatbuffer, written here and by nobody's converter.

The way of a graph: signed (int8 for uint8), folding (what is constant), gelu (its spellings), walk (node by node: units
says which nodes are one operator, operators/ writes it, lowering is what they write to and read from, axes the order of
a value's axes), halves, compressed and unsigned (fp16 and int8 weights, uint8 ends; restored puts a DEQUANTIZE behind
stored weights), flatbuffer (the bytes; versions and runtimes say for whom). runner is the device's side.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from edgepack._version import VERSION
from edgepack.errors import UnsupportedOperator, needs
from edgepack.model import Model
from edgepack.target import ACTIVATION_GROUP, UNSIGNED_BORDER, Scheme

from .compressed import store_in_int8
from .flatbuffer import serialize
from .folding import folded
from .gelu import fused_gelus
from .halves import store_in_half
from .lowering import Lowering
from .operators import OPERATORS
from .signed import in_int8
from .unsigned import unsigned_border
from .walk import walk

# TFLite's 8-bit specification: int8 activations with a zero point, symmetric weights by channel, int32 biases.
# AveragePool and Concat keep their scale, as its builtin kernels demand. HardSwish and HardSigmoid are computed in
# float between DEQUANTIZE and QUANTIZE: with XNNPACK 19 µs for 400,000 numbers on one thread, as long as additions and
# products in integers take, and exact where those are off by one in 5 % of places; by the builtin kernels 170 µs
# against 1,510, and 1,460 for the int8 HARD_SWISH.
SCHEME = Scheme(
    activation_dtype="int8",
    symmetric_activations=False,
    weighted=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    light=frozenset(
        {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "MaxPool", "Reshape", "Flatten", "Transpose",
         "Squeeze", "Unsqueeze", "Slice", "Split", "Resize", "LeakyRelu", "HardSigmoid", "HardSwish"}
    ),
    same_scale=frozenset(
        {"MaxPool", "AveragePool", "Concat", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice",
         "Split", "Resize"}
    ),
    fused=frozenset({"Relu", "Clip"}),
    closed=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    bias_bits=32,
    biased=frozenset({"MatMul"}),
    bit_exact=True,
    dynamic=frozenset({"Conv", "Gemm", "MatMul"}),
    keeps_compressed=True,
)  # fmt: skip
PRECISIONS = ("fp32", "fp16", "int8", "dynamic", "w8")
REFUSED = {
    "w8a16": "its 16-bit kernels are slower than float",
    "w4": "no 4-bit weights are written for TFLite",
}
SINCE: dict[str, str] = {}
REQUIREMENTS = ("ai-edge-litert",)
# 32-bit ARM and Python 3.8 have only the older runtime, which breaks with numpy 2.
FALLBACK = ("tflite-runtime", "numpy<2")
FALLBACK_LACKS = ("dynamic",)
EXTRA = "tflite"
STAND_IN = ""
FIXED_SHAPES = True
SHAPE_RANGES = False
HALF_ARITHMETIC = False
UNASKED = ""
IO_DTYPES = ("int8", "uint8")
_LARGEST = 2**31 - 2**20


def check() -> None:
    needs("ai_edge_litert")


def lower(model: Model, folder: Path) -> str:
    return _write(model, folder / "model.tflite")


def baseline(model: Model, folder: Path) -> str | None:
    """The float original by the same writer: LiteRT reads no ONNX."""
    return _write(model, folder / "original.tflite")


def _write(model: Model, path: Path) -> str:
    given = model.proto()
    halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in given.graph.initializer)
    group = next((entry.value for entry in given.metadata_props if entry.key == ACTIVATION_GROUP), None)
    scales = _scales(given) if group is not None else {}
    proto = _static(in_int8(given))
    low = Lowering(proto)
    refused = walk(low, OPERATORS)
    if refused:
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        raise UnsupportedOperator(
            f"no TFLite form of {'; '.join(refused[:3])}{more}",
            "--target onnxruntime runs on ARM boards too; or export the model without them",
        )
    if sum(tensor.data.nbytes for tensor in low.graph.tensors() if tensor.data is not None) > _LARGEST:
        raise UnsupportedOperator(
            "a flatbuffer holds no more than 2 GB", "quantize the weights, or take another target"
        )
    if halves:
        store_in_half(low.graph)
    if scales:
        store_in_int8(low.graph, scales, mixed=group != "0")
    if any(entry.key == UNSIGNED_BORDER for entry in given.metadata_props):
        unsigned_border(low.graph)
    low.graph.metadata["edgepack_version"] = VERSION.encode()
    path.write_bytes(serialize(low.graph, f"edgepack {VERSION}"))
    _refuse_what_does_not_load(path)
    return path.name


def _scales(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The scales of compressed weights, by the name of what a Mul restores."""
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    return {
        node.output[0]: numpy_helper.to_array(held[node.input[1]])
        for node in proto.graph.node
        if node.op_type == "Mul" and node.input[1] in held and node.name.endswith("_restore")
    }


def _refuse_what_does_not_load(path: Path) -> None:
    """Loads the file in a process of its own, which LiteRT ends where its kernels meet what they do not take.

    Raises:
        UnsupportedOperator: with LiteRT's reason.
    """
    load = "import runpy, sys; runpy.run_path(sys.argv[1])['load'](sys.argv[2], 1)"
    command = [sys.executable, "-P", "-c", load, str(Path(__file__).with_name("runner.py")), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("INFO: ")]
        path.unlink()
        reason = lines[-1].strip()[:200] if lines else f"it ends with signal {-done.returncode}"
        raise UnsupportedOperator(
            f"LiteRT does not load the model: {reason}",
            "--target onnxruntime runs on ARM boards too",
        )


def _static(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph for one sample, all shapes known.

    Raises:
        UnsupportedOperator: a dimension other than the batch is open.
    """
    for info in proto.graph.input:
        for place, dim in enumerate(info.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                continue
            if place:
                raise UnsupportedOperator(
                    f"dimension {place} of the input {info.name!r} is open, and TFLite's are fixed",
                    f"give it a length: --input-shape {info.name}=1x…",
                )
            dim.dim_value = 1
    for info in proto.graph.output:
        info.type.tensor_type.ClearField("shape")
    for _ in range(2):
        del proto.graph.value_info[:]
        proto = folded(_inferred(proto))
    return fused_gelus(proto)


def _inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its shapes, also behind the operators whose shape onnx does not infer."""
    while True:
        proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        known = {info.name: info for info in (*proto.graph.input, *proto.graph.value_info)}
        added = False
        for node in proto.graph.node:
            if node.op_type != "GroupNormalization" or node.output[0] in known or node.input[0] not in known:
                continue
            info = onnx.ValueInfoProto.FromString(known[node.input[0]].SerializeToString())
            info.name = node.output[0]
            proto.graph.value_info.append(info)
            added = True
        if not added:
            return proto
