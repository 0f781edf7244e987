"""Is a budget's profile sound, and what would make it so? Needs no ray.

Sound: the minimum has completed sizes on both sides, its learning rate others tried on both sides,
and its noise is known from another seed.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean

from tuner import remedies, space
from tuner.config import Sweep
from tuner.ledger import Ledger, Record
from tuner.question import Cell, Question
from tuner.remedies import Means
from tuner.space import Size, Trial

MARGIN = 2
"""Completed sizes wanted on each side of the minimum."""
STRIDE = 2.0
"""Factor from a best rate on the edge to the next one tried: the loss is flat within it."""
EXPLORED = "rates"
"""Fact of the ledger: learning rates that profiles search, once they were explored."""
NEAR = 0.1
"""Share of a range's log-width from its end within which a best rate may belong beyond it."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Loss against size at one budget, as far as it is known."""

    budget: float
    """FLOP."""
    window: tuple[Size, ...]
    """Sizes asked for, fewest weights first."""
    losses: Mapping[Size, float]
    """Best loss of each completed size over learning rates, nat/token, seeds averaged."""
    failed: Mapping[Size, str]
    """Why each size failed all of whose runs did, none of them by a cap."""
    best: Trial | None
    """The best completed trial."""
    rates: tuple[float, float]
    """Lowest and highest learning rate tried at the best size; where trials are forked, at any
    budget up to this one: what did not go on was judged there."""
    searched: tuple[float, float]
    """Lowest and highest learning rate that the sampler may propose."""
    numbers: Mapping[Size, int]
    """Learning rates asked at each size."""
    seeds: int
    """Completed seeds of the best trial's configuration."""
    trunks: Mapping[Size, tuple[float, ...]]
    """Smaller budgets that the trunks of each size serve, too, where trials are forked."""

    @property
    def sides(self) -> tuple[int, int]:
        """Completed sizes below and above the minimum."""
        if self.best is None:
            return 0, 0
        done = [size for size in self.window if size in self.losses]
        place = done.index(self.best.question.size)
        return place, len(done) - 1 - place

    @property
    def end(self) -> float | None:
        """The end of the range that the best learning rate is near, if none lies beyond it."""
        if self.best is None:
            return None
        rate, (low, high) = self.best.question.learning_rate, self.searched
        near = (high / low) ** NEAR
        if rate <= low * near and self.rates[0] >= low:
            return low
        return high if rate >= high / near and self.rates[1] <= high else None

    @property
    def edge(self) -> float | None:
        """The learning rate to try beyond the best one, if none at its size lies there, or none
        beyond the end of the range that it is near."""
        low, high = self.rates
        if self.best is None or low == high:
            return None
        rate = self.best.question.learning_rate
        if rate == low or self.end == self.searched[0]:
            return low / STRIDE
        return high * STRIDE if rate == high or self.end == self.searched[1] else None

    def wanted(self, sweep: Sweep, ladder: Sequence[Size]) -> list[Cell]:
        """The trials that would mend what is unsound first: sizes, then rates, then seeds."""
        if self.best is None:
            return []
        added = [size for size in self._grown(ladder) if size not in self.window]
        if added:
            return space.cells(sweep, self.budget, added)
        if self._further(sweep) is not None:
            return self.beyond(sweep)
        asked = self.best.question
        return [
            replace(asked.cell, seed=sweep.seed + seed)
            for seed in range(self.seeds, 1 + sweep.search.repeats)
        ]

    def beyond(self, sweep: Sweep) -> list[Cell]:
        """The trials beyond the edge that the best learning rate is on, if it is on one."""
        further = self._further(sweep)
        if self.best is None or further is None:
            return []
        setting = replace(self.best.question.setting, learning_rate=further)
        places = product(self._neighbors(), range(sweep.search.seeds))
        return [
            Cell(
                budget=self.budget, size=size, number=self.numbers[size], seed=sweep.seed + seed,
                setting=setting, trunk=self.trunks[size],
            )
            for size, seed in places
        ]  # fmt: skip

    def faults(self, means: Means, *, alone: bool = True) -> list[str]:
        """In words, what keeps the profile's minimum from being trusted, and what would mend it.

        Args:
            means: what there is to mend it with.
            alone: the minimum is found from this profile; else from one law of loss and rates for
                all budgets, which needs one size on each side and no other rates here.
        """
        margin, sound = MARGIN if alone else 1, means.sweep.sound_steps
        if self.best is None:
            return [f"budget {self.budget:g}: no completed run"]
        found = []
        asked, (below, above) = self.best.question, self.sides
        missing = [f"{n}x{d}" for n, d in self.window if (n, d) not in self.losses]
        if missing:
            found.append(f"no completed run at {', '.join(missing)}")
        if min(below, above) < margin:
            sides = (below < margin, above < margin)
            failed = self._given_up(sides, means)
            remedy = (
                means.of_failed(failed)
                if failed
                else means.of_sizes(self.budget, self.window, sides)
            )
            found.append(
                f"the minimum, {asked.size[0]}x{asked.size[1]}, has {below} completed sizes below "
                f"and {above} above; {margin} are wanted: {remedy}"
            )
        if alone and self.edge is not None:
            found.append(self._of_rates(asked, means))
        if self.best.steps < sound:
            found.append(
                f"the best run took {self.best.steps} steps, below sound_steps = {sound}: lower "
                "training.batch_size or drop the budget"
            )
        return [f"budget {self.budget:g}: {fault}" for fault in found]

    def _given_up(self, sides: tuple[bool, bool], means: Means) -> dict[Size, str]:
        """The sizes below the minimum, above it, as far as asked for, of which nothing comes any
        more: they failed, and the plan or the sweep is at its end; with reasons."""
        assert self.best is not None
        place, (below, above) = self.window.index(self.best.question.size), sides
        there = (self.window[:place] if below else ()) + (self.window[place:] if above else ())
        return {
            size: self.failed[size]
            for size in there
            if size in self.failed and (not means.more or self.numbers[size] >= means.planned)
        }

    def _of_rates(self, asked: Question, means: Means) -> str:
        """That the best learning rate may lie beyond those tried, and what would tell."""
        rate, (low, high), (least, most) = asked.learning_rate, self.rates, self.searched
        if self.end is not None:
            return (
                f"the best learning rate, {rate:.3g}, is near the end of the range searched, "
                f"{least:.3g} to {most:.3g}: {means.of_range()}"
            )
        is_within = least <= low and high <= most
        return (
            f"the best learning rate, {rate:.3g}, is on the edge of those tried at its size, "
            f"{low:.3g} to {high:.3g}: {means.of_rates() if is_within else means.of_range()}"
        )

    def _grown(self, ladder: Sequence[Size]) -> Sequence[Size]:
        """The window, widened along the ladder as far as the minimum asks for."""
        below, above = (max(0, MARGIN - side) for side in self.sides)
        places = [ladder.index(size) for size in self.window]
        return ladder[max(0, min(places) - below) : max(places) + 1 + above]

    def _further(self, sweep: Sweep) -> float | None:
        """The rate beyond the edge, as far as rates may go."""
        if self.best is None or self.edge is None:
            return None
        low, high = sweep.search.limits or (0.0, math.inf)
        rate = min(high, max(low, self.edge))
        return None if self.rates[0] <= rate <= self.rates[1] else rate

    def _neighbors(self) -> list[Size]:
        """The best size and those beside it."""
        assert self.best is not None
        place = self.window.index(self.best.question.size)
        return list(self.window[max(0, place - 1) : place + 2])


def profile(sweep: Sweep, ledger: Ledger, vocab_size: int, budget: float) -> Profile:
    """The profile of `budget` from what was asked and what is completed."""
    every = ledger.records()
    records = [r for r in every if r.question.budget == budget]
    lasts = ledger.lasts()
    runs: dict[tuple[Size, int], list[float]] = defaultdict(list)
    trials: list[Trial] = []
    for record in records:
        if record.status == "completed":
            trials.append(space.trial(sweep, record.question, vocab_size))
            runs[_cell(trials[-1])].append(lasts[record.key].loss)
    means = {cell: fmean(found) for cell, found in runs.items()}
    losses: dict[Size, float] = {}
    for (size, _), loss in means.items():
        losses[size] = min(loss, losses.get(size, loss))
    best = min(trials, key=lambda trial: means[_cell(trial)], default=None)
    asked = [record.question for record in records]
    # One trunk has one number at all budgets, which no other has.
    chained = sweep.budgets if sweep.training.schedule == "forks" else ()
    known = asked + [
        r.question for r in every if r.question.budget in chained and r.question.budget != budget
    ]
    tried = [
        q.learning_rate
        for q in known
        if best and q.size == best.question.size and q.budget <= budget
    ]
    sizes = {question.size for question in asked}
    return Profile(
        budget=budget,
        window=space.rising(sweep, sizes, vocab_size),
        losses=losses,
        failed=_failed(records),
        best=best,
        rates=(min(tried, default=0.0), max(tried, default=0.0)),
        searched=searched(sweep, ledger, budget),
        numbers={size: 1 + max(q.number for q in known if q.size == size) for size in sizes},
        seeds=len(runs[_cell(best)]) if best else 0,
        trunks={question.size: question.trunk for question in asked},
    )


def _failed(records: Sequence[Record]) -> dict[Size, str]:
    """Of one budget, the sizes all of whose runs failed, and none by a cap; with a reason each."""
    of_size: dict[Size, list[Record]] = defaultdict(list)
    for record in records:
        of_size[record.question.size].append(record)
    return {
        size: some[0].reason
        for size, some in of_size.items()
        if all(record.status == "failed" and not record.is_cut for record in some)
    }


def faults(sweep: Sweep, ledger: Ledger, vocab_size: int) -> list[str]:
    """In words, what keeps the sweep's profiles from being trusted."""
    if sweep.design == "grid":
        return []  # no profile, so no minimum to trust
    alone, means = sweep.target.interval is None, remedies.means(sweep, ledger, vocab_size)
    profiles = (profile(sweep, ledger, vocab_size, budget) for budget in sweep.budgets)
    return [fault for found in profiles for fault in found.faults(means, alone=alone)]


def searched(sweep: Sweep, ledger: Ledger, budget: float) -> tuple[float, float]:
    """Learning rates that may be proposed at a budget: explored ones, once those are known."""
    explored = None if budget == sweep.explore.budget else ledger.fact(EXPLORED)
    low, high = sweep.search.learning_rate if explored is None else json.loads(explored)
    return low, high


def _cell(trial: Trial) -> tuple[Size, int]:
    return trial.question.size, trial.question.number
