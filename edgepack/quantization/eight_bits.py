"""What 8-bit weights would cost on a CPU that saturates: why a build for it takes 7 bits, in a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from edgepack.cost import cost_of
from edgepack.data.samples import Feed
from edgepack.errors import EdgepackError
from edgepack.metrics.base import first_float
from edgepack.metrics.merit import distance
from edgepack.passes.quantize import quantize
from edgepack.quantization.preparation import Prepared
from edgepack.quantization.saturation import SaturatingSession
from edgepack.reference import Session
from edgepack.target import Scheme

# Multiply-accumulates that are emulated at most: a few seconds.
_MACS = 500_000_000


@dataclass(frozen=True, kw_only=True)
class EightBits:
    """8-bit weights on such a CPU: the distances to the original with and without saturation in dB, and the share
    of each layer's sums of two products that saturate."""

    saturated_db: float
    exact_db: float
    shares: dict[str, float]

    def __str__(self) -> str:
        touched = [name for name, share in self.shares.items() if share]
        if not touched:
            return "8-bit weights, rounded to nearest, would saturate nowhere on the golden samples"
        worst = max(touched, key=lambda name: self.shares[name])
        return (
            f"8-bit weights, rounded to nearest, would saturate in {len(touched)} layers, in up to "
            f"{100 * self.shares[worst]:.2g} % of the sums ({worst}): {self.saturated_db:.1f} dB from the original "
            f"instead of {self.exact_db:.1f}"
        )


def eight_bits(ready: Prepared, scheme: Scheme, feeds: Sequence[Feed], original: Session) -> EightBits | None:
    """Emulate 8-bit weights, on as many of the feeds as take a few seconds; None where that is not even one."""
    try:
        macs = max(cost_of(ready.model).macs, 1)
    except EdgepackError:
        return None
    wide = quantize(ready.model, replace(scheme, weight_bits=8), ready.ranges).model
    saturating, exact = SaturatingSession(wide), Session(wide)
    chosen = list(islice(feeds, _MACS // macs))
    if not chosen:
        return None
    references = [original.run(feed) for feed in chosen]
    if first_float(references[0])[1] is None:
        return None
    return EightBits(
        saturated_db=distance(saturating.run, chosen, references).sqnr_db,
        exact_db=distance(exact.run, chosen, references).sqnr_db,
        shares=saturating.shares,
    )
