"""The plan: a device's facts and the user's wishes, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgepack import target as targets
from edgepack.device import PRECISIONS, Device, available_cores
from edgepack.errors import DataNeeded, UnfitDevice, UsageError
from edgepack.target import Scheme, Target

AS_IS = "as-is"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be built. `precision` is fp32, fp16, int8, or as-is for a model that is already quantized.

    Where `on_trial` is true, int8 was not asked for: it must prove itself against float, or fp32 is built.
    """

    device: Device
    target_name: str
    target: Target
    precision: str
    reason: str
    on_trial: bool
    threads: int

    @property
    def scheme(self) -> Scheme:
        """The target's scheme, with 7-bit weights where the device adds 8-bit products with saturation."""
        scheme = self.target.SCHEME
        return replace(scheme, weight_bits=7) if self.device.saturates else scheme

    @property
    def measurable_here(self) -> bool:
        """True where this machine's latency says something about the device: the same instruction set."""
        from edgepack.device import detect

        here = detect()
        return here.arch == self.device.arch and here.saturates == self.device.saturates


def plan(
    device: Device, *, target: str, precision: str, has_data: bool, is_quantized: bool, threads: int | None
) -> Plan:
    """Decide what to build.

    Raises:
        UnfitDevice, UnknownTarget, UsageError, MissingExtra, DataNeeded.
    """
    name = device.default_target if target == "auto" else target
    module = targets.load(name)
    if name not in device.targets:
        raise UnfitDevice(
            f"{device.name} ({device.title}) does not run {name}",
            f"it runs {', '.join(device.targets)}",
        )
    module.check()
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"no precision {precision!r}", f"one of auto, {', '.join(PRECISIONS)}")
    if threads is not None and threads < 1:
        raise UsageError("--threads should be 1 or more")
    able = [p for p in module.PRECISIONS if p in device.targets[name]]
    on_trial = False
    if is_quantized:
        if precision in ("fp16", "fp32"):
            raise UsageError(
                f"the model is already quantized and cannot be made {precision}",
                "leave --precision out to package it as it is, or start from the float model",
            )
        precision, reason = AS_IS, "the model already holds integer operators"
    elif precision != "auto":
        if precision not in able:
            raise UnfitDevice(f"{device.name} does not run {precision} with {name}", f"it runs {', '.join(able)} there")
        if precision == "int8" and not has_data:
            raise DataNeeded(
                "int8 needs calibration samples", "add --data with a few hundred real inputs; fp32 and fp16 need none"
            )
        reason = "asked for"
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
        threads=threads or (min(device.cores, available_cores()) if device.name == "host" else device.cores),
    )
