"""Importance by gradients: how much the answers change, to the first order, if a channel goes.

A gate of ones on a channel, as in Molchanov et al., "Importance Estimation for Neural Network Pruning" (CVPR 2019):
the loss's derivative by the gate is the sum of gradient times weight over the weights that read the channel, and its
square, averaged over samples, the channel's importance. Gates of one channel open and close together, so derivatives
are summed before they are squared.

There are no labels. The cross-entropy to the model's own answers has no gradient where the model is sure of them, so
the square is averaged over the answers that the model itself gives its probabilities to (Theis et al., "Faster gaze
prediction with dense networks and Fisher pruning", 2018): the Fisher information of the output's distribution, which
is the curvature of the KL divergence from the whole model (Martens, "New Insights and Perspectives on the Natural
Gradient Method", 2020). Instead of answers, vectors whose covariance is that Fisher information are drawn and sent
back through the graph, which has the same mean and less noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgepack.data.samples import Feed, Samples, spread, subset
from edgepack.errors import PruningError, needs
from edgepack.model import Model
from edgepack.pruning.autograd import Differentiable, Gate, differentiable, one_thread
from edgepack.pruning.distance import probabilities
from edgepack.pruning.groups import Dependencies, Group
from edgepack.pruning.rules import name, read
from edgepack.reference import answers_to

# Vectors that are sent back, one of each sample unless samples are few; samples that tell of what kind an output is.
_DRAWN = 256
_A_SAMPLE = 4
_LOOK = 16
# From an output to a vector whose covariance is the Fisher information of what the output stands for.
Draw = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def taylor(model: Model, found: Dependencies, samples: Samples) -> np.ndarray:
    """The importance of each unit.

    Args:
        model: the one (surgery.untangled) that the dependencies were found in.

    Raises:
        MissingExtra, UnsupportedOperator: see autograd.differentiable.
        PruningError: no output depends on any channel by a gradient.
    """
    some = subset(samples, spread(samples.count, _DRAWN))
    draws = _draws(answers_to(some.first(_LOOK), model))
    gates = _gates(model, found)
    chance = np.random.default_rng(0)
    times = min(_A_SAMPLE, -(-_DRAWN // some.count))
    total = np.zeros(found.units)
    with one_thread():
        copy = differentiable(model, samples.read(0))
        for feed in some:
            for slopes in _slopes(copy, feed, gates, draws, chance, times):
                change = np.zeros(found.units)
                for unit, slope in zip(gates.values(), slopes, strict=True):
                    np.add.at(change, unit[unit >= 0], slope[unit >= 0])
                total += np.square(change)
    return total / (some.count * times)


def _slopes(
    copy: Differentiable, feed: Feed, gates: Mapping[Gate, np.ndarray], draws: Mapping[str, Draw],
    chance: np.random.Generator, times: int,
) -> Iterator[list[np.ndarray]]:  # fmt: skip
    """The gates' derivatives, for each of several vectors sent back."""
    torch = needs("torch")
    factors = {gate: torch.ones(len(unit), requires_grad=True) for gate, unit in gates.items()}
    made = copy.run(feed, factors)
    outputs = {key: value for key, value in made.items() if key in draws and value.requires_grad}
    if not outputs:
        raise PruningError(
            "no output of the model has a gradient by its channels", "take --prune-importance second-order"
        )
    for time in range(times):
        drawn = [
            torch.tensor(draws[key](value.detach().numpy(), chance), dtype=value.dtype)
            for key, value in outputs.items()
        ]
        slopes = torch.autograd.grad(
            list(outputs.values()), list(factors.values()), drawn, retain_graph=time + 1 < times, materialize_grads=True
        )
        yield [slope.numpy() for slope in slopes]


def by_gradient(importance: np.ndarray, group: Group) -> np.ndarray:
    """The group's units, those that matter least first."""
    return group.units[np.argsort(importance[group.units], kind="stable")]


def _gates(model: Model, found: Dependencies) -> dict[Gate, np.ndarray]:
    """Where each group's channels are read by weights, or made where no weights read them; the units by place."""
    nodes = {name(node.outputs[0]): node for node in model.ir.graph}
    gates: dict[Gate, np.ndarray] = {}
    for group in found.groups:
        reads = bool(group.consumers)
        for output in group.consumers or group.producers:
            node = nodes[output]
            value = read(node, 0) if reads else output
            axis = _channel_axis(node, len(found.shapes[value]), reads)
            unit = found.unit.get((value, axis))
            if unit is not None:
                gates[Gate(node=output, reads=reads, axis=axis)] = unit
    return gates


def _channel_axis(node: ir.Node, rank: int, reads: bool) -> int:
    if "Conv" in node.op_type:
        return 1
    return 0 if reads and node.op_type == "Gemm" and node.attributes.get_int("transA", 0) != 0 else rank - 1


def _draws(answers: Sequence[Feed]) -> dict[str, Draw]:
    """By float output, what it stands for: the probabilities of classes or of single events, the scores of classes, or
    numbers, whose errors count by their spread over the samples."""
    found: dict[str, Draw] = {}
    for key, first in answers[0].items():
        if not isinstance(first, np.ndarray) or first.dtype.kind != "f" or not first.size:
            continue
        each = [answer[key] for answer in answers]
        if all(probabilities(one) for one in each):
            found[key] = _of_probabilities
        elif all(one.min() >= 0 and one.max() <= 1 for one in each):
            found[key] = _of_events
        elif first.ndim == 2 and len(first) == 1 and first.shape[1] > 1:
            found[key] = _of_scores
        else:
            found[key] = _of_numbers(float(np.concatenate([one.reshape(-1) for one in each]).std()))
    return found


def _noise(like: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    return chance.standard_normal(like.shape).astype(np.float32)


def _of_probabilities(p: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Covariance 1 / p, along the last axis."""
    return np.asarray(_noise(p, chance) / np.sqrt(np.maximum(p, 1e-12)))


def _of_events(p: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Covariance 1 / (p · (1 − p))."""
    return np.asarray(_noise(p, chance) / np.sqrt(np.maximum(p * (1 - p), 1e-6)))


def _of_scores(scores: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Covariance diag(p) − p·pᵀ of the classes' probabilities p, along the last axis."""
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    drawn = np.sqrt(p) * _noise(p, chance)
    return np.asarray(drawn - p * drawn.sum(axis=-1, keepdims=True))


def _of_numbers(deviation: float) -> Draw:
    return lambda y, chance: _noise(y, chance) / np.float32(max(deviation, 1e-12))
