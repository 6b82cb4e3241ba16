"""`bench` and `check` from the build machine's side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import edgepack
from edgepack import demo
from edgepack.errors import UsageError
from tests.conftest import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.run(tmp_path_factory.mktemp("bench") / "out", seconds=0.2).bundle


def test_bundle_and_original_take_turns(folder: Path) -> None:
    result = edgepack.bench(folder, threads=1, seconds=0.6)
    model, baseline = result["models"]["model"], result["models"]["baseline"]
    assert [len(p["rounds_ms"]) for p in model["processes"]] == [len(p["rounds_ms"]) for p in baseline["processes"]]
    assert result["ratio"]["processes"] == len(model["processes"]) == 3
    pairs = [
        np.median(b) / np.median(m)
        for before, after in zip(baseline["processes"], model["processes"], strict=True)
        for b, m in zip(before["rounds_ms"], after["rounds_ms"], strict=True)
    ]
    assert result["ratio"]["median"] == pytest.approx(np.median(pairs))
    assert result["check"]["ok"]


def test_the_archive_is_timed_alone(folder: Path) -> None:
    result = edgepack.bench(folder.with_name("out.tar.gz"), threads=1, seconds=0.2)
    assert set(result["models"]) == {"model"}
    assert edgepack.check(folder.with_name("out.tar.gz"))["ok"]


@pytest.mark.parametrize("wrong", [{"seconds": 0.0}, {"threads": 0}])
def test_senseless_settings_are_refused(folder: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        edgepack.bench(folder, **wrong)  # type: ignore[arg-type]


def test_the_command_prints_a_table_or_json(folder: Path, cli: Run) -> None:
    table = cli("bench", folder, "--seconds", 0.2, "--threads", 1)
    words = " ".join(table.stdout.split())
    assert table.returncode == 0 and "float original" in words and "95 % interval" in words
    data = cli("bench", folder, "--seconds", 0.2, "--threads", 1, "--json")
    assert json.loads(data.stdout)["kind"] == "measurement"
