"""What a build gives back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgepack.building.candidate import SLOWER, Candidate
from edgepack.building.ingredients import Ingredients
from edgepack.building.plan import AS_IS
from edgepack.metrics.merit import Quality
from edgepack.passes import Step


@dataclass(frozen=True, kw_only=True)
class Build:
    """What `build` made, and what was measured on the way.

    `sizes` are bytes: of the original model, of the built one, of the archive. `latency` is the harness's
    measurement on this machine. `notes` say what was done, `warnings` what to look at. `promise` is how `max_drop`
    was kept or missed (docs/metrics.md), None where none was given; `pruning` what was pruned, or why it was declined.
    `steps` are the passes that made what was chosen, with sizes before and after; `forms` what int8 was settled between
    (`form`, `sqnr_db`, `chosen`).
    """

    bundle: Path
    archive: Path
    name: str
    version: str
    device: str
    target: str
    precision: str
    reason: str
    sizes: dict[str, int]
    quality: Quality | None
    latency: dict[str, Any]
    check: dict[str, Any]
    notes: list[str]
    warnings: list[str]
    promise: dict[str, Any] | None = None
    pruning: dict[str, Any] | None = None
    steps: list[Step] = field(default_factory=list)
    forms: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "build", "format": 1, **asdict(self), "bundle": str(self.bundle), "archive": str(self.archive)}


def doubts(given: Ingredients, chosen: Candidate) -> list[str]:
    """What the figures of the chosen candidate do not tell."""
    found = []
    ratio = chosen.latency.get("ratio")
    if ratio is not None and ratio["high"] < SLOWER:
        found.append(
            f"slower than the float original on this machine: {ratio['median']:.2f} times as fast"
            + ("; --precision fp32 is there" if chosen.precision not in ("fp32", AS_IS) else "")
        )
    quality = chosen.quality
    if given.judged is not None and given.judged.labels is not None and (quality is None or quality.metric is None):
        found.append("labels were given, but the first output is not [batch, classes]: --metric says how they judge it")
    if given.synthetic:
        found.append("no samples: the golden inputs are seeded noise, good for checking, not for judging accuracy")
    return found
