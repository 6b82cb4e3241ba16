"""What the machine says of itself while it is measured: clocks, temperatures, throttling, load. Python 3.8.

All of it is read below one root, "/" but in tests: /sys, /proc, and the programs on PATH. Nothing is written.
"""

import glob
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import time

# What a board's own programs may take before they are left out.
PATIENCE_S = 5.0
# ARM's firmware and board tools lie here, which a login over SSH may not have on its PATH.
MORE_PATHS = ("/usr/bin", "/usr/sbin", "/opt/vc/bin")
# What devfreq calls the GPU of a Nano, TX2, Xavier, Orin and Thor.
GPUS = ("gpu", "gp10b", "gv11b", "ga10b")
X86_CLOCKS = {"tsc", "kvm-clock", "hpet", "acpi_pm", "xen", "hyperv_clocksource_tsc_page"}


class Surroundings(object):
    """The machine below `root`; `own` is the process whose children are the measurement."""

    def __init__(self, root="/", own=None):
        self.root = root
        self.own = own or os.getpid()
        self.began = time.monotonic()
        self._last = None

    def path(self, name):
        return os.path.join(self.root, name.lstrip("/"))

    def text(self, name):
        """A file's text without the NUL and newline at its end, or None."""
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as file:
                return file.read().strip("\0\n ")
        except OSError:
            return None

    def number(self, name):
        try:
            return float(self.text(name) or "")
        except ValueError:
            return None

    def names(self, pattern):
        """Paths that match, as they are without the root, in the order of their numbers."""
        found = glob.glob(self.path(pattern))
        cut = len(self.root.rstrip("/"))
        return sorted((path[cut:] for path in found), key=lambda name: (len(name), name))

    def program(self, *command):
        """What a program of the board prints, or None."""
        paths = os.environ.get("PATH", "").split(os.pathsep) + list(MORE_PATHS)
        found = shutil.which(command[0], path=os.pathsep.join(self.path(path) for path in paths if path))
        if found is None:
            return None
        try:
            done = subprocess.run(
                [found] + list(command[1:]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=PATIENCE_S,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None

    # --- what does not change ---------------------------------------------------------------------------------

    def about(self):
        """The machine, as far as it says."""
        import numpy as np

        cpu = ""
        for line in (self.text("/proc/cpuinfo") or "").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                cpu = line.split(":", 1)[1].strip()
                break
        affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        return {
            "machine": platform.machine(),
            "cpu": cpu,
            "cores": len(affinity) or os.cpu_count() or 1,
            "affinity": affinity,
            "system": platform.platform(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "board": self.board(),
            "emulated": self.emulated(),
            "power_mode": self.power_mode(),
            "jetson_clocks": self.jetson_clocks(),
        }

    def board(self):
        model = self.text("/proc/device-tree/model") or self.text("/sys/firmware/devicetree/base/model")
        if model:
            return model
        vendor, product = self.text("/sys/class/dmi/id/sys_vendor"), self.text("/sys/class/dmi/id/product_name")
        return " ".join(part for part in (vendor, product) if part) or None

    def emulated(self):
        """True where another machine shows through: an x86 clock under an ARM process, or QEMU's own CPU."""
        clock = self.text("/sys/devices/system/clocksource/clocksource0/current_clocksource")
        if platform.machine().startswith(("aarch64", "arm")) and clock in X86_CLOCKS:
            return True
        return "QEMU TCG" in (self.text("/proc/cpuinfo") or "")

    def power_mode(self):
        """Jetson's power mode: `nvpmodel -q` prints its name, then its number."""
        for line in (self.program("nvpmodel", "-q") or "").splitlines():
            if "Power Mode" in line:
                return line.rpartition(":")[2].strip()
        return None

    def jetson_clocks(self):
        """Whether a Jetson's GPU is held at one clock, as jetson_clocks does; None where there is no such GPU."""
        for name in self.names("/sys/class/devfreq/*/min_freq"):
            if any(part in name.split("/")[4] for part in GPUS):
                lowest, highest = self.number(name), self.number(os.path.dirname(name) + "/max_freq")
                return None if lowest is None or highest is None else lowest == highest
        return None

    # --- what does --------------------------------------------------------------------------------------------

    def sample(self):
        """One look; docs/measurement.md has the keys."""
        looked = {
            "t": time.monotonic() - self.began,
            "mhz": self.clocks(),
            "governors": self.governors(),
            "celsius": self.temperatures(),
            "throttled": self.throttled(),
            "throttle_events": self.throttle_events(),
            "load": [float(part) for part in (self.text("/proc/loadavg") or "").split()[:3]],
            "pressure": self.pressure(),
            "watts": self.watts(),
            "alarms": [name for name in self.names("/sys/class/hwmon/hwmon*/in*_lcrit_alarm") if self.number(name)],
        }
        looked.update(self.cpus_in_use())
        return looked

    def clocks(self):
        """MHz by CPU; where there is no cpufreq, what /proc/cpuinfo says."""
        found = {}
        for name in self.names("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"):
            kilohertz = self.number(name)
            if kilohertz:
                found[name.split("/")[5][3:]] = kilohertz / 1000
        if found:
            return found
        lines = [line for line in (self.text("/proc/cpuinfo") or "").splitlines() if line.startswith("cpu MHz")]
        return {str(index): float(line.rpartition(":")[2]) for index, line in enumerate(lines)}

    def governors(self):
        names = self.names("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
        return {name.split("/")[5][3:]: self.text(name) for name in names}

    def temperatures(self):
        """Degrees Celsius by sensor."""
        found = {}
        for name in self.names("/sys/class/thermal/thermal_zone*/temp"):
            value = self.number(name)
            zone = os.path.dirname(name)
            # Zones that are switched off say -256 °C or nothing.
            if value is not None and value > -40000:
                found["%s %s" % (os.path.basename(zone), self.text(zone + "/type") or "")] = value / 1000
        return found

    def throttled(self):
        """The Raspberry Pi's throttle bits, from its firmware: `throttled=0x50005`."""
        try:
            return int((self.program("vcgencmd", "get_throttled") or "").partition("=")[2], 16)
        except ValueError:
            return None

    def throttle_events(self):
        """Counters that grow when the machine slows itself, and cooling states that are not 0 while it does."""
        found = {}
        for pattern in (
            "/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count",
            "/sys/class/hwmon/hwmon*/oc*_event_cnt",
        ):
            for name in self.names(pattern):
                value = self.number(name)
                if value is not None:
                    found["/".join(name.split("/")[-3:])] = value
        for name in self.names("/sys/class/thermal/cooling_device*/cur_state"):
            kind = self.text(os.path.dirname(name) + "/type") or ""
            # Fans cool as well, and slow nothing.
            if "cpufreq" in kind or kind == "Processor":
                value = self.number(name)
                if value is not None:
                    found["%s %s" % (name.split("/")[-2], kind)] = value
        return found

    def pressure(self):
        found = {}
        for what in ("cpu", "io", "memory"):
            for line in (self.text("/proc/pressure/" + what) or "").splitlines():
                if line.startswith("some avg10="):
                    found[what] = float(line.split()[1].partition("=")[2])
        return found

    def watts(self):
        """Power by rail, from INA3221 and its like (millivolts and milliamperes); Jetson's are named so."""
        found = {}
        for chip in self.names("/sys/class/hwmon/hwmon*/name"):
            if not (self.text(chip) or "").startswith("ina"):
                continue
            folder = os.path.dirname(chip)
            for name in self.names(folder + "/curr[0-9]*_input"):
                number = os.path.basename(name)[4:-6]
                amperes, volts = self.number(name), self.number("%s/in%s_input" % (folder, number))
                if amperes is not None and volts is not None:
                    label = self.text("%s/in%s_label" % (folder, number)) or os.path.basename(folder) + " " + number
                    found[label] = amperes * volts / 1e6
        return found

    def cpus_in_use(self):
        """CPUs in use since the last look: all, and by others than the measurement."""
        line = (self.text("/proc/stat") or "").partition("\n")[0].split()
        if len(line) < 8 or line[0] != "cpu":
            return {"busy": None, "busy_elsewhere": None}
        ticks = [int(part) for part in line[1:]]
        # user, nice, system, irq, softirq, steal; guests are in user already
        busy, own, now = ticks[0] + ticks[1] + ticks[2] + sum(ticks[5:8]), self.own_ticks(), time.monotonic()
        last, self._last = self._last, (busy, own, now)
        if last is None or now - last[2] < 0.2:
            return {"busy": None, "busy_elsewhere": None}
        second = os.sysconf("SC_CLK_TCK") * (now - last[2])
        used = (busy - last[0]) / second
        return {"busy": used, "busy_elsewhere": max(0.0, used - (own - last[1]) / second)}

    def own_ticks(self):
        """CPU time of the measuring process, its children, and those that it has waited for."""
        total = 0
        for name in os.listdir(self.path("/proc")) if os.path.isdir(self.path("/proc")) else []:
            if not name.isdigit():
                continue
            # The name of a process may hold spaces and brackets.
            fields = (self.text("/proc/%s/stat" % name) or "").rpartition(")")[2].split()
            if len(fields) < 15 or (int(name) != self.own and int(fields[1]) != self.own):
                continue
            total += sum(int(part) for part in fields[11 : 15 if int(name) == self.own else 13])
        return total


def sampler_main(root, own, every=1.0):
    """Print a sample about once a second until stdin ends; its own process, so that the measurement is not held up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    machine = Surroundings(root, own)
    while True:
        try:
            json.dump(machine.sample(), sys.stdout)
            sys.stdout.write("\n")
            sys.stdout.flush()
        except OSError:
            return 0
        if select.select([sys.stdin], [], [], every)[0]:
            return 0
