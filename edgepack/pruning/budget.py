"""How far to prune: a share of the multiply-accumulates, of the parameters, or of the latency."""

from __future__ import annotations

from dataclasses import dataclass

from edgepack.errors import UsageError

KINDS = ("macs", "params", "latency")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """`share` of the original's that may be left."""

    kind: str
    share: float

    def __str__(self) -> str:
        return f"{self.kind}={self.share:g}"


def budget(text: str) -> Budget:
    """Read `macs=0.7`.

    Raises:
        UsageError.
    """
    kind, _, number = text.partition("=")
    try:
        share = float(number)
    except ValueError:
        share = 0.0
    if kind not in KINDS or not 0 < share < 1:
        raise UsageError(f"--prune {text} is no budget", "say what is to be left: macs=0.7, params=0.6 or latency=0.8")
    return Budget(kind=kind, share=share)
