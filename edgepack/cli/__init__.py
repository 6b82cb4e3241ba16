"""The command line: parse, call one function, render. The only place that catches errors or prints."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Annotated

import typer

from edgepack.cli import bench, build, devices, inspect, results
from edgepack.errors import FULL, INTERNAL_ERROR, EdgepackError, Interrupted, WriteFailed

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


app.command(epilog=build.BUILD_EXAMPLES)(build.build)
app.command(epilog=bench.BENCH_EXAMPLES)(bench.bench)
app.command(epilog=bench.CHECK_EXAMPLES)(bench.check)
app.command(epilog=inspect.INSPECT_EXAMPLES)(inspect.inspect)
app.command(epilog=results.COMPARE_EXAMPLES)(results.compare)
app.command(epilog=results.REPORT_EXAMPLES)(results.report)
app.add_typer(devices.devices, name="devices")
app.command(epilog=build.DEMO_EXAMPLES)(build.demo)


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
