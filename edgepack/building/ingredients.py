"""What the candidates of one build share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from edgepack.building.plan import Plan
from edgepack.bundles.border import Border
from edgepack.data.ranges import Ranges
from edgepack.data.samples import Feed, Samples
from edgepack.metrics.judge import Judge
from edgepack.model import Model
from edgepack.passes import Step
from edgepack.quantization.half_range import Wide
from edgepack.quantization.settle import Settled
from edgepack.reference import Session


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """What every candidate of one build is made from.

    `original` is the model as given, `shaped` the same with its dimensions fixed as far as they are known, `clean` that
    after clean-up; `judged` are the samples that quality is measured on, the calibration samples themselves where there
    is no evaluation set, and `judge` measures it.
    `references` are the original's answers to the `golden` feeds. `border` is what the bundle's file takes and gives.
    `steps` are the passes from `original` to `clean`, those up to `shaped` are `shaping`.
    """

    plan: Plan
    name: str
    version: str
    original: Model
    shaped: Model
    session: Session
    clean: Model
    data: Samples | None
    judged: Samples | None
    judge: Judge | None
    golden: list[Feed]
    references: list[Feed]
    synthetic: bool
    labels: list[str] | None
    wheels: bool
    border: Border
    shaping: tuple[Step, ...] = ()
    steps: tuple[Step, ...] = ()
    # Filled by `settled`, so that candidates share one pass over the calibration samples.
    known: dict[str, Settled] = field(default_factory=dict)
    # What was pruned of `clean` (edgepack/building/pruned.py), for the manifest.
    pruning: dict[str, Any] | None = None
    # Lengths of open dimensions, by input, for a runtime that is built for them.
    ranges: Ranges = field(default_factory=dict)
    # True where two of every four weights are zero.
    sparse: bool = False
    # Filled by `_kept_wide`, by precision.
    wide: dict[str, Wide] = field(default_factory=dict)

    def with_model(self, clean: Model, **more: Any) -> Ingredients:
        """The same for another clean model, of which nothing is known yet."""
        return replace(self, clean=clean, known={}, wide={}, **more)

    @property
    def pictures(self) -> Samples | None:
        """The samples that the golden inputs are from, if they are images."""
        source = self.data or self.judged
        return source if source is not None and source.spec is not None else None
