"""What every verb shares with its terminal: two streams, options that come again, JSON."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

out = Console()
talk = Console(stderr=True, soft_wrap=True, highlight=False)

SweepFile = Annotated[Path, typer.Argument(metavar="SWEEP.toml", help="A sweep file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("-s", "--set", metavar="KEY=VALUE", help="Lay a setting over the file."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def busy(doing: str) -> Iterator[None]:
    """Show on stderr, where a person watches, that something of unknown length is being done."""
    from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = SpinnerColumn(), "{task.description}", TimeElapsedColumn()
    hidden = talk.quiet or not talk.is_terminal
    with Progress(*columns, console=talk, transient=True, disable=hidden) as shown:
        shown.add_task(doing, total=None)
        yield


def show_whole(table: Table, console: Console) -> None:
    """Print a table with all its numbers, wider than the screen or the pipe if it must be."""
    free = console.options.update(width=1000, max_width=1000)
    width = max(console.width, Measurement.get(console, free, table).maximum)
    Console(
        file=console.file, width=width, force_terminal=console.is_terminal, quiet=console.quiet
    ).print(table)


def positive(value: float | None) -> float | None:
    """An option that is a positive, finite number, if it is given."""
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value} is no positive, finite number")
    return value


def measured_file() -> Path:
    """Where the doctor's measurement of this machine is kept for plans."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "isoflop" / "doctor.json"


def print_json(value: object) -> None:
    """A result that a program reads, on stdout."""
    typer.echo(json.dumps(value, indent=1))
