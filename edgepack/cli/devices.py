"""`edgepack devices`: list, show, detect, clean."""

from __future__ import annotations

from typing import Annotated

import typer

from edgepack.cli.options import DeviceFile, Json, On, boards
from edgepack.cli.show import render, show

devices = typer.Typer(invoke_without_command=True)


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
    show(data, as_json, lambda: render().device_table(boards))


@devices.command("show", epilog="Example:\n\nedgepack devices show rpi4@bookworm32")
def show_device(
    board: Annotated[str, typer.Argument(metavar="BOARD[@SYSTEM]", autocompletion=lambda: boards())],
    devices_file: DeviceFile = None,
    as_json: Json = False,
) -> None:
    """Show a board, and what its profile means for a build."""
    from dataclasses import asdict

    from edgepack import device
    from edgepack.building.runtimes import consequences

    found = device.find(board, devices_file)
    meaning = consequences(found)
    show({**asdict(found), "consequences": meaning}, as_json, lambda: render().device(found, meaning))


@devices.command("detect", epilog="Example:\n\nedgepack devices detect --on ssh://pi@raspberrypi.local >> boards.yaml")
def detect_device(
    on: On = "local",
    name: Annotated[str, typer.Option(help="The name to give it.")] = "my-board",
    as_json: Json = False,
) -> None:
    """Look at a machine and print its profile, ready to paste into a device file."""
    from dataclasses import asdict, replace

    from edgepack import device
    from edgepack.bundles.remote_bundle import detect

    found = replace(device.detect(), board=name) if on == "local" else detect(on, name)
    if as_json:
        show(asdict(found), True, str)
    else:
        typer.echo(device.profile(found), nl=False)


@devices.command("clean", epilog="Example:\n\nedgepack devices clean --on ssh://pi@raspberrypi.local")
def clean_device(on: On, as_json: Json = False) -> None:
    """Stop what edgepack left running on a machine, and remove its folder there."""
    from edgepack.bundles.remote_bundle import clean

    removed = clean(on)
    words = f"removed from {on}: {', '.join(removed)}" if removed else f"nothing of edgepack was on {on}"
    show({"removed": removed}, as_json, lambda: words)
