"""Every approach on one table of runs, side by side, with their disagreement."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from threadpoolctl import threadpool_limits

from analysis.allocation import allocation_fit
from analysis.approaches import Draws, UnsupportedError
from analysis.cells import Cells, cells
from analysis.choice import choose, validate
from analysis.comparison import Disagreement, Fits, Validation, disagreement
from analysis.envelope import envelope_fit
from analysis.laws import LossLaw
from analysis.lossfit import LossApproach, loss_approaches, loss_fit
from analysis.losspower import LossPowers, loss_powers
from analysis.objectives import DELTA
from analysis.quality import far_answers, table_warnings, unsound
from analysis.results import (
    REPORTED_BUDGETS,
    Certificate,
    Fit,
    FitError,
    FitStatus,
    Point,
)  # fmt: skip
from analysis.runs import Runs, RunTableError
from analysis.uncertainty import Bootstrap

__all__ = [
    "APPROACHES", "Certificate", "Disagreement", "Fit", "FitError", "FitStatus", "Fits", "Point",
    "Validation", "fit",
]  # fmt: skip

APPROACHES: tuple[str, ...] = (
    "argmin", "argmin_raw", "parabola", "akima", "cubic", "envelope",
    "chinchilla", "chinchilla_lad", "chinchilla_logmse", "chinchilla_mse", "skaling",
)  # fmt: skip
"""All of them, in the order in which they are run and shown."""
Fitter: TypeAlias = Callable[[Draws, tuple[float, ...]], Fit]
"""(draws, budgets to answer for) → the fit of one approach."""
REACHES = (10.0, 100.0)
"""Times the largest budget measured: where a fit answers that is not asked about a budget."""
REPLICATES = 1000
"""Bootstrap draws by default: ends of a 95 % interval are good to about 5 % of its width."""


@threadpool_limits.wrap(limits=1, user_api="blas")
def fit(
    runs: Runs,
    *,
    approaches: Sequence[str] | None = None,
    at: Sequence[float] = (),
    pinned_E: float | None = None,
    delta: float = DELTA,
    replicates: int = REPLICATES,
    seed: int = 0,
    bootstrap: Bootstrap | None = None,
) -> Fits:
    """Fit every approach (or those named) to `runs`.

    `at` names budgets at which N_opt and D_opt are wanted, FLOP, in place of ten and a hundred
    times the largest; `pinned_E` an irreducible
    loss known beforehand, nat/token, which the laws of loss then take as given; `delta` the width
    of the Huber penalty of `chinchilla` and `skaling`; `replicates` bootstrap draws give the
    intervals (0: none). `bootstrap` names how approach 3 resamples, by default pairs for 100 trials
    and residuals for fewer; profiles redraw residuals, the envelope whole curves. An approach the
    table cannot support is `skipped`.

    Raises:
        RunTableError: no approach can be supported, the reasons are its faults; or a pinned E
            that is not between 0 and the lowest loss.
        ValueError: an unknown approach.
    """
    names = _known(approaches)
    points = cells(runs)
    _refuse_pin(runs, points, pinned_E)
    every = loss_approaches(pinned_E=pinned_E, delta=delta)
    of_loss = {name: every[name] for name in names if name in every}
    budgets = tuple(sorted({*REPORTED_BUDGETS, *at}))
    *streams, last = np.random.SeedSequence(seed).spawn(len(APPROACHES) + 1)
    draws = {
        name: Draws(replicates=replicates, seed=stream, bootstrap=bootstrap)
        for name, stream in zip(APPROACHES, streams, strict=True)
    }
    fitted = tuple(
        _doubted(
            _attempt(name, _fitter(name, runs, points, of_loss.get(name)), draws[name], budgets),
            unsound(points),
        )
        for name in names
    )
    if all(one.law is None for one in fitted):
        raise RunTableError([f"{runs.source}: {one.name}: {one.status.reason}" for one in fitted])
    validation = validate(points, of_loss)
    powers = loss_powers(points, replicates, last)
    targets = tuple(sorted({*at} or {reach * float(points.budget.max()) for reach in REACHES}))
    return _compare(runs, points, fitted, targets, validation, powers)


def _known(approaches: Sequence[str] | None) -> tuple[str, ...]:
    """The approaches to fit; an unknown one is an error."""
    names = APPROACHES if approaches is None else tuple(approaches)
    if unknown := set(names) - set(APPROACHES):
        raise ValueError(f"unknown approaches {sorted(unknown)}; known: {', '.join(APPROACHES)}")
    return names


def _refuse_pin(runs: Runs, points: Cells, pinned_E: float | None) -> None:
    lowest = float(points.loss.min())
    if pinned_E is not None and not 0 < pinned_E < lowest:
        fault = f"a pinned E of {pinned_E:g} is not between 0 and the lowest loss, {lowest:.6g}"
        raise RunTableError([f"{runs.source}: {fault}; name the loss that no run can go below"])


def _attempt(name: str, fitter: Fitter, draws: Draws, at: tuple[float, ...]) -> Fit:
    """The approach's fit, or why there is none."""
    try:
        return fitter(draws, at)
    except UnsupportedError as error:
        status = FitStatus(state="skipped", reason=str(error))
    except FitError as error:
        status = FitStatus(state="failed", reason=str(error))
    return Fit(name=name, law=None, status=status, warnings=(status.reason,), at=at)


def _doubted(one: Fit, unsound: tuple[str, ...]) -> Fit:
    """The fit, doubtful for what speaks against every law of the table."""
    if one.law is None or not unsound:
        return one
    reason = "; ".join([*unsound, *filter(None, [one.status.reason])])
    return replace(one, status=FitStatus(state="doubtful", reason=reason))


def _fitter(name: str, runs: Runs, points: Cells, approach: LossApproach | None) -> Fitter:
    if approach is not None:
        return lambda draws, at: loss_fit(name, approach, points, draws, at)
    if name == "envelope":
        return lambda draws, at: envelope_fit(runs, draws, at)
    return lambda draws, at: allocation_fit(name, points, draws, at)


def _compare(
    runs: Runs, points: Cells, fitted: tuple[Fit, ...], targets: tuple[float, ...],
    validation: tuple[Validation, ...], powers: LossPowers,
) -> Fits:  # fmt: skip
    chosen, because = choose(fitted, validation)
    there = [one for one in fitted if one.law is not None]
    law = next(one for one in there if one.name == chosen).law
    largest = float(points.budget.max())
    budgets = tuple(sorted({10 * largest, *targets, *REPORTED_BUDGETS}))
    reference = law if isinstance(law, LossLaw) else None
    return Fits(
        source=runs.source, n=len(points), dropped=runs.dropped, approaches=fitted,
        chosen=chosen, chosen_because=because, validation=validation, powers=powers,
        disagreement=tuple(
            disagreement(there, reference, budget) for budget in budgets
        ),
        targets=targets, unsound=unsound(points),
        warnings=(*table_warnings(runs, points), *far_answers(points, targets)),
    )  # fmt: skip
