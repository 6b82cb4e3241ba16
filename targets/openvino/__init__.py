"""OpenVINO on Intel and ARM CPUs: the Q/DQ graph becomes OpenVINO IR."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from pathlib import Path
from typing import Any

from edgepack.errors import UnsupportedOperator, needs
from edgepack.model import Model
from edgepack.passes.keep_axes import keep_axes
from edgepack.target import ACTIVATION_GROUP, Scheme

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
    fuses_chains=True,
    closed=frozenset(),
    bias_bits=0,
    dynamic=frozenset({"Gemm", "MatMul"}),
    keeps_compressed=True,
)  # fmt: skip
PRECISIONS = ("fp32", "fp16", "int8", "dynamic", "w8", "w4")
REFUSED = {"w8a16": "it multiplies 16-bit activations in float, no faster than float"}
SINCE: dict[str, str] = {}
REQUIREMENTS = ("openvino",)
FALLBACK: tuple[str, ...] = ()
FALLBACK_LACKS: tuple[str, ...] = ()
EXTRA = "openvino"
STAND_IN = ""
FIXED_SHAPES = False
SHAPE_RANGES = False
HALF_ARITHMETIC = False
UNASKED = ""
IO_DTYPES = ()


def check() -> None:
    needs("openvino")


def lower(model: Model, folder: Path) -> str:
    openvino = needs("openvino")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source = Path(scratch) / "model.onnx"
        keep_axes(model).model.save(source)
        try:
            # Not openvino.convert_model, which reports each use to its makers.
            converted = openvino.Core().read_model(source)
            _fold(converted)
            group = model.ir.metadata_props.get(ACTIVATION_GROUP)
            if group is not None:
                # Left to itself it quantizes the activations of compressed weights in groups of 32.
                converted.set_rt_info(group, ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
            # fp16 weights are already fp16 in the graph; compressing here would touch fp32 models too.
            openvino.save_model(converted, folder / "model.xml", compress_to_fp16=False)
        except Exception as error:  # its exceptions derive from no class of their own, and carry no errno
            if shutil.disk_usage(folder).free < model.weight_bytes + 65536:
                raise OSError(errno.ENOSPC, "no space left") from error
            raise UnsupportedOperator(
                f"OpenVINO cannot convert the model: {_reason(str(error))}", "--target onnxruntime may run it"
            ) from error
    return "model.xml"


def baseline(model: Model, folder: Path) -> str | None:
    """The original file itself, which OpenVINO reads."""
    return None


def _fold(model: Any) -> None:
    """Fold what convert_model would: half the file, the same answers."""
    with contextlib.suppress(ImportError):  # not part of the public interface
        needs("openvino._offline_transformations").apply_moc_transformations(model, cf=False, smart_reshape=False)


def _reason(report: str) -> str:
    """The operators that its report says failed, else its last line."""
    lines = [line.strip(" -") for line in report.splitlines() if line.strip()]
    failed = next((line for line in lines if line.startswith("Conversion is failed for:")), "")
    cause = next((line for line in lines if "has to be" in line or "nsupported" in line or "not supported" in line), "")
    if failed:
        operators = failed.partition(":")[2].strip()
        return f"operators {operators}" + (f" ({cause[:120]})" if cause else "")
    return lines[-1][:200] if lines else "no reason given"
