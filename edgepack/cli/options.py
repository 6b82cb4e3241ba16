"""Flags that several commands have, what completes them, and how their texts are understood."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgepack.errors import UsageError

if TYPE_CHECKING:
    from edgepack.data.ranges import ShapeRange


def config_file(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        from edgepack.cli import config

        names = {str(parameter.name): getattr(parameter, "opts", []) for parameter in context.command.params}
        context.default_map = {**(context.default_map or {}), **config.read(path, names)}
    return path


Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
Threads = Annotated[int | None, typer.Option(help="Threads to run with.", show_default="all cores of the device")]
Seconds = Annotated[float, typer.Option(help="How long each model is timed on this machine.")]
Shapes = Annotated[
    list[str] | None, typer.Option("--input-shape", metavar="NAME=1x3x224x224", help="Fix open dimensions.")
]
ShapeRanges = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="NAME=1x3x224x224",
        help="Fix open dimensions; for tensorrt also a range of shapes, NAME=MIN..OPT..MAX.",
    ),
]
DeviceFile = Annotated[
    Path | None, typer.Option("--devices", metavar="FILE", help="A device file that adds boards, or replaces them.")
]
On = Annotated[
    str, typer.Option("--on", metavar="HOST", help="Where: local, ssh://user@host[:port], or qemu:cortex-a72.")
]
AllowFallback = Annotated[
    str | None,
    typer.Option(
        "--allow-fallback",
        metavar="RUNTIME",
        help="Where the bundle's runtime is missing, run in this one, marked: onnxruntime or onnxruntime-cuda.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", callback=config_file, is_eager=True, metavar="FILE", help="YAML with any of these flags."),
]


def boards() -> list[str]:
    from edgepack import device

    return ["host", *device.read()]


def targets() -> list[str]:
    from edgepack import target

    return target.names()


def precisions() -> tuple[str, ...]:
    from edgepack import device

    return device.PRECISIONS


def presets() -> list[str]:
    from edgepack.data import preprocess

    return list(preprocess.PRESETS)


def metrics() -> list[str]:
    from edgepack.metrics import METRICS

    return list(METRICS)


def decodings() -> list[str]:
    from edgepack.metrics.decode import KEYS

    return list(KEYS)


def shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]]:
    """`NAME=1x3x224x224` by name."""
    found = {}
    for text in texts or []:
        name, _, dims = text.rpartition("=")
        if ".." in dims:
            raise UsageError(f"--input-shape {text} is a range", "take one shape here: NAME=1x3x224x224")
        shape = _shape(dims)
        if not name or shape is None:
            raise UsageError(f"--input-shape {text} is not understood", "write it as NAME=1x3x224x224")
        found[name] = shape
    return found


def shapes_or_ranges(texts: list[str] | None) -> dict[str, tuple[int, ...] | ShapeRange]:
    """`NAME=1x3x224x224`, or `NAME=1x16..1x64..1x128` by name: smallest, usual, largest; of two the latter is usual."""
    found: dict[str, tuple[int, ...] | ShapeRange] = {}
    for text in texts or []:
        name, _, dims = text.rpartition("=")
        found[name] = _range(text, name, dims.split("..")) if ".." in dims else shapes([text])[name]
    return found


def _range(text: str, name: str, parts: list[str]) -> ShapeRange:
    from edgepack.data.ranges import ShapeRange

    three = [shape for part in parts if (shape := _shape(part)) is not None]
    if not name or len(three) != len(parts) or not 2 <= len(parts) <= 3:
        raise UsageError(
            f"--input-shape {text} is not understood",
            "write a range as NAME=1x16..1x64..1x128: smallest, usual, largest",
        )
    least, usual, most = three if len(three) == 3 else (*three, three[1])
    if not len(least) == len(usual) == len(most):
        raise UsageError(
            f"--input-shape {text}: the shapes of a range have as many dimensions", "write all of them out"
        )
    if any(not a <= b <= c for a, b, c in zip(least, usual, most, strict=True)):
        raise UsageError(
            f"--input-shape {text}: lengths should grow from the smallest to the largest", "write NAME=MIN..OPT..MAX"
        )
    return ShapeRange(least=least, usual=usual, most=most)


def _shape(dims: str) -> tuple[int, ...] | None:
    """`1x3x224x224` as numbers; None if it is none."""
    try:
        shape = tuple(int(dim) for dim in dims.lower().split("x"))
    except ValueError:
        return None
    return shape if min(shape) >= 1 else None


def states(texts: list[str] | None) -> dict[str, str]:
    """`INPUT=OUTPUT` by input."""
    states: dict[str, str] = {}
    for text in texts or []:
        name, equals, output = text.partition("=")
        if not name or not equals or not output or name in states:
            raise UsageError(f"--state {text} is not understood", "write it as INPUT=OUTPUT, once for each input")
        states[name] = output
    return states


def integers(flag: str, text: str | None) -> list[int] | None:
    """`1,2,4` as numbers."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{flag} {text} is not understood", f"write it as {flag} 1,2,4") from None


def share(flag: str, text: str) -> float:
    """`2%` or `2` as 0.02."""
    try:
        return float(text.strip().removesuffix("%")) / 100
    except ValueError:
        raise UsageError(f"{flag} {text} is not understood", f"write it as {flag} 2%") from None
