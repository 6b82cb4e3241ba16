"""From the user's graph to the one that everything else works on: opset, shapes, clean-up, fusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgepack.model import Model
from edgepack.passes.fix_shapes import fix_shapes
from edgepack.passes.raise_opset import raise_opset
from edgepack.passes.rewrite import rewrite
from edgepack.passes.simplify import simplify
from edgepack.reference import Session
from edgepack.samples import Feed


def shaped(original: Model, shapes: Mapping[str, tuple[int, ...]], *, int8: bool) -> tuple[Model, list[str]]:
    """The model with its open dimensions fixed, in an opset that int8 can be written in; and notes.

    Raises:
        ShapeNeeded, UnsupportedOperator.
    """
    notes = []
    if int8:
        raised = raise_opset(original)
        original = raised.model
        notes.append(raised.note)
    fixed = fix_shapes(original, shapes)
    return fixed.model, [*notes, fixed.note]


def cleaned(model: Model, session: Session, feeds: Sequence[Feed]) -> tuple[Model, list[str]]:
    """The model cleaned up and its activations fused, each kept only if it answers like the original; and notes.

    Args:
        session: the original.
    """
    clean = simplify(model, session, feeds)
    fused = rewrite(clean.model, session, feeds)
    return fused.model, [clean.note, fused.note]
