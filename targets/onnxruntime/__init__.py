"""ONNX Runtime on the CPU: the model stays ONNX with Q/DQ."""

from __future__ import annotations

from pathlib import Path

from edgepack.model import Model
from edgepack.target import Scheme

# Operators that the CPU provider computes in int8 from Q/DQ, read from its QDQ selectors and tried
# (docs/architecture.md). Softmax and activation × activation MatMul are left float for accuracy.
SCHEME = Scheme(
    activation_dtype="uint8",
    symmetric_activations=False,
    weighted=frozenset({"Conv", "Gemm", "MatMul"}),
    light=frozenset(
        {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "MaxPool", "Reshape", "Flatten",
         "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Resize", "Sigmoid", "LeakyRelu",
         "HardSigmoid", "HardSwish"}
    ),
    same_scale=frozenset(
        {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Resize"}
    ),
    fused=frozenset({"Relu", "Clip"}),
    closed=frozenset({"Conv"}),
    bias_bits=32,
    saturating=frozenset({"HardSigmoid", "HardSwish"}),
    # A HardSwish reads its input twice, and then only a convolution behind keeps the layout that its fast int8 form
    # needs: 100 µs instead of 10 for 38,000 numbers.
    before_conv=frozenset({"MaxPool"}),
    channel_multiple=16,  # AVX2 and AVX-512 kernels; the ARM ones take 8
    bit_exact=True,
    unsigned_weights=True,
    dynamic=frozenset({"Gemm", "MatMul", "LSTM"}),
)  # fmt: skip
PRECISIONS = ("fp32", "fp16", "int8", "dynamic", "w8", "w4")
REFUSED = {"w8a16": "its kernels take 16-bit activations back to float, which is slower than float"}
# MatMulNBits has had its accuracy_level since then.
SINCE = {"w4": "1.17"}
REQUIREMENTS = ("onnxruntime",)
FALLBACK: tuple[str, ...] = ()
FALLBACK_LACKS: tuple[str, ...] = ()
EXTRA = ""
STAND_IN = ""
FIXED_SHAPES = False
SHAPE_RANGES = False
HALF_ARITHMETIC = False
UNASKED = ""
IO_DTYPES = ()


def check() -> None:
    """ONNX Runtime is a core dependency: always here."""


def lower(model: Model, folder: Path) -> str:
    return model.save(folder / "model.onnx")[0]


def baseline(model: Model, folder: Path) -> str | None:
    """The original file itself."""
    return None
