"""The plan: a device's facts and the user's wishes, checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgepack import target as targets
from edgepack.building.runtimes import default_target, passed_over, runtime_of, versions_for
from edgepack.bundles import here, pins
from edgepack.data.samples import Feed
from edgepack.device import BLOCKS, HOST, PRECISIONS, Device, available_cores, detect
from edgepack.errors import DataNeeded, UnfitDevice, UsageError
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
        passed_over=passed_over(device, name) if target == "auto" else "",
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
