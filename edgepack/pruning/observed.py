"""The shapes of every value of a graph, as they are when it runs."""

from __future__ import annotations

import onnx_ir as ir

from edgepack.data.samples import Feed
from edgepack.model import Model, constant
from edgepack.reference import Session


def observed_shapes(model: Model, feed: Feed) -> dict[str, tuple[int, ...]]:
    """Of constants, inputs and what nodes make; inference stops where shapes are computed, running does not."""
    graph = model.ir.graph
    found = {
        str(value.name): array.shape for value in graph.initializers.values() if (array := constant(value)) is not None
    }
    found |= {name: array.shape for name, array in feed.items()}
    made = [str(value.name) for node in graph for value in node.outputs if value.name and _is_tensor(value)]
    shown = model.clone()
    values = ir.convenience.create_value_mapping(shown.ir.graph)
    sizes = []
    for name in made:
        size = ir.node("Shape", [values[name]]).outputs[0]
        size.name, size.dtype = f"{name}/shape", ir.DataType.INT64
        shown.ir.graph.append(size.producer())  # type: ignore[arg-type]
        sizes.append(size)
    shown.ir.graph.outputs.extend(sizes)
    answers = Session(shown, threads=1).run(feed, [str(size.name) for size in sizes])
    return found | {name.removesuffix("/shape"): tuple(int(n) for n in shape) for name, shape in answers.items()}


def _is_tensor(value: ir.Value) -> bool:
    return value.type is None or isinstance(value.type, ir.TensorType)
