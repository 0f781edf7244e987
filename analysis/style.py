"""One look for every figure: colors for light and dark pages, axes in words, SVG for a page.

Colors are drawn as their light values; in a page each becomes a CSS variable, so that one drawing
serves both. Uses no pyplot: nothing global changes.
"""

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter


@dataclass(frozen=True)
class Color:
    """One color of the palette."""

    name: str
    light: str
    """On a light page, and on paper."""
    dark: str
    """On a dark page."""


INK = Color("ink", "#1b1b1a", "#ecebe8")
MUTED = Color("muted", "#6a6965", "#a3a29c")
GRID = Color("grid", "#e2e1dc", "#3a3a37")
PAPER = Color("paper", "#fdfdfb", "#171716")
# Okabe and Ito's colors (jfly.uni-koeln.de/color), darkened or lightened for contrast.
BLUE = Color("blue", "#0072b2", "#5ab4ef")
ORANGE = Color("orange", "#b84f00", "#ff9a4d")
GREEN = Color("green", "#00805f", "#2fd1a2")
PURPLE = Color("purple", "#9b4587", "#e39ccb")
# Viridis (matplotlib): the part that stands out from each page.
_ON_LIGHT = (
    "#471365", "#482979", "#433e85", "#3c508b", "#33628d", "#2c718e", "#26828e", "#20928c",
    "#1fa188",
)  # fmt: skip
_ON_DARK = (
    "#21918c", "#1f9f88", "#26ad81", "#3bbb75", "#58c765", "#7ad151", "#a2da37", "#cae11f",
    "#f1e51d",
)  # fmt: skip
RAMP = tuple(
    Color(f"ramp{place}", *pair) for place, pair in enumerate(zip(_ON_LIGHT, _ON_DARK, strict=True))
)
"""From small to large."""
PALETTE = (INK, MUTED, GRID, PAPER, BLUE, ORANGE, GREEN, PURPLE, *RAMP)

LABEL_POINTS = 9

_SETTINGS: dict[str, Any] = {
    "axes.edgecolor": MUTED.light,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK.light,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK.light,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.color": GRID.light,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "path",  # the same letters on every device
    "svg.hashsalt": "isoflop",  # the same ids every time
    "text.color": INK.light,
    "xtick.color": MUTED.light,
    "xtick.labelcolor": INK.light,
    "xtick.labelsize": 9,
    "ytick.color": MUTED.light,
    "ytick.labelcolor": INK.light,
    "ytick.labelsize": 9,
}


def draw(paint: Callable[[Axes], object], *, width: float = 4.8, height: float = 3.4) -> Figure:
    """A figure of one axes, in inches, filled by `paint` under the common style."""
    return draw_grid([paint], columns=1, width=width, height=height)


def draw_grid(
    paints: list[Callable[[Axes], object]], *, columns: int, width: float, height: float
) -> Figure:
    """A figure of several axes with common scales; `height` is that of one row, in inches."""
    rows = -(-len(paints) // columns)
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, rows * height))
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for paint, ax in zip(paints, axes, strict=False):
            paint(ax)
            ax.xaxis.set_tick_params(labelbottom=True)
        for number, ax in enumerate(axes):
            if number % columns:
                ax.set_ylabel("")
            if number >= len(paints):
                ax.remove()
    return figure


def budget_colors(budgets: Iterable[float]) -> dict[float, str]:
    """A color a budget, ordered from small to large."""
    ordered = sorted(set(budgets))
    places = np.linspace(0, len(RAMP) - 1, len(ordered)).round().astype(int)
    return {budget: RAMP[place].light for budget, place in zip(ordered, places, strict=True)}


def log_axis(
    ax: Axes, which: Literal["x", "y"], label: str, wording: Callable[[float], str]
) -> None:
    """Make an axis logarithmic, its ticks worded, as many as fit. Call after plotting."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    axis.set_label_text(label)
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    steps = (1.0, 2.0, 5.0) if decades < 2 else (1.0, 3.0) if decades < 3 else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps, numticks=9))

    def tick(value: float, _place: int) -> str:
        return wording(value)

    axis.set_major_formatter(FuncFormatter(tick))
    axis.set_minor_formatter(NullFormatter())


@dataclass(frozen=True)
class EndLabel:
    """A name to stand at the right end of a line."""

    x: float
    y: float
    text: str
    color: str


def label_ends(ax: Axes, labels: Sequence[EndLabel]) -> None:
    """Write labels beside their lines' ends, spread so that none covers another.

    Call last: places follow from the axes' limits.
    """
    ends = [float(ax.transData.transform((label.x, label.y))[1]) for label in labels]
    frame = ax.get_window_extent()
    gap = LABEL_POINTS * 1.25 * ax.figure.dpi / 72
    places = _spread(ends, gap, (frame.y0, frame.y1))
    halo = withStroke(linewidth=2, foreground=PAPER.light)
    for label, end, place in zip(labels, ends, places, strict=True):
        ax.annotate(
            label.text, (label.x, label.y), xytext=(7, (place - end) * 72 / ax.figure.dpi),
            textcoords="offset points", va="center", ha="left", color=label.color,
            fontsize=LABEL_POINTS, annotation_clip=False, path_effects=[halo],
        )  # fmt: skip


def _spread(places: Sequence[float], gap: float, within: tuple[float, float]) -> list[float]:
    """The nearest places, in the same order, at least `gap` apart and `within` if there is room.

    Pool adjacent violators: neighbors too close become a block about their mean.
    """
    blocks: list[list[int]] = []
    order = sorted(range(len(places)), key=places.__getitem__)
    wanted = {index: places[index] - rank * gap for rank, index in enumerate(order)}

    def mean(block: list[int]) -> float:
        return sum(wanted[index] for index in block) / len(block)

    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and mean(blocks[-2]) >= mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1].extend(last)
    highest = within[1] - (len(places) - 1) * gap
    found = {
        index: max(within[0], min(mean(block), highest)) for block in blocks for index in block
    }
    return [found[index] + order.index(index) * gap for index in range(len(places))]


def svg(figure: Figure, prefix: str) -> str:
    """The figure as an SVG element for a page, the same bytes for the same figure.

    Colors become CSS variables, ids get `prefix` so that figures of one page do not clash, and
    the size is left to the page.
    """
    buffer = io.StringIO()
    with mpl.rc_context(_SETTINGS):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    return themed(text).replace("<svg ", '<svg aria-hidden="true" ', 1).strip()


def themed(text: str) -> str:
    """`text` with each light color of the palette as the CSS variable that serves both pages."""
    for color in PALETTE:
        text = text.replace(color.light, f"var(--{color.name})")
    return text


def stylesheet() -> str:
    """The palette as CSS variables: light, and dark where the reader's system asks for it."""
    light, dark = (
        "".join(f"--{color.name}:{getattr(color, page)};" for color in PALETTE)
        for page in ("light", "dark")
    )
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}"
