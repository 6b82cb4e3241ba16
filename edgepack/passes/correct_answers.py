"""What clipping does to the answers themselves, taken out of the layers that give them.

Ranges that clip make large numbers smaller, layer upon layer, so scores come out closer to their mean than the float
net's: a recognizer answers blank where it was not quite sure of a character. Correcting means cannot mend that, since
the mean is right. So the layer that gives the scores is stretched until they are, on average, what they should be:
E[answer | float answer] = float answer. One factor for all channels, and a shift for each, go into the scale of its
weights and into its bias, and cost nothing at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from edgepack.data.samples import Feed
from edgepack.model import Model, constant
from edgepack.passes.quantize import Rounded
from edgepack.quantization.layer import added_bias, bias_of, channel_count, output_axis

# Answers that have to be stretched by more are no scaled ones.
_LARGEST = 1.5


@dataclass(frozen=True, kw_only=True)
class Answering:
    """The layer whose numbers an output of the graph is.

    `layer` is its output's name, `axis` counts its channels, `bias` is what is added to each, [channels].
    """

    output: str
    layer: str
    axis: int
    bias: np.ndarray


def answering(model: Model) -> list[Answering]:
    """The layers that give the model's outputs; where it ends in a Softmax, those of `logits(model)`."""
    return [found for output in model.ir.graph.outputs if (found := _answering(output)) is not None]


def _answering(output: ir.Value) -> Answering | None:
    scores = _before_reshaping(_before_centering(_before_reshaping(output)))
    node = scores.producer()
    if node is not None and node.op_type == "Add":
        node = next((made for value in node.inputs if value and (made := value.producer()) and made.domain == ""), None)
        if node is None or node.op_type != "MatMul":
            return None
    if node is None or node.domain or node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return None
    weight = constant(node.inputs[1])
    bias = added_bias(node) if node.op_type == "MatMul" else bias_of(node)
    channels = None if weight is None else channel_count(node, weight)
    if channels is None or (node.op_type == "MatMul" and bias is None):
        return None
    rows = node.op_type in ("Gemm", "MatMul")
    if not rows and scores is not output:
        return None
    return Answering(
        output=str(output.name),
        layer=str(node.outputs[0].name),
        axis=-1 if rows else output_axis(node),
        bias=np.zeros(channels) if bias is None else bias,
    )


def _before_reshaping(value: ir.Value) -> ir.Value:
    """The same rows before their axes were arranged otherwise."""
    node = value.producer()
    while node is not None and node.op_type in ("Reshape", "Flatten", "Identity") and node.inputs[0] is not None:
        before, after = (seen.shape[-1] if seen.shape else None for seen in (node.inputs[0], value))
        if not isinstance(before, int) or before != after:
            break
        value = node.inputs[0]
        node = value.producer()
    return value


def _before_centering(output: ir.Value) -> ir.Value:
    """The scores whose mean `logits` took off, or the output itself."""
    node = output.producer()
    if node is None or node.op_type != "Sub" or node.inputs[0] is None or node.inputs[1] is None:
        return output
    mean = node.inputs[1].producer()
    return node.inputs[0] if mean is not None and mean.op_type == "ReduceMean" else output


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """What an output's layer is corrected by: its answers times `factor`, plus `offset` a channel."""

    found: Answering
    factor: float
    offset: np.ndarray

    def layer(self, known: Rounded) -> Rounded:
        """The layer that gives the corrected answers."""
        bias = self.found.bias
        held = bias if known.shift is None else bias - known.shift
        scale = np.asarray(known.scale * np.float32(self.factor), np.float32)
        return replace(known, scale=scale, shift=bias - (self.factor * held + self.offset))

    def answer(self, array: np.ndarray) -> np.ndarray:
        """Answers as the corrected layer gives them."""
        moved = np.moveaxis(array, self.found.axis, -1) * self.factor + self.offset
        return np.asarray(np.moveaxis(moved, -1, self.found.axis), array.dtype)


def stretch(found: Answering, answers: Sequence[Feed], wanted: Sequence[Feed]) -> Stretch:
    """Factor and offsets with which answers are on average those that were wanted, to the same feeds."""
    pairs = [
        (_by_channel(got, found), _by_channel(right, found))
        for got, right in zip(answers, wanted, strict=True)
        if got[found.output].shape == right[found.output].shape  # a detector may find one more, or one less
    ]
    if not any(len(got) for got, _ in pairs):
        return Stretch(found=found, factor=1.0, offset=np.zeros(1))
    rows = sum(len(got) for got, _ in pairs)
    mean, aim = (sum(one.sum(axis=0, dtype=np.float64) for one in side) / rows for side in zip(*pairs, strict=True))
    both = own = 0.0
    for got, right in pairs:
        off = right - aim  # float64: squares of large answers are taken
        own += float(np.vdot(off, off))
        both += float(np.vdot(off, got - mean))
    factor = float(np.clip(own / both, 1 / _LARGEST, _LARGEST)) if both > 0 and np.isfinite(own) else 1.0
    offset = aim - factor * mean
    return Stretch(found=found, factor=factor, offset=np.where(np.isfinite(offset), offset, 0.0))


def _by_channel(feed: Feed, found: Answering) -> np.ndarray:
    """Answers as rows of channels."""
    array = np.moveaxis(feed[found.output], found.axis, -1)
    return array.reshape(-1, array.shape[-1])
