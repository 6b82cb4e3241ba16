"""The command line: parse, call one function, render. The only place that catches errors or prints."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgepack import cli_results
from edgepack.errors import FULL, INTERNAL_ERROR, PROMISE_MISSED, EdgepackError, Interrupted, UsageError, WriteFailed

if TYPE_CHECKING:
    from edgepack.candidate import Progress

app = typer.Typer(
    name="edgepack",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(asked: bool) -> None:
    if asked:
        from edgepack._version import VERSION

        typer.echo(f"edgepack {VERSION}")
        raise typer.Exit


@app.callback()
def _edgepack(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Take a trained model to an edge device: quantize, package, verify, measure."""


def _config(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        from edgepack import config

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
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", callback=_config, is_eager=True, metavar="FILE", help="YAML with any of these flags."),
]


@app.command(
    epilog="Examples:\n\n"
    "edgepack build model.onnx -o out --device rpi5 --data calib.npz --eval test.npz\n\n"
    "edgepack build model.onnx -o out --data calib.npz --eval test.npz --max-drop 0.5\n\n"
    "edgepack build model.onnx -o out --data photos/ --preprocess imagenet --target openvino\n\n"
    "edgepack build yolo.onnx -o out --data photos/ --eval val/ --preprocess yolo --metric map50 "
    "--annotations val.json --decode yolov8\n\n"
    "edgepack build model.onnx -o out --precision fp32 --input-shape x=1x3x640x640\n\n"
    "edgepack build model.onnx -o out --target tflite --data photos/ --preprocess imagenet --io-layout nhwc "
    "--precision int8 --io-dtype uint8\n\n"
    "edgepack build speech.onnx -o out --data frames.npz --state h=hn --state c=cn"
)
def build(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx or .pt2 file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The bundle's folder; OUT.tar.gz lies beside it.")],
    device: Annotated[
        str, typer.Option(help="The board; see `edgepack devices`.", autocompletion=lambda: _boards())
    ] = "host",
    target: Annotated[
        str,
        typer.Option(help="The runtime; auto is the device's default.", autocompletion=lambda: ["auto", *_targets()]),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="auto, fp32, fp16, int8, dynamic (int8, activations quantized at run time), w8 or w4 (weights only). "
            "auto takes int8 where it is measured or known to be faster, and good enough.",
            autocompletion=lambda: ["auto", *_precisions()],
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
            autocompletion=lambda: _presets(),
        ),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Class names (characters, for a recognizer), one a line.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|MODULE:FUNCTION",
            help="What to judge by: top1, top5, map50, map, miou, cer, wer, or a function of your own.",
            show_default="top1 where labels are class numbers",
            autocompletion=lambda: _metrics(),
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
            autocompletion=lambda: _decodings(),
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
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="HOST",
            help="Where the search for --max-drop measures: ssh://user@host[:port].",
            show_default="this machine",
        ),
    ] = None,
    input_shape: Shapes = None,
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
    from edgepack.pipeline import build as run

    with _progress() as progress:
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
            input_shape=_shapes(input_shape),
            io_layout=io_layout,
            io_dtype=io_dtype,
            state=_states(state),
            name=name,
            version=version,
            threads=threads,
            block=block,
            wheels=wheels,
            devices_file=devices_file,
            seconds=seconds,
            force=force,
            progress=progress,
        )
    _show(built.to_json(), as_json, lambda: _render().build_report(built))
    if built.promise is not None and not built.promise["kept"]:
        raise typer.Exit(PROMISE_MISSED)


@app.command(
    epilog="Examples:\n\nedgepack bench out --threads 1 --output result.json\n\n"
    "edgepack bench out --against other --on ssh://pi@raspberrypi.local\n\n"
    "edgepack bench out --threads 1,2,4 --batch 1,8"
)
def bench(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder or .tar.gz.")],
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="OTHER", help="Another bundle to time it beside.", show_default="the float original, where it is"
        ),
    ] = None,
    on: On = "local",
    threads: Annotated[
        str | None,
        typer.Option(metavar="N[,N…]", help="Threads to run with.", show_default="as built: all cores of the device"),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="N[,N…]", help="Samples a run.")] = "1",
    input_shape: Annotated[
        list[str] | None,
        typer.Option("--input-shape", metavar="NAME=1x3x224x224", help="Another shape than the golden inputs have."),
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Callers at the same time, each with a model of its own.")] = 1,
    seconds: Annotated[float, typer.Option(help="How long each model runs, over all of its processes.")] = 5.0,
    min_runs: Annotated[int, typer.Option(help="How often each model runs at least.")] = 50,
    processes: Annotated[int, typer.Option(help="Processes of each model.")] = 10,
    equivalence: Annotated[str, typer.Option(metavar="PERCENT", help="What counts as the same.")] = "2%",
    accept_doubts: Annotated[
        bool, typer.Option("--accept-doubts", help="Keep a measurement that is not valid, marked.")
    ] = False,
    fix_clocks: Annotated[
        bool,
        typer.Option("--fix-clocks", help="Governor performance meanwhile, where that is allowed; then as it was."),
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the result there, as JSON.")] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="What each operator takes, and which layers of the original it is.")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the profile as a timeline for Perfetto or Chrome.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a bundle, then time it turn by turn with its float original or another bundle, here or on a device."""
    from edgepack.benchmark import bench as run

    if profile:
        others = {"--against": against, "--batch": batch != "1", "--input-shape": input_shape,
                  "--concurrency": concurrency != 1, "--fix-clocks": fix_clocks}  # fmt: skip
        _profile(path, on, threads, seconds, accept_doubts, output, trace, as_json, [k for k, v in others.items() if v])
        return
    if trace is not None:
        raise UsageError("--trace is for --profile", "add --profile")

    with _progress() as progress:
        result = run(
            path,
            against=against,
            on=on,
            threads=_integers("--threads", threads),
            batch=_integers("--batch", batch) or 1,
            input_shape=_shapes(input_shape),
            concurrency=concurrency,
            seconds=seconds,
            min_runs=min_runs,
            processes=processes,
            equivalence=_share("--equivalence", equivalence),
            accept_doubts=accept_doubts,
            fix_clocks=fix_clocks,
            output=output,
            progress=progress,
        )

    def rendered() -> Any:
        from edgepack.render_measurement import measurement

        return measurement(result)

    _show(result, as_json, rendered)


def _profile(
    path: Path,
    on: str,
    threads: str | None,
    seconds: float,
    accept_doubts: bool,
    output: Path | None,
    trace: Path | None,
    as_json: bool,
    others: list[str],
) -> None:
    from edgepack.profiling import profile as run

    if others:
        raise UsageError(f"{others[0]} does not go with --profile", "a profile is of one model on one sample")
    counts = _integers("--threads", threads)
    if counts is not None and len(counts) > 1:
        raise UsageError("--profile takes one number of --threads", "run it again for another")
    with _progress() as progress:
        result = run(
            path,
            on=on,
            threads=counts[0] if counts else None,
            seconds=seconds,
            accept_doubts=accept_doubts,
            output=output,
            trace=trace,
            progress=progress,
        )

    def rendered() -> Any:
        from edgepack.render_profile import profile as table

        return table(result)

    _show(result, as_json, rendered)


@app.command(epilog="Examples:\n\nedgepack check out.tar.gz\n\nedgepack check out --on ssh://pi@raspberrypi.local")
def check(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder or .tar.gz.")],
    on: On = "local",
    as_json: Json = False,
) -> None:
    """Will a bundle run there, is it whole, and does it answer as it should?"""
    from edgepack.benchmark import check as run

    with _progress() as progress:
        report = run(path, on=on, progress=progress)
    _show(report, as_json, lambda: f"ok: {_render().check_words(report)}")


@app.command(
    epilog="Examples:\n\nedgepack inspect model.onnx --device rpi5\n\nedgepack inspect out\n\n"
    "edgepack inspect model.onnx --layers --data calib.npz"
)
def inspect(
    path: Annotated[Path, typer.Argument(metavar="MODEL|BUNDLE", help="A model file, or a bundle.")],
    device: Annotated[
        str | None, typer.Option(help="The board to look with.", autocompletion=lambda: _boards())
    ] = None,
    target: Annotated[
        str, typer.Option(help="The runtime to look with.", autocompletion=lambda: ["auto", *_targets()])
    ] = "auto",
    input_shape: Shapes = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Which layer int8 hurts: round one after another, on --data.")
    ] = False,
    data: Annotated[Path | None, typer.Option(help="Samples for --layers; labels are not needed.")] = None,
    preprocess: Annotated[
        str | None, typer.Option(help="How images become tensors.", autocompletion=lambda: _presets())
    ] = None,
    as_json: Json = False,
) -> None:
    """What a model or a bundle is, what would stop it on a device, and which layer int8 hurts."""
    from edgepack.inspection import BundleInspection
    from edgepack.inspection import inspect as run

    if layers:
        from edgepack.diagnosis import diagnose

        with _progress() as progress:
            diagnosis = diagnose(
                path,
                data,
                device=device,
                target_name=target,
                preprocess=preprocess,
                input_shape=_shapes(input_shape),
                progress=progress,
            )
        _show(diagnosis.to_json(), as_json, lambda: _render().diagnosis(diagnosis))
        return
    if data is not None or preprocess is not None:
        raise UsageError("--data and --preprocess are for --layers", "add --layers to see which layer int8 hurts")

    found = run(path, device=device, target_name=target, input_shape=_shapes(input_shape))
    if isinstance(found, BundleInspection):
        _show(found.to_json(), as_json, lambda: _render().bundle_inspection(found))
    else:
        _show(found.to_json(), as_json, lambda: _render().inspection(found))


app.command(epilog=cli_results.COMPARE_EXAMPLES)(cli_results.compare)
app.command(epilog=cli_results.REPORT_EXAMPLES)(cli_results.report)

devices = typer.Typer(invoke_without_command=True)
app.add_typer(devices, name="devices")


@devices.callback(epilog="Examples:\n\nedgepack devices\n\nedgepack devices show rpi4@bookworm32")
def _devices(context: typer.Context, devices_file: DeviceFile = None, as_json: Json = False) -> None:
    """The boards that edgepack builds for: list (the default), show, detect, clean."""
    if context.invoked_subcommand is None:
        list_devices(devices_file, as_json)


@devices.command("list", epilog="Example:\n\nedgepack devices list --devices boards.yaml --json")
def list_devices(devices_file: DeviceFile = None, as_json: Json = False) -> None:
    """List the boards, this machine first."""
    from dataclasses import asdict

    from edgepack import device

    boards = {device.HOST: device.detect(), **device.read(devices_file)}
    data = {name: asdict(board) for name, board in boards.items()}
    _show(data, as_json, lambda: _render().device_table(boards))


@devices.command("show", epilog="Example:\n\nedgepack devices show rpi4@bookworm32")
def show_device(
    board: Annotated[str, typer.Argument(metavar="BOARD[@SYSTEM]", autocompletion=lambda: _boards())],
    devices_file: DeviceFile = None,
    as_json: Json = False,
) -> None:
    """Show a board, and what its profile means for a build."""
    from dataclasses import asdict

    from edgepack import device
    from edgepack.plan import consequences

    found = device.find(board, devices_file)
    meaning = consequences(found)
    _show({**asdict(found), "consequences": meaning}, as_json, lambda: _render().device(found, meaning))


@devices.command("detect", epilog="Example:\n\nedgepack devices detect --on ssh://pi@raspberrypi.local >> boards.yaml")
def detect_device(
    on: On = "local",
    name: Annotated[str, typer.Option(help="The name to give it.")] = "my-board",
    as_json: Json = False,
) -> None:
    """Look at a machine and print its profile, ready to paste into a device file."""
    from dataclasses import asdict, replace

    from edgepack import device
    from edgepack.remote_bundle import detect

    found = replace(device.detect(), board=name) if on == "local" else detect(on, name)
    if as_json:
        _show(asdict(found), True, str)
    else:
        typer.echo(device.profile(found), nl=False)


@devices.command("clean", epilog="Example:\n\nedgepack devices clean --on ssh://pi@raspberrypi.local")
def clean_device(on: On, as_json: Json = False) -> None:
    """Stop what edgepack left running on a machine, and remove its folder there."""
    from edgepack.remote_bundle import clean

    removed = clean(on)
    words = f"removed from {on}: {', '.join(removed)}" if removed else f"nothing of edgepack was on {on}"
    _show({"removed": removed}, as_json, lambda: words)


@app.command(epilog="Example:\n\nedgepack demo -o demo-out")
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the bundle goes.")] = Path("demo-out"),
    target: Annotated[str, typer.Option(help="The runtime.", autocompletion=lambda: _targets())] = "onnxruntime",
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
    as_json: Json = False,
) -> None:
    """The whole line on a real model: a Fashion-MNIST classifier becomes a quantized, benchmarked bundle."""
    from edgepack.demo import run

    with _progress() as progress:
        built = run(output, target=target, force=force, progress=progress)
    _show(built.to_json(), as_json, lambda: _render().build_report(built))
    if not as_json:
        typer.echo(f"\nnext: edgepack bench {output}    edgepack inspect {output}    python {output}/harness.py check")


# --- plumbing -------------------------------------------------------------------------------------------


def _boards() -> list[str]:
    from edgepack import device

    return ["host", *device.read()]


def _targets() -> list[str]:
    from edgepack import target

    return target.names()


def _precisions() -> tuple[str, ...]:
    from edgepack import device

    return device.PRECISIONS


def _presets() -> list[str]:
    from edgepack import preprocess

    return list(preprocess.PRESETS)


def _metrics() -> list[str]:
    from edgepack.metrics import METRICS

    return list(METRICS)


def _decodings() -> list[str]:
    from edgepack.metrics.decode import KEYS

    return list(KEYS)


def _render() -> Any:
    from edgepack import render

    return render


def _shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]]:
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


def _states(texts: list[str] | None) -> dict[str, str]:
    """`INPUT=OUTPUT` by input."""
    states: dict[str, str] = {}
    for text in texts or []:
        name, equals, output = text.partition("=")
        if not name or not equals or not output or name in states:
            raise UsageError(f"--state {text} is not understood", "write it as INPUT=OUTPUT, once for each input")
        states[name] = output
    return states


def _integers(flag: str, text: str | None) -> list[int] | None:
    """`1,2,4` as numbers."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{flag} {text} is not understood", f"write it as {flag} 1,2,4") from None


def _share(flag: str, text: str) -> float:
    """`2%` or `2` as 0.02."""
    try:
        return float(text.strip().removesuffix("%")) / 100
    except ValueError:
        raise UsageError(f"{flag} {text} is not understood", f"write it as {flag} 2%") from None


def _show(data: object, as_json: bool, rendered: Callable[[], Any]) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))
        return
    from rich.console import Console

    Console(highlight=False).print(rendered())


@contextmanager
def _progress() -> Iterator[Progress]:
    """A progress bar on stderr, gone when the work is done; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    count = TextColumn("{task.fields[count]}")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), count, TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for old in tasks.values():
                    bar.remove_task(old)
                tasks.clear()
                tasks[what] = bar.add_task(what, total=total or None, count="")
            # Steps count samples, uploads bytes; a step of unknown length counts nothing.
            words = f"{done:,}/{total:,}" if total else ""
            bar.update(tasks[what], completed=done, total=total or None, count=words)

        try:
            yield report
        except KeyboardInterrupt:
            raise Interrupted("interrupted", "nothing was written") from None


def main() -> None:
    """Run the command line; every error leaves as one line, a hint and an exit code."""
    debug = bool(os.environ.get("EDGEPACK_DEBUG"))
    # A plain kill should clean up like Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not debug:  # it logs tracebacks of what is then done another way
        logging.getLogger("onnx_ir").setLevel(logging.CRITICAL)
    try:
        app(standalone_mode=True)
    except EdgepackError as error:
        if debug:
            raise
        _complain(error.message, error.hint)
        sys.exit(error.exit_code)
    except SystemExit as leaving:  # typer makes one of a KeyboardInterrupt that came before the work began
        if leaving.code == Interrupted.exit_code:
            _complain("interrupted", "nothing was written")
        raise
    except BrokenPipeError:  # the reader, such as `head`, has enough
        _drop_stdout()
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            _complain(f"no space left while writing {error.filename or 'the results'}", "free some space")
            _drop_stdout()
            sys.exit(WriteFailed.exit_code)
        if debug:
            raise
        text = str(error).strip().splitlines()
        _complain(
            f"this is a bug in edgepack: {type(error).__name__}: {text[0] if text else ''}",
            "run it again with EDGEPACK_DEBUG=1 and report the traceback",
        )
        sys.exit(INTERNAL_ERROR)


def _drop_stdout() -> None:
    """What is still buffered goes nowhere; Python would complain about it on its way out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, hint: str) -> None:
    typer.secho(f"error: {message}", fg="red", err=True)
    if hint:
        typer.secho(f"hint: {hint}", err=True)


if __name__ == "__main__":
    main()
