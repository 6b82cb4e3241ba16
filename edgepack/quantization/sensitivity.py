"""Which layer hurts: each layer's rounding alone, injected into the float model, and what it does to the answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from edgepack.data.samples import Feed
from edgepack.metrics.merit import distance
from edgepack.model import Model
from edgepack.passes.edits import initializer
from edgepack.passes.logits import logits
from edgepack.passes.placement import Placement, place, tail
from edgepack.passes.quantize import Grid, Rounded, activation_grids, rounded_nearest, spread
from edgepack.quantization.layer import bias_of, channel_axis
from edgepack.quantization.preparation import Prepared
from edgepack.reference import Session
from edgepack.target import Scheme


@dataclass(frozen=True, kw_only=True)
class Injection:
    """What one layer's int8 form alone does to the model's first float output: SQNR in dB, larger is better.

    Where that comes from a Softmax, it is what the Softmax is given (passes/logits.py).

    `both_db` has its weights rounded and the tensors that it reads and writes; `weights_db` and `activations_db`
    one of them. They are None where they were not asked for.
    """

    layer: str
    operator: str
    both_db: float
    weights_db: float | None = None
    activations_db: float | None = None


class Switchboard:
    """The float model with every rounding in it as a switch, all of them off."""

    def __init__(self, model: Model, scheme: Scheme, prepared: Prepared) -> None:
        self.model = model.clone()
        self.placement: Placement = place(self.model, scheme, prepared.unseen)
        self.grids = activation_grids(self.placement, prepared.ranges, scheme)
        self.switches: list[str] = []
        self.scheme = scheme
        graph = self.model.ir.graph
        self.around = {
            str(node.outputs[0].name): _tensors_around(node, scheme, self.placement) for node in self.placement.weighted
        }
        self.operators = {str(node.outputs[0].name): node.op_type for node in self.placement.weighted}
        for node in self.placement.weighted:
            self._weights(graph, node, prepared.layers.get(str(node.outputs[0].name)))
        values = ir.convenience.create_value_mapping(graph)
        for name in self.placement.tensors:
            self._tensor(graph, values[name], self.grids[name])
        self.session = Session(self.model)

    def _switch(self, graph: ir.Graph, name: str) -> ir.Value:
        value = ir.val(f"switch/{name}", dtype=ir.DataType.BOOL, shape=ir.Shape([]))
        graph.inputs.append(value)
        self.switches.append(value.name or "")
        return value

    def _weights(self, graph: ir.Graph, node: ir.Node, rounded: Rounded | None) -> None:
        value = node.inputs[1]
        assert value is not None
        weight = ir.convenience.get_const_tensor(value)
        assert weight is not None
        array = weight.numpy()
        axis = channel_axis(node, array)
        layer, bias = str(node.outputs[0].name), bias_of(node)
        if rounded is None:
            data = node.inputs[0]
            assert data is not None
            rounded = rounded_nearest(node, float(self.grids[str(data.name)].scale), self.scheme)
        near = rounded.integers * spread(rounded.scale, array.ndim, axis)
        switch = self._switch(graph, f"{layer}/weights")
        other = initializer(graph, f"{layer}/rounded", near.astype(np.float32))
        chosen = ir.node("Where", [switch, other, value])
        chosen.outputs[0].name, chosen.outputs[0].dtype = f"{layer}/weights_used", ir.DataType.FLOAT
        chosen.outputs[0].shape = ir.Shape(array.shape)
        graph.insert_before(node, chosen)
        node.replace_input_with(1, chosen.outputs[0])
        if rounded.shift is not None and node.op_type != "MatMul":
            self._bias(graph, node, switch, np.zeros(rounded.shift.shape) if bias is None else bias, rounded.shift)

    def _bias(self, graph: ir.Graph, node: ir.Node, switch: ir.Value, bias: np.ndarray, shift: np.ndarray) -> None:
        """What rounding does to the mean output goes into the bias, so it is no error of the layer's."""
        layer = str(node.outputs[0].name)
        kinds = {"corrected": bias - shift, "given": bias}
        values = [initializer(graph, f"{layer}/bias_{kind}", a.astype(np.float32)) for kind, a in kinds.items()]
        chosen = ir.node("Where", [switch, *values])
        chosen.outputs[0].name, chosen.outputs[0].dtype = f"{layer}/bias_used", ir.DataType.FLOAT
        chosen.outputs[0].shape = ir.Shape(shift.shape)
        graph.insert_before(node, chosen)
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        node.replace_input_with(2, chosen.outputs[0])

    def _tensor(self, graph: ir.Graph, value: ir.Value, grid: Grid) -> None:
        name = str(value.name)
        apart = self.scheme.apart
        uses = list(self.placement.readers.get(name, ()) if apart else value.uses())
        scale = initializer(graph, f"{name}/scale", np.asarray(grid.scale))
        zero = initializer(graph, f"{name}/zero", np.asarray(grid.zero_point))
        switch = self._switch(graph, name)
        quantized = ir.node("QuantizeLinear", [value, scale, zero])
        restored = ir.node("DequantizeLinear", [quantized.outputs[0], scale, zero])
        chosen = ir.node("Where", [switch, restored.outputs[0], value])
        for node, suffix in ((quantized, "q"), (restored, "dq"), (chosen, "used")):
            node.outputs[0].name = f"{name}/{suffix}"
        chosen.outputs[0].type, chosen.outputs[0].shape = value.type, value.shape
        producer = value.producer()
        if producer is None:
            graph.insert_before(next(iter(graph)), [quantized, restored, chosen])
        else:
            graph.insert_after(producer, [quantized, restored, chosen])
        for node, index in uses:
            node.replace_input_with(index, chosen.outputs[0])
        for index, result in enumerate(graph.outputs):
            if result is value and producer is not None and not apart:
                value.name, chosen.outputs[0].name = f"{name}/float", name
                graph.outputs[index] = chosen.outputs[0]

    def run(self, feed: Feed, on: Sequence[str]) -> Feed:
        """The answers with the named switches on."""
        set_ = {name: np.array(name.removeprefix("switch/") in on) for name in self.switches}
        return self.session.run({**feed, **set_})


def _tensors_around(node: ir.Node, scheme: Scheme, placement: Placement) -> list[str]:
    """The quantized tensors that a node reads and writes."""
    near = [str(node.inputs[0].name), str(tail(node, scheme).name)]  # type: ignore[union-attr]
    return [name for name in near if name in placement.tensors]


def inject(
    model: Model,
    scheme: Scheme,
    prepared: Prepared,
    feeds: Sequence[Feed],
    *,
    parts: bool = False,
    seconds: float = 60.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Injection]:
    """Every layer's rounding alone, on a few unlabelled feeds; the worst layer first.

    Args:
        parts: tell weights and activations apart, for three times the time.
        seconds: about how long it may take; fewer feeds are used then, but at least one.
    """
    board = Switchboard(logits(model), scheme, prepared)
    kinds = ("both", "weights", "activations") if parts else ("both",)
    start = time.monotonic()
    references = [board.run(feeds[0], ())]
    once = time.monotonic() - start
    most = max(1, int(seconds / (once * len(kinds) * max(len(board.around), 1))))
    feeds = feeds[:most]
    references += [board.run(feed, ()) for feed in feeds[1:]]
    found = []
    for done, (layer, tensors) in enumerate(board.around.items()):
        on = {"both": [f"{layer}/weights", *tensors], "weights": [f"{layer}/weights"], "activations": tensors}
        figures = {f"{kind}_db": distance(partial(board.run, on=on[kind]), feeds, references).sqnr_db for kind in kinds}
        found.append(Injection(layer=layer, operator=board.operators[layer], **figures))
        if progress:
            progress(done + 1, len(board.around))
    return sorted(found, key=lambda injection: injection.both_db)
