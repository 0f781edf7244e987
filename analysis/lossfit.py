"""Approach 3 as a `Fit`: a law of loss on one table, its draws, and what could not be trusted."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from analysis import objectives
from analysis.adequacy import lack_of_fit
from analysis.approaches import Draws, UnsupportedError, spread
from analysis.cells import Cells
from analysis.laws import Array, LossLaw
from analysis.objectives import Objective
from analysis.parametric import Solution, law, solve, solve_all
from analysis.problem import EXPONENT_BOUNDS, K_BOUNDS, LETTERS, Box, Problem
from analysis.results import Fit, FitError, FitStatus, Point
from analysis.uncertainty import (
    UNIDENTIFIED_SHARE,
    Residuals,
    default_bootstrap,
    resampled,
    residuals,
)

ADEQUATE = 0.01
"""p-value below which a law is said not to fit the profiles."""
SHOWN_BUDGETS = 12
"""Points shown of a law fitted to a table without isoFLOP profiles."""


@dataclass(frozen=True, kw_only=True)
class LossApproach:
    """A parametric law and what it minimizes."""

    objective: Objective
    box: Box


def loss_approaches(
    *, pinned_E: float | None = None, delta: float = objectives.DELTA
) -> Mapping[str, LossApproach]:
    """Every one by name, with `pinned_E` given and Huber penalties of width `delta`."""
    free, coupled = Box(E=pinned_E), Box(E=pinned_E, coupled=True)
    return {
        "chinchilla": LossApproach(objective=objectives.huber(delta), box=free),
        "chinchilla_lad": LossApproach(objective=objectives.least_absolute(), box=free),
        "chinchilla_logmse": LossApproach(objective=objectives.log_squares(), box=free),
        "chinchilla_mse": LossApproach(objective=objectives.raw_squares(), box=free),
        "skaling": LossApproach(objective=objectives.huber(delta), box=coupled),
    }


LOSS_APPROACHES = loss_approaches()
"""As they are by default."""


def loss_fit(
    name: str, approach: LossApproach, cells: Cells, draws: Draws, at: tuple[float, ...]
) -> Fit:
    """Approach 3.

    Raises:
        UnsupportedError: too few runs or levels.
        FitError: no start converged, or to a law under which no allocation is best.
    """
    _refuse_unsupported(cells, approach.box)
    problem = Problem.of(cells.params, cells.tokens, cells.loss)
    found = solve(problem, approach.objective, approach.box)
    left = residuals(
        problem.log_loss[0], found.predicted, found.jacobian, cells.cluster, floor=cells.noise
    )
    points = _loss_draws(problem, approach, left, cells, draws)
    cost = cells.cost
    fitted = replace(found.law, **cost)
    _refuse_no_optimum(fitted, cells)
    drawn = None
    if len(points):
        drawn = replace(law(points, problem.centers), **cost)
    given = ("E",) * (approach.box.E is not None)
    misfit = lack_of_fit(cells, fitted, given=len(given))
    status = _loss_status(found, points, approach.box, misfit)
    return Fit(
        at=at, name=name, law=fitted, status=status,
        objective=found.value, objective_name=approach.objective.name,
        points=_law_points(fitted, cells), certificate=found.certificate,
        warnings=_cost_warning(fitted), noise=left.noise, given=given, **spread(drawn, given),
    )  # fmt: skip


def _refuse_no_optimum(fitted: LossLaw, cells: Cells) -> None:
    with np.errstate(all="ignore"):
        optima = np.asarray(fitted.n_opt(cells.budgets))
    if not np.all((optima > 0) & np.isfinite(optima)):
        raise FitError(
            "the fitted loss does not fall with both model size and tokens: no allocation is best"
        )


def _refuse_unsupported(cells: Cells, box: Box) -> None:
    free = len(LETTERS) - len(box.given)
    needs = []
    if len(cells) <= free:
        needs.append(f"needs more than {free} points for {free} parameters, got {len(cells)}")
    for words, values in (("model sizes", cells.params), ("token counts", cells.tokens)):
        levels = len(np.unique(np.round(np.log(values), 2)))
        if levels < 3:
            needs.append(f"needs at least 3 distinct {words}, got {levels}")
    log_ratio = np.log(cells.tokens / cells.params)
    if np.ptp(log_ratio) < 0.05:
        needs.append("all runs have one tokens-per-parameter ratio: alpha and beta look the same")
    if needs:
        raise UnsupportedError("; ".join(needs))


def _loss_draws(
    problem: Problem, approach: LossApproach, left: Residuals, cells: Cells, draws: Draws
) -> Array:
    """Coordinates of every replicate's optimum: (replicates, 6)."""
    rng = np.random.default_rng(draws.seed)
    bootstrap = draws.bootstrap or default_bootstrap(cells.cluster)
    tables = resampled(problem, left, cells.cluster, bootstrap, draws.replicates, rng)
    found = [solve_all(table, approach.objective, approach.box) for table in tables]
    return np.concatenate(found) if found else np.empty((0, len(LETTERS)))


def _loss_status(found: Solution, points: Array, box: Box, misfit: float | None) -> FitStatus:
    doubts = [f"{letter} ended on its bound" for letter in found.certificate.bounds]
    if not found.certificate.positive_definite:
        doubts.append("the Hessian at the optimum is not positive definite")
    stuck = _share_on_bounds(points, box)
    if stuck > UNIDENTIFIED_SHARE:
        doubts.append(
            f"{stuck:.0%} of bootstrap draws end on a bound: the runs do not identify the law"
        )
    if misfit is not None and misfit < ADEQUATE:
        doubts.append(
            f"the profiles differ from the law by more than their noise (F test, p = {misfit:.1e})"
        )
    return FitStatus(state="doubtful" if doubts else "ok", reason="; ".join(doubts))


def _share_on_bounds(points: Array, box: Box) -> float:
    if not len(points):
        return 0.0
    exponents, k = points[:, 3:5], points[:, 5]
    low, high = EXPONENT_BOUNDS
    stuck = ((exponents <= low) | (exponents >= high)).any(axis=1)
    if box.coupled:
        stuck |= (k <= K_BOUNDS[0]) | (k >= K_BOUNDS[1])
    return float(stuck.mean())


def _law_points(fitted: LossLaw, cells: Cells) -> tuple[Point, ...]:
    budgets = cells.budgets
    if len(budgets) > SHOWN_BUDGETS:
        budgets = np.geomspace(budgets[0], budgets[-1], SHOWN_BUDGETS)
    return tuple(
        Point(
            budget=float(c), params=float(fitted.n_opt(c)), tokens=float(fitted.d_opt(c)),
            loss=float(fitted.loss_opt(c)),
        )
        for c in budgets
    )  # fmt: skip


def _cost_warning(fitted: LossLaw) -> tuple[str, ...]:
    factor, exponent = fitted.flops_per_param_token, fitted.cost_exponent
    if (factor, exponent) == (6.0, 1.0):
        return ()
    power = "N" if exponent == 1.0 else f"N^{exponent:.4g}"
    return (
        f"budgets of this table are {factor:.3g} · {power} · D, not 6 · N · D: N_opt and D_opt "
        "follow that; far beyond these runs the count comes closer to 6 · N · D",
    )
