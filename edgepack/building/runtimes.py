"""Which runtime a device gets, in which version, and what that means for a build."""

from __future__ import annotations

from collections.abc import Mapping

from edgepack import target as targets
from edgepack.bundles import here, pins
from edgepack.device import HOST, Device
from edgepack.errors import MissingExtra, UnfitDevice
from edgepack.target import Target


def default_target(device: Device) -> str:
    """The first of the device's targets that has wheels for its system and is installed here; else the first.

    Raises:
        UnfitDevice: there is none; it says why the first one falls away.
    """
    found = _packaged(device)
    return next((name for name in found if is_installed(name)), found[0])


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


def is_installed(name: str) -> bool:
    """Whether this Python has what the target packages with."""
    try:
        targets.load(name).check()
    except MissingExtra:
        return False
    return True


def passed_over(device: Device, name: str) -> str:
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
