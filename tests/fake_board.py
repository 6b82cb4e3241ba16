"""A board's /sys, /proc and programs as a tree of real files and real executables below a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CPUS = 2


class FakeBoard:
    """A quiet Raspberry Pi; tests change what they need. `root` is what edgepack reads instead of /."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
        self.write("proc/cpuinfo", "processor : 0\nHardware : BCM2835\n")
        self.write("proc/loadavg", "0.05 0.03 0.00 1/100 999\n")
        self.write("proc/pressure/cpu", "some avg10=0.10 avg60=0.00 avg300=0.00 total=1\n")
        self.write("sys/class/thermal/thermal_zone0/type", "cpu-thermal")
        for cpu in range(CPUS):
            self.write(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", "performance")
        self.write("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "performance")
        self.clock(2400)
        self.temperature(48.0)
        self.program("vcgencmd", 'test "$1" = get_throttled && cat "$(dirname "$0")/../../throttled"')
        self.throttled(0x0)

    def write(self, name: str, text: object) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
        return path

    def program(self, name: str, script: str) -> None:
        self.write(f"usr/bin/{name}", f"#!/bin/sh\n{script}").chmod(0o755)

    def clock(self, mhz: float) -> None:
        for cpu in range(CPUS):
            self.write(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq", int(1000 * mhz))

    def temperature(self, celsius: float) -> None:
        self.write("sys/class/thermal/thermal_zone0/temp", int(1000 * celsius))

    def throttled(self, bits: int) -> None:
        self.write("throttled", f"throttled={bits:#x}")

    def governor(self, name: str) -> None:
        for cpu in range(CPUS):
            self.write(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", name)

    def jetson(self, milliwatts: float = 5000) -> None:
        """Make it an Orin: rails of an INA3221, an over-current counter, a cooling state, a power mode."""
        (self.root / "usr/bin/vcgencmd").unlink()
        self.write("proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
        self.program("nvpmodel", "echo 'NV Power Mode: 15W'; echo 0")
        self.write("sys/class/hwmon/hwmon1/name", "ina3221")
        for channel, rail, share in ((1, "VDD_IN", 1.0), (2, "VDD_CPU_GPU_CV", 0.4), (3, "VDD_SOC", 0.2)):
            self.write(f"sys/class/hwmon/hwmon1/in{channel}_label", rail)
            self.write(f"sys/class/hwmon/hwmon1/in{channel}_input", 5000)
            self.write(f"sys/class/hwmon/hwmon1/curr{channel}_input", int(share * milliwatts / 5))
        self.write("sys/class/hwmon/hwmon2/name", "soctherm_oc")
        self.over_current(3)
        self.gpu_clock(306, 1020)
        self.write("sys/class/thermal/cooling_device0/type", "thermal-cpufreq-0")
        self.cooling(0)

    def gpu_clock(self, lowest: int, highest: int) -> None:
        self.write("sys/class/devfreq/17000000.gpu/min_freq", lowest * 1_000_000)
        self.write("sys/class/devfreq/17000000.gpu/max_freq", highest * 1_000_000)

    def over_current(self, count: int) -> None:
        self.write("sys/class/hwmon/hwmon2/oc1_event_cnt", count)

    def cooling(self, state: int) -> None:
        self.write("sys/class/thermal/cooling_device0/cur_state", state)

    def rapl(self, microjoules: int, size: int = 262_143_328_850) -> None:
        """A package and a part of it; both count, and only the package is to be added up."""
        for zone, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys")):
            self.write(f"sys/class/powercap/{zone}/name", name)
            self.write(f"sys/class/powercap/{zone}/max_energy_range_uj", size)
            self.write(f"sys/class/powercap/{zone}/energy_uj", microjoules)

    def busy(self, ticks: int) -> None:
        self.write("proc/stat", f"cpu  {ticks} 0 0 1000 0 0 0 0 0 0\ncpu0 {ticks} 0 0 1000 0 0 0 0 0 0")


def names(doubts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(doubt["name"], doubt["severity"]) for doubt in doubts]
