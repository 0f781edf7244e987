"""The same runs under each way to count weights and FLOPs: a table of exponents.

What N counts moves the exponent by .1 to .3; the table says how much of a result is convention.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.fit import fit
from analysis.results import Interval
from analysis.runs import Runs, RunTableError
from analysis.tables import Count, FlopCount

COUNTS: tuple[Count, ...] = ("total", "non_embedding", "transformer")
FLOP_COUNTS: tuple[FlopCount, ...] = ("6ND", "exact")


@dataclass(frozen=True, kw_only=True)
class Exponent:
    """The exponent of N_opt under one convention."""

    count: Count
    """Which weights N counts."""
    flops: FlopCount
    """How budgets are counted."""
    approach: str
    a: float | None
    """None where the approach could not be fitted; `reason` says why."""
    interval: Interval | None
    """95 %."""
    reason: str


def exponents(
    runs: Runs, *, approaches: Sequence[str] = ("parabola", "chinchilla"), replicates: int = 200
) -> tuple[Exponent, ...]:
    """The table, one row a convention and approach; empty where the runs keep no counts apart.

    Raises:
        RunTableError: the runs' N is as given: it cannot be counted anew.
    """
    if runs.count == "as given":
        raise RunTableError([f"{runs.source}: no columns params_embedding, params_head to count"])
    return tuple(
        row
        for count in COUNTS
        for flops in FLOP_COUNTS
        for row in _rows(runs, count, flops, approaches, replicates)
    )


def _rows(
    runs: Runs, count: Count, flops: FlopCount, approaches: Sequence[str], replicates: int
) -> list[Exponent]:
    counted = runs.with_convention(count, flops=flops)
    try:
        fits = fit(counted, approaches=approaches, replicates=replicates).approaches
    except RunTableError as error:
        return [Exponent(count=count, flops=flops, approach=name, a=None, interval=None,
                         reason=str(error)) for name in approaches]  # fmt: skip
    return [
        Exponent(
            count=count, flops=flops, approach=one.name, a=one.a if one.law is not None else None,
            interval=one.intervals.get("a"), reason=one.status.reason,
        )
        for one in fits
    ]  # fmt: skip
