"""Flags that several commands have, what completes them, and how their texts are understood."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepack.errors import UsageError


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
    shapes = {}
    for text in texts or []:
        name, _, dims = text.rpartition("=")
        try:
            shape = tuple(int(dim) for dim in dims.lower().split("x")) if dims else ()
        except ValueError:
            shape = ()
        if not name or not shape or min(shape) < 1:
            raise UsageError(f"--input-shape {text} is not understood", "write it as NAME=1x3x224x224")
        shapes[name] = shape
    return shapes


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
