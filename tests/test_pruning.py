"""Pruning without training: importance, spread, refitting, and `build --prune`."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import helper

import edgepack
from edgepack import demo
from edgepack._root import DEVICES
from edgepack.building import pruned as pruning
from edgepack.building.result import Build
from edgepack.bundles import bundle
from edgepack.data.reading import read
from edgepack.data.samples import Feed, Samples
from edgepack.errors import DataNeeded, PruningError, UsageError
from edgepack.model import Model
from edgepack.pruning.budget import budget
from edgepack.pruning.consumers import windows
from edgepack.pruning.distance import distance
from edgepack.pruning.fit import Moments, refit, refit_checked
from edgepack.pruning.importance import by_norm, levels
from edgepack.pruning.prune import find, prune, pruned_to
from edgepack.pruning.repair import repair
from edgepack.pruning.spread import Curve, allowed, spread
from edgepack.pruning.surgery import Cut
from edgepack.pruning.survey import small, survey
from edgepack.reference import Session
from tests import models
from tests.graphs import graph
from tests.test_promise import pictures, sensor, write


def _rows(count: int, seed: int = 0) -> np.ndarray:
    """Correlated columns with means far from zero."""
    chance = np.random.default_rng(seed)
    mix = np.random.default_rng(7).standard_normal((6, 6))
    return (chance.standard_normal((count, 1, 6)) @ mix + 30 * np.arange(6)).astype(np.float32)


def _samples(tmp_path: Path, proto: onnx.ModelProto, count: int = 40) -> tuple[Model, Samples]:
    model = Model.from_proto(proto)
    shape = [dim if isinstance(dim, int) else count for dim in model.inputs[0].shape]
    np.savez(tmp_path / "calib.npz", x=models.random(shape, 3))
    return model, read(tmp_path / "calib.npz", model)


def test_a_refit_finds_the_weights_that_made_the_rows() -> None:
    weight, bias = models.random((1, 4, 6), 1).astype(np.float64), np.arange(4.0)
    moments = Moments(1, 6, 4)
    for seed in range(5):
        x = _rows(200, seed)
        moments.add(x, (x @ weight.transpose(0, 2, 1) + bias).astype(np.float32))
    found = refit(moments, np.zeros((1, 4, 6)), 1e-9)
    np.testing.assert_allclose(found.weight, weight, atol=1e-3)
    np.testing.assert_allclose(found.bias[0], bias, atol=0.2)
    assert moments.error(found.weight, found.bias) < 1e-6 * moments.power.sum()


def test_moments_of_two_parts_are_those_of_the_whole() -> None:
    x, y = _rows(300), models.random((300, 1, 2), 2)
    whole, parts = Moments(1, 6, 2), [Moments(1, 6, 2), Moments(1, 6, 2)]
    whole.add(x, y)
    parts[0].add(x[:100], y[:100])
    parts[1].add(x[100:], y[100:])
    both = parts[0].joined(parts[1])
    for name in ("covariance", "cross", "mean", "target_mean", "power"):
        np.testing.assert_allclose(getattr(both, name), getattr(whole, name), rtol=1e-3, atol=1e-3)


def test_where_rows_are_few_the_weights_stay() -> None:
    """Targets that are noise: held-aside rows say that no ridge helps."""
    prior = models.random((1, 3, 6), 4).astype(np.float64)
    fitted, held = Moments(1, 6, 3), Moments(1, 6, 3)
    for moments, count, seed in ((fitted, 8, 1), (held, 400, 2)):
        x = models.random((count, 1, 6), seed)
        noise = 5 * models.random((count, 1, 3), seed + 10)
        moments.add(x, (x @ prior.transpose(0, 2, 1)).astype(np.float32) + noise)
    found = refit_checked(fitted, held, prior, (1e-3, 1e-1))
    assert found.ridge == np.inf
    np.testing.assert_array_equal(found.weight, prior)


def test_windows_keep_every_product() -> None:
    x, weight = models.random((5, 1, 12)), models.random((1, 2, 12), 1)
    cut = windows(x, 4, 2)
    assert cut.shape == (10, 1, 6)
    pieces = windows(weight.transpose(1, 0, 2), 4, 2).reshape(2, 2, 6)  # [O, windows, columns]
    sums = np.einsum("pwk,owk->po", cut.reshape(5, 2, 6), pieces)
    np.testing.assert_allclose(sums, (x[:, 0] @ weight[0].T), rtol=1e-5)


def test_a_channel_that_others_stand_in_for_goes_first_and_costs_nothing(tmp_path: Path) -> None:
    """Channel 2 is twice channel 0, and larger than all others: norms keep it, errors do not."""
    weight = models.random((8, 12, 1, 1), 1)
    weight[2] = 2 * weight[0]
    nodes = [helper.make_node("Conv", ["x", "a"], ["h"]), helper.make_node("Conv", ["h", "b"], ["y"])]
    weights = {"a": weight, "b": models.random((5, 8, 1, 1), 2)}
    proto = models.model(nodes, {"x": ["N", 12, 4, 4]}, {"y": ["N", 5, 4, 4]}, weights)
    model, samples = _samples(tmp_path, proto)
    whole, found = find(model, samples.read(0))
    known = survey(whole, found, samples)
    (group,) = found.groups
    first = levels(group, known.reading(group), [7])[0]
    assert first.gone[0] in (group.units[0], group.units[2]) and first.error < 1e-3
    assert by_norm(whole, found, group, 2)[0] not in (group.units[2],)


def test_the_error_of_a_level_is_that_of_least_squares(tmp_path: Path) -> None:
    model, samples = _samples(tmp_path, models.mlp(features=6), 400)
    whole, found = find(model, samples.read(0))
    known = survey(whole, found, samples)
    (group,) = found.groups
    level = levels(group, known.reading(group), [8])[0]
    x = np.concatenate([feed["x"] for feed in known.samples]).astype(np.float64)
    hidden = np.maximum(x @ models.random((16, 6), 1).T + models.random((16,), 2), 0)
    weight = models.random((4, 16), 3).astype(np.float64)
    wanted = hidden @ weight.T
    keep = np.setdiff1d(np.arange(16), level.gone - group.units[0])
    centred = hidden[:, keep] - hidden[:, keep].mean(0)
    left = wanted - wanted.mean(0)
    best = left - centred @ np.linalg.lstsq(centred, left, rcond=None)[0]
    assert level.error == pytest.approx(np.square(best).sum() / np.square(left).sum(), rel=0.2)


def test_a_layer_of_many_columns_is_refitted_as_one_system(tmp_path: Path) -> None:
    """48 channels by 64 taps: the survey only sees what each output takes from each channel."""
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["y"]),
    ]
    weights = {"a": models.random((48, 1, 8), 1), "b": models.random((6, 48, 64), 2)}
    proto = models.model(nodes, {"x": ["N", 1, 256]}, {"y": ["N", 6, "T"]}, weights)
    model, samples = _samples(tmp_path, proto, 60)
    whole, found = find(model, samples.read(0))
    known = survey(whole, found, samples)
    assert known.approximated == {"y"}
    level = known.level(0, 24)
    keep = np.ones(found.units, bool)
    keep[level.gone] = False
    start = small(whole, found, [level], but=known.approximated)
    fitted = repair(whole, start, Cut.of(found, keep), known.samples, only=known.approximated)
    assert np.isfinite(fitted.ridges["y"])
    feeds = list(known.held.batches(known.held.batch()))

    def answers(one: Model) -> list[Feed]:
        session = Session(one)
        return [session.run(feed) for feed in feeds]

    original = answers(whole)
    surveyed = distance(original, answers(small(whole, found, [level])))
    assert distance(original, answers(fitted.model)) < 0.9 * surveyed


@pytest.mark.parametrize(
    ("width", "places", "channels", "counts"),
    [
        (20, 1, (8, 16), (20, 16, 8)),
        (512, 1, (8, 16), (512, 496)),
        (512, 1, (8, 32), (512, 480)),
        (12, 64, (8, 16), (12, 11)),
        (6, 4, (8, 16), (6, 4, 2)),
        (8, 1, (8, 16), (8,)),
        (8, 1, (4, 16), (8, 4)),
    ],
)
def test_counts_are_what_kernels_like(
    width: int, places: int, channels: tuple[int, int], counts: tuple[int, ...]
) -> None:
    assert allowed(width, places, channels)[: len(counts)] == counts


def test_a_build_keeps_the_multiples_of_its_device(tmp_path: Path) -> None:
    """A board whose kernels take 4 channels at once: this model's 16 are narrowed to what 8 would not allow."""
    board = tmp_path / "devices.yaml"
    shipped = yaml.safe_load(DEVICES.read_text())["boards"]["rpi5"]
    board.write_text(yaml.safe_dump({"boards": {"mine": {**shipped, "channels": [4, 16]}}}))
    onnx.save(models.convnet(channels=24), tmp_path / "model.onnx")
    np.savez(tmp_path / "calib.npz", x=models.images(64, seed=1))

    def widths(name: str) -> set[int]:
        built = edgepack.build(
            tmp_path / "model.onnx", tmp_path / name, device=name, devices_file=board, target="onnxruntime",
            data=tmp_path / "calib.npz", precision="fp32", prune="macs=0.8", seconds=0.1,
        )  # fmt: skip
        assert built.pruning is not None and not built.pruning["declined"]
        return {group["after"] % 8 for group in built.pruning["groups"]}

    assert widths("mine") == {4} and widths("rpi5") == {0}


def test_the_budget_is_taken_where_it_costs_least() -> None:
    cheap = Curve(counts=(64, 32, 8), errors=(0.0, 1e-4, 1e-3), steps=tuple(range(64, 0, -8)))
    dear = Curve(counts=(64, 32, 8), errors=(0.0, 0.1, 1.0), steps=tuple(range(64, 0, -8)))
    counts = spread([cheap, dear], lambda counts: float(counts.sum()), 80.0)
    assert counts is not None and list(counts) == [16, 64]
    assert spread([cheap, dear], lambda counts: float(counts.sum()), 8.0) is None


@pytest.mark.parametrize("text", ["macs", "macs=1", "macs=0", "flops=0.5", "macs=half", "0.5"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        budget(text)


@pytest.mark.parametrize("end", ["pooled", "flat", "attention"])
@pytest.mark.parametrize("kind", ["macs", "params"])
def test_any_graph_is_pruned_to_its_budget(tmp_path: Path, end: str, kind: str) -> None:
    blocks = ["conv", "residual", "norm", "concat", "excite", "depthwise", "shared", "split"]
    model, samples = _samples(tmp_path, graph(5, blocks, end))
    less = prune(model, samples, budget(f"{kind}=0.97"))
    onnx.checker.check_model(less.model.proto())
    after = less.report.macs_after if kind == "macs" else less.report.parameters_after
    before = less.report.macs_before if kind == "macs" else less.report.parameters_before
    assert after <= 0.97 * before
    assert less.report.parameters_after == pytest.approx(less.model.parameters, rel=0.02)
    assert less.report.error <= less.report.error_unrepaired + 1e-5


def test_layers_without_biases_are_given_ones_that_fit(tmp_path: Path) -> None:
    """Of the middle layers both sides are narrowed, and what is refitted there needs a bias."""
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["i"]),
        helper.make_node("Relu", ["i"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("Gemm", ["f", "c"], ["j"]),
        helper.make_node("Relu", ["j"], ["t"]),
        helper.make_node("Gemm", ["t", "d"], ["y"]),
    ]
    weights = {
        "a": models.random((24, 3, 3, 3), 1), "b": models.random((32, 24, 1, 1), 2), "c": models.random((32, 24), 3),
        "d": models.random((24, 5), 4),
    }  # fmt: skip
    model, samples = _samples(tmp_path, models.model(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 5]}, weights))
    whole, found = find(model, samples.read(0))
    known = survey(whole, found, samples)
    chosen = [known.level(number, group.width // 2) for number, group in enumerate(found.groups)]
    assert len(chosen) == 3
    feeds = list(samples.batches(samples.batch()))
    original, fitted, bare = (
        [Session(one).run(feed) for feed in feeds]
        for one in (whole, small(whole, found, chosen), small(whole, found, chosen, refitted=False))
    )
    assert distance(original, fitted) < 0.5 * distance(original, bare)


def test_what_cannot_be_pruned_is_refused_with_the_reason(tmp_path: Path) -> None:
    model, samples = _samples(tmp_path, models.pixelwise())
    with pytest.raises(PruningError, match="it is the model's output"):
        prune(model, samples, budget("macs=0.7"))
    model, samples = _samples(tmp_path, graph(0, ["conv"], "pooled"))
    with pytest.raises(PruningError, match="at most"):
        prune(model, samples, budget("macs=0.01"))
    proto = models.lstm()
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    with pytest.raises(PruningError, match="it is the model's output; LSTM: recurrent layers stay whole"):
        find(Model.from_proto(proto), {"x": models.random(shape, 3)})


@pytest.fixture(scope="module")
def demo_samples() -> tuple[Model, Samples]:
    from edgepack import inputs
    from edgepack.data import preprocess

    model = inputs.load(demo.MODEL)
    return model, read(demo.CALIBRATION, model, preprocess.read(demo.PREPROCESS))


def _top1(model: Model) -> float:
    with np.load(demo.EVALUATION) as arrays:
        pixels, labels = arrays["image"], arrays["y"]
    images = ((pixels.astype(np.float32) / 255 - 0.2860) / 0.3530)[:, None]
    best = next(iter(Session(model).run({"image": images}).values())).argmax(-1)
    return 100 * float(np.mean(best == labels))


def test_repair_keeps_the_accuracy_that_norms_lose(demo_samples: tuple[Model, Samples]) -> None:
    model, samples = demo_samples
    whole, found = find(model, samples.read(0))
    known = survey(whole, found, samples)
    wanted = budget("macs=0.6")
    repaired = pruned_to(known, wanted)
    plain = pruned_to(survey(whole, found, samples, "l1"), wanted, importance="l1", repaired=False)
    before = _top1(model)
    assert before - _top1(repaired.model) < 1.0
    assert before - _top1(plain.model) > 5.0
    assert repaired.report.error < 0.05 * plain.report.error


@pytest.fixture(scope="module")
def pruned_demo(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return edgepack.build(
        demo.MODEL, tmp_path_factory.mktemp("pruned") / "out", target="onnxruntime", data=demo.CALIBRATION,
        eval=demo.EVALUATION, preprocess=demo.PREPROCESS, precision="int8", prune="macs=0.5", threads=1, seconds=0.2,
    )  # fmt: skip


def test_a_build_prunes_repairs_and_quantizes(pruned_demo: Build) -> None:
    told = pruned_demo.pruning
    assert told is not None
    assert told["macs_after"] <= 0.5 * told["macs_before"]
    assert pruned_demo.quality is not None and pruned_demo.quality.drop is not None
    manifest = bundle.read_manifest(pruned_demo.bundle)
    if told["declined"]:  # where this machine gains nothing from it
        assert manifest["pruning"] is None
        return
    assert pruned_demo.quality.drop < 2.0
    assert manifest["pruning"]["groups"] == told["groups"]
    assert manifest["pruning"]["left_alone"]
    assert pruned_demo.sizes["model"] < 0.3 * pruned_demo.sizes["original"]


def test_pruning_is_a_pass_with_its_size(pruned_demo: Build) -> None:
    (step,) = [step for step in pruned_demo.steps if step.name == "prune"]
    assert step.bytes_after < step.bytes_before
    assert [one.name for one in pruned_demo.steps].index("prune") < len(pruned_demo.steps) - 1


def test_a_pruned_build_is_shown(pruned_demo: Build) -> None:
    from rich.console import Console

    from edgepack.render import build_report

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(build_report(pruned_demo))
    text = console.export_text()
    assert "of the MACs" in text and "left alone" in text


def test_pruning_needs_samples_and_a_float_model(tmp_path: Path, pruned_demo: Build) -> None:
    with pytest.raises(DataNeeded):
        edgepack.build(demo.MODEL, tmp_path / "a", prune="macs=0.7")
    with pytest.raises(UsageError, match="already quantized"):
        edgepack.build(
            pruned_demo.bundle / "model" / "model.onnx", tmp_path / "b", data=demo.CALIBRATION,
            preprocess=demo.PREPROCESS, prune="macs=0.7",
        )  # fmt: skip


def _build_convnet(folder: Path, out: Path, **flags: Any) -> Build:
    return edgepack.build(
        folder / "model.onnx", out, data=folder / "calib.npz", eval=folder / "eval.npz", target="onnxruntime",
        threads=1, seconds=0.1, **flags,
    )  # fmt: skip


@pytest.mark.parametrize(("ratio", "declined"), [(1.3, True), (0.99, True), (0.97, False)])
def test_pruning_is_declined_where_it_gains_nothing(
    convnet_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, declined: bool
) -> None:
    """The clock is simulated, as which side of the border a small model falls on is chance; all else is real."""

    def timed(models: Sequence[Callable[[Feed], Feed]], feed: Feed, seconds: float) -> list[float]:
        for model in models:
            model(feed)
        return [ratio, 1.0]

    monkeypatch.setattr("edgepack.building.pruned.interleaved", timed)
    built = _build_convnet(convnet_files, tmp_path / "out", precision="fp32", prune="macs=0.6")
    assert built.pruning is not None and built.pruning["ratio"] == ratio
    assert bool(built.pruning["declined"]) is declined
    manifest = bundle.read_manifest(built.bundle)
    assert (manifest["pruning"] is None) is declined
    original = Model.from_proto(onnx.load(convnet_files / "model.onnx"))
    made = Model.from_proto(onnx.load(built.bundle / "model" / "model.onnx"))
    if declined:
        assert f"{ratio:.2f} times as long" in built.pruning["declined"]
        assert made.parameters >= 0.99 * original.parameters
    else:
        assert made.parameters < 0.9 * original.parameters


def test_a_budget_of_latency_is_searched_by_the_clock(
    convnet_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is simulated: latency goes with the parameters of what is loaded. The whole model is loaded once."""
    loaded: list[int] = []
    load = pruning._loaded

    def counted(given: Any, model: Model, folder: Path) -> Callable[[Feed], Feed]:
        loaded.append(model.parameters)
        return load(given, model, folder)

    def timed(ready: Sequence[Callable[[Feed], Feed]], feed: Feed, seconds: float) -> list[float]:
        assert all(model(feed) for model in ready)
        return [loaded[-1] / max(loaded), 1.0]

    monkeypatch.setattr(pruning, "_loaded", counted)
    monkeypatch.setattr(pruning, "interleaved", timed)
    built = _build_convnet(convnet_files, tmp_path / "out", precision="fp32", prune="latency=0.8")
    assert built.pruning is not None and not built.pruning["declined"]
    assert built.pruning["ratio"] <= 0.8
    assert loaded.count(max(loaded)) == 1 and len(loaded) > 2


def test_a_pruned_model_that_misses_the_promise_is_built_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights have no channels to spare. The clock says that the pruned model is faster, or it would be
    declined for that."""
    source = tmp_path / "source"
    source.mkdir()
    write(source, sensor(), pictures(200, 2), pictures(64, 1))
    monkeypatch.setattr("edgepack.building.pruned.interleaved", lambda models, feed, seconds: [0.5, 1.0])
    built = _build_convnet(source, tmp_path / "out", precision="fp32", prune="macs=0.45", max_drop=1)
    assert built.pruning is not None and built.promise is not None
    assert "pruned, it lost" in built.pruning["declined"]
    assert built.promise["kept"] and built.promise["drop"] == 0
    assert bundle.read_manifest(built.bundle)["pruning"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.tar.gz", "source"]


def test_the_precision_that_is_built_decides_whether_pruning_pays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """int8 is planned and refused for what it loses. The clock says that pruning pays in int8, and not in float."""
    source = tmp_path / "source"
    source.mkdir()
    write(source, sensor(), pictures(200, 2), pictures(64, 1))
    ratios = [0.5, 1.2]
    monkeypatch.setattr("edgepack.building.pruned.interleaved", lambda models, feed, seconds: [ratios.pop(0), 1.0])
    built = _build_convnet(source, tmp_path / "out", prune="macs=0.8")
    assert built.precision == "fp32" and built.pruning is not None
    assert "1.20 times as long here in fp32" in built.pruning["declined"] and built.pruning["ratio"] == 1.2
    assert bundle.read_manifest(built.bundle)["pruning"] is None
