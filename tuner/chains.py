"""Which trunks go on to larger budgets under `schedule = "forks"`. Needs neither ray nor optuna.

ASHA whose rungs are the budgets (Li et al., arXiv 1810.05934), for each size by itself: of the
settings that completed a budget the best go on to the next one at which their size is asked. Sizes
that no smaller budget completed begin trunks of their own.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import chain, zip_longest
from statistics import fmean

from tuner import space
from tuner.config import Sweep
from tuner.ledger import ENDED, Ledger, Record
from tuner.question import Cell, Question
from tuner.space import Size


@dataclass(frozen=True, kw_only=True)
class Family:
    """The trials of one size at one budget."""

    records: tuple[Record, ...] = ()
    ranked: tuple[Question, ...] = ()
    """The settings that completed, best first, by the seeds that were planned."""

    @property
    def is_over(self) -> bool:
        """Has every trial ended?"""
        return all(record.status in ENDED for record in self.records)

    @property
    def failed(self) -> set[int]:
        """Numbers of the settings that came to nothing."""
        kept = {r.question.number for r in self.records if r.status != "failed"}
        return {r.question.number for r in self.records} - kept


def quota(sweep: Sweep) -> float:
    """Settings of a size that go on from one budget to the next, at most."""
    if not sweep.pruning.enabled:
        return math.inf
    return max(1, int(sweep.search.trials / sweep.pruning.reduction))


def trunk(sweep: Sweep, budget: float, size: Size, vocab_size: int) -> tuple[float, ...]:
    """The smaller budgets from whose trunks a size is planned to go on at `budget`."""
    if sweep.training.schedule != "forks" or budget not in sweep.budgets:
        return ()
    smaller = sweep.budgets[: sweep.budgets.index(budget)]
    return tuple(b for b in smaller if size in space.window(sweep, b, vocab_size))


class Chains:
    """What forked trials a sweep asks.

    Args:
        sweep: whose trials are forked.
        ledger: what became of them.
        window: the sizes planned at a budget.
        asked: keys of the cells that were asked.
    """

    def __init__(
        self,
        sweep: Sweep,
        ledger: Ledger,
        window: Callable[[float], tuple[Size, ...]],
        asked: Collection[str],
    ) -> None:
        self.sweep = sweep
        self.ledger = ledger
        self._window = window
        self._asked = asked
        self._found: dict[float, dict[Size, Family]] = {}

    def changed(self, budget: float) -> None:
        """A trial of a budget was asked or is over."""
        self._found.pop(budget, None)

    def cells(self, budget: float, sizes: Collection[Size]) -> list[Cell]:
        """What a budget asks at `sizes`, as far as it is known, sizes in turn; asked or not."""
        turns = (self._turn(budget, size) or [] for size in sizes)
        return [cell for cell in chain.from_iterable(zip_longest(*turns)) if cell is not None]

    def waits(self, budget: float) -> bool:
        """Is it open which trunks go on to a budget?"""
        return any(self._turn(budget, size) is None for size in self._window(budget))

    def unwanted(self, question: Question) -> list[str]:
        """Trials from whose trunks nothing will go on, now that the one of `question` is over: of
        it, its siblings and its parent's."""
        budgets = (question.budget, *question.trunk[-1:])
        records = (r for budget in budgets for r in self._family(budget, question.size).records)
        return [r.key for r in records if r.status in ENDED and not self._wanted(r)]

    def _turn(self, budget: float, size: Size) -> list[Cell] | None:
        """What a budget asks at a size; None as long as the trials it follows from are not over."""
        before = self._before(budget, size)
        if before is None:
            return space.cells(self.sweep, budget, [size])
        family, parents = self._family(before, size), self._turn(before, size)
        if parents is None or not family.is_over or any(c.key not in self._asked for c in parents):
            return None
        return self._onward(budget, family) or space.cells(self.sweep, budget, [size])

    def _onward(self, budget: float, family: Family) -> list[Cell]:
        """The best of a family at a larger budget; for one that came to nothing there, the next."""
        best = [q for q in family.ranked if q.number not in self._family(budget, q.size).failed]
        return [
            Cell(
                budget=budget, size=question.size, number=question.number,
                seed=self.sweep.seed + seed, setting=question.setting,
                trunk=(*question.trunk, question.budget),
            )
            for place, question in enumerate(best)
            for seed in range(self.sweep.search.seeds)
            if place < quota(self.sweep)
        ]  # fmt: skip

    def _before(self, budget: float, size: Size) -> float | None:
        """The smaller budget whose trunks go on to this one at a size; None where they begin here.

        What was asked first at this budget has settled it.
        """
        begun = self._family(budget, size).records
        if begun:
            shorter = begun[0].question.trunk
            return shorter[-1] if shorter else None
        smaller = [b for b in self.sweep.budgets if b < budget]
        return next(
            (b for b in reversed(smaller) if size in self._window(b) or size in self._at(b)), None
        )

    def _wanted(self, record: Record) -> bool:
        """May a longer trial still go on from the trunk of one that is over?

        Of further seeds of a best run it cannot be told: those are kept to the sweep's end.
        """
        asked = record.question
        if record.is_cut:
            return True
        if record.status != "completed" or asked.budget not in self.sweep.budgets[:-1]:
            return False
        larger = [b for b in self.sweep.budgets if b > asked.budget]
        children = [
            child
            for budget in larger
            for child in self._family(budget, asked.size).records
            if child.question.trunk[-1:] == (asked.budget,)
        ]
        for child in children:
            if (child.question.number, child.question.seed) == (asked.number, asked.seed):
                return child.status not in ENDED or child.is_cut
        done = {child.question.number for child in children if child.status == "completed"}
        is_planned = asked.seed < self.sweep.seed + self.sweep.search.seeds
        return not is_planned or len(done) < quota(self.sweep)

    def _family(self, budget: float, size: Size) -> Family:
        return self._at(budget).get(size, Family())

    def _at(self, budget: float) -> dict[Size, Family]:
        """The families of a budget."""
        if budget not in self._found:
            by_size: dict[Size, list[Record]] = {}
            for record in self.ledger.records():
                if record.question.budget == budget:
                    by_size.setdefault(record.question.size, []).append(record)
            self._found[budget] = {size: self._gather(some) for size, some in by_size.items()}
        return self._found[budget]

    def _gather(self, records: list[Record]) -> Family:
        planned = range(self.sweep.seed, self.sweep.seed + self.sweep.search.seeds)
        losses: dict[int, list[float]] = {}
        settings: dict[int, Question] = {}
        for record in records:
            last = self.ledger.last(record.key)
            if record.status == "completed" and record.question.seed in planned and last:
                losses.setdefault(record.question.number, []).append(last.loss)
                settings.setdefault(record.question.number, record.question)
        order = sorted(losses, key=lambda number: fmean(losses[number]))
        return Family(records=tuple(records), ranked=tuple(settings[number] for number in order))
