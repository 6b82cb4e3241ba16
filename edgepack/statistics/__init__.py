"""Statistics of a float model over calibration samples, in one streaming pass."""

from edgepack.statistics.ranges import Channels, Statistics, collect

__all__ = ["Channels", "Statistics", "collect"]
