"""What every verb shares with its terminal: two streams, options that come again, JSON."""

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

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
    if talk.quiet or not talk.is_terminal:  # a disabled bar still ends its line in older rich
        yield
        return
    with Progress(*columns, console=talk, transient=True) as shown:
        shown.add_task(doing, total=None)
        yield


GAPS = (2, 1)
"""Blanks between two columns, and where the terminal is narrow."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A table of which nothing is ever cut: where it is too wide it goes on below itself, its first
    column repeated. Print it with `soft_wrap`: rich cuts lines in a pipe otherwise."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Its parts, each as wide as it needs."""
        room = options.max_width if console.is_terminal else math.inf
        gap = next((gap for gap in GAPS if self._width(self._all, gap) <= room), GAPS[-1])
        for part in self._parts(room, gap):
            for style, row in (("bold", self.headings), *(("", row) for row in self.rows)):
                cells = (row[n].rjust(self._widest(n)) for n in part)
                yield Text((" " * gap).join(cells), style=style, no_wrap=True, overflow="ignore")

    @property
    def _all(self) -> list[int]:
        return list(range(len(self.headings)))

    def _width(self, part: Sequence[int], gap: int) -> int:
        """Characters of some columns side by side."""
        return sum(map(self._widest, part)) + gap * (len(part) - 1)

    def _widest(self, number: int) -> int:
        """Characters of a column."""
        return max(len(row[number]) for row in (self.headings, *self.rows))

    def _parts(self, room: float, gap: int) -> Iterator[list[int]]:
        """Columns that fit side by side, the first among them each time."""
        part = [0]
        for number in self._all[1:]:
            if len(part) > 1 and self._width([*part, number], gap) > room:
                yield part
                part = [0]
            part.append(number)
        yield part


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
    """A result that a program reads, on stdout; numbers that JSON has not are null."""
    typer.echo(json.dumps(_finite(value), indent=1, allow_nan=False))


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(one) for key, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
        case float() if not math.isfinite(value):
            return None
    return value
