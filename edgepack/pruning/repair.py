"""Repair without training: layer upon layer, weights are refitted so that the pruned model does what the original did.

Both models run side by side over the same samples, piece by piece. Before each layer runs in the pruned one, its
weights and bias are fitted to reproduce the original layer's output, on the original's input, from the input that the
pruned model really gives it; so errors do not pile up (as the reconstruction of He et al., "Channel Pruning for
Accelerating Very Deep Neural Networks", 2017, with its asymmetric target). The ridge is chosen, layer by layer, by the
error on samples that are held aside; no refit at all is among the choices. A BatchNormalization is a layer of one
weight a channel.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from threadpoolctl import threadpool_limits

from edgepack.data.samples import Feed, Samples
from edgepack.model import Model, constant
from edgepack.passes.edits import initializer
from edgepack.pruning.fit import Moments, Solution, refit, refit_checked
from edgepack.pruning.layers import Constants, Layer, can_be_fitted, layer
from edgepack.pruning.rules import name
from edgepack.pruning.surgery import Cut
from edgepack.quantization.layer import channel_count
from edgepack.quantization.pieces import pieces
from edgepack.reference import Session

# Bytes that the samples' activations may take in both models.
_MEMORY = 1_500_000_000
# Of a layer, its moments to fit to, others held aside, and whether its input is the original's: its new weights, or
# None where it stays as it is.
Solve = Callable[[Layer, Moments, Moments, bool], Solution | None]


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """`ridges` by the layers that were refitted (by output); infinite where only the bias moved."""

    model: Model
    ridges: dict[str, float]
    samples: int


def repair(
    whole: Model,
    small: Model,
    what: Cut,
    samples: Samples,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    solve: Solve = lambda known, fitted, held, same: None if same else refitted(known, fitted, held),
    only: Collection[str] | None = None,
    settled: Collection[str] = (),
) -> Repaired:
    """
    Args:
        whole: the original, of which the pruned model is a cut; nodes are named by their outputs.
        samples: a fifth of them is held aside to choose ridges on.
        only: the layers (by output) that may change; all if not given.
        settled: layers that are fitted already as long as what is left of their input is what it was.
    """
    small = _with_biases(small, only)
    size = samples.batch()
    most = max(8, int(_MEMORY / 2 / max(_live_bytes(whole, what.shapes), 1)))
    count = min(samples.count, most)
    batches = list(samples.batches(min(size, max(1, count // 8)), 0, count))
    originals = {name(node.outputs[0]): node for node in whole.ir.graph}
    nodes = [
        node
        for node in small.ir.graph
        if (only is None or name(node.outputs[0]) in only)
        and name(node.outputs[0]) in originals
        and can_be_fitted(node)
    ]
    layers = [
        layer(originals[name(node.outputs[0])], node, what, count, name(node.outputs[0]) in settled) for node in nodes
    ]
    wanted = [one for one in layers if one is not None]
    proto = small.proto()
    streams = [_Stream(one, [known.name for known in wanted], batches) for one in (whole.proto(), proto)]
    constants = Constants(tensors={tensor.name: tensor for tensor in proto.graph.initializer})
    ridges: dict[str, float] = {}
    with threadpool_limits(1, "blas"):
        for number, known in enumerate(wanted):
            progress(number, len(wanted))
            for stream in streams:
                stream.advance()
            seen = _seen(known, streams[0].live, streams[1].live)
            solution = None if seen is None else solve(known, *seen)
            if solution is not None:
                constants.put(known.constants(solution))
                ridges[known.name] = solution.ridge
    return Repaired(model=Model.from_proto(proto, small.source), ridges=ridges, samples=count)


def _seen(known: Layer, wholes: Sequence[Feed], smalls: Sequence[Feed]) -> tuple[Moments, Moments, bool] | None:
    """Moments to fit to and others to check with, and whether the layer's input is what it was; None where too little
    of it is seen."""
    fitted, checked = known.moments(), known.moments()
    held = set(range(len(wholes))[2::5])
    same = True
    for number, (before, after) in enumerate(zip(wholes, smalls, strict=True)):
        rows = known.rows(before, after, number)
        if rows is None:
            return None
        x, y, unchanged = rows
        same = same and unchanged
        (checked if number in held else fitted).add(x, y)
    return (fitted, checked, same) if fitted.rows >= 2 else None


def refitted(known: Layer, fitted: Moments, held: Moments) -> Solution:
    """The layer's weights, near what they are, that give what the original's gave."""
    if held.rows < 2:
        return refit(fitted, known.prior, known.ridges[-1], biased=known.biased)
    return refit_checked(fitted, held, known.prior, known.ridges, biased=known.biased)


def with_ridges(ridges: Mapping[str, float]) -> Solve:
    """Fits each layer with the ridge that was chosen for it, to the samples held aside as well."""
    return lambda known, fitted, held, same: (
        None
        if same
        else refit(fitted.joined(held) if held.rows else fitted, known.prior, ridges[known.name], biased=known.biased)
    )


def _with_biases(model: Model, only: Collection[str] | None) -> Model:
    """The model with a bias, of zeros, for each layer that can have one and may change."""
    result = model.clone()
    graph = result.ir.graph
    for node in list(graph):
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or not can_be_fitted(node):
            continue
        if only is not None and name(node.outputs[0]) not in only:
            continue
        if len(node.inputs) < 3 or node.inputs[2] is None:
            weight = constant(node.inputs[1])
            channels = None if weight is None else channel_count(node, weight)
            assert channels is not None
            zeros = np.zeros(channels, np.float32)
            node.resize_inputs(3)
            node.replace_input_with(2, initializer(graph, f"{node.outputs[0].name}_bias", zeros))
    return result


def _live_bytes(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The most that has to be kept of one sample between two nodes."""
    last: dict[str, int] = {}
    nodes = list(model.ir.graph)
    for index, node in enumerate(nodes):
        last |= {name(value): index for value in node.inputs if value is not None}
    live = most = 0
    ending: dict[int, int] = {}
    for index, node in enumerate(nodes):
        made = {name(value): 4 * int(np.prod(shapes.get(name(value), (0,)))) for value in node.outputs}
        live += sum(made.values())
        for key, size in made.items():
            ending[last.get(key, index)] = ending.get(last.get(key, index), 0) + size
        most = max(most, live)
        live -= ending.pop(index, 0)
    return most


class _Stream:
    """One model run piece by piece over batches, each of which keeps what later pieces read."""

    def __init__(self, proto: onnx.ModelProto, ends: Sequence[str], batches: Sequence[Feed]) -> None:
        places = {node.output[0]: index for index, node in enumerate(proto.graph.node)}
        indices = [places[end] for end in ends]
        self.live: list[Feed] = [dict(feed) for feed in batches]
        self._at_once = indices[:1] == [0]
        self._pieces = pieces(proto, [index for index in indices if index], self.live[0])

    def advance(self) -> None:
        """Run up to the next of the ends."""
        if self._at_once:
            self._at_once = False
            return
        piece = next(self._pieces)
        session = Session(piece.proto)
        for values in self.live:
            values.update(session.run({key: values[key] for key in piece.inputs}, piece.outputs))
            for key in values.keys() - piece.needed:
                del values[key]
