"""How many trials share a GPU: as memory permits and speed rewards. Needs neither torch nor ray.

Small steps leave a GPU idle between their kernels; another process may fill the gaps, or only wait
for its turn. So it is measured, on the smallest and the largest model that is planned.
"""

import math
from collections.abc import Callable, Sequence

from model.memory import USABLE

CONTEXT = 0.75e9
"""Bytes of a GPU that each process takes beside its tensors, for CUDA's context and kernels: .2 to
.7 GB (pytorch/pytorch, issues 20532, 28113, 109888), and no limit holds it back (58466)."""
MOST = 8
"""Trials on one GPU, at most."""
GAIN = 1.1
"""What twice as many trials must together gain in speed."""

Rates = Callable[[int], Sequence[float]]
"""Trials at once to FLOP/s of all together, a figure a size; 0 where they cannot run."""


def share(memory: float, trials: float) -> float:
    """Bytes for the tensors of each of `trials` processes on a GPU of `memory`."""
    return memory if trials == 1 else max(0.0, memory / trials - CONTEXT)


def allowed(needed: float, memory: float) -> list[int]:
    """Trials at once that a GPU of `memory` holds, doubling from 1.

    Args:
        needed: bytes of the largest trial, its whole batch at once: packing cuts no batch.
        memory: byte.
    """
    counts = [2**power for power in range(1, int(math.log2(MOST)) + 1)]
    return [1, *(n for n in counts if needed <= USABLE * share(memory, n))]


def best(counts: Sequence[int], rates: Rates) -> int:
    """The trials at once, of `counts`, that are worth it: the first, unless more are faster.

    The sizes of a budget get the same FLOPs each, so what counts is the sum of their times. The
    first count that gains too little ends the search.
    """
    chosen, *more = counts
    if not more:
        return chosen
    took = _time(rates(chosen))
    for count in more:
        now = _time(rates(count))
        if now * GAIN > took:
            break
        chosen, took = count, now
    return chosen


def _time(rates: Sequence[float]) -> float:
    """Seconds of one FLOP at each rate, one after the other; infinite where a size cannot run."""
    return math.inf if 0 in rates else sum(1 / rate for rate in rates)
