"""Statistics of a float model over calibration samples, in one streaming pass."""

from edgepack.statistics.extent import Extent
from edgepack.statistics.moments import Moments
from edgepack.statistics.stream import MEMORY, stream

__all__ = ["MEMORY", "Extent", "Moments", "stream"]
