"""Which approach to follow: laws of loss are judged by the larger runs that they were not shown."""

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.cells import Cells
from analysis.comparison import Validation
from analysis.lossfit import LossApproach
from analysis.parametric import solve
from analysis.problem import Problem
from analysis.results import Fit, FitError

DEFAULTS = (
    "chinchilla", "skaling", "cubic", "parabola", "akima", "argmin", "envelope", "argmin_raw",
)  # fmt: skip
"""Followed in this order where no validation is possible."""
HELD_OUT = (0.1, 0.2, 0.35)
"""Shares of the runs, largest budgets first, that the folds hold out."""
BETTER = 0.95
"""The coupled law, one parameter richer, must predict this much better to be preferred."""
EXACT = 1e-8
"""Below this error of ln loss a law is exact and differences are rounding."""
LAWS = ("chinchilla", "skaling")
"""Candidates: the two laws under one objective. Objectives are shown, not chosen between."""


def validate(cells: Cells, approaches: Mapping[str, LossApproach]) -> tuple[Validation, ...]:
    """Extrapolation cross-validation of each approach of loss; empty where impossible."""
    folds = [fold for fold in (_cut(cells, share) for share in HELD_OUT) if fold is not None]
    unique = sorted(set(folds))
    found = []
    for name, approach in approaches.items():
        errors = [_error(cells, approach, cut) for cut in unique]
        if errors and all(np.isfinite(errors)):
            found.append(Validation(approach=name, error=float(np.mean(errors)), folds=len(errors)))
    return tuple(found)


def _cut(cells: Cells, share: float) -> float | None:
    """Budget from which runs are held out: whole profiles, enough runs and levels left to fit."""
    order = np.sort(cells.budget)
    start = order[-max(int(share * len(order)), 1)]
    profile = cells.profile[cells.budget >= start].min()
    cut = float(cells.budget[cells.profile == profile].min())
    left = cells.budget < cut
    levels = len(np.unique(cells.profile[left]))
    return cut if left.sum() >= 8 and levels >= 2 else None


def _error(cells: Cells, approach: LossApproach, cut: float) -> float:
    """Root mean square error of ln loss on runs from budget `cut`, fitted to those below it."""
    seen = cells.select(cells.budget < cut)
    held = cells.select(cells.budget >= cut)
    try:
        found = solve(
            Problem.of(seen.params, seen.tokens, seen.loss), approach.objective, approach.box
        )
    except FitError:
        return float("inf")
    predicted = np.log(found.law.loss(held.params, held.tokens))
    return float(np.sqrt(np.mean((predicted - np.log(held.loss)) ** 2)))


def choose(fits: Sequence[Fit], validation: Sequence[Validation]) -> tuple[str, str]:
    """The approach to follow, and why, in words."""
    trusted = {fit.name for fit in fits if fit.law is not None and fit.status.state == "ok"}
    fitted = {fit.name for fit in fits if fit.law is not None}
    errors = {one.approach: one.error for one in validation if one.approach in trusted}
    plain, coupled = (errors.get(name) for name in LAWS)
    if plain is not None and coupled is not None:
        shown = f"held-out log loss error {coupled:.3g} against {plain:.3g}"
        if coupled < BETTER * plain and plain > EXACT:
            return "skaling", f"the coupled law extrapolates better than Chinchilla's: {shown}"
        return "chinchilla", f"the coupled law extrapolates no better than Chinchilla's: {shown}"
    order = [name for pool in (trusted, fitted) for name in DEFAULTS if name in pool]
    chosen = next(iter([*order, *sorted(fitted)]))
    if chosen not in trusted:
        return chosen, f"none can be trusted: the first that was fitted of {', '.join(DEFAULTS)}"
    words = (
        "the two laws could not be compared by extrapolation"
        if not validation
        else "not both laws could be trusted"
    )
    return chosen, f"{words}: the first that can be trusted of {', '.join(DEFAULTS)}"
