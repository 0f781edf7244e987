"""Where a trial stands on a trunk that it shares with longer and shorter ones. Needs no torch.

Up to its cooldown a run under "wsd" does not depend on its length (`model.forks`), so under
`schedule = "forks"` a trial goes on from where the cooldown of a shorter one, its parent, began.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.recipe import Recipe, cooldown_start, forked, warmup_steps
from tuner.sections import Training


@dataclass(frozen=True, kw_only=True)
class Fork:
    """A trial's place on its trunk, in optimizer steps from the trunk's first."""

    warmup: int
    """In which the rate rises: those of the trunk's shortest run, for all of them."""
    start: int
    """That its parent's trunk has done where the parent's cooldown began; 0 without a parent."""
    at: int
    """After which its own cooldown begins, and a longer run can go on from it."""


def fork(training: Training, lengths: Sequence[int]) -> Fork:
    """The place of the last of a trunk's runs.

    Args:
        training: whose warm-up and cooldown they have.
        lengths: steps of each run on the trunk, rising to the one asked for.
    """
    recipe = Recipe(
        learning_rate=1.0,
        batch_size=1,
        warmup=training.warmup,
        warmup_floor=training.warmup_floor,
        cooldown=training.cooldown,
        cooldown_floor=training.cooldown_floor,
    )
    warmup = warmup_steps(lengths[0], recipe)
    # A budget that buys no step is refused elsewhere, with its reason.
    starts = [cooldown_start(steps, forked(recipe, max(1, steps), warmup)) for steps in lengths]
    start = min(starts[-2], lengths[-1] - 1) if len(starts) > 1 else 0
    return Fork(warmup=warmup, start=start, at=starts[-1])
