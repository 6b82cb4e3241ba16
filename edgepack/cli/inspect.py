"""`edgepack inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepack.cli.options import Json, Shapes, boards, presets, shapes, targets
from edgepack.cli.show import progress_bar, render, show
from edgepack.errors import LINT_FAILED, UsageError

INSPECT_EXAMPLES = (
    "Examples:\n\nedgepack inspect model.onnx --device rpi5\n\nedgepack inspect quantized.onnx --device orin-nano\n\n"
    "edgepack inspect out\n\n"
    "edgepack inspect model.onnx --layers --data calib.npz"
)


def inspect(
    path: Annotated[Path, typer.Argument(metavar="MODEL|BUNDLE", help="A model file, or a bundle.")],
    device: Annotated[str | None, typer.Option(help="The board to look with.", autocompletion=lambda: boards())] = None,
    target: Annotated[
        str, typer.Option(help="The runtime to look with.", autocompletion=lambda: ["auto", *targets()])
    ] = "auto",
    input_shape: Shapes = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Which layer int8 hurts: round one after another, on --data.")
    ] = False,
    data: Annotated[Path | None, typer.Option(help="Samples for --layers; labels are not needed.")] = None,
    preprocess: Annotated[
        str | None, typer.Option(help="How images become tensors.", autocompletion=lambda: presets())
    ] = None,
    as_json: Json = False,
) -> None:
    """What a model or a bundle is, what would stop it on a device, and which layer int8 hurts.

    For a board whose runtime has rules (TensorRT), a quantized model's offences are named; it ends with 5 if the
    runtime would refuse it.
    """
    from edgepack.inspection import BundleInspection
    from edgepack.inspection import inspect as run

    if layers:
        from edgepack.quantization.diagnosis import diagnose

        with progress_bar() as progress:
            diagnosis = diagnose(
                path,
                data,
                device=device,
                target_name=target,
                preprocess=preprocess,
                input_shape=shapes(input_shape),
                progress=progress,
            )
        show(diagnosis.to_json(), as_json, lambda: render().diagnosis(diagnosis))
        return
    if data is not None or preprocess is not None:
        raise UsageError("--data and --preprocess are for --layers", "add --layers to see which layer int8 hurts")

    found = run(path, device=device, target_name=target, input_shape=shapes(input_shape))
    if isinstance(found, BundleInspection):
        show(found.to_json(), as_json, lambda: render().bundle_inspection(found))
    else:
        show(found.to_json(), as_json, lambda: render().inspection(found))
        if found.is_refused:
            raise typer.Exit(LINT_FAILED)
