"""What a model is timed beside: the float original, in a form that the target's runtime loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import helper

from edgepack.building.plan import Plan
from edgepack.bundles import bundle
from edgepack.cost import observed_shapes
from edgepack.data.samples import Feed
from edgepack.errors import UnsupportedOperator
from edgepack.metrics.merit import harness
from edgepack.model import Model
from edgepack.target import runner_here

# The original's graph without its weights.
GRAPH = "graph.onnx"
# Constants up to this size may be what a shape is computed from.
_SMALL = 1024


def baseline(plan: Plan, forms: Mapping[str, Model], original: Path, feed: Feed) -> tuple[dict[str, str] | None, str]:
    """The manifest's entry, None where the runtime runs no form of it; and a line if that is not `original` itself.

    Where the target has another form than ONNX, the original's graph stays as well, for `bench --profile` to name its
    layers by.

    Args:
        forms: the float original and what may stand for it, best first, each by what it is.
        original: the ONNX file, which another form replaces.
        feed: one that it has to answer.
    """
    path, note = _in_the_targets_form(plan, forms, original, feed)
    try:
        runner_here(plan.target_name).load(str(path), 1)(feed)
    except Exception as error:  # each runtime has exceptions of its own
        line = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        return None, f"the original itself does not run in {plan.target_name}, so nothing is timed beside it: {line}"
    # With a checksum of its own: it does not go to the device, so SHA256SUMS does not list it.
    return {"file": f"{bundle.BASELINE}/{path.name}", "sha256": harness().sha256(str(path))}, note


def _in_the_targets_form(plan: Plan, forms: Mapping[str, Model], original: Path, feed: Feed) -> tuple[Path, str]:
    for what, model in forms.items():
        try:
            file = plan.target.baseline(model, original.parent)
        except UnsupportedOperator:
            continue
        if file is None:
            break
        onnx.save(without_weights(original, feed), original.parent / GRAPH)
        for path in original.parent.iterdir():
            if path.name not in (file, GRAPH):
                path.unlink()
        return original.parent / file, f"{plan.target_name} loads no ONNX: timed beside {what} written for it"
    return original, ""


def without_weights(path: Path, feed: Feed) -> onnx.ModelProto:
    """The graph in an ONNX file, with the shapes that tensors have for `feed`.

    Its larger weights keep their types and shapes, and lie nowhere.
    """
    model = onnx.load(path, load_external_data=False)
    shapes = observed_shapes(model, feed)
    del model.graph.value_info[:]
    model.graph.value_info.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()
    )
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _SMALL:
            continue
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(field)
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value="none")
        tensor.data_location = onnx.TensorProto.EXTERNAL
    return model
