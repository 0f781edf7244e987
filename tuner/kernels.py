"""Whether a trial's step is compiled, captured, stacked: a function of the sweep and its slot.
Needs no torch.

What a worker finds on its machine decides nothing, so that the rows of a sweep compare.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from model import payoff
from model.memory import Split, TooLargeError, divisors
from model.shape import CountedShape
from tuner.config import Sweep
from tuner.slot import Slot

if TYPE_CHECKING:
    from tuner.space import Trial


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """How the kernels of a step come about; sums in another order end in other last bits."""

    compiled: bool = False
    """By `torch.compile`, or `model.between` by a C++ compiler."""
    captured: bool = False
    """As a CUDA graph."""
    stacked: bool = False
    """By `model.stack`, alone or with others: on one thread of a CPU how many moves no bit."""


def kernels(sweep: Sweep, trial: "Trial", slot: Slot) -> Kernels:
    """What pays for a trial, of what works in its slot.

    The plain decoder's gradient on a CPU is faster written out than by `torch.compile`; what lies
    between its products is compiled for every trial, since that takes a process a second for all of
    them and gains at every width, on one thread. Somebody's own module may compile itself. Of
    several kinds of GPU the slowest decides, for all workers alike.
    """
    shape, cpu = trial.shape, not sweep.resources.gpus_per_trial
    if isinstance(shape, CountedShape) or not (cpu or slot.peaks):  # no peaks: being found
        return Kernels()
    try:
        split = slot.split(shape, trial.batch_size, sweep.resources)
    except TooLargeError:
        return Kernels()
    stacked = _stacked(sweep, trial, slot, split)
    plain = shape.plain and not sweep.training.dropout and not split.recompute
    if split.sharded:
        return Kernels(stacked=plain and stacked)
    if cpu and plain:
        alone = slot.speed.compiles and slot.speed.threads == 1 and not stacked
        return Kernels(compiled=alone, stacked=stacked)
    device = payoff.cpu(slot.speed.threads) if cpu else payoff.gpu(min(slot.peaks.values()))
    share = trial.batch_size // split.devices
    asked = shape, share, _parts(share, split)
    return Kernels(
        compiled=slot.speed.compiles and payoff.compiling_pays(*asked, trial.steps, device),
        captured=not cpu and payoff.capturing_pays(*asked, device),
        stacked=stacked and not cpu,
    )


def _stacked(sweep: Sweep, trial: "Trial", slot: Slot, split: Split) -> bool:
    """Whether `model.stack` takes a trial, on a CPU a plain one, and is to."""
    shape, whole = trial.shape, split.micro_batch_size >= trial.batch_size
    if sweep.resources.stack == 1 or not whole or split.devices > 1:
        return False
    if sweep.resources.gpus_per_trial:
        taken = not (sweep.training.dropout or split.recompute or shape.qk_norm)
        device = payoff.gpu(min(slot.peaks.values()))
        return taken and payoff.stacking_pays_on_gpu(shape, trial.batch_size, device)
    # One thread: with several, the products of one are shared out otherwise than those of many.
    alike = slot.speed.threads == 1 and slot.speed.dtype == "float32" and split.logit_rows is None
    return alike and payoff.stacking_pays(shape)


def _parts(share: int, split: Split) -> int:
    """Micro-batches as the memory model has them, whatever a retry cuts them to."""
    return share // divisors(share, split.micro_batch_size)[0]
