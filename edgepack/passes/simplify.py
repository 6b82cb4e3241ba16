"""Clean up: fold constants, fold BatchNormalization into convolutions, drop what does nothing (onnxslim)."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxslim
from onnx_ir.passes import common

from edgepack.data.samples import Feed
from edgepack.errors import CleanupError
from edgepack.metrics.merit import harness
from edgepack.model import LARGEST_MESSAGE, Model
from edgepack.passes import PassResult
from edgepack.reference import Session

# Folding reorders float arithmetic; more than this is another model.
TOLERANCE = 1e-3
# Folding may write out what the file only computed; a bundle should not grow from being cleaned.
_LARGEST_GROWTH = 1.1


def simplify(model: Model, original: Session, feeds: Sequence[Feed]) -> PassResult:
    """Clean up the graph, and keep the result only if it answers like the original on `feeds`.

    Raises:
        CleanupError: the model answered differently before clean-up.
    """
    if model.weight_bytes >= LARGEST_MESSAGE or model.is_quantized:
        return PassResult(model=model, note="clean-up skipped")
    before = sum(1 for _ in model.nodes())
    try:
        slim = _slim(model)
        if slim.weight_bytes > _LARGEST_GROWTH * model.weight_bytes + 10_000:
            return _without(model, original, feeds, "it would grow the weights")
        difference = largest_error(original, Session(slim), feeds)
    except Exception as failure:  # a dependency's bug must not cost the user the build
        return _without(model, original, feeds, f"onnxslim failed ({type(failure).__name__})")
    if not difference <= TOLERANCE:
        return _without(model, original, feeds, f"it changes the answers by {difference:.1e}")
    after = sum(1 for _ in slim.nodes())
    return PassResult(
        model=slim,
        note=f"clean-up: {before} → {after} nodes, largest difference {difference:.1e}",
        figures={"nodes_before": before, "nodes_after": after, "relative_error": difference},
    )


def _without(model: Model, original: Session, feeds: Sequence[Feed], why: str) -> PassResult:
    """The model as it came, after making sure that what was done before clean-up is not at fault."""
    difference = largest_error(original, Session(model), feeds)
    if not difference <= TOLERANCE:
        raise CleanupError(
            f"the model answers differently once its opset or its shapes are changed, by {difference:.1e}",
            "export it with opset 13 or newer, and with the shapes you use",
        )
    return PassResult(model=model, note=f"clean-up dropped: {why}")


def _slim(model: Model) -> Model:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto())
    level = logging.root.level
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        slimmed = onnxslim.slim(proto)
    logging.root.setLevel(level)
    graph = ir.from_proto(slimmed)
    for tidy in (
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.RemoveUnusedNodesPass(),
        common.NameFixPass(),
    ):
        tidy(graph)
    result = Model(ir=graph, source=model.source)
    if [tensor.name for tensor in (*result.inputs, *result.outputs)] != [
        tensor.name for tensor in (*model.inputs, *model.outputs)
    ]:
        raise CleanupError("onnxslim renamed inputs or outputs")
    return result


def largest_error(one: Session, other: Session, feeds: Sequence[Feed]) -> float:
    """The largest difference over all outputs, relative to each output's largest magnitude."""
    errors = [0.0]
    for feed in feeds:
        wanted, got = one.run(feed), other.run(feed)
        for name, array in wanted.items():
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
                continue
            errors.append(harness().relative_error(array, got[name]))
    return max(errors)
