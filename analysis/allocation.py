"""Approach 2 as a `Fit`: a minimum a profile, power laws through them, and their draws."""

import numpy as np

from analysis.approaches import Draws, UnsupportedError, power_laws, spread
from analysis.cells import Cells
from analysis.laws import AllocationLaw, Array
from analysis.profiles import METHODS, Method, Profile, profiles
from analysis.results import Fit, FitStatus, Point
from analysis.uncertainty import redrawn, residuals


def allocation_fit(name: str, cells: Cells, draws: Draws, at: tuple[float, ...]) -> Fit:
    """Approach 2, by the method named; `argmin_raw` fits its power laws in raw space.

    Raises:
        UnsupportedError: fewer than two budgets with a minimum inside.
    """
    raw = name == "argmin_raw"
    method = METHODS["argmin" if raw else name]
    kept, minima, warnings = _minima(profiles(cells), method)
    budgets = np.array([profile.budget for profile in kept])
    params = np.array([point.params for point in minima])
    tokens = np.array([point.tokens for point in minima])
    drawn = _allocation_draws(kept, method, draws, raw=raw)
    if raw:
        warnings.append("power laws fitted in raw space: the largest budgets decide alone")
    if len(kept) == 2:
        warnings.append(
            "two budgets: the power laws pass through both points, whatever their noise"
        )
    return Fit(
        at=at, name=name, law=power_laws(budgets, params, tokens, raw=raw), objective=None,
        objective_name=f"{method.words}; power laws by least squares in {'raw' if raw else 'log'} space",
        status=FitStatus(state="doubtful" if warnings else "ok", reason="; ".join(warnings)),
        points=tuple(minima), warnings=tuple(warnings), **spread(drawn),
    )  # fmt: skip


def _minima(found: list[Profile], method: Method) -> tuple[list[Profile], list[Point], list[str]]:
    """Profiles with a minimum, the minima, and why the others were left out."""
    kept, points, left_out = [], [], []
    for profile in found:
        sizes = len(profile.log_params)
        if sizes < method.sizes:
            left_out.append(f"budget {profile.budget:.3g}: {sizes} sizes, {method.sizes} needed")
            continue
        position, loss = method.minimum(profile.log_params, profile.loss[None])
        if np.isnan(position[0]):
            left_out.append(f"budget {profile.budget:.3g}: no minimum inside the range of sizes")
            continue
        kept.append(profile)
        points.append(_point(profile, float(position[0]), float(loss[0])))
    if len(kept) < 2:
        shown = "; ".join(left_out[:3]) + ("; …" if len(left_out) > 3 else "")
        raise UnsupportedError(f"needs 2 budgets with a minimum, got {len(kept)} ({shown})")
    return kept, points, left_out


def _point(profile: Profile, log_params: float, loss: float) -> Point:
    tokens = float(np.exp(profile.tokens_at(np.array(log_params))))
    return Point(budget=profile.budget, params=float(np.exp(log_params)), tokens=tokens, loss=loss)


def _allocation_draws(
    found: list[Profile], method: Method, draws: Draws, *, raw: bool
) -> AllocationLaw | None:
    """Power laws through the minima of resampled profiles; None without replicates."""
    if draws.replicates == 0:
        return None
    rng = np.random.default_rng(draws.seed)
    params, tokens = [], []
    for profile in found:
        x = profile.log_params
        position, _ = method.minimum(x, _redrawn_profile(profile, method, draws.replicates, rng))
        # A draw without a minimum inside has it at the edge its lowest run is nearer to.
        position = np.where(
            np.isnan(position), rng.choice(x[[0, -1]], size=len(position)), position
        )
        params.append(np.exp(position))
        tokens.append(np.exp(profile.tokens_at(position)))
    budgets = np.array([profile.budget for profile in found])
    return power_laws(budgets, np.column_stack(params), np.column_stack(tokens), raw=raw)


def _redrawn_profile(
    profile: Profile, method: Method, replicates: int, rng: np.random.Generator
) -> Array:
    """Losses of one profile around its smooth curve, resampled: (replicates, n)."""
    degree = min(method.degree, len(profile.log_params) - 2)
    basis = np.vander(profile.log_params - profile.log_params.mean(), degree + 1)
    measured = np.log(profile.loss)
    predicted = basis @ np.linalg.lstsq(basis, measured)[0]
    left = residuals(measured, predicted, basis)
    each = np.arange(len(measured), dtype=np.int64)
    return np.exp(redrawn(left, each, "residual", replicates, rng))
