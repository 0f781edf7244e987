"""Is a budget's profile sound: is its minimum bracketed by completed sizes? Needs no ray."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from tuner import space
from tuner.config import Sweep
from tuner.ledger import Ledger
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


def profile(sweep: Sweep, ledger: Ledger, vocab_size: int, budget: float) -> Profile:
    """The profile of `budget` from what is completed."""
    runs: dict[tuple[Size, float], list[float]] = defaultdict(list)
    trials: list[Trial] = []
    for record in ledger.records("completed"):
        last = ledger.last(record.key)
        if record.question.budget == budget and last is not None:
            trials.append(space.trial(sweep, record.question, vocab_size))
            runs[_cell(trials[-1])].append(last.loss)
    means = {cell: fmean(found) for cell, found in runs.items()}
    losses: dict[Size, float] = {}
    for (size, _), loss in means.items():
        losses[size] = min(loss, losses.get(size, loss))
    best = min(trials, key=lambda trial: means[_cell(trial)], default=None)
    return Profile(budget=budget, window=window(ledger, budget) or (), losses=losses, best=best)


def window(ledger: Ledger, budget: float) -> tuple[Size, ...] | None:
    """The sizes asked for at a budget; None if it was not begun."""
    stands = ledger.fact(_window_name(budget))
    if stands is None:
        return None
    return tuple((layers, width) for layers, width in json.loads(stands))


def write_window(ledger: Ledger, budget: float, sizes: tuple[Size, ...]) -> tuple[Size, ...]:
    """Write down the sizes asked for at a budget; return them."""
    ledger.write_fact(_window_name(budget), json.dumps(sizes))
    return sizes


def faults(sweep: Sweep, ledger: Ledger, vocab_size: int) -> list[str]:
    """In words, what keeps the sweep's profiles from being trusted."""
    return [
        fault
        for budget in sweep.budgets
        for fault in profile(sweep, ledger, vocab_size, budget).faults(
            sweep.search.learning_rate, sweep.min_steps
        )
    ]


def _window_name(budget: float) -> str:
    return f"window {budget:g}"


def _cell(trial: Trial) -> tuple[Size, float]:
    return trial.question.size, trial.question.learning_rate
