"""Passes: a file a pass, each a function from a model to a PassResult. They never change the model they get."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgepack.model import Model

# The order in which `edgepack.pipeline` applies them.
ORDER = (
    "raise_opset",
    "fix_shapes",
    "simplify",
    "fuse_activations",
    "fold_batchnorm",
    "half",
    "weight_only",
    "dynamic",
    "quantize",
    "fit_format",
    "public_layout",
)


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """A pass's model, one line on what it did, and its figures by name."""

    model: Model
    note: str
    figures: dict[str, float] = field(default_factory=dict)
