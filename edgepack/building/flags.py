"""Wishes that no build can grant, refused by name before anything is read."""

from __future__ import annotations

from collections.abc import Mapping

from edgepack.building.plan import Plan
from edgepack.data.ranges import Ranges
from edgepack.errors import UsageError


def refuse_flags(
    *, seconds: float, max_drop: float | None, time_budget: float | None, on: str | None, io_dtype: str
) -> None:
    """
    Raises:
        UsageError: a number out of its range, or a flag without the one that it belongs to.
    """
    if not 0 <= seconds < float("inf"):
        raise UsageError("--seconds should be positive", "2 is the default")
    if max_drop is not None and not 0 <= max_drop < 100:
        raise UsageError(f"--max-drop {max_drop:g} is no number of points", "0.5 allows half a point of the metric")
    if time_budget is not None and (max_drop is None or not 0 < time_budget < float("inf")):
        raise UsageError("--time-budget is the seconds that a search for --max-drop may take", "add --max-drop 0.5")
    if on is not None and (max_drop is None or on.startswith("qemu:")):
        raise UsageError(
            "--on is where the search for --max-drop measures latency"
            + (", and an emulated board's means nothing" if on.startswith("qemu:") else ""),
            "add --max-drop 0.5, and ssh://user@host of a real device",
        )
    if io_dtype != "float" and max_drop is not None:
        raise UsageError(
            "--max-drop may leave any layer float, and --io-dtype wants integers at the border",
            "leave one of the two out",
        )


def refuse_ranges(decision: Plan, ranges: Ranges) -> None:
    if not decision.target.SHAPE_RANGES:
        name, shapes = next(iter(ranges.items()))
        instead = "x".join(map(str, shapes.usual)) if decision.target.FIXED_SHAPES else ""
        raise UsageError(
            f"--input-shape {name}={shapes} is a range, and {decision.target_name} builds nothing for one",
            f"take one length: --input-shape {name}={instead}"
            if instead
            else "leave it out: open dimensions stay open, whatever their length",
        )


def refuse_idle(flags: Mapping[str, str | None]) -> None:
    for flag, value in flags.items():
        if value is not None:
            raise UsageError(f"{flag} is about samples, and there are none", "add --data or --eval")
