"""A drawn figure as a Plotly figure: one drawing, which answers the pointer where scripts run.

Reads the artists off the axes, so that both views show the same numbers; what a reader hovers over
is worded by the axes' own labels. Sizes are in pixels at the figure's drawn width.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.collections import Collection, PathCollection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedLocator, FuncFormatter

from analysis.laws import Array
from analysis.style import GRID, INK, MUTED, PAPER, themed

PIXELS = 96 / 72
"""CSS pixels a point."""
DIGITS = 5
"""Significant digits of a coordinate: finer than a pixel at any zoom that means something."""
_DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
_MARKERS = {"o": "circle", "D": "diamond", "*": "star", "s": "square", "^": "triangle-up"}

Trace = dict[str, Any]


def spec(figure: Figure) -> str:
    """The figure as JSON: Plotly's `data` and `layout`, and the drawn `width` and `height`.

    Call once the figure is laid out, as it is after `style.svg`. The same figure, the same text.
    """
    width, height = (float(size) * 96 for size in figure.get_size_inches())
    layout: dict[str, Any] = {
        "annotations": [], "showlegend": False, "hovermode": "closest",
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "font": {"color": INK.light, "size": 10 * PIXELS, "family": "system-ui, sans-serif"},
        "hoverlabel": {"bgcolor": PAPER.light, "bordercolor": MUTED.light,
                       "font": {"color": INK.light, "size": 10 * PIXELS}, "align": "left"},
    }  # fmt: skip
    data: list[Trace] = []
    for number, ax in enumerate(figure.axes, 1):
        panel = _Panel(ax, "" if number == 1 else str(number))
        data += panel.traces()
        layout |= panel.axes()
        layout["annotations"] += panel.annotations()
    text = json.dumps(
        {"data": data, "layout": layout, "width": width, "height": height}, sort_keys=True
    )
    return themed(text).replace("</", "<\\/")


@dataclass(frozen=True)
class _Panel:
    """One axes of the figure, under Plotly's names for it."""

    ax: Axes
    suffix: str

    def traces(self) -> list[Trace]:
        """What is plotted, back to front."""
        artists = [*self.ax.collections, *self.ax.lines]
        ordered = sorted(artists, key=lambda artist: artist.get_zorder())
        return [
            trace | {"xaxis": f"x{self.suffix}", "yaxis": f"y{self.suffix}", "type": "scatter"}
            for artist in ordered
            for trace in (
                [self._line(artist)] if isinstance(artist, Line2D) else self._collection(artist)
            )
        ]

    def _line(self, line: Line2D) -> Trace:
        x, y = (np.asarray(values, float) for values in line.get_data(orig=False))
        if line.get_transform() != self.ax.transData:  # a line across the axes, such as axhline
            x = np.array(self.ax.get_xlim())
        color, marker = to_hex(line.get_color()), str(line.get_marker())
        style, shown = str(line.get_linestyle()), marker in _MARKERS
        dash = _DASHES.get(style)
        trace: Trace = {
            **self._points(x, y, str(line.get_label())),
            "mode": "+".join(["lines"] * bool(dash) + ["markers"] * shown),
            "opacity": line.get_alpha() or 1.0,
        }
        if dash:
            trace["line"] = {"color": color, "dash": dash, "width": _rounded(line.get_linewidth())}
        if shown:
            trace["marker"] = _marker(line, marker)
        return trace

    def _collection(self, found: Collection) -> Iterator[Trace]:
        if isinstance(found, PathCollection):
            x, y = np.asarray(found.get_offsets(), float).T
            colors = [to_hex(color) for color in np.asarray(found.get_facecolor())]
            size = _rounded(float(np.sqrt(found.get_sizes()[0])) * PIXELS)
            yield {
                **self._points(x, y, str(found.get_label())),
                "mode": "markers",
                "marker": {"color": colors[0] if len(colors) == 1 else colors, "size": size},
                "opacity": found.get_alpha() or 1.0,
            }
        elif isinstance(found, ContourSet):
            colors = np.atleast_2d(found.get_edgecolor())
            for level, color, path in zip(found.levels, colors, found.get_paths(), strict=True):
                for piece in path.to_polygons(closed_only=False):
                    yield self._outline(np.asarray(piece), to_hex(color), f"{level:g} nat/token")
        else:
            for path in found.get_paths():
                yield self._band(path.vertices, found)

    def _outline(self, points: Array, color: str, name: str) -> Trace:
        line = {"color": color, "width": PIXELS}
        return {**self._points(points[:, 0], points[:, 1], name), "mode": "lines", "line": line}

    def _band(self, outline: Any, band: Collection) -> Trace:
        x, y = np.asarray(outline, float).T
        color = to_rgba(np.asarray(band.get_facecolor())[0])
        return {
            "x": _numbers(x), "y": _numbers(y), "mode": "lines", "fill": "toself",
            "line": {"width": 0}, "fillcolor": to_hex(color), "opacity": _rounded(color[3]),
            "hoverinfo": "skip",
        }  # fmt: skip

    def _points(self, x: Array, y: Array, name: str) -> Trace:
        """Coordinates, and what each says to whoever points at it."""
        named = "" if name.startswith("_") else f"<b>{name}</b><br>"
        text = [
            f"{named}{_said(self.ax.xaxis, float(a))}<br>{_said(self.ax.yaxis, float(b))}"
            for a, b in zip(x, y, strict=True)
        ]
        return {"x": _numbers(x), "y": _numbers(y), "text": text, "hoverinfo": "text"}

    def axes(self) -> dict[str, Any]:
        """Both axes: scale, range, ticks, and where the panel stands in the figure."""
        box = self.ax.get_position()
        return {
            f"xaxis{self.suffix}": {
                **_axis(self.ax.xaxis), "domain": [_rounded(box.x0), _rounded(box.x1)],
                "anchor": f"y{self.suffix}",
            },
            f"yaxis{self.suffix}": {
                **_axis(self.ax.yaxis), "domain": [_rounded(box.y0), _rounded(box.y1)],
                "anchor": f"x{self.suffix}",
            },
        }  # fmt: skip

    def annotations(self) -> Iterator[Trace]:
        """Labels beside and on lines, and the panel's title."""
        common = {"showarrow": False, "xanchor": "left", "yanchor": "middle"}
        for text in self.ax.texts:
            at, away = text.get_position(), (0.0, 0.0)
            if isinstance(text, Annotation):
                at, away = text.xy, text.get_position()
            yield common | {
                "text": text.get_text(), "xref": f"x{self.suffix}", "yref": f"y{self.suffix}",
                "x": _place(self.ax.xaxis, at[0]), "y": _place(self.ax.yaxis, at[1]),
                "xshift": _rounded(away[0] * PIXELS), "yshift": _rounded(away[1] * PIXELS),
                "xanchor": "left" if any(away) else "center", "font": _font(text),
            }  # fmt: skip
        title = self.ax.get_title(loc="left")
        if title:
            yield common | {
                "text": title, "xref": f"x{self.suffix} domain", "yref": f"y{self.suffix} domain",
                "x": 0, "y": 1, "yanchor": "bottom", "font": {"size": 10 * PIXELS},
            }  # fmt: skip


def _marker(line: Line2D, marker: str) -> Trace:
    face, edge = line.get_markerfacecolor(), line.get_markeredgecolor()
    hollow = isinstance(face, str) and face == "none"
    return {
        "symbol": _MARKERS[marker] + "-open" * hollow,
        "size": _rounded(line.get_markersize() * PIXELS),
        "color": to_hex(edge if hollow else face),
        "line": {"color": to_hex(edge), "width": _rounded(line.get_markeredgewidth())},
    }


def _font(text: Text) -> Trace:
    return {
        "color": to_hex(text.get_color()),
        "size": _rounded(float(text.get_fontsize()) * PIXELS),
    }


def _axis(axis: Axis) -> Trace:
    title = {"text": axis.get_label_text(), "standoff": 4, "font": {"size": 10 * PIXELS}}
    found: Trace = {
        "title": title, "range": [_place(axis, value) for value in axis.get_view_interval()],
        "type": axis.get_scale(), "showgrid": axis.get_gridlines()[0].get_visible(),
        "gridcolor": GRID.light, "linecolor": MUTED.light, "ticks": "outside",
        "tickcolor": MUTED.light, "tickangle": 0, "zeroline": False,
        "tickfont": {"size": 9 * PIXELS}, "showticklabels": _labeled(axis),
        "nticks": 8, "exponentformat": "e" if "FLOP" in axis.get_label_text() else "B",
    }  # fmt: skip
    if axis.get_scale() == "log":
        low, high = axis.get_view_interval()
        drawn = [float(place) for place in axis.get_majorticklocs() if low <= place <= high]
        places = drawn[:: -(-len(drawn) // _room(axis))]
        word = axis.get_major_formatter()
        words = [word(place, None) for place in places]
        found |= {"tickmode": "array", "tickvals": places, "ticktext": words}
    elif isinstance(axis.get_major_locator(), FixedLocator):
        words = [label.get_text() for label in axis.get_ticklabels()]
        found |= {"tickmode": "array", "tickvals": _numbers(axis.get_ticklocs()), "ticktext": words}
    return found


def _labeled(axis: Axis) -> bool:
    """Whether numbers stand at its ticks; axes that share a scale have them once a row."""
    side = "labelbottom" if isinstance(axis, XAxis) else "labelleft"
    return bool(axis.get_tick_params()[side])


def _room(axis: Axis) -> int:
    """How many ticks with their words stand along the axis without turning or touching."""
    frame, inch = axis.axes.get_window_extent(), axis.axes.figure.dpi
    along = isinstance(axis, XAxis)
    fits = frame.width / inch / 0.45 if along else frame.height / inch / 0.2
    return max(int(fits), 2)


def _place(axis: Axis, value: float) -> float:
    """Where Plotly wants a range or an annotation: the logarithm on a logarithmic axis."""
    return _rounded(float(np.log10(value)) if axis.get_scale() == "log" else float(value), 7)


def _said(axis: Axis, value: float) -> str:
    """A coordinate in words: `parameters N: 31k`."""
    word = axis.get_major_formatter()
    if isinstance(axis.get_major_locator(), FixedLocator):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        return labels[round(value)] if 0 <= round(value) < len(labels) else ""
    said = word(value, None) if isinstance(word, FuncFormatter) else f"{value:.4g}"
    return f"{axis.get_label_text()}: {said}"


def _numbers(values: Iterable[float] | Array) -> Sequence[float | None]:
    return [_rounded(float(v)) if np.isfinite(v) else None for v in values]


def _rounded(value: float, digits: int = DIGITS) -> float:
    return float(f"{value:.{digits}g}")
