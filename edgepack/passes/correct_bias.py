"""Sequential bias correction: layer by layer, the mean output of the quantized net is brought back to the float net's.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), in the empirical form of
their appendix D: each layer is corrected with all layers before it quantized and corrected. The quantized net is cut
before every layer, and each piece runs once on what the pieces before it gave. A layer's mean output is
what it answers to its mean input, since it is linear: one run of the layer by itself tells it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgepack.data.samples import Feed, Samples
from edgepack.model import Model
from edgepack.passes.correct_answers import Answering, answering, stretch
from edgepack.passes.placement import place
from edgepack.passes.quantize import Rounded, quantize
from edgepack.quantization.layer import output_axis
from edgepack.quantization.pieces import Piece, pieces, separate
from edgepack.reference import Session, answers_to, side_by_side
from edgepack.statistics.stream import MEMORY, few, stream
from edgepack.target import Scheme

_CORRECTED = frozenset({"Conv", "ConvTranspose", "Gemm"})


@dataclass(kw_only=True)
class ChannelMean:
    """An observer: the mean of each channel, every sample counting alike."""

    tensor: str
    axis: int
    total: np.ndarray | float = 0.0
    rows: int = 0
    nbytes: int = 0

    def update(self, array: np.ndarray) -> None:
        self.total = self.total + channel_mean(array, self.axis) * len(array)
        self.rows += len(array)

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.total / max(self.rows, 1))


def channel_mean(array: np.ndarray, axis: int) -> np.ndarray:
    axis %= array.ndim
    if axis < array.ndim - 1 and array.dtype == np.float32:
        # Summed in pairs along contiguous memory, which loses nothing and takes a third of the time.
        array = array.reshape(*array.shape[: axis + 1], -1).mean(axis=-1)
    return np.asarray(array.mean(axis=tuple(i for i in range(array.ndim) if i != axis), dtype=np.float64))


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """The layers with their shifts, and what the model they make answers to the feeds that were to be answered."""

    layers: dict[str, Rounded]
    answers: list[Feed]


def correct_biases(
    model: Model,
    scheme: Scheme,
    ranges: Mapping[str, tuple[float, float]],
    layers: Mapping[str, Rounded],
    samples: Samples,
    keep_float: frozenset[str] = frozenset(),
    *,
    answered: Sequence[Feed] | None = (),
    means: Mapping[str, np.ndarray] | None = None,
    wanted: Sequence[Feed] | None = None,
    memory: int = MEMORY,
    progress: Callable[[int, int], None] | None = None,
) -> Corrected:
    """The shifts that bring each layer's mean output back to the float model's; answers are corrected in scale too.

    Args:
        model: the float model; where it ends in a Softmax, `logits` of it lets its answers be corrected.
        layers: rounded weights by output name; layers without are rounded to nearest and left uncorrected.
        keep_float: layers that stay float. Correct after they are chosen: which they are changes every mean.
        answered: feeds that are to be answered, though nothing is corrected by them; None: the samples that biases
            are corrected by.
        means: what `output_means` finds in these samples; it is asked if they are not given.
        wanted: what the float model answers to `few(samples)`, batch by batch; it is run if they are not given.
    """
    if means is None:
        means = output_means(model, scheme, samples, memory)
    seen = few(samples)
    # A layer that none of these samples reaches has no mean.
    corrected = {
        name: axis
        for name, axis in _correctable(model, scheme, keep_float).items()
        if name in layers and np.ndim(means[name])
    }
    # Each gets a bias, which is moved while the pieces run.
    moved = {
        name: replace(known, shift=np.zeros(len(means[name]))) if name in corrected and known.shift is None else known
        for name, known in layers.items()
    }
    proto = quantize(model, scheme, ranges, moved, keep_float).model.proto()
    separate(proto)
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    found = [Layer.of(proto, index, corrected, constants) for index in range(len(proto.graph.node))]
    linear = {layer.start: layer for layer in found if layer is not None}
    looked_at: list[dict[str, np.ndarray]] = [dict(feed) for feed in seen.batches(seen.batch())]
    others = [dict(feed) for feed in answered or ()]
    ends = ends_of(model, layers, keep_float)
    if ends and wanted is None:
        wanted = answers_to(looked_at, model)
    live = looked_at + others
    result = dict(layers)
    pending = sorted(linear)
    # Small pieces gain more from samples side by side than from threads within.
    workers = side_by_side(len(live))

    with ThreadPoolExecutor(workers) as pool:

        def correct(layer: Layer) -> None:
            sums = summed_input(layer.data, [looked_at[worker::workers] for worker in range(workers)], pool)
            if not sums:  # what decides whether it is reached went the other way
                return
            drift = layer.mean_output(sums) - means[layer.name]
            layer.move_bias(-drift)
            known = result[layer.name]
            result[layer.name] = replace(known, shift=drift if known.shift is None else known.shift + drift)
            if progress:
                progress(len(linear) - len(pending), len(linear))

        if pending and pending[0] == 0:
            correct(linear[pending.pop(0)])
        whole = answered is None or bool(ends)  # what the samples themselves are answered
        to_the_end = [len(proto.graph.node)] if whole or others else []
        for piece in pieces(proto, [*pending, *to_the_end], live[0]):
            session = Session(piece.proto, threads=1 if workers > 1 else 0, fuse_integers=scheme.fuses_here)
            for _ in pool.map(partial(_advance, piece, session), live if pending or whole else others):
                pass
            if pending:
                correct(linear[pending.pop(0)])
    outputs = [output.name for output in proto.graph.output]
    own = [{name: values[name] for name in outputs} for values in looked_at] if whole else []
    answers = own if answered is None else [{name: values[name] for name in outputs} for values in others]
    for end in ends:
        corrected_end = stretch(end, own, wanted or ())
        result[end.layer] = corrected_end.layer(result[end.layer])
        answers = [{**feed, end.output: corrected_end.answer(feed[end.output])} for feed in answers]
    return Corrected(layers=result, answers=answers)


def ends_of(model: Model, layers: Collection[str], keep_float: Collection[str]) -> list[Answering]:
    """The rounded layers whose numbers the outputs are, which are corrected in scale."""
    return [end for end in answering(model) if end.layer in layers and end.layer not in keep_float]


def _advance(piece: Piece, session: Session, values: dict[str, np.ndarray]) -> None:
    """Put what the piece gives in the place of what nothing behind it reads."""
    values.update(session.run({name: values[name] for name in piece.inputs}, piece.outputs))
    for name in values.keys() - piece.needed:
        del values[name]


# Sum over rows, and how many there were, by a row's shape.
Sums = dict[tuple[int, ...], tuple[np.ndarray, int]]


def summed_input(data: str, shares: Sequence[Sequence[Feed]], pool: Executor) -> Sums:
    """What a tensor of integers sums up to over the samples, whose shares are summed side by side."""
    total: Sums = {}
    for sums in pool.map(partial(_summed, data), shares):
        for shape, (summed, rows) in sums.items():
            before, count = total.get(shape, (0, 0))
            total[shape] = (before + summed, count + rows)
    return total


def _summed(data: str, share: Sequence[Feed]) -> Sums:
    sums: Sums = {}
    for values in share:
        array = values[data]
        if not len(array):
            continue
        shape = array.shape[1:]
        summed, rows = sums.get(shape, (np.zeros(shape, np.int32), 0))
        for row in array:
            summed += row
        sums[shape] = (summed, rows + len(array))
    return sums


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A linear node of a separated Q/DQ graph, read from integers.

    `start` is where its own nodes begin; `alone` is the node by itself without its bias, from "input" to "output".
    """

    name: str
    start: int
    axis: int
    data: str
    scale: float
    zero_point: int
    bias: onnx.TensorProto
    bias_scale: np.ndarray | None
    alone: onnx.ModelProto

    @classmethod
    def of(
        cls,
        proto: onnx.ModelProto,
        index: int,
        corrected: Mapping[str, int],
        constants: Mapping[str, onnx.TensorProto],
    ) -> Layer | None:
        """The layer that a node is; None where it is none of `corrected`."""
        graph = proto.graph
        node = graph.node[index]
        name = _layer_of(node, corrected)
        if name is None:
            return None
        before = list(itertools.takewhile(lambda i: graph.node[i].output[0] in node.input, range(index - 1, -1, -1)))
        restoring = {graph.node[i].output[0]: graph.node[i] for i in before}

        def array(tensor: str) -> np.ndarray:
            return np.asarray(numpy_helper.to_array(constants[tensor]))

        data, weight, bias = (restoring.get(value) for value in node.input)
        assert data is not None and weight is not None
        single = onnx.NodeProto()
        single.CopyFrom(node)
        del single.input[:]
        single.input.extend(["input", weight.output[0]])
        single.output[0] = "output"
        body = helper.make_graph(
            [weight, single],
            "layer",
            [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, None)],
            [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, None)],
            [constants[value] for value in weight.input],
        )
        return cls(
            name=name,
            start=min(before),
            axis=corrected[name],
            data=data.input[0],
            scale=float(array(data.input[1])),
            zero_point=int(array(data.input[2])),
            bias=constants[node.input[2] if bias is None else bias.input[0]],
            bias_scale=None if bias is None else array(bias.input[1]).astype(np.float64),
            alone=onnx.ModelProto(ir_version=proto.ir_version, graph=body, opset_import=proto.opset_import),
        )

    def mean_output(self, sums: Sums) -> np.ndarray:
        """The mean of each output channel over the samples, float64, given the sums of what the layer reads."""
        session = Session(self.alone, threads=1)
        total = np.zeros_like(self._bias())
        for summed, rows in sums.values():
            mean = (summed / rows - self.zero_point) * self.scale
            answer = session.run({"input": mean.astype(np.float32)[None]})["output"]
            total += channel_mean(answer, self.axis) * rows
        return np.asarray(total / sum(rows for _, rows in sums.values()) + self._bias())

    def _bias(self) -> np.ndarray:
        held = numpy_helper.to_array(self.bias).astype(np.float64)
        return held if self.bias_scale is None else held * self.bias_scale

    def move_bias(self, by: np.ndarray) -> None:
        """Add to the bias, in the graph itself."""
        bias = self._bias() + by
        if self.bias_scale is None:
            array = bias.astype(np.float32)
        else:
            array = np.clip(np.rint(bias / self.bias_scale), -(2**31), 2**31 - 1).astype(np.int32)
        self.bias.CopyFrom(numpy_helper.from_array(array, self.bias.name))


def output_means(model: Model, scheme: Scheme, samples: Samples, memory: int = MEMORY) -> dict[str, np.ndarray]:
    """The float model's mean output of each channel of each layer that can be corrected."""
    wanted = mean_outputs(model, scheme)
    for _ in stream(model, [], samples, memory, briefly=wanted):
        pass
    return {observer.tensor: observer.mean for observer in wanted}


def mean_outputs(model: Model, scheme: Scheme) -> list[ChannelMean]:
    """Observers of what `output_means` finds, to be shown a few samples."""
    return [ChannelMean(tensor=name, axis=axis) for name, axis in _correctable(model, scheme).items()]


def _correctable(model: Model, scheme: Scheme, keep_float: frozenset[str] = frozenset()) -> dict[str, int]:
    """The layers that can be corrected, with the axis that counts their channels."""
    return {
        str(node.outputs[0].name): output_axis(node)
        for node in place(model, scheme, keep_float).weighted
        if node.op_type in _CORRECTED
    }


def _layer_of(node: onnx.NodeProto, layers: Collection[str]) -> str | None:
    """Which layer the node is; where its output is the graph's, quantizing renamed it."""
    if node.op_type not in _CORRECTED:
        return None
    name = node.output[0]
    return name if name in layers else name.removesuffix("_float") if name.removesuffix("_float") in layers else None
