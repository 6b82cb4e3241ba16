"""Fix open dimensions of the inputs."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgepack.errors import ShapeNeeded
from edgepack.model import Model
from edgepack.passes import PassResult


def fix_shapes(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> PassResult:
    """Give the named inputs the shapes in `shapes`.

    A dimension's name is one dimension: fixing "batch" in one input fixes it in all. Shapes inside the graph are
    dropped, to be inferred anew.

    Raises:
        ShapeNeeded: no such input, another rank, or a fixed dimension of another length.
    """
    if not shapes:
        return PassResult(model=model, note="")
    fixed = model.clone()
    by_name = {value.name: value for value in fixed.ir.graph.inputs}
    specs = {tensor.name: tensor for tensor in model.inputs}
    lengths: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in specs:
            raise ShapeNeeded(f"the model has no input {name!r}", f"its inputs: {', '.join(specs)}")
        tensor = specs[name]
        if len(shape) != len(tensor.shape) or any(
            isinstance(dim, int) and dim != size for dim, size in zip(tensor.shape, shape, strict=True)
        ):
            raise ShapeNeeded(
                f"shape {'x'.join(map(str, shape))} does not fit the input {tensor}",
                "only open dimensions can be given a length",
            )
        for dim, size in zip(tensor.shape, shape, strict=True):
            if isinstance(dim, str) and lengths.setdefault(dim, size) != size:
                raise ShapeNeeded(
                    f"dimension {dim!r} is given as {lengths[dim]} and as {size}", "it has one length in all inputs"
                )
        by_name[name].shape = ir.Shape(shape)
    for value in (*fixed.ir.graph.inputs, *fixed.ir.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape(
                [lengths.get(str(dim.value), dim) if not isinstance(dim, int) else dim for dim in value.shape]
            )
    for node in fixed.nodes():
        for output in node.outputs:
            if not output.is_graph_output():
                output.shape = None
    text = ", ".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in shapes.items())
    return PassResult(model=fixed, note=f"input shapes fixed: {text}")
