"""The plan: a device's facts and the user's wishes, checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgepack import target as targets
from edgepack.bundles import here, pins
from edgepack.data.samples import Feed
from edgepack.device import BLOCKS, HOST, PRECISIONS, Device, available_cores, detect
from edgepack.errors import DataNeeded, MissingExtra, UnfitDevice, UsageError
from edgepack.passes.half_arithmetic import TYPED_SCALES
from edgepack.target import Scheme, Target

AS_IS = "as-is"
# Half a decibel to a decibel and a half better than 128, for 0.8 more bits a weight (docs/architecture.md).
DEFAULT_BLOCK = 32


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be built. `precision` is one of device.PRECISIONS, or as-is for a model that is already quantized.

    `block` is how many weights share a scale in w4. Where `on_trial` is true, int8 was not asked for: it must prove
    itself against float, or fp32 is built.
    """

    device: Device
    target_name: str
    target: Target
    precision: str
    reason: str
    on_trial: bool
    threads: int
    # For a board, by its wheels; empty for this machine, which pins what is installed.
    versions: dict[str, str]
    block: int = DEFAULT_BLOCK
    # Where the target was left open and a better one is not installed here: which.
    passed_over: str = ""

    @property
    def stand_in(self) -> str:
        """The runtime that answers here for one that only devices have; empty where the target's own does."""
        return self.target.STAND_IN

    @property
    def plain(self) -> str:
        """What is built where nothing else pays or holds."""
        return self.target.UNASKED if self.target.UNASKED in self.device.targets[self.target_name] else "fp32"

    @property
    def multiplies_half(self) -> bool:
        """True where fp16 numbers are multiplied."""
        return self.target.HALF_ARITHMETIC and self.device.gpu is not None and self.device.gpu.fp16

    @property
    def mixes_half(self) -> bool:
        """True where what stands between int8 operators can be written as fp16."""
        return self.multiplies_half and self.reads is not None and self.reads.opset >= TYPED_SCALES

    @property
    def scheme(self) -> Scheme:
        return scheme_for(self.target, self.device)

    def requirements(self, *, images: bool) -> list[str]:
        """`name==version` lines for the device; for this machine with all that they require."""
        if self.device.board == HOST:
            return here.pins(targets.packages(self.target, images=images))
        found = versions_for(self.device, self.target, images=images)
        return [f"{package}=={version}" for package, version in found.items()]

    def differences(self, precision: str, *, images: bool) -> list[str]:
        """What is otherwise on the device than here, in lines: packages of its system, another runtime or target."""
        packages = tuple(versions_for(self.device, self.target, images=images))
        lines = [self.passed_over, pins.from_the_system(packages, self.device.arch, self.device.system)]
        if self.stand_in:
            return [line for line in lines if line]
        if not self.runs_as_here and precision in ("int8", AS_IS):
            lines.append(
                f"{self.device.name} runs it in {self.runtime[0]}, whose int8 kernels round "
                f"otherwise than those of {self.target.REQUIREMENTS[0]} here: expect a few decibels less"
            )
        return lines

    @property
    def int8_blocks(self) -> bool:
        """True where 4-bit blocks are multiplied by 8-bit activations fast: ONNX Runtime's ARM kernels need asimddp."""
        return self.device.arch != "aarch64" or self.device.has_dot_product

    @property
    def reads(self) -> pins.Reads | None:
        """The newest ONNX file that the device's runtime loads; None where it loads another format."""
        return pins.reads(*self.runtime)

    @property
    def runtime(self) -> tuple[str, str]:
        """The device's runtime and its version."""
        return runtime_of(self.target_name, self.target, self.versions, self.device)

    @property
    def runs_as_here(self) -> bool:
        """True where the device has the runtime that makes the golden answers here, perhaps in another version."""
        return not self.stand_in and self.runtime[0] == self.target.REQUIREMENTS[0]

    def load(self, path: Path) -> Callable[[Feed], Feed]:
        """A file of the target's, loaded in the runtime that answers for it here."""
        return targets.runner_here(self.target_name).load(str(path), min(self.threads, available_cores()))

    @property
    def measurable_here(self) -> bool:
        """True where this machine's latency says something about the device: the same instruction set."""
        if self.stand_in:
            return False
        here = detect()
        return here.arch == self.device.arch and here.has_dot_product == self.device.has_dot_product


def plan(
    device: Device,
    *,
    target: str,
    precision: str,
    has_data: bool,
    is_quantized: bool,
    threads: int | None,
    block: int | None = None,
    measured: bool = False,
) -> Plan:
    """Decide what to build.

    Args:
        measured: forms will be timed on the device itself, so that int8 may prove itself there.

    Raises:
        UnfitDevice, UnknownTarget, UsageError, MissingExtra, DataNeeded.
    """
    name = default_target(device) if target == "auto" else target
    module = targets.load(name)
    if name not in device.targets:
        raise UnfitDevice(
            f"{device.name} ({device.title}) does not run {name}",
            f"it runs {', '.join(device.targets)}",
        )
    versions = versions_for(device, module)
    module.check()
    runtime_of(name, module, versions, device)
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"no precision {precision!r}", f"one of auto, {', '.join(PRECISIONS)}")
    if threads is not None and threads < 1:
        raise UsageError("--threads should be 1 or more", "leave it out to take all cores")
    if block is not None and precision != "w4":
        raise UsageError("--block says how w4 stores weights", "add --precision w4, or leave it out")
    if block is not None and block not in BLOCKS:
        raise UsageError(f"--block {block} is not a block of w4", f"one of {', '.join(map(str, BLOCKS))}")
    able = [p for p in module.PRECISIONS if p in device.targets[name]]
    on_trial = False
    if is_quantized:
        if precision not in ("auto", "int8"):
            raise UsageError(
                f"the model is already quantized and cannot be made {precision}",
                "leave --precision out to package it as it is, or start from the float model",
            )
        precision, reason = AS_IS, "the model already holds integer operators"
    elif precision != "auto":
        _refuse_unfit(device, name, module, precision, able, versions)
        if precision == "int8" and not has_data:
            raise DataNeeded(
                "int8 needs calibration samples",
                "add --data with a few hundred real inputs; dynamic, w8, w4, fp16 and fp32 need none",
            )
        reason = "asked for"
    elif module.UNASKED and not (measured and has_data and "int8" in able):
        precision = module.UNASKED if module.UNASKED in able else able[0]
        reason = f"what {name} runs without calibration; int8 is built where it is asked for or measured on the board"
    elif not has_data:
        precision, reason = "fp32", "without --data int8 cannot be calibrated"
    elif "int8" not in able:
        precision, reason = "fp32", f"{name} gains nothing from int8 on {device.name}"
    else:
        precision, reason, on_trial = "int8", device.int8_why, True
    return Plan(
        device=device,
        target_name=name,
        target=module,
        precision=precision,
        reason=reason,
        on_trial=on_trial,
        threads=threads or (min(device.cores, available_cores()) if device.board == HOST else device.cores),
        versions=versions,
        block=block or DEFAULT_BLOCK,
        passed_over=_passed_over(device, name) if target == "auto" else "",
    )


def _refuse_unfit(
    device: Device, name: str, module: Target, precision: str, able: list[str], versions: Mapping[str, str]
) -> None:
    """Refuse a precision that was asked for and that the device's runtime does not gain from or does not have."""
    instead = f"it runs {', '.join(able)} there"
    if precision in module.REFUSED:
        raise UnfitDevice(f"{name} gains nothing from {precision}: {module.REFUSED[precision]}", instead)
    if precision not in able and precision == "int8" and device.gpu is not None and not device.gpu.int8:
        raise UnfitDevice(
            f"the GPU of {device.name} (compute capability {device.gpu.compute}) has no int8 arithmetic for {name}",
            "take --precision fp16",
        )
    if precision not in able:
        raise UnfitDevice(f"{device.name} does not run {precision} with {name}", instead)
    package, version = runtime_of(name, module, versions, device)
    if precision in module.FALLBACK_LACKS and package != module.REQUIREMENTS[0]:
        raise UnfitDevice(
            f"{device.name} has {package}, which does not answer rightly in {precision}",
            "take w8, or int8 with --data; or a newer system",
        )
    since = module.SINCE.get(precision, "0")
    if pins.version_tuple(version) < pins.version_tuple(since):
        raise UnfitDevice(
            f"{precision} needs {package} {since}, and {device.name} gets {version}",
            "take w8, which every version runs, or a newer system",
        )


def scheme_for(module: Target, device: Device | None) -> Scheme:
    """The target's scheme, with 7-bit weights where the device adds 8-bit products with saturation."""
    return replace(module.SCHEME, weight_bits=7) if device is not None and device.saturates else module.SCHEME


def default_target(device: Device) -> str:
    """The first of the device's targets that has wheels for its system and is installed here; else the first.

    Raises:
        UnfitDevice: there is none; it says why the first one falls away.
    """
    found = _packaged(device)
    return next((name for name in found if _is_installed(name)), found[0])


def _packaged(device: Device) -> list[str]:
    """The device's targets that edgepack has and that have wheels for its system, the preferred ones first."""
    why: UnfitDevice | None = None
    found = []
    for name in device.targets:
        if name in targets.names():
            try:
                versions_for(device, targets.load(name))
            except UnfitDevice as error:
                why = why or error
            else:
                found.append(name)
    if not found:
        raise why or UnfitDevice(
            f"edgepack does not package any runtime of {device.name} yet: {', '.join(device.targets)}",
            f"it packages {', '.join(targets.names())}",
        )
    return found


def _is_installed(name: str) -> bool:
    try:
        targets.load(name).check()
    except MissingExtra:
        return False
    return True


def _passed_over(device: Device, name: str) -> str:
    """What `default_target` would have taken before, were it installed, in words."""
    found = _packaged(device)
    before = found[: found.index(name)]
    if not before:
        return ""
    extra = targets.load(before[0]).EXTRA
    return f"{device.name} runs {before[0]} first, which is not installed here: pip install 'edgepack[{extra}]'"


def versions_for(device: Device, module: Target, *, images: bool = False) -> dict[str, str]:
    """The versions that a bundle for the device pins, of the target's older runtime where only that has wheels.

    Raises:
        UnfitDevice: something has no wheel there.
    """
    if device.board == HOST:
        return {}
    older = targets.older_packages(module, images=images)
    try:
        return pins.pins(targets.packages(module, images=images), device.arch, device.system)
    except UnfitDevice:
        if not older:
            raise
        try:
            return pins.pins(older, device.arch, device.system)
        except UnfitDevice:
            if not pins.exists_for(module.REQUIREMENTS[0], device.arch):
                raise  # which says more
        raise


def runtime_of(name: str, module: Target, versions: Mapping[str, str], device: Device) -> tuple[str, str]:
    """The target's runtime and its version: the pinned one, the one that the system comes with, else the one here.

    Raises:
        UnfitDevice: it comes with the system, and which version that has is not known.
    """
    if not module.REQUIREMENTS:
        jetpack = device.system.jetpack
        if jetpack is None:
            raise UnfitDevice(
                f"{device.system.title} is no JetPack, and {name} comes with nothing else",
                "name one with --device BOARD@SYSTEM, or give the system a jetpack: in the device file",
            )
        return name, jetpack.tensorrt
    known = [name for name in (*module.REQUIREMENTS, *module.FALLBACK) if name in versions]
    package = known[0] if known else module.REQUIREMENTS[0]
    return package, versions.get(package) or here.installed(package)


def consequences(device: Device) -> list[str]:
    """What a device's profile means for a build, in words."""
    lines = []
    system = device.system
    if system.python and pins.version_tuple(system.python) < pins.OLDEST_PYTHON:
        lines.append(f"its Python {system.python} is too old: a bundle needs 3.8")
    for name in device.targets:
        if name not in targets.names():
            lines.append(f"{name}: not packaged yet")
            continue
        module = targets.load(name)
        try:
            package, version = runtime_of(name, module, versions_for(device, module), device)
        except UnfitDevice as error:
            lines.append(f"{name}: {error.message}; {error.hint}")
            continue
        reads = pins.reads(package, version)
        limits = f", which reads ONNX up to IR {reads.ir} and opset {reads.opset}" if reads is not None else ""
        lines.append(f"{name}: {package} {version}{limits}; {', '.join(device.targets[name])}")
        by_hand = pins.from_the_system(tuple(versions_for(device, module)), device.arch, system)
        lines += [f"{name}: {by_hand}"] if by_hand else []
    if device.saturates:
        lines.append("int8 weights are kept to 7 bits, since its CPU adds int8 products with saturation")
    gain = (
        "int8 is expected to be faster" if device.int8_gain == "expected" else "int8 is measured before it is believed"
    )
    lines.append(f"{gain}: {device.int8_why}")
    lines.append(f"{device.cores} threads unless --threads says otherwise")
    lines += [note for note in (system.note, device.note) if note]
    return lines
