"""Fix open dimensions of the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgepack.errors import ShapeNeeded
from edgepack.model import Model
from edgepack.passes import PassResult


def fix_shapes(model: Model, shapes: Mapping[str, tuple[int | None, ...]]) -> PassResult:
    """Give the named inputs the shapes in `shapes`, where None leaves a dimension as it is.

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
            isinstance(dim, int) and size not in (dim, None) for dim, size in zip(tensor.shape, shape, strict=True)
        ):
            raise ShapeNeeded(
                f"shape {_text(shape)} does not fit the input {tensor}",
                "only open dimensions can be given a length",
            )
        for dim, size in zip(tensor.shape, shape, strict=True):
            if isinstance(dim, str) and size is not None and lengths.setdefault(dim, size) != size:
                raise ShapeNeeded(
                    f"dimension {dim!r} is given as {lengths[dim]} and as {size}", "it has one length in all inputs"
                )
        by_name[name].shape = ir.Shape(_filled(tensor.shape, shape))
    for value in (*fixed.ir.graph.inputs, *fixed.ir.graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape(
                [lengths.get(str(dim.value), dim) if not isinstance(dim, int) else dim for dim in value.shape]
            )
    for node in fixed.nodes():
        for output in node.outputs:
            if not output.is_graph_output():
                output.shape = None
    now = {name: (list(specs[name].shape), _filled(specs[name].shape, shape)) for name, shape in shapes.items()}
    text = ", ".join(f"{name}={_text(after)}" for name, (before, after) in now.items() if before != after)
    return PassResult(model=fixed, note=f"input shapes fixed: {text}" if text else "")


def _filled(shape: Sequence[int | str | None], lengths: Sequence[int | None]) -> list[int | str | None]:
    return [dim if size is None else size for dim, size in zip(shape, lengths, strict=True)]


def _text(shape: Sequence[int | str | None]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape)
