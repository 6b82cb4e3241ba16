"""Statistics of a float model over calibration samples, in one streaming pass."""

from edgepack.statistics.ranges import Statistics, collect

__all__ = ["Statistics", "collect"]
