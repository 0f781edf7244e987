"""The same runs under each way to count weights and FLOPs: a table of exponents.

What N counts moves the exponent by .1 to .3; the table says how much of a result is convention.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from analysis.comparison import Conventions, Exponent, Fits
from analysis.fit import fit
from analysis.objectives import DELTA
from analysis.runs import Runs, RunTableError
from analysis.tables import Count, FlopCount

COUNTS: tuple[Count, ...] = ("total", "non_embedding", "transformer")
FLOP_COUNTS: tuple[FlopCount, ...] = ("6ND", "exact")
REPLICATES = 200
"""Bootstrap draws a convention and approach: the table shows how far conventions go, not digits."""


def compared(
    runs: Runs,
    fits: Fits,
    *,
    pinned_E: float | None = None,
    delta: float = DELTA,
    replicates: int = REPLICATES,
) -> Fits:
    """`fits` with the table of exponents, or with the reason why these runs give none."""
    try:
        table = Conventions(
            exponents=exponents(runs, pinned_E=pinned_E, delta=delta, replicates=replicates),
            left_out="",
        )
    except RunTableError as error:
        table = Conventions(left_out=str(error))
    return replace(fits, conventions=table)


def exponents(
    runs: Runs,
    *,
    approaches: Sequence[str] = ("parabola", "chinchilla"),
    pinned_E: float | None = None,
    delta: float = DELTA,
    replicates: int = REPLICATES,
) -> tuple[Exponent, ...]:
    """The table, one row a convention and approach.

    Raises:
        RunTableError: the runs' N is as given: it cannot be counted anew.
    """
    if runs.count == "as given":
        raise RunTableError(
            ["N is as the table gives it: no columns params_embedding, params_head to count anew"]
        )
    fitted = partial(
        fit, approaches=approaches, pinned_E=pinned_E, delta=delta, replicates=replicates
    )
    return tuple(
        row
        for count in COUNTS
        for flops in FLOP_COUNTS
        for row in _rows(runs.with_convention(count, flops=flops), approaches, fitted)
    )


def _rows(runs: Runs, approaches: Sequence[str], fitted: Callable[[Runs], Fits]) -> list[Exponent]:
    try:
        fits = fitted(runs).approaches
    except RunTableError as error:
        return [
            Exponent(
                count=runs.count, flops=runs.flops, approach=name, a=None, interval=None,
                reason=str(error),
            )
            for name in approaches
        ]  # fmt: skip
    return [
        Exponent(
            count=runs.count, flops=runs.flops, approach=one.name,
            a=one.a if one.law is not None else None,
            interval=one.intervals.get("a"), reason=one.status.reason,
        )
        for one in fits
    ]  # fmt: skip
