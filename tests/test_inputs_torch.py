"""torch.export archives (.pt2)."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgepack
from edgepack import inputs
from edgepack.errors import NotAModel
from edgepack.reference import Session

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A small network, and the archive it was exported to with an open batch."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Hardswish(), nn.Conv2d(16, 16, 3, stride=2, groups=16),
        nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    ).eval()  # fmt: skip
    path = tmp_path_factory.mktemp("torch") / "network.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(network, (torch.randn(2, 3, 16, 16),), dynamic_shapes=({0: batch},))
    torch.export.save(exported, path)
    return network, path


def test_an_archive_becomes_a_model_that_answers_the_same(program: tuple[Any, Path]) -> None:
    import torch

    network, path = program
    model = inputs.load(path)
    assert not isinstance(model.inputs[0].shape[0], int)
    images = np.random.default_rng(1).standard_normal((4, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(images)).numpy()
    got = Session(model).run({model.inputs[0].name: images})[model.outputs[0].name]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_an_archive_builds_to_int8(program: tuple[Any, Path], tmp_path: Path) -> None:
    _, path = program
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(1).standard_normal((64, 3, 16, 16)).astype(np.float32))
    built = edgepack.build(path, tmp_path / "out", precision="int8", data=tmp_path / "data.npz", seconds=0.2, threads=1)
    assert built.precision == "int8" and built.quality is not None and built.quality.sqnr_db is not None
    assert built.quality.sqnr_db > 20


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt2").write_text("no archive")
    with pytest.raises(NotAModel, match="not a torch"):
        inputs.load(tmp_path / "text.pt2")
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("hello.txt", "world")
    with pytest.raises(NotAModel, match="cannot be read by torch"):
        inputs.load(tmp_path / "other.pt2")


def test_a_pickle_inside_an_archive_is_not_run(program: tuple[Any, Path], tmp_path: Path) -> None:
    """Each pickle of the archive in turn is replaced by one that would leave a file behind."""
    import pickle

    witness = tmp_path / "witness"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (witness,))

    _, path = program
    with zipfile.ZipFile(path) as source:
        for victim in [name for name in source.namelist() if name.endswith(".pt")]:
            with zipfile.ZipFile(tmp_path / "evil.pt2", "w") as evil:
                for name in source.namelist():
                    evil.writestr(name, pickle.dumps(Attack()) if name == victim else source.read(name))
            with contextlib.suppress(NotAModel):
                inputs.load(tmp_path / "evil.pt2")
            assert not witness.exists(), victim


def test_a_checkpoint_is_refused_as_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"\x80\x04.")
    with pytest.raises(NotAModel, match="pickle"):
        inputs.load(tmp_path / "weights.pth")
