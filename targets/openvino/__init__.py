"""OpenVINO on Intel and ARM CPUs: the Q/DQ graph becomes OpenVINO IR."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgepack.errors import UnsupportedOperator, needs
from edgepack.model import Model
from edgepack.target import Scheme

# OpenVINO's low-precision transformations fuse any elementwise activation into the convolution before it and
# take the quantizer after it as the output's, so activations are left alone and outputs need no Q/DQ.
SCHEME = Scheme(
    activation_dtype="uint8",
    symmetric_activations=False,
    weighted=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    light=frozenset(
        {"Add", "Concat", "AveragePool", "GlobalAveragePool", "MaxPool", "Reshape", "Flatten", "Transpose",
         "Squeeze", "Unsqueeze", "Slice", "Split"}
    ),
    same_scale=frozenset(
        {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split"}
    ),
    fused=frozenset({"Relu", "Clip", "HardSwish", "Sigmoid", "LeakyRelu", "PRelu", "Gelu", "Tanh", "Elu"}),
    closed=frozenset(),
    bias_bits=0,
)  # fmt: skip
PRECISIONS = ("fp32", "fp16", "int8")
REQUIREMENTS = ("openvino",)
EXTRA = "openvino"


def check() -> None:
    needs("openvino")


def lower(model: Model, folder: Path) -> str:
    openvino = needs("openvino")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source = Path(scratch) / "model.onnx"
        model.save(source)
        try:
            converted = openvino.convert_model(source)
            # fp16 weights are already fp16 in the graph; compressing here would touch fp32 models too.
            openvino.save_model(converted, folder / "model.xml", compress_to_fp16=False)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = next(
                (line for line in lines if "not supported" in line.lower() or "op" in line.lower()), lines[-1]
            )
            raise UnsupportedOperator(f"OpenVINO cannot convert the model: {reason[:200]}") from error
    return "model.xml"
