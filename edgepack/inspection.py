"""`inspect`: what a model or a bundle is, and what would stop it on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgepack import device as devices
from edgepack import inputs, target
from edgepack.building.runtimes import default_target
from edgepack.bundles import bundle
from edgepack.cost import Cost, cost_of
from edgepack.errors import EdgepackError, ShapeNeeded
from edgepack.lint import ERROR, Finding, worst_first
from edgepack.metrics.merit import harness
from edgepack.model import Model
from edgepack.passes.fix_shapes import fix_shapes
from edgepack.passes.placement import place
from edgepack.passes.raise_opset import RAISE_BELOW, raise_opset


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What `inspect` found. `obstacles` are (what, advice); `cost` is None where open dimensions hide it.

    `findings` are offences against the rules of a runtime on `device`, the worst first; `linted` names those runtimes.
    """

    path: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    opset: int
    ir_version: int
    operators: dict[str, int]
    parameters: int
    weight_bytes: int
    is_quantized: bool
    cost: Cost | None
    int8_share: float | None
    obstacles: list[tuple[str, str]]
    device: str | None = None
    linted: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether a runtime of the device would refuse the file, or answer otherwise than it says."""
        return any(finding.severity == ERROR for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class BundleInspection:
    """A bundle's manifest, the bytes of its parts, and whether every file is as it was built."""

    path: str
    manifest: dict[str, Any]
    model_bytes: int
    shipped_bytes: int
    whole: bool
    damage: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def inspect(
    path: str | Path,
    *,
    device: str | None = None,
    target_name: str = "auto",
    input_shape: Mapping[str, tuple[int, ...]] | None = None,
) -> Inspection | BundleInspection:
    """Look into a model file or a bundle.

    Args:
        device: name the obstacles for this board; without it those for any.
        input_shape: lengths for open dimensions, so that multiply-accumulates can be counted.

    Raises:
        EdgepackError: the file cannot be read.
    """
    path = Path(path)
    if path.is_dir() or path.name.endswith((".tar.gz", ".tgz")):
        return _inspect_bundle(path)
    model = inputs.load(path)
    shaped = fix_shapes(model, input_shape or {}).model
    board = devices.find(device) if device is not None else None
    name = target_name if target_name != "auto" else default_target(board) if board else "onnxruntime"
    linted, findings = _lint(shaped, board, target_name)
    obstacles, share = _obstacles(shaped, target.load(name))
    if board is not None and name not in board.targets:
        obstacles.insert(0, (f"{board.name} does not run {name}", f"it runs {', '.join(board.targets)}"))
    elif board is not None and "int8" not in board.targets[name]:
        obstacles.append((f"{name} does not compute in int8 on {board.name}", "--precision fp16 or fp32 builds it"))
    return Inspection(
        path=str(path),
        inputs=[asdict(tensor) for tensor in shaped.inputs],
        outputs=[asdict(tensor) for tensor in shaped.outputs],
        opset=model.opset,
        ir_version=model.ir.ir_version,
        operators=dict(model.operators.most_common()),
        parameters=model.parameters,
        weight_bytes=model.weight_bytes,
        is_quantized=model.is_quantized,
        cost=_cost(shaped),
        int8_share=share,
        obstacles=obstacles,
        device=device,
        linted=linted,
        findings=findings,
    )


def _lint(model: Model, board: devices.Device | None, target_name: str) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """The runtimes of the board that have rules, or the one asked for, and what their rules say of the file."""
    if board is None:
        return (), ()
    names = board.targets if target_name == "auto" else (target_name,)
    modules = {name: module for name in names if (module := target.rules(name)) is not None}
    found = [finding for module in modules.values() for finding in module.lint(model, board)]
    return tuple(modules), tuple(worst_first(found))


def _cost(model: Model) -> Cost | None:
    try:
        return cost_of(model)
    except ShapeNeeded:
        return None


def _obstacles(model: Model, module: target.Target) -> tuple[list[tuple[str, str]], float | None]:
    """What stands in the way, and the share of weighted operators that int8 covers."""
    found = []
    for tensor in model.inputs:
        open_dims = [axis for axis, dim in enumerate(tensor.shape) if not isinstance(dim, int)]
        if any(axis > 0 for axis in open_dims):
            found.append(
                (
                    f"the input {tensor} has open dimensions",
                    f"--input-shape {tensor.name}=… fixes them where a runtime wants it (TensorRT profiles, TFLite)",
                )
            )
    if model.has_control_flow:
        found.append(("it holds control flow (If, Loop or Scan)", "what is inside stays float"))
    if model.is_quantized:
        found.append(("it is already quantized", "edgepack packages it as it is; start from the float model for more"))
        return found, None
    if model.opset < RAISE_BELOW:
        try:
            model = raise_opset(model).model
        except EdgepackError as error:
            found.append((error.message, error.hint))
    placement = place(model, module.SCHEME)
    for reason, count in placement.left_float.most_common():
        found.append((f"{count}× {reason}", "stays float in an int8 build"))
    total = len(placement.weighted) + placement.left_float.total()
    if not placement.weighted:
        found.append(("no operator can be computed in int8", "build it with --precision fp16 or fp32"))
    return found, len(placement.weighted) / total if total else 0.0


def _inspect_bundle(path: Path) -> BundleInspection:
    with bundle.opened(path) as folder:
        manifest = bundle.read_whole_manifest(folder)
        damage = harness().damage(str(folder))
        return BundleInspection(
            path=str(path),
            manifest=manifest,
            model_bytes=bundle.folder_bytes(folder / "model"),
            shipped_bytes=sum(file.stat().st_size for file in bundle.shipped(folder)),
            whole=not damage,
            damage=damage,
        )
