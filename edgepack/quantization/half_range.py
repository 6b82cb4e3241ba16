"""Which operators stay float32 in an fp16 graph: what overflows or underflows on samples, or is known to without them.

The graph is then run with every float16 result rounded (passes/half_emulation.py) beside the float one, and taken
further back where that was not enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from edgepack.data.samples import Feed, Samples, enough, spread, subset
from edgepack.errors import CleanupError, SamplesError
from edgepack.metrics.merit import typically_apart
from edgepack.model import Model, constant
from edgepack.passes import PassResult
from edgepack.passes.half_arithmetic import LARGEST, half_arithmetic
from edgepack.passes.half_emulation import emulated
from edgepack.quantization.layer import WEIGHTED
from edgepack.reference import answers_to
from edgepack.statistics.half_extent import HalfExtent
from edgepack.statistics.stream import stream

# Samples that are not among these may reach four times as far.
_REACH = LARGEST / 4
# Rounding leaves about 73 dB of numbers in float16's range.
_LEAST_DB = 50.0
# A single number whose reciprocal, root or logarithm is taken may lose this share of itself.
_RELATIVE = 2.0**-6
# Beyond this an exponential turns float16's rounding into a tenth of its value.
_EXPONENT = 200.0
# Squares of what reaches farther overflow; a normalization sums them up.
_SQUARES = float(np.sqrt(LARGEST))
_SAMPLES = 32
# What an fp16 graph should keep of the float one's answers. int8 loses more by itself; fp16 beside it moves integers by
# a step here and there, which on a few feeds is a decibel or two either way.
_KEPT_DB = 30.0
_LOST_DB = 3.0

_SUMS = frozenset({"ReduceSum", "ReduceMean", "ReduceL1", "GlobalAveragePool", "ReduceLogSum", "CumSum"})
_SQUARED = frozenset(
    {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization", "LpNormalization",
     "MeanVarianceNormalization", "ReduceL2", "ReduceSumSquare", "LRN"}
)  # fmt: skip
_EXPONENTS = frozenset({"Exp", "Softmax", "LogSoftmax", "ReduceLogSumExp"})
# The input that is divided by, or whose root or logarithm is taken.
_TENDER = {"Div": 1, "Reciprocal": 0, "Log": 0, "Sqrt": 0, "Pow": 0}
# Without samples.
_KNOWN = _SUMS | _SQUARED | _EXPONENTS | _TENDER.keys() | {"ReduceProd", "ReduceLogSumExp", "Softplus"}


@dataclass(frozen=True, kw_only=True)
class Wide:
    """The nodes that stay float32, by their first output, each with the reason in words."""

    why: Mapping[str, str]
    sampled: bool

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.why)


def wide_nodes(model: Model, samples: Samples | None) -> Wide:
    """What cannot be float16 in a float model.

    1. What writes or reads a tensor that reaches beyond a quarter of float16's range, or of which rounding leaves less
       than 50 dB.
    2. A sum that overflows on its way to a mean; a sum of squares of numbers beyond 255.
    3. An exponential of numbers so large that rounding them shows, with what writes them.
    4. A divisor, a root or a logarithm of numbers that float16 hardly holds, with what writes them.

    Without samples: every operator that may do one of these.

    Raises:
        SamplesError: a tensor becomes NaN.
    """
    if samples is None:
        known = [str(node.outputs[0].name) for node in model.ir.graph if node.op_type in _KNOWN]
        return Wide(why=dict.fromkeys(known, "known to be sensitive"), sampled=False)
    typed = model.clone()
    common.ShapeInferencePass(data_prop=False)(typed.ir)
    graph = typed.ir.graph
    values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    watched = [
        HalfExtent(tensor=str(value.name))
        for value in values
        if value.name and value.dtype == ir.DataType.FLOAT and value.name not in graph.initializers
    ]
    seen: dict[str, HalfExtent] = {}
    few = subset(samples, spread(samples.count, enough(samples, _SAMPLES, least=16)))
    for finished in stream(typed, watched, few):
        seen.update({observer.tensor: observer for observer in finished})
    why: dict[str, str] = {}
    for node in graph:
        name = str(node.outputs[0].name)
        inputs = [seen.get(str(value.name)) for value in node.inputs if value is not None]
        outputs = [seen.get(str(value.name)) for value in node.outputs]
        reason = next((words for one in (*outputs, *inputs) if one is not None and (words := _unfit(one))), "")
        reason = reason or _within(node, inputs[0] if inputs else None, outputs[0])
        if reason:
            why.setdefault(name, reason)
        place = _TENDER.get(node.op_type, 0 if node.op_type in _EXPONENTS else None)
        source = node.inputs[place] if place is not None and place < len(node.inputs) else None
        tender = seen.get(str(source.name)) if source is not None else None
        if source is not None and tender is not None and (words := _too_tender(node, tender)):
            why.setdefault(name, words)
            producer = source.producer()
            if producer is not None:
                why.setdefault(str(producer.outputs[0].name), words)
    return Wide(why=why, sampled=True)


def _unfit(extent: HalfExtent) -> str:
    """Why a tensor is no float16; empty if it is."""
    if extent.largest > _REACH:
        return f"it reaches {extent.largest:.2g}"
    if extent.energy and extent.lost > 10.0 ** (-_LEAST_DB / 10) * extent.energy:
        return f"it is as small as {np.sqrt(extent.energy / max(extent.elements, 1)):.1g}"
    return ""


def _within(node: ir.Node, data: HalfExtent | None, result: HalfExtent | None) -> str:
    """Why a node overflows inside; empty if it does not."""
    if data is None or result is None:
        return ""
    if node.op_type in _SQUARED and data.largest > _SQUARES:
        return f"squares of {data.largest:.2g}"
    averages = node.op_type in ("ReduceMean", "GlobalAveragePool")
    count = data.elements / max(result.elements, 1) if averages else 1.0
    if node.op_type in _SUMS and count * result.largest > _REACH:
        return f"sums of {count * result.largest:.2g}"
    return ""


def _too_tender(node: ir.Node, extent: HalfExtent) -> str:
    if node.op_type in _EXPONENTS:
        return f"exponentials of {extent.high:.2g}" if abs(extent.high) > _EXPONENT else ""
    if node.op_type == "Pow" and (exponent := constant(node.inputs[1])) is not None and exponent.min() >= 1:
        return ""
    return "numbers near zero are divided by" if extent.relative > _RELATIVE else ""


def halved(model: Model, wide: Wide, original: Model, feeds: Sequence[Feed]) -> PassResult:
    """`model` in fp16 but for `wide`; further operators stay float32 where the answers to `feeds` say that they must.

    Args:
        model: the float model, or a Q/DQ form of it.
        original: whose answers count.
    """
    if not wide.sampled:
        feeds = feeds[:2]
    wanted = answers_to(feeds, original)
    least = _KEPT_DB
    if model.is_quantized:
        least = min(least, _apart(model, feeds, wanted) - _LOST_DB)
    more = {str(node.outputs[0].name) for node in model.ir.graph if node.op_type not in WEIGHTED}
    tried = {"": wide.names, "; all but products are in fp32, since otherwise the answers suffer": wide.names | more}
    for note, names in tried.items():
        made = half_arithmetic(model, names)
        try:
            kept = _apart(emulated(made.model), feeds, wanted)
        except (CleanupError, SamplesError):
            continue
        if kept >= least:
            return PassResult(model=made.model, note=f"{made.note}{_reasons(wide, made)}{note}", figures=made.figures)
    return PassResult(model=model, note="fp32, since fp16 ruins its answers", figures={"half": 0.0})


def _reasons(wide: Wide, made: PassResult) -> str:
    if not made.figures["wide"] or not wide.why:
        return ""
    name, words = next(iter(wide.why.items()))
    return f", such as {name}: {words}" if wide.sampled else ", as no samples say how far they reach"


def _apart(model: Model, feeds: Sequence[Feed], wanted: Sequence[Feed]) -> float:
    """Typical dB between answers; minus infinity where one is not finite."""
    answers = answers_to(feeds, model)
    for answer in answers:
        if not all(np.isfinite(array).all() for array in answer.values() if array.dtype.kind == "f"):
            return -np.inf
    return typically_apart(answers, wanted)
