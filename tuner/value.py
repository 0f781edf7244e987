"""Which run next: the one that tells most of the answer per FLOP. Needs no ray.

The smallest budget opens with a few sizes and rates; then every budget is given what a profile
needs at least; then each (budget, size, learning rate) is worth what it takes from the variances of
ln N_opt and of the lowest loss at the target, by the posterior of `analysis.surface`, over its
FLOPs: optimal design for one answer, one run at a time (Chaloner and Verdinelli, Statistical
Science 1995, section 2; for scaling laws arXiv 2604.22753).
All of it is a function of the ledger, so a resumed sweep chooses the same.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis import surface
from analysis.results import FitError
from analysis.surface import Surface, Tuned
from model.progress import Progress
from tuner import plan, provenance, slot, soundness, space
from tuner.config import Sweep
from tuner.ladder import SPREAD
from tuner.ledger import END, Ledger, Record
from tuner.meter import Meter, short
from tuner.question import Cell, Setting
from tuner.space import Size, Trial

OPENING = 5
"""Sizes that the smallest budget begins with, two of three rates each: nothing judges before."""
FLOOR = 3
"""Sizes of every budget whatever they are worth, one below and one above the predicted optimum:
without them a law that holds at small budgets alone would not be found out."""
OFFSETS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
"""E-folds from the predicted best learning rate at which a run is considered."""
BACK_OFF = 2.0
"""Factor in learning rate kept from a run of the same budget and size that diverged."""
GIVE_UP = 2
"""Runs of a budget and size that failed otherwise, of memory or of deaths: it is left alone."""
SURE = 2
"""Runs for each budget and size that has one, before it is believed of sizes that they lie off any
one law: of single runs nobody knows."""
LIMITLESS = 1e6
"""Runs of everything that is considered, where it is asked what no number of them would tell."""
ROUNDS, MOST_ROUNDS = 2, 6
"""Rates of each size that the smallest budget opens with, and at most, where too few complete."""
Possible = Callable[[float, Sequence[Size]], list[Size]]
"""(budget, sizes) → those that can be trained there."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A run that could be next."""

    trial: Trial
    """Of the same budget and size, at any rate."""
    rate: float


class Value:
    """The choices of one sweep that is to reach an interval."""

    def __init__(self, sweep: Sweep, ledger: Ledger, vocab_size: int, possible: Possible) -> None:
        assert sweep.target.interval is not None
        assert sweep.target_budget is not None
        self.sweep = sweep
        self.ledger = ledger
        self.vocab_size = vocab_size
        self.possible = possible
        self.target = sweep.target_budget
        self.wanted = math.log1p(sweep.target.interval)
        self._trials: dict[tuple[float, Size], Trial] = {}
        self._last: tuple[object, Cell | None] = (None, None)

    def next(self, rates: tuple[float, float], room: float) -> Cell | None:
        """The run to ask for; None if none is worth it, or none fits, or one must end first.

        Args:
            rates: lowest and highest learning rate.
            room: FLOPs that are left.
        """
        # Ray asks many times a second while nothing has changed.
        state = (self.ledger.counts(), self.ledger.committed(), rates, room)
        if self._last[0] != state:
            self._last = (state, self._chosen(rates, room))
        return self._last[1]

    def _chosen(self, rates: tuple[float, float], room: float) -> Cell | None:
        known = _Known(self.ledger.records(), self.ledger.lasts())
        opening = self._opening(known, rates, range(ROUNDS))
        if opening is not None:
            return opening
        found = self.fit(rates)
        if found is None:  # too little came of the opening: wait for the rest, then add to it
            more = range(ROUNDS, MOST_ROUNDS)
            return None if known.open else self._opening(known, rates, more)
        ahead = self._ahead(found, known.open)
        due = self._due(ahead, known, rates)
        covering = self._best(ahead, due, known, room)
        if covering is not None or (due and known.open):  # what runs may give back room
            return covering
        if ahead.half_widths(self.target)[0] <= self.wanted:
            return None
        return self._best(ahead, self._useful(ahead, known, rates, room), known, room)

    def _useful(
        self, found: Surface, known: "_Known", rates: tuple[float, float], room: float
    ) -> list[Choice]:
        """All that there is room for; beyond what one law can tell, only what could show otherwise:
        sizes without a run, and then what tells noise from the sizes' own deviations."""
        considered = self._every(found, known, rates, OFFSETS)
        every = [choice for choice in considered if choice.trial.flops <= room]
        if not self._is_beyond(found, known, rates):
            return every
        new = [choice for choice in every if not known.has(choice)]
        return new or (every if found.runs < SURE * len(found.cells) else [])

    def _every(
        self, found: Surface, known: "_Known", rates: tuple[float, float], offsets: Sequence[float]
    ) -> list[Choice]:
        """All that is considered, by e-folds from the best rate."""
        return [
            choice
            for budget in self.sweep.budgets
            for size in self._window(found, budget)
            for choice in self._choices(found, budget, size, known, rates, offsets)
        ]

    def _is_beyond(self, found: Surface, known: "_Known", rates: tuple[float, float]) -> bool:
        """Would no number of runs reach the interval, nor halve the one that there is? Sizes lie
        off a law, farther than noise in their runs' means, and no rate or seed brings them
        nearer."""
        at_best = self._every(found, known, rates, (0.0,))
        noise_of_means = found.noise / math.sqrt(found.runs / len(found.cells))
        if not at_best or found.shared < noise_of_means:
            return False
        trials = [choice.trial for choice in at_best]
        asked = np.array([choice.rate for choice in at_best])
        told = found.with_runs(_params(trials), _tokens(trials), asked, times=LIMITLESS)
        half, limit = (float(of.half_widths(self.target)[0]) for of in (found, told))
        return limit > max(self.wanted, half / 2)

    def largest(self, cell: Cell) -> int:
        """FLOPs that a run may be charged."""
        return self._trial(cell.budget, cell.size).flops

    def is_reached(self, rates: tuple[float, float]) -> bool:
        """Do the completed runs tell the answer as closely as it was asked for?"""
        found = self.fit(rates)
        return found is not None and found.half_widths(self.target)[0] <= self.wanted

    def off(self, rates: tuple[float, float]) -> float:
        """Share of the loss by which sizes lie off one law, where no number of runs would reach the
        interval for it; else 0."""
        found = self.fit(rates)
        if found is None:
            return 0.0
        known = _Known(self.ledger.records(), self.ledger.lasts())
        return found.shared if self._is_beyond(found, known, rates) else 0.0

    def fit(self, rates: tuple[float, float]) -> Surface | None:
        """What the completed runs say; None as long as they say nothing."""
        lasts, records = self.ledger.lasts(), self.ledger.records("completed")
        if len(records) < OPENING:
            return None
        trials = [self._trial(r.question.budget, r.question.size) for r in records]
        runs = Tuned(
            budget=np.array([record.question.budget for record in records]),
            params=_params(trials),
            tokens=_tokens(trials),
            learning_rate=np.array([record.question.learning_rate for record in records]),
            loss=np.array([lasts[record.key].loss for record in records]),
        )
        try:
            return surface.fit(runs, rates)
        except FitError:
            return None

    def _ahead(self, found: Surface, open_: Sequence[Record]) -> Surface:
        """The fit with the errors it will have when what was asked has ended."""
        if not open_:
            return found
        trials = [self._trial(r.question.budget, r.question.size) for r in open_]
        rates = np.array([record.question.learning_rate for record in open_])
        return found.with_runs(_params(trials), _tokens(trials), rates)

    def _opening(
        self, known: "_Known", rates: tuple[float, float], rounds: Sequence[int]
    ) -> Cell | None:
        """A run of the smallest budget that must come first."""
        budget, shares = self.sweep.budgets[0], space.rates(rates, 3)
        sizes = self.possible(budget, space.window(self.sweep, budget, self.vocab_size))
        places = np.linspace(0, len(sizes) - 1, min(OPENING, len(sizes))).round().astype(int)
        for number in rounds:
            # Of one seed no rate twice: that would be answered from the record.
            seed = self.sweep.seed + number // len(shares)
            for place, at in enumerate(places):
                rate = shares[(place + number) % len(shares)]
                if number >= ROUNDS:
                    rate = min(rate, known.highest(budget, sizes[at]))
                if known.count(budget, sizes[at]) <= number and rate >= rates[0]:
                    return self._cell(budget, sizes[at], rate, number, seed)
        return None

    def _due(self, found: Surface, known: "_Known", rates: tuple[float, float]) -> list[Choice]:
        """Runs of which one is wanted for the smallest budget that is not covered."""
        for budget in self.sweep.budgets:
            n_opt = float(found.law.n_opt(budget))
            at_best = {
                size: choices[0]
                for size in self._window(found, budget)
                if (choices := self._choices(found, budget, size, known, rates, (0.0,)))
            }
            asked = known.sizes(budget)
            new = [choice for size, choice in at_best.items() if size not in asked]
            below = [choice for choice in new if _size(choice) < n_opt]
            above = [choice for choice in new if _size(choice) > n_opt]
            done = [_size(self._trial(budget, size)) for size in asked]
            if not done and new:
                return [min(new, key=lambda one: abs(math.log(_size(one) / n_opt)))]
            if below and not any(params < n_opt for params in done):
                return below
            if above and not any(params > n_opt for params in done):
                return above
            if new and len(done) < FLOOR:
                return new
        return []

    def _choices(
        self, found: Surface, budget: float, size: Size, known: "_Known",
        rates: tuple[float, float], offsets: Sequence[float],
    ) -> list[Choice]:  # fmt: skip
        """Runs of a size around its best rate, below what diverged."""
        trial = self._trial(budget, size)
        best = found.best_rate(trial.shape.params_non_embedding, trial.tokens)
        low, high = rates
        high = min(high, known.highest(budget, size))
        around = {float(np.clip(best * math.exp(offset), low, high)) for offset in offsets}
        return [Choice(trial=trial, rate=rate) for rate in sorted(around) if low <= rate <= high]

    def _best(
        self, found: Surface, choices: Sequence[Choice], known: "_Known", room: float
    ) -> Cell | None:
        """The choice that takes most from both variances, per FLOP."""
        fitting = [choice for choice in choices if choice.trial.flops <= room]
        if not fitting:
            return None
        trials = [choice.trial for choice in fitting]
        rates = np.array([choice.rate for choice in fitting])
        falls = found.falls(_params(trials), _tokens(trials), rates, self.target)
        worth = falls.sum(axis=0) / np.array([float(trial.flops) for trial in trials])
        chosen = fitting[int(worth.argmax())]
        asked = chosen.trial.question
        number = known.count(asked.budget, asked.size)
        # Another seed: the same question twice would be answered from the record.
        return self._cell(asked.budget, asked.size, chosen.rate, number, self.sweep.seed + number)

    def _window(self, found: Surface, budget: float) -> list[Size]:
        """Sizes considered at a budget: those around the optimum that can be trained."""
        n_opt = float(found.law.n_opt(budget))
        sizes = space.window(self.sweep, budget, self.vocab_size, n_opt)
        able = self.possible(budget, sizes)
        far = {size: abs(math.log(_size(self._trial(budget, size)) / n_opt)) for size in able}
        near = [size for size in able if far[size] <= math.log(SPREAD)]
        return near if len(near) >= FLOOR else sorted(able, key=far.__getitem__)[:FLOOR]

    def _trial(self, budget: float, size: Size) -> Trial:
        """What a run of this budget and size is, but for its rate."""
        if (budget, size) not in self._trials:
            asked = self._cell(budget, size, 1.0, 0, 0).asked(Setting(learning_rate=1.0))
            self._trials[budget, size] = space.trial(self.sweep, asked, self.vocab_size)
        return self._trials[budget, size]

    @staticmethod
    def _cell(budget: float, size: Size, rate: float, number: int, seed: int) -> Cell:
        setting = Setting(learning_rate=rate)
        return Cell(budget=budget, size=size, number=number, seed=seed, setting=setting)


def told(sweep: Sweep, ledger: Ledger, vocab_size: int) -> str:
    """In words, how near a sweep came to the interval asked for, and why no nearer."""
    value, rates = _of(sweep, ledger, vocab_size)
    found = value.fit(rates)
    if found is None:
        completed = len(ledger.records("completed"))
        return (
            f"target.interval: {completed} completed runs are too few, or lie too far off any law, "
            f"to say how near the answer is{_why(sweep, ledger, vocab_size)}"
        )
    n_opt = float(found.law.n_opt(value.target))
    half = math.expm1(found.half_widths(value.target)[0])
    is_reached = value.is_reached(rates)
    reached = "reached" if is_reached else f"not reached{_why(sweep, ledger, vocab_size)}"
    return (
        f"runs were chosen by value until N_opt at {value.target:.3g} FLOP would be known to "
        f"{100 * math.expm1(value.wanted):.3g}%: {reached}; one fit of law and learning rates to "
        f"every run says {n_opt:.3g} within {half:.1%} (90 %)"
    )


def spent(sweep: Sweep, ledger: Ledger, vocab_size: int) -> str:
    """The cap, as it is written, that ended a sweep before its interval was reached: what is left
    of it does not pay the cheapest run that could still be chosen. Empty if none did."""
    value, rates = _of(sweep, ledger, vocab_size)
    if value.is_reached(rates):
        return ""
    cap = plan.plan(sweep, vocab_size).cap
    by_flops = cap - ledger.committed()
    room = min(by_flops, Meter(sweep, ledger, time.monotonic).room)
    payable = value.next(rates, room)
    if payable is not None and value.largest(payable) <= room:
        return ""
    # What FLOPs alone would pay is for want of time.
    wished = value.next(rates, by_flops) or value.next(rates, math.inf)
    if wished is not None:
        return short(sweep, ledger, cap, value.largest(wished))
    cut = [record for record in ledger.records("failed") if record.is_cut]
    if any(record.is_out_of_time for record in cut):
        return plan.time_cap(sweep.cap)
    return f"cap.flops = {cap:.4g}" if cut else ""


def _why(sweep: Sweep, ledger: Ledger, vocab_size: int) -> str:
    """Why an interval is not reached, as far as the sweep is over."""
    if ledger.fact(END) in {"", "interrupted"}:
        return " so far"
    cap = spent(sweep, ledger, vocab_size)
    if cap:
        return f" ({cap} leaves no room for a run that would tell more)"
    value, rates = _of(sweep, ledger, vocab_size)
    if off := value.off(rates):
        return (
            f" (sizes lie {100 * off:.2g}% off any one law, with all of their runs, so that more "
            "of those would not reach it: larger budgets, or more of them, may)"
        )
    return " (nothing left to run would tell more)"


def _of(sweep: Sweep, ledger: Ledger, vocab_size: int) -> tuple[Value, tuple[float, float]]:
    """The choices of the sweep behind a ledger, and the learning rates among them."""
    settled = provenance.read(ledger)
    most, where = settled.most_tokens(sweep) if settled else math.inf, slot.read(ledger)

    def possible(budget: float, sizes: Sequence[Size]) -> list[Size]:
        return space.possible(sweep, budget, sizes, vocab_size, max_tokens=most, slot=where)

    rates = soundness.searched(sweep, ledger, sweep.budgets[0])
    return Value(sweep, ledger, vocab_size, possible), rates


class _Known:
    """What was asked so far."""

    def __init__(self, records: Sequence[Record], lasts: Mapping[str, Progress]) -> None:
        self._lasts = lasts
        self.open = [r for r in records if r.status in {"waiting", "running"}]
        self._of: dict[tuple[float, Size], list[Record]] = defaultdict(list)
        for record in records:
            self._of[record.question.budget, record.question.size].append(record)

    def count(self, budget: float, size: Size) -> int:
        """Settings asked at a budget and size."""
        return max((1 + r.question.number for r in self._of.get((budget, size), ())), default=0)

    def sizes(self, budget: float) -> list[Size]:
        """Sizes that have, or will have, a completed run at a budget."""
        return [
            size
            for (at, size), records in self._of.items()
            if at == budget and any(r.status not in {"failed", "pruned"} for r in records)
        ]

    def has(self, choice: Choice) -> bool:
        """Has its budget and size a run that completed, or will?"""
        asked = choice.trial.question
        return asked.size in self.sizes(asked.budget)

    def highest(self, budget: float, size: Size) -> float:
        """Rates to try at a budget and size, at most: below what diverged, 0 where it is given up.

        Deaths and caps say nothing of a rate.
        """
        known = self._of.get((budget, size), ())
        failed = [r for r in known if r.status == "failed" and not r.is_cut]
        diverged = [r for r in failed if r.key in self._lasts and self._lasts[r.key].diverged]
        if len(failed) - len(diverged) >= GIVE_UP:
            return 0.0
        rates = [record.question.learning_rate for record in diverged]
        return min(rates, default=math.inf) / BACK_OFF


def _size(of: Choice | Trial) -> float:
    trial = of.trial if isinstance(of, Choice) else of
    return float(trial.shape.params_non_embedding)


def _params(trials: Sequence[Trial]) -> surface.Array:
    return np.array([float(trial.shape.params_non_embedding) for trial in trials])


def _tokens(trials: Sequence[Trial]) -> surface.Array:
    return np.array([float(trial.tokens) for trial in trials])
