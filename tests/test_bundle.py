"""Bundles on disk: written whole or not at all."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from edgepack.bundles import bundle
from edgepack.errors import BrokenBundle, OutputExists


def minimal(folder: Path, text: str = "one") -> None:
    (folder / "model").mkdir()
    (folder / "model" / "model.onnx").write_text(text)
    bundle.seal(folder, {"format": 1, "name": text})


def test_a_folder_appears_only_when_it_is_done(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out"
    with bundle.atomic_folder(output) as folder:
        minimal(folder)
        bundle.pack(folder)
        assert not output.exists()
    assert (output / "manifest.json").is_file()
    assert sorted(path.name for path in output.parent.iterdir()) == ["out", "out.tar.gz"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with bundle.atomic_folder(output) as folder:
        minimal(folder, "old")
        bundle.pack(folder)
    with pytest.raises(RuntimeError), bundle.atomic_folder(output) as folder:
        minimal(folder, "new")
        raise RuntimeError
    assert bundle.read_manifest(output)["name"] == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.tar.gz"]


def test_an_old_bundle_is_replaced_whole(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for text in ("old", "new"):
        with bundle.atomic_folder(output) as folder:
            minimal(folder, text)
            bundle.pack(folder)
    assert bundle.read_manifest(output)["name"] == "new"
    with bundle.opened(tmp_path / "out.tar.gz") as folder:
        assert bundle.read_manifest(folder)["name"] == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.tar.gz"]


def test_force_replaces_bundles_only(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExists, match="no bundle"):
        bundle.check_output(output, force=True)
    (output / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(OutputExists, match="no bundle"):
        bundle.check_output(output, force=True)
    minimal(output)
    with pytest.raises(OutputExists, match="add --force"):
        bundle.check_output(output, force=False)
    bundle.check_output(output, force=True)


def test_the_archive_leaves_the_float_original_behind(tmp_path: Path) -> None:
    with bundle.atomic_folder(tmp_path / "out") as folder:
        (folder / "baseline").mkdir()
        (folder / "baseline" / "original.onnx").write_text("large")
        minimal(folder)
        bundle.pack(folder)
    with tarfile.open(tmp_path / "out.tar.gz") as tar:
        assert sorted(tar.getnames()) == ["out/SHA256SUMS", "out/manifest.json", "out/model/model.onnx"]


@pytest.mark.parametrize("old", [False, True])
def test_an_archive_that_leads_outside_is_refused(old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if old and hasattr(tarfile, "data_filter"):  # Python before 3.11.4 has none
        monkeypatch.delattr(tarfile, "data_filter")
    (tmp_path / "evil.txt").write_text("evil")
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "evil.txt", arcname="../../evil.txt")
    with pytest.raises(BrokenBundle, match="damaged"), bundle.opened(tmp_path / "evil.tar.gz"):
        pass
