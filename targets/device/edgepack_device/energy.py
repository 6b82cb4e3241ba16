"""Energy between two readings, where a sensor tells. Python 3.8.

Intel's and AMD's RAPL counts microjoules of each CPU package; Jetson's INA3221 measures power at its supply. Either is
read before and after a turn, which takes some ten microseconds and is in no run's time. Idle power is included.
"""

import os
import time


class Energy(object):
    """A meter on the machine of `surroundings`; `read` and `since` give nothing where there is no sensor."""

    def __init__(self, surroundings):
        self._machine = surroundings
        self._counters = []
        for name in surroundings.names("/sys/class/powercap/*rapl:[0-9]*/energy_uj"):
            folder = os.path.dirname(name)
            # intel-rapl:0 is a package; intel-rapl:0:1 is a part of it and would count twice, and so would psys.
            package = folder.count(":") == 1 and (surroundings.text(folder + "/name") or "").startswith("package")
            if package and surroundings.number(name) is not None:
                self._counters.append((name, surroundings.number(folder + "/max_energy_range_uj") or 0.0))
        self._rails = not self._counters and bool(surroundings.watts())

    def read(self):
        if self._counters:
            return [self._machine.number(name) for name, _ in self._counters]
        return time.perf_counter() if self._rails else None

    def since(self, start):
        """Joules since `start`, which `read` gave; None where nothing tells."""
        if start is None:
            return None
        if self._rails:
            return supply(self._machine.watts()) * (time.perf_counter() - start)
        total = 0.0
        for (name, size), before in zip(self._counters, start):
            now = self._machine.number(name)
            if now is None or before is None:
                return None
            total += now - before if now >= before else now - before + size
        return total / 1e6


def supply(watts):
    """The power that goes in: the board's input rail where there is one, else all rails together."""
    for name, value in watts.items():
        if name in ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0_IN"):
            return value
    return sum(watts.values())
