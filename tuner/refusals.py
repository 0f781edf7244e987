"""What cannot work, refused before anything is spent. Needs neither torch nor ray."""

from collections.abc import Iterator

from data.bounds import most_tokens
from model.speed import Speed
from tuner import plan, throughput
from tuner.config import Sweep
from tuner.errors import BudgetError, ConfigError
from tuner.plan import Plan
from tuner.slot import Slot


def check(sweep: Sweep, counted: Plan) -> None:
    """Refuse a sweep that its plan shows to be in vain.

    Raises:
        ConfigError: trials of too few steps, models larger than the memory, more tokens than there
            are; all such, each with what to do.
        BudgetError: even what pruning is likely to leave exceeds a cap, of time or money where the
            speed is known.
    """
    faults = [f"{sweep.name}: {fault}" for fault in _too_short(sweep, counted)]
    if sweep.backend == "train":
        for look in (_memory, _corpus):
            try:
                look(sweep, counted)
            except ConfigError as error:
                faults += str(error).splitlines()
    if faults:
        raise ConfigError("\n".join(faults))
    expected = sum(stage.flops_expected for stage in counted.stages)
    if expected > counted.cap:
        raise BudgetError(
            f"{sweep.name}: `cap.flops` = {counted.cap:.3g}: the plan takes about {expected:.3g} "
            "FLOP with pruning. Raise it, or ask for fewer budgets, sizes or trials"
        )
    if counted.throughput.source != throughput.GUESS:
        for told in plan.too_slow(sweep, counted.stages):
            raise BudgetError(
                f"{sweep.name}: {told}, by {counted.throughput.source}. Raise it, or ask for fewer "
                "budgets, sizes or trials"
            )


def _too_short(sweep: Sweep, counted: Plan) -> Iterator[str]:
    if sweep.backend == "replay":  # its steps were taken by others
        return
    least = sweep.training.min_steps
    raise_ = "grid.tokens" if sweep.design == "grid" else "the budget"
    for stage in counted.stages:
        if stage.steps[0] < least:
            yield (
                f"budget {stage.budget:g}: a trial gets as few as {stage.steps[0]} steps, fewer "
                f"than training.min_steps = {least}; raise {raise_}, lower training.batch_size or "
                "take the largest sizes off the ladder"
            )


def _memory(sweep: Sweep, counted: Plan) -> None:
    if counted.throughput.memory is None:
        return
    speed = Speed(dtype=throughput.dtype(sweep))
    slot = Slot(speed=speed, memory=counted.throughput.memory)
    plan.check_memory(sweep, counted, plan.vocabulary(sweep), slot)


def _corpus(sweep: Sweep, counted: Plan) -> None:
    """By what the source can hold at most; when it is prepared it is counted."""
    if sweep.data.allow_repeats:
        return
    wanted = max(stage.tokens[1] for stage in counted.stages)
    most = most_tokens(sweep.data.source, sweep.data.max_bytes, enough=wanted)
    if most < wanted:
        plan.check_corpus(sweep, counted, int(most))
