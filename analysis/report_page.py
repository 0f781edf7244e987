"""What a report consists of, before it is HTML or Markdown: sections of text, tables, figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from analysis import interactive
from analysis.fit import Fits
from analysis.predict import Prediction
from analysis.results import Interval
from analysis.runs import Runs
from analysis.style import svg

NO_INTERVAL = "—"
REACH = 1e3
"""How far past the runs, as a factor in C, tables go."""


@dataclass(frozen=True, kw_only=True)
class Story:
    """What a report tells."""

    runs: Runs
    fits: Fits
    prediction: Prediction | None
    """The allocation asked for, if one was."""

    notes: tuple[str, ...] = ()
    """What whoever ran the sweep has to say of it, in sentences."""

    @property
    def target(self) -> float | None:
        """The budget asked for, FLOP."""
        return self.prediction.budget if self.prediction else None

    @property
    def source(self) -> str:
        """Name of the sweep's folder or of the table; not where it lies on this machine."""
        return Path(self.runs.source).name or "runs"


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    value: float | None = None
    """What to sort by, where it is a number."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; its first column names the row."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sortable: bool = False


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure, with what it says in words for those who cannot see it."""

    svg: str
    alt: str
    caption: str
    live: str = ""
    """The same figure as JSON for Plotly; empty where there is nothing to point at."""
    height: float = 0.0
    """Height over width of the live figure."""

    @classmethod
    def of(
        cls, figure: Figure, key: str, *, alt: str, caption: str, live: bool = True
    ) -> "Picture":
        """A drawn figure; `key` keeps its ids apart from other figures' on the page."""
        still = svg(figure, key)
        width, height = figure.get_size_inches()
        return cls(
            svg=still, alt=alt, caption=caption, live=interactive.spec(figure) if live else "",
            height=float(height / width),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section."""

    key: str
    """Its anchor."""
    title: str
    text: tuple[str, ...] = ()
    """Paragraphs."""
    points: tuple[str, ...] = ()
    """A list of sentences."""
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A section that these runs cannot fill."""

    title: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole report."""

    title: str
    sections: tuple[Section, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def live(self) -> bool:
        """Whether any figure answers the pointer."""
        return any(picture.live for section in self.sections for picture in section.pictures)


def between(interval: Interval, word: Callable[[float], str]) -> str:
    """`low … high`."""
    return f"{word(interval[0])} … {word(interval[1])}"


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of plain texts."""
    cells = tuple(tuple(Cell(text) for text in row) for row in rows)
    return Table(caption=caption, head=tuple(head), rows=cells)
