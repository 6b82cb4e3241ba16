"""`edgepack build` and `edgepack demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepack.cli.options import (
    ConfigFile,
    DeviceFile,
    Json,
    Seconds,
    ShapeRanges,
    Threads,
    boards,
    decodings,
    metrics,
    precisions,
    presets,
    shapes_or_ranges,
    states,
    targets,
)
from edgepack.cli.show import progress_bar, render, show
from edgepack.errors import PROMISE_MISSED

BUILD_EXAMPLES = (
    "Examples:\n\n"
    "edgepack build model.onnx -o out --device rpi5 --data calib.npz --eval test.npz\n\n"
    "edgepack build model.onnx -o out --data calib.npz --eval test.npz --max-drop 0.5\n\n"
    "edgepack build model.onnx -o out --data calib.npz --eval test.npz --prune macs=0.7 --max-drop 1\n\n"
    "edgepack build model.onnx -o out --data photos/ --preprocess imagenet --target openvino\n\n"
    "edgepack build yolo.onnx -o out --data photos/ --eval val/ --preprocess yolo --metric map50 "
    "--annotations val.json --decode yolov8\n\n"
    "edgepack build model.onnx -o out --precision fp32 --input-shape x=1x3x640x640\n\n"
    "edgepack build model.onnx -o out --target tflite --data photos/ --preprocess imagenet --io-layout nhwc "
    "--precision int8 --io-dtype uint8\n\n"
    "edgepack build encoder.onnx -o out --device orin-nano@jp6.2 --input-shape ids=1x16..1x64..1x128\n\n"
    "edgepack build speech.onnx -o out --data frames.npz --state h=hn --state c=cn"
)
DEMO_EXAMPLES = "Example:\n\nedgepack demo -o demo-out"


def build(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx or .pt2 file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle's folder; OUT.tar.gz lies beside it.")],
    device: Annotated[
        str, typer.Option(help="The board; see `edgepack devices`.", autocompletion=lambda: boards())
    ] = "host",
    target: Annotated[
        str,
        typer.Option(help="The runtime; auto is the device's default.", autocompletion=lambda: ["auto", *targets()]),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="auto, fp32, fp16, int8, dynamic (int8, activations quantized at run time), w8 or w4 (weights only). "
            "auto takes int8 where it is measured or known to be faster, and good enough.",
            autocompletion=lambda: ["auto", *precisions()],
        ),
    ] = "auto",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Calibration samples: a .npz (one array per input, y for labels), or a folder of .npy, .npz or images."
        ),
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option("--eval", help="Labelled samples to judge by, disjoint from --data.")
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(
            help="How images become tensors: a preset (imagenet, unit, yolo, "
            "mnist …), a YAML file, or size=64x64,mean=127,std=128.",
            autocompletion=lambda: presets(),
        ),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Class names (characters, for a recognizer), one a line.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|MODULE:FUNCTION",
            help="What to judge by: top1, top5, map50, map, miou, cer, wer, or a function of your own.",
            show_default="top1 where labels are class numbers",
            autocompletion=lambda: metrics(),
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(metavar="FILE|FOLDER", help="Boxes for the judged samples: COCO JSON, or YOLO .txt files."),
    ] = None,
    decode: Annotated[
        str | None,
        typer.Option(
            help="How outputs become boxes, maps or text: yolov8, yolov5, boxes, ssd, dbnet, argmax, mask or ctc, "
            "then key=value pairs: yolov8,score=0.01,iou=0.6.",
            autocompletion=lambda: decodings(),
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="Points of the metric that may be lost: the fastest form that keeps it is built, or exit code 3.",
        ),
    ] = None,
    time_budget: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How long the search for --max-drop may try new forms.")
    ] = None,
    block: Annotated[
        int | None, typer.Option(help="w4: weights that share a scale, 16, 32, 64 or 128.", show_default="32")
    ] = None,
    prune: Annotated[
        str | None,
        typer.Option(
            metavar="macs=|params=|latency=SHARE|2:4",
            help="Remove channels until this share is left, and refit the others on --data; 2:4: zeros in a pattern, "
            "for GPUs that skip them.",
        ),
    ] = None,
    prune_importance: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Which channels --prune removes: second-order, taylor (needs torch), l2 or l1.",
            autocompletion=lambda: ["second-order", "taylor", "l2", "l1"],
        ),
    ] = "second-order",
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="HOST",
            help="Where the search for --max-drop measures: ssh://user@host[:port].",
            show_default="this machine",
        ),
    ] = None,
    input_shape: ShapeRanges = None,
    io_layout: Annotated[
        str | None,
        typer.Option(
            "--io-layout",
            metavar="nchw|nhwc",
            help="The axes of images that the bundle takes and gives.",
            show_default="the model's own",
            autocompletion=lambda: ["nchw", "nhwc"],
        ),
    ] = None,
    io_dtype: Annotated[
        str,
        typer.Option(
            "--io-dtype",
            metavar="float|int8|uint8",
            help="The numbers that an int8 tflite bundle takes and gives.",
            autocompletion=lambda: ["float", "int8", "uint8"],
        ),
    ] = "float",
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state",
            metavar="INPUT=OUTPUT",
            help="An output that is the next call's input: the bundle keeps it between calls. May be repeated.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The bundle's name.", show_default="the model file's")] = None,
    version: Annotated[str, typer.Option("--version", help="The bundle's version.")] = "1",
    threads: Threads = None,
    wheels: Annotated[
        bool, typer.Option("--wheels", help="Put the wheels into the bundle, for a board without network.")
    ] = False,
    devices_file: DeviceFile = None,
    seconds: Seconds = 2.0,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Quantize a model for a device and write a verified bundle."""
    from edgepack.building.pipeline import build as run

    with progress_bar() as progress:
        built = run(
            model,
            output,
            device=device,
            target=target,
            precision=precision,
            data=data,
            eval=evaluation,
            preprocess=preprocess,
            labels=labels,
            metric=metric,
            annotations=annotations,
            decode=decode,
            max_drop=max_drop,
            time_budget=time_budget,
            on=on,
            input_shape=shapes_or_ranges(input_shape),
            io_layout=io_layout,
            io_dtype=io_dtype,
            state=states(state),
            name=name,
            version=version,
            threads=threads,
            block=block,
            prune=prune,
            prune_importance=prune_importance,
            wheels=wheels,
            devices_file=devices_file,
            seconds=seconds,
            force=force,
            progress=progress,
        )
    show(built.to_json(), as_json, lambda: render().build_report(built))
    if built.promise is not None and not built.promise["kept"]:
        raise typer.Exit(PROMISE_MISSED)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the bundle goes.")] = Path("demo-out"),
    target: Annotated[str, typer.Option(help="The runtime.", autocompletion=lambda: targets())] = "onnxruntime",
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
    as_json: Json = False,
) -> None:
    """The whole line on a real model: a Fashion-MNIST classifier becomes a quantized, benchmarked bundle."""
    from edgepack.demo import run

    with progress_bar() as progress:
        built = run(output, target=target, force=force, progress=progress)
    show(built.to_json(), as_json, lambda: render().build_report(built))
    if not as_json:
        typer.echo(f"\nnext: edgepack bench {output}    edgepack inspect {output}    python {output}/harness.py check")
