"""Approach 2 as a `Fit`: a minimum a profile, power laws through them, and their draws."""

import numpy as np

from analysis.approaches import Draws, UnsupportedError, power_laws, spread
from analysis.cells import Cells
from analysis.laws import FLOPS_PER_PARAM_TOKEN, AllocationLaw, Array
from analysis.profiles import METHODS, Method, Profile, is_profiled, profiles
from analysis.results import Fit, FitStatus, Point
from analysis.uncertainty import UNIDENTIFIED_SHARE, redrawn, residuals

FARTHEST = 20.0
"""E-folds of loss that a resampled run lies at most from its curve."""


def allocation_fit(name: str, cells: Cells, draws: Draws, at: tuple[float, ...]) -> Fit:
    """Approach 2, by the method named; `argmin_raw` fits its power laws in raw space.

    Raises:
        UnsupportedError: no isoFLOP profiles, or fewer than two with a minimum inside.
    """
    raw = name == "argmin_raw"
    method = METHODS["argmin" if raw else name]
    if not is_profiled(cells, method.sizes):
        raise UnsupportedError(
            f"needs isoFLOP profiles: most points share their budget with fewer than "
            f"{method.sizes - 1} other sizes"
        )
    kept, minima, thin, open_ended = _minima(profiles(cells), method)
    if cells.one_budget:
        raise UnsupportedError(f"needs budgets that differ: all {len(kept)} lie within 5 %")
    params = np.array([point.params for point in minima])
    tokens = np.array([point.tokens for point in minima])
    budgets = np.array([profile.budget for profile in kept])
    if cells.flops == "6ND":  # what the optimum costs by that count: sizes of a profile differ
        budgets = FLOPS_PER_PARAM_TOKEN * params * tokens
    drawn, outside = _allocation_draws(kept, method, draws, budgets, raw=raw)
    doubts = [*open_ended, *_doubts(outside, raw=raw, budgets=len(kept))]
    space = "raw" if raw else "log"
    return Fit(
        at=at,
        name=name,
        law=power_laws(budgets, params, tokens, raw=raw),
        objective_name=f"{method.words}; power laws by least squares in {space} space",
        status=FitStatus(state="doubtful" if doubts else "ok", reason="; ".join(doubts)),
        points=tuple(minima),
        warnings=(*thin, *doubts),
        **spread(drawn),
    )


def _doubts(outside: float, *, raw: bool, budgets: int) -> list[str]:
    """What speaks against power laws through these minima, in words."""
    found = []
    if outside > UNIDENTIFIED_SHARE:
        found.append(f"{outside:.0%} of resampled profiles have no minimum inside their sizes")
    if raw:
        found.append("power laws fitted in raw space: the largest budgets decide alone")
    if budgets == 2:
        found.append("two budgets: the power laws pass through both minima, whatever their noise")
    return found


def _minima(
    found: list[Profile], method: Method
) -> tuple[list[Profile], list[Point], list[str], list[str]]:
    """Profiles with a minimum, the minima, and in words which budgets were left out.

    Those with too few sizes are no profiles (where the learning rate was explored there is one),
    and without them nothing is amiss; that a profile has no minimum inside is for doubt.
    """
    kept: list[Profile] = []
    points: list[Point] = []
    thin: list[float] = []
    open_ended: list[float] = []
    for profile in found:
        if len(profile.log_params) < method.sizes:
            thin.append(profile.budget)
            continue
        position, loss = method.minimum(profile.log_params, profile.loss[None])
        if np.isnan(position[0]):
            open_ended.append(profile.budget)
            continue
        kept.append(profile)
        points.append(_point(profile, float(position[0]), float(loss[0])))
    few = _left_out(thin, f"have fewer than {method.sizes} sizes")
    without = _left_out(open_ended, "have no minimum inside their sizes")
    if len(kept) < 2:
        reasons = "; ".join([*few, *without]) or "the table has one budget"
        raise UnsupportedError(f"needs 2 budgets with a minimum, got {len(kept)}: {reasons}")
    return kept, points, few, without


def _left_out(budgets: list[float], reason: str) -> list[str]:
    if not budgets:
        return []
    shown = ", ".join(f"{c:.3g}" for c in budgets[:3]) + (", …" if len(budgets) > 3 else "")
    return [f"left out {len(budgets)} budgets that {reason} ({shown})"]


def _point(profile: Profile, log_params: float, loss: float) -> Point:
    tokens = float(np.exp(profile.tokens_at(np.array(log_params))))
    return Point(budget=profile.budget, params=float(np.exp(log_params)), tokens=tokens, loss=loss)


def _allocation_draws(
    found: list[Profile], method: Method, draws: Draws, budgets: Array, *, raw: bool
) -> tuple[AllocationLaw | None, float]:
    """Power laws through the minima of resampled profiles, and the share without a minimum."""
    if draws.replicates == 0:
        return None, 0.0
    rng = np.random.default_rng(draws.seed)
    params: list[Array] = []
    tokens: list[Array] = []
    outside: list[float] = []
    for profile in found:
        x = profile.log_params
        position, _ = method.minimum(x, _redrawn_profile(profile, method, draws.replicates, rng))
        outside.append(float(np.isnan(position).mean()))
        # A draw whose minimum is outside could have it on either side.
        edge = rng.choice(x[[0, -1]], size=len(position))
        position = np.where(np.isnan(position), edge, position)
        params.append(np.exp(position))
        tokens.append(np.exp(profile.tokens_at(position)))
    law = power_laws(budgets, np.column_stack(params), np.column_stack(tokens), raw=raw)
    return law, float(max(outside))


def _redrawn_profile(
    profile: Profile, method: Method, replicates: int, rng: np.random.Generator
) -> Array:
    """Losses of one profile around its smooth curve, resampled: (replicates, n)."""
    degree = min(method.degree, len(profile.log_params) - 2)
    basis = np.vander(profile.log_params - profile.log_params.mean(), degree + 1)
    measured = np.log(profile.loss)
    predicted = basis @ np.linalg.lstsq(basis, measured, rcond=None)[0]
    each = np.arange(len(measured), dtype=np.int64)
    left = residuals(measured, predicted, basis, each, floor=profile.noise)
    drawn = redrawn(left, each, "residual", replicates, rng)
    # One degree of freedom has Cauchy's tails: a draw beyond all numbers has no minimum either way.
    return np.exp(np.clip(drawn, predicted - FARTHEST, predicted + FARTHEST))
