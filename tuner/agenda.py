"""What a sweep still has to ask, and what it has learned for that. Needs no ray.

Exploration first, where there is one; then the plan, smallest budgets first, each begun where
exploration and the smaller ones point; then what makes the profiles sound. Where an interval is to
be reached, what is worth most for it stands in place of plan and extension (`tuner.value`).
"""

import json
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from tuner import slot, soundness, space
from tuner.chains import Chains
from tuner.config import Sweep
from tuner.ledger import ENDED, Ledger
from tuner.question import Cell, Setting
from tuner.search import DESIGNED
from tuner.soundness import EXPLORED, MARGIN, Profile
from tuner.space import Size, Trial
from tuner.value import Value


class Agenda:
    """The cells of one sweep that were not asked yet, in order."""

    def __init__(
        self, sweep: Sweep, ledger: Ledger, vocab_size: int, max_tokens: float = math.inf
    ) -> None:
        self.sweep = sweep
        self.ledger = ledger
        self.vocab_size = vocab_size
        self.max_tokens = max_tokens
        self.slot = slot.read(ledger)
        # Kept because reading them from the ledger at each ask would take ever longer.
        self._asked: set[str] = set()
        self._unasked: dict[float, deque[Cell]] = {}
        self._profiles: dict[float, Profile] = {}
        self.chains = (
            Chains(sweep, ledger, self._window, self._asked)
            if sweep.training.schedule == "forks"
            else None
        )
        self.value = (
            None
            if sweep.target.interval is None
            else Value(sweep, ledger, vocab_size, self.possible)
        )

    def strike(self, cell: Cell) -> None:
        """A cell was asked."""
        self._asked.add(cell.key)
        self.changed(cell.budget)

    def changed(self, budget: float) -> None:
        """A trial of a budget was asked or is over."""
        self._profiles.pop(budget, None)
        if self.chains is not None:
            # What was tried at a smaller budget counts at a larger one, too.
            self._profiles.clear()
            self.chains.changed(budget)

    def cells(self, room: float = math.inf) -> Iterator[Cell]:
        """Everything that can be asked now, of what is chosen by value within `room` FLOPs."""
        if self.rates is None:
            yield from self._exploration()
            return
        if self.value is not None:
            chosen = self.value.next(self.rates, room)
            if chosen is not None:
                yield chosen
            return
        budgets = space.budgets(self.sweep, self.vocab_size)
        for budget in budgets:
            yield from self.planned(budget)
            if self.chains is not None and self.chains.waits(budget):
                return
        if self.sweep.search.extend and self.sweep.design == "isoflop":
            for budget in budgets:
                yield from self._new(self._extension(budget))
                if self.chains is not None and self._busy(budget):
                    return  # what is best here goes on, before anything is added there

    def planned(self, budget: float) -> Iterator[Cell]:
        """The plan's cells at a budget that were not asked yet."""
        if self.chains is not None:
            yield from self._new(self.chains.cells(budget, self._window(budget)))
            return
        if budget not in self._unasked:
            self._unasked[budget] = deque(space.cells(self.sweep, budget, self._window(budget)))
        unasked = self._unasked[budget]
        while unasked and unasked[0].key in self._asked:
            unasked.popleft()
        yield from unasked

    def beside(self, budget: float) -> list[Cell]:
        """What else can be asked now at a budget of which something was, in order."""
        if self.value is not None:  # it chooses each by what came of the others
            return []
        if self.rates is None:
            return self._exploration() if budget == self.sweep.explore.budget else []
        if budget not in space.budgets(self.sweep, self.vocab_size):
            return []
        planned = self._new(list(self.planned(budget)))
        return planned or self._new(self._added(budget))

    def setting(self, cell: Cell) -> Setting | None:
        """What is not the sampler's to choose: another seed's setting, or a warm start's."""
        if cell.setting is not None:
            return cell.setting
        if cell.seed != self.sweep.seed:
            return self.ledger.record(replace(cell, seed=self.sweep.seed).key).question.setting
        search = self.sweep.search
        if cell.number or not search.warm_start or search.sampler in DESIGNED:
            return None
        best = self._best_below(cell.budget)
        return best.question.setting if best else space.middle(self.sweep)

    def unwanted(self, *keys: str) -> list[str]:
        """The trials whose trunks no other will go on from, now that those of `keys` are over."""
        if self.chains is None:
            return []
        found = (self.chains.unwanted(self.ledger.record(key).question) for key in keys)
        return sorted({key for some in found for key in some})

    def left(self) -> list[str]:
        """The trials whose trunks nothing will go on from once the sweep ends as it stands: none as
        long as a trial is unfinished or cut, or the plan, which a higher cap would let go on."""
        if self.chains is None or self.ledger.has("running", "waiting"):
            return []
        if any(record.is_cut for record in self.ledger.records("failed")):
            return []
        planned = map(self.planned, space.budgets(self.sweep, self.vocab_size))
        return [] if any(map(any, planned)) else [r.key for r in self.ledger.records(*ENDED)]

    @property
    def rates(self) -> tuple[float, float] | None:
        """Learning rates that profiles search; None as long as they are explored."""
        explore = self.sweep.explore
        if explore.budget is None:
            return self.sweep.search.learning_rate
        stands = self.ledger.fact(EXPLORED)
        if stands is None:
            if self._busy(explore.budget) or any(self._exploration()):
                return None
            best = self.profile(explore.budget).best
            rate = best.question.learning_rate if best else math.nan
            least, most = self.sweep.search.limits or (0.0, math.inf)
            found = (max(least, rate / explore.within), min(most, rate * explore.within))
            stands = self.ledger.write_fact(
                EXPLORED, json.dumps(found if best else self.sweep.search.learning_rate)
            )
        low, high = json.loads(stands)
        return low, high

    def profile(self, budget: float) -> Profile:
        """What is known of a budget."""
        if budget not in self._profiles:
            found = soundness.profile(self.sweep, self.ledger, self.vocab_size, budget)
            self._profiles[budget] = found
        return self._profiles[budget]

    def possible(self, budget: float, sizes: Sequence[Size]) -> list[Size]:
        """Those of `sizes` that get a whole step, enough text and enough memory."""
        return space.possible(
            self.sweep, budget, sizes, self.vocab_size, max_tokens=self.max_tokens, slot=self.slot
        )

    def _new(self, cells: Sequence[Cell]) -> list[Cell]:
        return [cell for cell in cells if cell.key not in self._asked]

    def _busy(self, budget: float) -> bool:
        """Is a trial of this budget not over?"""
        open_ = self.ledger.records("running", "waiting")
        return any(record.question.budget == budget for record in open_)

    def _exploration(self) -> list[Cell]:
        """The cells of stage one that were not asked yet; a best rate on the edge adds another."""
        explore = self.sweep.explore
        assert explore.budget is not None
        left = self._new(space.exploration(self.sweep, self.vocab_size))
        if left or not self.sweep.search.extend or self._busy(explore.budget):
            return left
        return self._new(self.profile(explore.budget).beyond(self.sweep))

    def _window(self, budget: float) -> tuple[Size, ...]:
        """The sizes planned at a budget: settled when first needed, the same ever after."""
        name = f"window {budget!r}"
        stands = self.ledger.fact(name)
        if stands is None:
            n_opt = self._predicted_n_opt(budget) if self.sweep.search.warm_start else None
            sizes = self.possible(budget, space.window(self.sweep, budget, self.vocab_size, n_opt))
            stands = self.ledger.write_fact(name, json.dumps(sizes))
        return tuple((layers, width) for layers, width in json.loads(stands))

    def _extension(self, budget: float) -> list[Cell]:
        """The cells added to a budget's plan; once all ended, those still wanted are added."""
        stands = self._added(budget)
        if not self._busy(budget) and not self._new(stands):
            wanted = self.profile(budget).wanted(self.sweep, self._reach(budget))
            if self.chains is not None and any(cell.setting is None for cell in wanted):
                wanted = self.chains.cells(budget, dict.fromkeys(cell.size for cell in wanted))
            stands += self._new(wanted)
            told = json.dumps([asdict(cell) for cell in stands])
            self.ledger.write_fact(f"extension {budget!r}", told)
        return stands

    def _reach(self, budget: float) -> list[Size]:
        """The sizes that a budget's window may grow to, fewest weights first."""
        profile = self.profile(budget)
        # Where a size failed, larger ones would, too: a built ladder would never end.
        count = MARGIN if set(profile.window) <= set(profile.losses) else 0
        reach = space.reach(self.sweep, budget, self.vocab_size, profile.window, count)
        return self.possible(budget, reach)

    def _added(self, budget: float) -> list[Cell]:
        """What was added to a budget's plan so far."""
        stands = json.loads(self.ledger.fact(f"extension {budget!r}") or "[]")
        return [Cell.from_dict(fields) for fields in stands]

    def _predicted_n_opt(self, budget: float) -> float | None:
        best = self._best_below(budget)
        if best is None or best.question.budget == self.sweep.explore.budget:
            return None
        # N_opt ∝ C^.5: Chinchilla, arXiv 2203.15556, table 2.
        return best.shape.params_non_embedding * math.sqrt(budget / best.question.budget)

    def _best_below(self, budget: float) -> Trial | None:
        """The best completed trial of the largest smaller budget whose every size has one; failing
        that, the best of the exploration."""
        budgets = space.budgets(self.sweep, self.vocab_size)
        for smaller in reversed([b for b in budgets if b < budget]):
            profile = self.profile(smaller)
            if set(self._window(smaller)) <= set(profile.losses):
                return profile.best
        explored = self.sweep.explore.budget
        if explored is None or explored == budget:
            return None
        return self.profile(explored).best
