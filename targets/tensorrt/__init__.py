"""TensorRT on NVIDIA's Jetson boards: a typed ONNX graph, and in tensorrt.json what its engine is built by there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgepack.errors import UnsupportedOperator
from edgepack.model import Model, constant
from edgepack.target import BUILT_FOR, Scheme

from .weights import in_pairs

# After NVIDIA's "Q/DQ Layer-Placement Recommendations": the inputs of weighted operators are quantized and their
# outputs are not, of a skip connection only the shortcut is, and normalization and activations are left to fusion. Any
# pointwise operators behind a convolution are fused with it ("Convolution and Generic Activation" in its catalog).
SCHEME = Scheme(
    activation_dtype="int8",
    symmetric_activations=True,
    weighted=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    light=frozenset({"Add", "AveragePool", "GlobalAveragePool"}),
    same_scale=frozenset(),
    commuting=frozenset(
        {"MaxPool", "Concat", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Identity"}
    ),
    fused=frozenset(
        {"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Sigmoid", "HardSigmoid",
         "HardSwish", "Tanh", "Softplus", "Softsign", "Gelu", "Mish", "Erf"}
    ),
    fuses_chains=True,
    closed=frozenset(),
    bias_bits=0,
    residual=True,
    apart=True,
    skips_vectors=True,
    least_scale=2.0**-17,
)  # fmt: skip
PRECISIONS = ("fp32", "fp16", "int8")
REFUSED = {
    "w8": "the engine multiplies in the precision of the activations, and keeps fp16 weights in half the size",
    "w4": "TensorRT multiplies 4-bit weights only where they belong to large language models",
    "w8a16": "it has no 16-bit integer arithmetic",
    "dynamic": "the scales of its activations are part of the engine",
}
SINCE: dict[str, str] = {}
# It comes with JetPack; nothing is installed by pip.
REQUIREMENTS: tuple[str, ...] = ()
FALLBACK: tuple[str, ...] = ()
FALLBACK_LACKS: tuple[str, ...] = ()
STAND_IN = "onnxruntime"
EXTRA = ""
FIXED_SHAPES = False
SHAPE_RANGES = True
HALF_ARITHMETIC = True
UNASKED = "fp16"
IO_DTYPES = ()
# Engines of this version and later take weights that are integers already; before, floats and a QuantizeLinear.
_INTEGER_WEIGHTS = (10, 0)
_TENSORRT_JSON = "tensorrt.json"


def check() -> None:
    """Nothing is needed here: engines are built on the board."""


def lower(model: Model, folder: Path) -> str:
    _refuse_foreign(model)
    _refuse_asymmetric(model)
    facts = json.loads(model.ir.metadata_props.get(BUILT_FOR, "{}"))
    system = facts.get("system", {})
    version = tuple(int(part) for part in system.get("tensorrt", "10.3").split("."))
    written = model.clone()
    written.ir.metadata_props.pop(BUILT_FOR, None)
    if version < _INTEGER_WEIGHTS:
        in_pairs(written)
    settings = {
        "format": 1,
        "precision": _precision(model),
        "sparse": bool(facts.get("sparse", False)),
        "built_for": {**system, "compute": facts.get("compute", "")},
        "profile": _profile(model, facts.get("ranges", {})),
        "fp32_layers": facts.get("fp32_layers", []),
        "workspace_bytes": _workspace(facts.get("memory_mb", 4096)),
    }
    (folder / _TENSORRT_JSON).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return written.save(folder / "model.onnx")[0]


def baseline(model: Model, folder: Path) -> str | None:
    """The original file itself."""
    return None


def _refuse_foreign(model: Model) -> None:
    """
    Raises:
        UnsupportedOperator: naming operators that no plugin of TensorRT's own imports.
    """
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in model.nodes() if node.domain not in _DOMAINS})
    if foreign:
        raise UnsupportedOperator(
            f"TensorRT has no operator {', '.join(foreign)}", "export the model in ONNX's own operators"
        )


def _refuse_asymmetric(model: Model) -> None:
    """
    Raises:
        UnsupportedOperator: naming a QuantizeLinear or DequantizeLinear that TensorRT does not read.
    """
    for node in model.nodes():
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if len(node.inputs) < 3 and node.op_type == "DequantizeLinear":
            continue  # of the type of what it reads
        zero = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.uint8)
        if zero is None or zero.dtype != np.int8 or np.any(zero):
            kind = "computed" if zero is None else zero.dtype.name if zero.dtype != np.int8 else "asymmetric"
            raise UnsupportedOperator(
                f"{node.op_type} {node.name or node.outputs[0].name!r} is {kind}; TensorRT has symmetric int8 alone",
                "start from the float model: edgepack quantizes it by TensorRT's rules",
            )


# Local functions of an exporter are imported by what they hold.
_DOMAINS = ("", "ai.onnx")


def _precision(model: Model) -> str:
    """What the graph itself says."""
    operators = model.operators
    if "QuantizeLinear" in operators or "DequantizeLinear" in operators:
        return "int8"
    return "fp16" if model.computes_half else "fp32"


def _profile(model: Model, ranges: dict[str, Any]) -> dict[str, dict[str, list[int]]]:
    """Smallest, usual and largest shapes of the inputs with an open dimension; one sample where no range is given."""
    profile = {}
    for tensor in model.inputs:
        if all(isinstance(dim, int) for dim in tensor.shape):
            continue
        known = ranges.get(tensor.name)
        if known is None and any(not isinstance(dim, int) for dim in tensor.shape[1:]):
            continue
        ones = [dim if isinstance(dim, int) else 1 for dim in tensor.shape]
        profile[tensor.name] = known or {"min": ones, "opt": ones, "max": ones}
    return profile


def _workspace(memory_mb: int) -> int:
    """A quarter of the board's memory, which CPU and GPU share, and no more than any tactic needs."""
    return int(min(memory_mb // 4, 8192)) << 20
