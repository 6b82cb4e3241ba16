"""What is read of a machine, and the doubts that come of it: on a tree of files, with programs that really run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgepack import _root, demo
from tests.fake_board import FakeBoard, names

sys.path.insert(0, str(_root.TARGETS / "device"))
from edgepack_device.doubts import of_the_machine
from edgepack_device.energy import Energy
from edgepack_device.surroundings import Surroundings

HARNESS = _root.TARGETS / "device" / "harness.py"
SAMPLES = 8


@pytest.fixture
def board(tmp_path: Path) -> FakeBoard:
    return FakeBoard(tmp_path / "root")


def watched(board: FakeBoard, change: Callable[[float], None] | None = None) -> dict[str, Any]:
    """An environment of ten looks; `change` gets the share of the time that has passed before each."""
    machine = Surroundings(str(board.root))
    about = {**machine.about(), "affinity": [0, 1], "cores": 2}
    samples = []
    for index in range(SAMPLES + 2):
        if change is not None:
            change(index / (SAMPLES + 1))
        samples.append(machine.sample())
    return {**about, "before": samples[0], "during": samples[1:-1], "after": samples[-1]}


def doubts(board: FakeBoard, change: Callable[[float], None] | None = None) -> list[tuple[str, str]]:
    return names(list(of_the_machine(watched(board, change))))


def test_all_that_a_board_says_is_read(board: FakeBoard) -> None:
    machine = Surroundings(str(board.root))
    assert machine.about()["board"] == "Raspberry Pi 5 Model B Rev 1.0"
    looked = machine.sample()
    assert looked["mhz"] == {"0": 2400.0, "1": 2400.0}
    assert looked["governors"] == {"0": "performance", "1": "performance"}
    assert looked["celsius"] == {"thermal_zone0 cpu-thermal": 48.0}
    assert looked["throttled"] == 0 and looked["load"] == [0.05, 0.03, 0.0] and looked["pressure"] == {"cpu": 0.1}


def test_nothing_is_read_where_there_is_nothing(tmp_path: Path) -> None:
    machine = Surroundings(str(tmp_path))
    about, looked = machine.about(), machine.sample()
    assert about["board"] is None and about["power_mode"] is None and about["emulated"] is False
    assert about["jetson_clocks"] is None
    assert looked["throttled"] is None and looked["busy"] is None
    assert not any(looked[key] for key in ("mhz", "governors", "celsius", "throttle_events", "watts", "alarms"))
    assert Energy(machine).since(Energy(machine).read()) is None


def test_a_quiet_board_raises_no_doubt(board: FakeBoard) -> None:
    assert doubts(board) == []
    assert doubts(board, lambda share: board.temperature(48 + 2 * share)) == []
    assert doubts(board, lambda share: board.clock(2400 - 40 * share)) == []


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (0x1, [("under_voltage", "invalid")]),
        (0x2, [("throttled", "invalid")]),
        (0x4, [("throttled", "invalid")]),
        (0x8, [("throttled", "invalid")]),
        (0x50005, [("under_voltage", "invalid"), ("throttled", "invalid")]),
    ],
)
def test_the_bits_of_a_raspberry_pi(board: FakeBoard, bits: int, expected: list[tuple[str, str]]) -> None:
    """Now and then, a single look of the ten."""
    assert doubts(board, lambda share: board.throttled(bits if 0.4 < share < 0.5 else 0)) == expected


def test_what_happened_between_two_looks_left_a_bit(board: FakeBoard) -> None:
    late = doubts(board, lambda share: board.throttled(0x40000 if share > 0.5 else 0))
    assert late == [("throttled", "invalid")]


def test_what_happened_before_is_noted(board: FakeBoard) -> None:
    board.throttled(0x50000)
    assert doubts(board) == [("under_voltage", "note"), ("throttled", "note")]


def test_a_falling_clock(board: FakeBoard) -> None:
    assert doubts(board, lambda share: board.clock(2400 if share < 0.5 else 1800)) == [("frequency_moved", "note")]


def test_only_the_clocks_that_may_be_used_count(board: FakeBoard) -> None:
    """The fastest CPU is the one that works; another one idles."""
    name = "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq"
    assert doubts(board, lambda share: board.write(name, 600_000 if share < 0.5 else 1_500_000) and None) == []


def test_a_rising_temperature(board: FakeBoard) -> None:
    found = list(of_the_machine(watched(board, lambda share: board.temperature(45 + 30 * share))))
    assert names(found) == [("temperature_climbing", "note")]
    assert found[0]["figures"]["highest_celsius"] == pytest.approx(75) and found[0]["advice"]


def test_a_governor_that_follows_the_load(board: FakeBoard) -> None:
    board.governor("ondemand")
    assert doubts(board) == [("governor", "note")]


def test_a_low_voltage_sensor(board: FakeBoard) -> None:
    board.write("sys/class/hwmon/hwmon0/in0_lcrit_alarm", 1)
    assert doubts(board) == [("under_voltage", "invalid")]


def test_load_by_others(board: FakeBoard) -> None:
    """A second's ticks of one CPU in each look, of nobody that belongs to the measurement."""
    machine = Surroundings(str(board.root))
    board.busy(1000)
    first = machine.sample()
    time.sleep(0.3)
    board.busy(1000 + 30)
    looked = machine.sample()
    assert first["busy_elsewhere"] is None and 0.5 < looked["busy_elsewhere"] <= 1.0
    quiet = watched(board)
    assert names(list(of_the_machine({**quiet, "during": [looked]}))) == [("busy", "note")]


def test_own_work_is_not_others() -> None:
    machine = Surroundings("/")
    machine.sample()
    began, worked = time.monotonic(), time.process_time()
    while time.monotonic() < began + 1:
        pass
    looked = machine.sample()
    if looked["busy"] is None:
        pytest.skip("no /proc/stat here")
    share = (time.process_time() - worked) / (time.monotonic() - began)
    assert looked["busy"] - looked["busy_elsewhere"] == pytest.approx(share, abs=0.1)


def test_jetson_rails_and_events(board: FakeBoard) -> None:
    board.jetson()
    environment = watched(board)
    assert environment["power_mode"] == "15W" and "Orin" in environment["board"]
    assert environment["jetson_clocks"] is False
    board.gpu_clock(1020, 1020)
    assert watched(board)["jetson_clocks"] is True
    assert environment["before"]["watts"] == {"VDD_IN": 5.0, "VDD_CPU_GPU_CV": 2.0, "VDD_SOC": 1.0}
    assert list(of_the_machine(environment)) == []
    assert doubts(board, lambda share: board.over_current(3 if share < 0.5 else 4)) == [("throttled", "invalid")]
    board.over_current(4)
    assert doubts(board, lambda share: board.cooling(0 if share < 0.5 else 2)) == [("throttled", "invalid")]


def test_joules_of_the_input_rail(board: FakeBoard) -> None:
    board.jetson(milliwatts=8000)
    energy = Energy(Surroundings(str(board.root)))
    start = energy.read()
    time.sleep(0.2)
    assert energy.since(start) == pytest.approx(8 * 0.2, rel=0.2)


def test_joules_of_a_package_over_its_counters_end(board: FakeBoard) -> None:
    board.rapl(1_000_000, size=2_000_000)
    energy = Energy(Surroundings(str(board.root)))
    start = energy.read()
    board.rapl(1_500_000, size=2_000_000)
    assert energy.since(start) == pytest.approx(0.5)
    board.rapl(250_000, size=2_000_000)
    assert energy.since(start) == pytest.approx(1.25)


def test_an_emulated_cpu(board: FakeBoard) -> None:
    board.write("proc/cpuinfo", "model name : QEMU TCG CPU version 2.5+\n")
    assert doubts(board) == [("emulated", "invalid")]


# --- whole measurements -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.run(tmp_path_factory.mktemp("surroundings") / "out", seconds=0.1).bundle


def command(folder: Path, board: FakeBoard, *flags: object) -> list[str]:
    asked = ["--bundle", folder, "--root", board.root, "--alone", "--threads", 1, "--build-machine", "--json", *flags]
    return [sys.executable, str(HARNESS), "bench", *map(str, asked)]


def measured(folder: Path, board: FakeBoard, *flags: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, board, *flags), capture_output=True, text=True, timeout=120)


MACHINE = {"throttled", "under_voltage", "frequency_moved", "governor", "temperature_climbing", "busy", "emulated"}


def test_a_quiet_measurement(folder: Path, board: FakeBoard) -> None:
    board.jetson(milliwatts=5000)
    done = measured(folder, board, "--seconds", 1.5, "--processes", 3)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["valid"] and not MACHINE & {doubt["name"] for doubt in result["doubts"]}
    assert len(result["environment"]["during"]) >= 2
    model = result["models"]["model"]
    runs = sum(len(turn) for process in model["processes"] for turn in process["rounds_ms"])
    took = sum(second for process in model["processes"] for second in process["rounds_s"])
    # Five watts all the while.
    assert model["joules"] == pytest.approx(5 * took / runs, rel=0.2)


def test_a_throttled_measurement_is_refused_or_marked(folder: Path, board: FakeBoard) -> None:
    board.throttled(0x20002)
    flags = ["--seconds", 0.3, "--processes", 2]
    done = measured(folder, board, *flags)
    assert done.returncode == 56 and "0x20002" in done.stderr and "--accept-doubts" in done.stderr
    kept = measured(folder, board, *flags, "--accept-doubts")
    assert kept.returncode == 0
    result = json.loads(kept.stdout)
    assert result["valid"] is False and ("throttled", "invalid") in names(result["doubts"])


# --- clocks -----------------------------------------------------------------------------------------------------

GOVERNOR = "sys/devices/system/cpu/cpufreq/policy0/scaling_governor"


def governor(board: FakeBoard) -> str:
    return (board.root / GOVERNOR).read_text().strip()


def becomes(board: FakeBoard, wanted: str) -> bool:
    end = time.monotonic() + 10
    while governor(board) != wanted and time.monotonic() < end:
        time.sleep(0.02)
    return governor(board) == wanted


def test_nothing_is_changed_unasked(folder: Path, board: FakeBoard) -> None:
    before = board.write(GOVERNOR, "ondemand").stat().st_mtime_ns
    assert measured(folder, board, "--seconds", 0.1, "--processes", 1).returncode == 0
    assert (board.root / GOVERNOR).stat().st_mtime_ns == before


def test_clocks_are_fixed_and_put_back(folder: Path, board: FakeBoard) -> None:
    board.write(GOVERNOR, "ondemand")
    running = subprocess.Popen(
        command(folder, board, "--fix-clocks", "--seconds", 0.5, "--processes", 1), stdout=subprocess.PIPE, text=True
    )
    assert becomes(board, "performance")
    result = json.loads(running.communicate(timeout=60)[0])
    assert governor(board) == "ondemand"
    assert result["environment"]["clocks"] == {"fixed": ["policy0"], "refused": []}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_clocks_are_put_back_whatever_happens(folder: Path, board: FakeBoard, how: signal.Signals) -> None:
    board.write(GOVERNOR, "schedutil")
    running = subprocess.Popen(
        command(folder, board, "--fix-clocks", "--seconds", 60, "--processes", 1),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert becomes(board, "performance")
    if how == signal.SIGINT:
        os.killpg(running.pid, how)  # a terminal sends it to all
    else:
        running.send_signal(how)
    _, words = running.communicate(timeout=30)
    assert becomes(board, "schedutil")
    assert "Traceback" not in words and running.returncode == (130 if how != signal.SIGKILL else -signal.SIGKILL)


def test_clocks_that_may_not_be_fixed_are_named(folder: Path, board: FakeBoard) -> None:
    (board.root / GOVERNOR).unlink()
    board.write(f"{GOVERNOR}/in_the_way", "")  # a folder: it can be read and written by nobody
    done = measured(folder, board, "--fix-clocks", "--seconds", 0.1, "--processes", 1)
    assert json.loads(done.stdout)["environment"]["clocks"] == {"fixed": [], "refused": ["policy0"]}
