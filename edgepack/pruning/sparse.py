"""2:4 sparsity for a model: two of every four weights along the reduction are zero, layer upon layer, without training.

As TensorRT and cuSPARSELt want it (Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021): for a convolution
fours of input channels at each place of the kernel, for Gemm and MatMul fours along K. Both models run side by side
(repair.py): a layer's target is what the original gave, its input what the sparse model gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from edgepack.data.samples import Samples
from edgepack.errors import PruningError
from edgepack.model import Model, constant
from edgepack.passes.round_weights import damp
from edgepack.pruning.distance import distance
from edgepack.pruning.fit import Moments, Solution, refit
from edgepack.pruning.layers import LARGEST_FIT, Layer, can_be_fitted
from edgepack.pruning.observed import observed_shapes
from edgepack.pruning.pattern import OF, SWEEPS, chosen, fitted_kept, is_two_of_four, largest
from edgepack.pruning.repair import repair
from edgepack.pruning.rules import name
from edgepack.pruning.surgery import Cut, untangled
from edgepack.pruning.survey import halves
from edgepack.quantization.layer import WEIGHTED, from_matrix, to_matrix
from edgepack.reference import Session

# Input channels from which on sparse kernels are worth having.
WIDE = 256
# Shares of the mean diagonal to choose from, by layer: what is added to the second moments.
_DAMPINGS = (0.01, 0.1, 1.0)
# How the mask and the weights come about: `obs` is best, the others are there to be compared with it.
METHODS = ("obs", "compensated", "magnitude refitted", "magnitude")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Errors are pruning/distance.py's, on samples that nothing was fitted to.

    `layers` are the input channels of the layers made sparse, by output; `narrow` how many of them have less than
    WIDE; `left_dense` says why the other layers are not; `ridges` are the
    shares of the mean variance that were added to it.
    """

    layers: dict[str, int]
    left_dense: dict[str, str]
    ridges: dict[str, float] = field(default_factory=dict)
    share: float
    error: float
    samples: int

    @property
    def narrow(self) -> int:
        return sum(channels < WIDE for channels in self.layers.values())

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "narrow": self.narrow}

    def __str__(self) -> str:
        narrow = f"; {self.narrow} of them read fewer than {WIDE} channels, where sparse kernels gain little"
        return (
            f"2:4 in {len(self.layers)} of {len(self.layers) + len(self.left_dense)} layers, {self.share:.0%} of the "
            f"weights; refitted on {self.samples} samples, error of the output {self.error:.2g}"
            + (narrow if self.narrow else "")
        )


@dataclass(frozen=True, kw_only=True)
class Sparse:
    model: Model
    report: Report


def two_of_four(
    model: Model,
    samples: Samples,
    *,
    method: str = "obs",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sparse:
    """The model with two zeros in every four weights of each layer that can have them.

    Args:
        model: float, cleaned up (edgepack/building/cleaning.py).
        samples: unlabelled ones, to fit to.
        method: one of METHODS.

    Raises:
        PruningError: no layer can have them.
    """
    assert method in METHODS
    whole = untangled(model)
    wanted, left = candidates(whole)
    if not wanted:
        why = "; ".join(f"{layer}: {reason}" for layer, reason in list(left.items())[:3])
        raise PruningError(f"no layer of the model can be 2:4 sparse: {why or 'it has none'}", "leave it dense")
    seen, held = halves(samples)
    if method == "magnitude":
        result, ridges, used = _cut_by_magnitude(whole, wanted), {}, 0
    else:
        shapes = observed_shapes(whole, samples.read(0))
        repaired = repair(
            whole, whole, Cut(shapes=shapes, kept={}), seen, progress, solve=_Solver(wanted, method), only=wanted
        )
        result, ridges, used = repaired.model, repaired.ridges, repaired.samples
        left |= dict.fromkeys(wanted.keys() - ridges.keys(), "how it walks over its input is not followed")
    feeds = list(held.batches(held.batch()))
    before, after = (Session(one) for one in (whole, result))
    made = {one: node for one, node in wanted.items() if one not in left}
    weights = sum(array.size for node in made.values() if (array := constant(node.inputs[1])) is not None)
    return Sparse(
        model=replace(result, source=model.source),
        report=Report(
            layers={one: channels(node) for one, node in made.items()},
            left_dense=left,
            ridges=ridges,
            share=weights / max(model.parameters, 1),
            error=distance([before.run(feed) for feed in feeds], [after.run(feed) for feed in feeds]),
            samples=used,
        ),
    )


def channels(node: ir.Node) -> int:
    """How many numbers a layer reduces over at each place of its kernel."""
    weight = constant(node.inputs[1])
    assert weight is not None
    return int(weight.shape[1]) if node.op_type == "Conv" else to_matrix(node, weight).shape[2]


def candidates(model: Model) -> tuple[dict[str, ir.Node], dict[str, str]]:
    """By output, the layers that can be sparse, and why the others cannot."""
    wanted: dict[str, ir.Node] = {}
    left: dict[str, str] = {}
    for node in model.ir.graph:
        if node.op_type not in WEIGHTED or constant(node.inputs[1]) is None:
            continue
        reason = _dense(node)
        if reason:
            left[name(node.outputs[0])] = reason
        else:
            wanted[name(node.outputs[0])] = node
    return wanted, left


def _dense(node: ir.Node) -> str:
    """Why a layer stays dense; empty if it need not."""
    if node.op_type == "ConvTranspose":
        return "no sparse kernels for transposed convolutions"
    if node.op_type == "Conv" and node.attributes.get_int("group", 1) != 1:
        return "it is grouped or depthwise"
    if not can_be_fitted(node):
        return "its weights are not floats of its own in a matrix"
    count = channels(node)
    if count % OF:
        return f"{count} input channels are no multiple of {OF}"
    weight = constant(node.inputs[1])
    assert weight is not None
    columns = to_matrix(node, weight).shape[2]
    return f"it reads {columns} numbers a patch, more than {LARGEST_FIT}" if columns > LARGEST_FIT else ""


def order(node: ir.Node) -> np.ndarray:
    """The columns of a layer's matrix with those that make a four beside each other."""
    weight = constant(node.inputs[1])
    assert weight is not None
    columns = to_matrix(node, weight).shape[2]
    return np.arange(columns).reshape(channels(node), -1).T.reshape(-1)


def is_sparse(node: ir.Node) -> bool:
    """Whether a layer's weights are 2:4."""
    weight = constant(node.inputs[1])
    assert weight is not None
    return is_two_of_four(to_matrix(node, weight)[0][:, order(node)])


def _cut_by_magnitude(whole: Model, wanted: Mapping[str, ir.Node]) -> Model:
    result = whole.clone()
    for node in result.ir.graph:
        value = node.inputs[1] if name(node.outputs[0]) in wanted else None
        array = constant(value)
        if value is not None and array is not None:
            matrix, columns = to_matrix(node, array), order(node)
            kept = largest(matrix[0][:, columns])[:, np.argsort(columns)]
            value.const_value = ir.tensor(
                np.ascontiguousarray(from_matrix(node, matrix * kept, array.shape)), name=value.name
            )
    return result


@dataclass(frozen=True)
class _Solver:
    """A layer's sparse weights from its moments."""

    nodes: Mapping[str, ir.Node]
    method: str

    def __call__(self, known: Layer, fitted: Moments, held: Moments, same: bool) -> Solution:
        """The damping is the one whose weights err least on moments that were not fitted to; then all are fitted to."""
        if held.rows < 2:
            return self._sparse(known, fitted, same, _DAMPINGS[-1])
        tried = [self._sparse(known, fitted, same, damping) for damping in _DAMPINGS]
        best = int(np.argmin([held.error(one.weight, one.bias) for one in tried]))
        return self._sparse(known, fitted.joined(held), same, tried[best].ridge)

    def _sparse(self, known: Layer, moments: Moments, same: bool, damping: float) -> Solution:
        columns = order(self.nodes[known.name])
        h = damp(moments.second(centred=known.biased), damping)[0][np.ix_(columns, columns)]
        # What the weights would be if all were kept: the input is no longer the original's.
        moved = not same and self.method != "compensated"
        dense = refit(moments, known.prior, damping, biased=known.biased).weight if moved else known.prior
        weight = dense[0][:, columns]
        if self.method == "magnitude refitted":
            kept = largest(known.prior[0][:, columns])
            near = weight * kept
        else:
            kept, near = chosen(weight, h, sweeps=0 if self.method == "compensated" else SWEEPS)
        if self.method != "compensated":
            near = fitted_kept(weight, near, kept, h)
        matrix = near[None][:, :, np.argsort(columns)]
        bias = moments.target_mean - np.einsum("gok,gk->go", matrix, moments.mean)
        return Solution(weight=matrix, bias=bias if known.biased else np.zeros_like(bias), ridge=damping)
