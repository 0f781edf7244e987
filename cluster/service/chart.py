"""Loss against model size, one line a budget, as numbers an SVG needs. No plotting library: a page
is drawn at every look."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 340
"""Of the picture, pixel."""
LEFT, RIGHT, TOP, BOTTOM = 88, 16, 12, 56
"""Room for the axes' numbers and names, at the size that a phone needs."""
COLORS = 8
"""Classes the style sheet knows; budgets beyond take them again."""


@dataclass(frozen=True, kw_only=True)
class Dot:
    """An answered run."""

    flops: int
    """Its budget, FLOP."""
    params: int
    """Weights without embeddings."""
    loss: float
    """nat/token."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """The runs of one budget."""

    flops: int
    color: int
    dots: tuple[tuple[float, float, Dot], ...]
    """(x, y, what it stands for), in pixels."""
    path: str
    """Through the lowest loss of each size."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture: lines, and where the axes' numbers stand."""

    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def chart(dots: Sequence[Dot]) -> Chart | None:
    """The picture of `dots`; None if there are none."""
    if not dots:
        return None
    sizes, losses = [math.log10(dot.params) for dot in dots], [dot.loss for dot in dots]
    x = _Scale.over(sizes, LEFT, WIDTH - RIGHT, pad=0.1)
    y = _Scale.over(losses, HEIGHT - BOTTOM, TOP, pad=0.1)
    by_budget: dict[int, list[Dot]] = defaultdict(list)
    for dot in dots:
        by_budget[dot.flops].append(dot)
    lines = [_line(place, rows, x, y) for place, (_, rows) in enumerate(sorted(by_budget.items()))]
    return Chart(lines=tuple(lines), x_ticks=_powers(x), y_ticks=_steps(y))


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Values to pixels."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, pad: float) -> "_Scale":
        low, high = min(values), max(values)
        room = pad * (high - low) or 0.5
        return cls(low=low - room, high=high + room, start=start, end=end)

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def _line(place: int, rows: Sequence[Dot], x: _Scale, y: _Scale) -> Line:
    lowest: dict[int, float] = {}
    for dot in rows:
        lowest[dot.params] = min(dot.loss, lowest.get(dot.params, math.inf))
    points = [f"{x(math.log10(size))} {y(loss)}" for size, loss in sorted(lowest.items())]
    return Line(
        flops=rows[0].flops, color=place % COLORS, path=f"M{' L'.join(points)}",
        dots=tuple((x(math.log10(dot.params)), y(dot.loss), dot) for dot in rows),
    )  # fmt: skip


def _powers(x: _Scale) -> tuple[tuple[float, str], ...]:
    """Ones, threes of each power of ten that is in view."""
    found = []
    for power in range(math.floor(x.low), math.ceil(x.high) + 1):
        for digit in (1, 3):
            at = power + math.log10(digit)
            if x.low <= at <= x.high:
                found.append((x(at), f"{digit}e{power}"))
    return tuple(found)


def _steps(y: _Scale) -> tuple[tuple[float, str], ...]:
    """Some four round numbers."""
    span = y.high - y.low
    step = 10 ** math.floor(math.log10(span / 2))
    step *= next(by for by in (1, 2, 5, 10) if span / (step * by) <= 6)
    first = math.ceil(y.low / step)
    values = [n * step for n in range(first, math.floor(y.high / step) + 1)]
    return tuple((y(value), f"{value:.4g}") for value in values)
