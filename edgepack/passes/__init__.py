"""Passes: a file a pass, each a function from a model to a PassResult. They never change the model they get."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from edgepack.model import Model


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one pass did in a build: its name, its note, and the model before and after it.

    Bytes are of weights and constants in memory; the target writes them in a form of its own.
    """

    name: str
    note: str
    bytes_before: int
    bytes_after: int
    nodes_before: int
    nodes_after: int


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """A pass's model, one line on what it did, and its figures by name; the `steps` of one that is made of several."""

    model: Model
    note: str
    figures: dict[str, float] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()

    def step(self, name: str, before: Model, more: str = "") -> Step:
        """What the pass did to the model `before`; `more` is put behind its note."""
        return Step(
            name=name,
            note=f"{self.note}{more}",
            bytes_before=before.weight_bytes,
            bytes_after=self.model.weight_bytes,
            nodes_before=sum(1 for _ in before.nodes()),
            nodes_after=sum(1 for _ in self.model.nodes()),
        )


def told(steps: Iterable[Step]) -> tuple[Step, ...]:
    """The steps that did something, which their notes say."""
    return tuple(step for step in steps if step.note)
