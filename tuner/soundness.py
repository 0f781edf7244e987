"""Is a budget's profile sound: is its minimum bracketed by completed sizes? Needs no ray."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from tuner.space import Size, Trial

MARGIN = 2
"""Completed sizes wanted on each side of the minimum."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Loss against size at one budget, as far as it is known."""

    budget: float
    """FLOP."""
    window: tuple[Size, ...]
    """Sizes asked for, fewest weights first."""
    losses: Mapping[Size, float]
    """Best loss of each completed size over learning rates, nat/token, seeds averaged."""
    best: Trial | None
    """The best completed trial."""

    @property
    def covered(self) -> bool:
        """Every size asked for has a completed run."""
        return all(size in self.losses for size in self.window)

    @property
    def sides(self) -> tuple[int, int]:
        """Completed sizes below and above the minimum."""
        if self.best is None:
            return 0, 0
        done = [size for size in self.window if size in self.losses]
        place = done.index(self.best.question.size)
        return place, len(done) - 1 - place

    @property
    def bracketed(self) -> bool:
        """The minimum has `MARGIN` completed sizes on each side."""
        return min(self.sides) >= MARGIN

    def grown(self, ladder: Sequence[Size]) -> tuple[Size, ...]:
        """The window, widened along the ladder as far as the minimum asks for."""
        below, above = (max(0, MARGIN - side) for side in self.sides)
        places = [ladder.index(size) for size in self.window]
        first, last = max(0, min(places) - below), min(len(ladder), max(places) + 1 + above)
        return tuple(ladder[first:last])

    def faults(self, rates: tuple[float, float], min_steps: int) -> list[str]:
        """In words, what keeps the profile's minimum from being trusted."""
        if self.best is None:
            return [f"budget {self.budget:g}: no completed run"]
        found = []
        asked = self.best.question
        missing = [f"{n}x{d}" for n, d in self.window if (n, d) not in self.losses]
        if missing:
            found.append(f"no completed run at {', '.join(missing)}")
        if not self.bracketed:
            found.append(
                f"the minimum, {asked.size[0]}x{asked.size[1]}, has {self.sides[0]} completed "
                f"sizes below and {self.sides[1]} above; {MARGIN} are wanted: extend shapes.ladder"
            )
        if not rates[0] * EDGE <= asked.learning_rate <= rates[1] / EDGE:
            found.append(
                f"the best learning rate, {asked.learning_rate:.3g}, is at the edge of "
                f"[{rates[0]:g}, {rates[1]:g}]: widen search.learning_rate"
            )
        if self.best.steps < min_steps:
            found.append(f"the best run took {self.best.steps} steps, below {min_steps}")
        return [f"budget {self.budget:g}: {fault}" for fault in found]


EDGE = 1.1
"""A best rate within this factor of an end of the range is on its edge."""


def profile(
    budget: float, window: tuple[Size, ...], completed: Sequence[tuple[Trial, float]]
) -> Profile:
    """The profile of `budget` from its completed trials and their losses, nat/token."""
    runs: dict[tuple[Size, float], list[float]] = defaultdict(list)
    for trial, loss in completed:
        runs[_cell(trial)].append(loss)
    means = {cell: fmean(found) for cell, found in runs.items()}
    losses: dict[Size, float] = {}
    for (size, _), loss in means.items():
        losses[size] = min(loss, losses.get(size, loss))
    best = min((trial for trial, _ in completed), key=lambda t: means[_cell(t)], default=None)
    return Profile(budget=budget, window=window, losses=losses, best=best)


def _cell(trial: Trial) -> tuple[Size, float]:
    return trial.question.size, trial.question.learning_rate
