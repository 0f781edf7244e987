"""ASHA over FLOPs, with rungs per (budget, shape): the rule. Needs neither ray nor optuna.

Learning rates of one shape are compared at equal shares of the same schedule; shapes are never
compared with each other, because a profile lives on their coverage (Li et al., arXiv 1810.05934,
algorithm 2, without its promotion of paused trials).
"""

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Asha:
    """Who goes on at a rung."""

    reduction: float
    """One in `reduction` goes on."""
    min_population: int
    """Trials that must have reached a rung before anything is cut there."""
    _losses: dict[Hashable, dict[str, float]] = field(default_factory=dict)

    def goes_on(self, group: Hashable, key: str, loss: float) -> bool:
        """Enter a trial's loss at a rung and say whether it goes on.

        A trial that was entered before (it was restarted) keeps its earlier answer: it went on.

        Args:
            group: what is compared: (budget, shape, seed, rung).
            key: of the trial.
            loss: nat/token, finite.
        """
        losses = self._losses.setdefault(group, {})
        if key in losses:
            return True
        losses[key] = loss
        if len(losses) < self.min_population:
            return True
        quota = max(1, int(len(losses) / self.reduction))
        better = sum(other < loss for other in losses.values())
        return better < quota

    def remember(self, group: Hashable, key: str, loss: float) -> None:
        """Enter a loss recorded earlier, without asking."""
        self._losses.setdefault(group, {})[key] = loss
