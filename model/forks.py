"""Runs of several lengths from one trunk at constant rate: each is forked for its cooldown.

Up to its cooldown a run under "wsd" does not depend on its length (Hu et al., arXiv 2404.06395;
Hägele et al., arXiv 2405.18392), so the longest one's trunk serves all: a run of every length costs
the trunk once and each cooldown.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

from model.progress import Progress
from model.recipe import Recipe, cooldown_start, forked, warmup_steps
from model.train import State, Training

Make = Callable[[Recipe, int, Sequence[int]], Training]
"""A training by recipe, steps and report steps; all else is alike for each that it makes."""


class ForksState(TypedDict):
    """Forks between two reports."""

    place: int
    training: State
    trunk: State | None


@dataclass(frozen=True, kw_only=True)
class Forked:
    """A report, and whose it is."""

    steps: int
    """Length of the run whose fork is next or under way."""
    progress: Progress
    """The trunk's up to the fork, then the run's: bit for bit what the run reports alone, but for
    `flops_evaluation`, which counts the forks before it."""


class Forks:
    """A run of each length, as alone from its first step, at the cost of one trunk.

    Args:
        make: a training by recipe, steps and report steps.
        recipe: whose cooldown, and at the shortest length whose warm-up, all runs have.
        lengths: steps of each run, rising.

    Raises:
        ValueError: `lengths` do not rise from 1.
    """

    def __init__(self, make: Make, recipe: Recipe, lengths: Sequence[int]) -> None:
        self.lengths = tuple(lengths)
        self.recipes = branches(recipe, lengths)
        self._make = make
        self._place = 0
        self._training = self._branch(0)
        self._trunk: State | None = None

    def run(self) -> Iterator[Forked]:
        """Train, yielding at each fork and at each run's end; a trunk that diverges ends it."""
        while True:
            steps = self.lengths[self._place]
            fork = cooldown_start(steps, self.recipes[self._place])
            for progress in self._training.run():
                if progress.step == fork:
                    self._trunk = self._training.state_dict()
                yield Forked(steps=steps, progress=progress)
            if steps == self.lengths[-1] or self._lost(fork):
                return
            self._place += 1
            self._training = self._branch(self._place)
            if self._trunk is not None:
                self._training.load_state_dict(self._trunk)

    def state_dict(self) -> ForksState:
        """What `load_state_dict` needs to go on bit for bit (on CPU); take it between reports."""
        return ForksState(
            place=self._place, training=self._training.state_dict(), trunk=self._trunk
        )

    def load_state_dict(self, state: ForksState) -> None:
        """Go on where the forks that gave `state` stood; both were made with equal arguments."""
        self._place = state["place"]
        self._training = self._branch(self._place)
        self._training.load_state_dict(state["training"])
        self._trunk = state["trunk"]

    def _lost(self, fork: int) -> bool:
        """Whether the trunk itself diverged, by its `fork`."""
        if self._trunk is not None and self._trunk["diverged"]:
            return True
        return self._training.next_report is None and self._training.step < fork

    def _branch(self, place: int) -> Training:
        steps, recipe = self.lengths[place], self.recipes[place]
        reports = {cooldown_start(steps, recipe), steps} - {0}
        return self._make(recipe, steps, sorted(reports))


def branches(recipe: Recipe, lengths: Sequence[int]) -> tuple[Recipe, ...]:
    """The recipe of each run: "wsd" with the cooldown of `recipe`, and the warm-up, in steps, that
    it gives the shortest.

    Raises:
        ValueError: `lengths` do not rise from 1.
    """
    if not lengths or list(lengths) != sorted(set(lengths)) or lengths[0] < 1:
        raise ValueError(f"lengths must rise from 1, got {list(lengths)}")
    warmup = warmup_steps(lengths[0], recipe)
    return tuple(forked(recipe, steps, warmup) for steps in lengths)


def steps_taken(recipe: Recipe, lengths: Sequence[int]) -> int:
    """Steps that runs of all `lengths` take together: the trunk once, and each cooldown."""
    starts = [
        cooldown_start(steps, branch)
        for steps, branch in zip(lengths, branches(recipe, lengths), strict=True)
    ]
    return starts[-1] + sum(lengths) - sum(starts)
