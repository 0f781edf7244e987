"""What the approaches share: refusing a table, streams of draws, from draws to intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis import powerlaw
from analysis.laws import AllocationLaw, Array, Law, letters
from analysis.results import FitError, Interval, percentile_interval
from analysis.uncertainty import Bootstrap


class UnsupportedError(FitError):
    """The table cannot support the approach; says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How many bootstrap draws, and from which stream."""

    replicates: int
    seed: np.random.SeedSequence
    bootstrap: Bootstrap | None = None
    """How tables are resampled; None decides by the number of trials."""


def power_laws(budgets: Array, params: Array, tokens: Array, *, raw: bool) -> AllocationLaw:
    """Through minima (n,) or, stacked, (r, n)."""
    method = powerlaw.raw_fit if raw else powerlaw.log_fit
    (n_coef, a), (d_coef, b) = method(budgets, params), method(budgets, tokens)
    return AllocationLaw(n_coef=n_coef, a=a, d_coef=d_coef, b=b)


def spread(drawn: Law | None, given: Sequence[str] = ()) -> dict[str, Any]:
    """Draws, standard errors and 95 % intervals, as fields of a `Fit`; of `given` letters none."""
    if drawn is None or np.size(drawn.a) < 2:  # one draw has no spread
        return {}
    fitted = {letter: value for letter, value in letters(drawn).items() if letter not in given}
    values = {**fitted, "a": drawn.a, "b": drawn.b}
    intervals: dict[str, Interval] = {
        letter: percentile_interval(value) for letter, value in values.items()
    }
    errors = {letter: float(np.std(np.asarray(value), ddof=1)) for letter, value in values.items()}
    # A coefficient at 1 FLOP may have no finite variance: then it has no standard error.
    finite = {letter: error for letter, error in errors.items() if np.isfinite(error)}
    return {"draws": drawn, "bse": finite, "intervals": intervals}
