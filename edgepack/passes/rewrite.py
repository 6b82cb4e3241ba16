"""Float → float rewrites behind clean-up, each kept only if the model still answers as the untouched file does."""

from __future__ import annotations

from collections.abc import Sequence

from edgepack.data.samples import Feed
from edgepack.model import LARGEST_MESSAGE, Model
from edgepack.passes import PassResult, Step, told
from edgepack.passes.fold_batchnorm import fold_batchnorm
from edgepack.passes.fuse_activations import fuse_activations
from edgepack.passes.simplify import TOLERANCE, largest_error
from edgepack.reference import Session

# Activations first: a scale goes through Relu, but an activation spelled out ends in one.
REWRITES = (fuse_activations, fold_batchnorm)


def rewrite(model: Model, original: Session, feeds: Sequence[Feed]) -> PassResult:
    """Apply the rewrites in turn, and drop each that changes the answers on `feeds`."""
    if model.weight_bytes >= LARGEST_MESSAGE or model.is_quantized:
        return PassResult(model=model, note="")
    figures: dict[str, float] = {}
    taken: list[Step] = []
    for step in REWRITES:
        try:
            result = step(model)
            difference = largest_error(original, Session(result.model), feeds) if result.model is not model else 0.0
        except Exception as failure:  # a graph that no rewrite foresaw must not cost the user the build
            taken.append(_dropped(model, step.__name__, f" ({type(failure).__name__})"))
            continue
        if not difference <= TOLERANCE:
            taken.append(_dropped(model, step.__name__, f": it changes the answers by {difference:.1e}"))
            continue
        taken.append(result.step(step.__name__, model))
        model = result.model
        figures |= result.figures
    steps = told(taken)
    return PassResult(model=model, note="; ".join(step.note for step in steps), figures=figures, steps=steps)


def _dropped(model: Model, name: str, why: str) -> Step:
    return PassResult(model=model, note=f"{name} dropped{why}").step(name, model)
