"""What would mend an unsound profile, by what the sweep's file says and what is left. No ray."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuner import plan, provenance, space
from tuner import slot as slots
from tuner.chains import quota
from tuner.config import Sweep
from tuner.ladder import Size
from tuner.ledger import END, Ledger
from tuner.meter import short
from tuner.slot import Slot


@dataclass(frozen=True, kw_only=True)
class Means:
    """What there is to mend a sweep's profiles with."""

    sweep: Sweep
    vocab_size: int
    more: str
    """What would let the sweep extend itself further; empty where nothing keeps it from that."""

    max_tokens: float
    """Tokens that a trial may see."""
    slot: Slot
    """What one runs on."""

    @property
    def planned(self) -> float:
        """Settings of a size that the plan has, at most; of runs chosen by value there is none."""
        if self.sweep.target.interval is not None:
            return math.inf
        forked = self.sweep.training.schedule == "forks"
        return min(self.sweep.search.trials, quota(self.sweep) if forked else math.inf)

    def of_failed(self, failed: Mapping[Size, str]) -> str:
        """What to do about sizes that were tried and came to nothing, each with the reason."""
        told = ", ".join(f"{n}x{d} failed ({why})" for (n, d), why in failed.items())
        diverged = all(why.startswith("diverged") for why in failed.values())
        mend = "lower search.learning_rate" if diverged else "mend the cause"
        return f"{told}: {mend}, and run the file with another --dir"

    def of_sizes(self, budget: float, window: Sequence[Size], sides: tuple[bool, bool]) -> str:
        """How to get the sizes that a profile lacks.

        Args:
            budget: FLOP.
            window: sizes tried there, fewest weights first.
            sides: are some lacking below, above?
        """
        shapes, extends = self.sweep.shapes, self.sweep.search.extend
        ladder = space.offered(self.sweep, budget, self.vocab_size)
        words = {(True, False): "smaller", (False, True): "larger"}.get(sides, "further")
        below, above = sides
        is_at_end = (below and window[0] == ladder[0]) or (above and window[-1] == ladder[-1])
        if is_at_end and shapes.ladder:
            adds = "search.extend adds" if extends else "search.extend = true adds"
            return (
                f"shapes.ladder is kept as it is written: add {words} sizes, or leave it out and "
                f"{adds} them"
            )
        if is_at_end and self.sweep.backend == "replay":
            return f"replay.table holds no {words} ones there"
        if not self._further(budget, window, sides):
            return (
                f"{words} ones get too few steps, too little text or too little memory: raise the "
                "budget, lower training.batch_size, or take more text or memory"
            )
        by_hand = "raise shapes.per_budget" if shapes.per_budget else "write a longer shapes.ladder"
        if self.sweep.target.interval is not None:
            return by_hand if is_at_end else self.more or by_hand
        if not extends:
            return f"set search.extend = true, or {by_hand}"
        return self.more or by_hand

    def _further(self, budget: float, window: Sequence[Size], sides: tuple[bool, bool]) -> bool:
        """Can a size beyond those tried be trained there, on a side where some are lacking?"""
        reach = space.reach(self.sweep, budget, self.vocab_size, window, 1)
        able = space.possible(
            self.sweep, budget, reach, self.vocab_size, max_tokens=self.max_tokens, slot=self.slot
        )
        first, last = reach.index(window[0]), reach.index(window[-1])
        below, above = sides
        beyond = (reach[:first] if below else ()) + (reach[last + 1 :] if above else ())
        return not set(beyond).isdisjoint(able)

    def of_range(self) -> str:
        """How to get rates beyond the range that was searched."""
        search, explored = self.sweep.search, self.sweep.explore.budget is not None
        wider = "raise explore.within" if explored else "widen search.learning_rate"
        if search.limits is not None:
            wider += " and, as far as such rates are allowed, search.limits"
        return self._or(wider)

    def of_rates(self) -> str:
        """How to get rates beside those tried, within the range."""
        return self._or("raise search.trials")

    def _or(self, remedy: str) -> str:
        more = self.more if self.sweep.search.extend else "set search.extend = true"
        return f"{remedy}, or {more}" if more else remedy


def means(sweep: Sweep, ledger: Ledger, vocab_size: int) -> Means:
    """What a sweep's file and its ledger leave to mend its profiles with."""
    settled = provenance.read(ledger)
    return Means(
        sweep=sweep,
        vocab_size=vocab_size,
        more=_more(sweep, ledger, vocab_size),
        max_tokens=settled.most_tokens(sweep) if settled else math.inf,
        slot=slots.read(ledger),
    )


def _more(sweep: Sweep, ledger: Ledger, vocab_size: int) -> str:
    # A simulated sweep writes no end, and comes to it by itself.
    if ledger.fact(END) in {"", "interrupted"}:
        return "let the sweep come to its end (isoflop resume, if it does not run)"
    largest = space.budgets(sweep, vocab_size)[-1]
    cap = short(sweep, ledger, plan.plan(sweep, vocab_size).cap, largest)
    return f"raise {cap.partition(' ')[0]}" if cap else ""
