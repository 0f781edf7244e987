"""The law's objective with its exact first and second derivatives, for many tables at once.

With P = A / N^alpha, Q = B / D^beta, S = (P + Q)^k and T = S + E, ln T has the derivatives p, q, e
by ln A, ln B, ln E, and r by k; those by alpha and beta follow through the features -ln N, -ln D.
Arithmetic is done in the precision of the problem's arrays.
"""

from dataclasses import dataclass

import numpy as np

from analysis.laws import Array
from analysis.newton import Index
from analysis.objectives import Penalty
from analysis.problem import Problem

LOWER = np.tril_indices(6, -1)
BLOCK = 2**14
"""Numbers an array may hold while it is worked on: some thirty of them stay in cache."""


@dataclass(frozen=True, kw_only=True)
class Slopes:
    """ln of the predicted loss and its derivatives, run by run: (r, n) each."""

    predicted: Array
    p: Array
    q: Array
    e: Array
    r: Array | None = None
    """By k; None where k is 1."""
    share_n: Array | None = None
    """P / (P + Q); None where k is 1."""
    reducible: Array | None = None
    """ln(P + Q); None where k is 1."""


def slopes(problem: Problem, points: Array, *, coupled: bool) -> Slopes:
    """At `points` (r, 6). Unless `coupled`, k is taken as 1: two exponentials and a logarithm."""
    n, d = problem.log_params, problem.log_tokens
    ln_a, ln_b, ln_e, alpha, beta, k = points.astype(n.dtype).T[:, :, None]
    by_n, by_d, floor = np.exp(ln_a - alpha * n), np.exp(ln_b - beta * d), np.exp(ln_e)
    both = by_n + by_d
    if not coupled:
        total = both + floor
        inverse = 1 / total
        return Slopes(
            predicted=np.log(total), p=by_n * inverse, q=by_d * inverse, e=floor * inverse
        )
    reducible = np.log(both)
    raised = np.exp(k * reducible)
    total = raised + floor
    inverse, share_n = 1 / total, by_n / both
    share = raised * inverse
    p = k * share * share_n
    return Slopes(
        predicted=np.log(total), p=p, q=k * share - p, e=floor * inverse, r=share * reducible,
        share_n=share_n, reducible=reducible,
    )  # fmt: skip


def evaluate(
    problem: Problem, penalty: Penalty, points: Array, which: Index, *, coupled: bool
) -> tuple[Array, Array, Array]:
    """Objective (r,), gradient (r, 6) and exact Hessian (r, 6, 6) at `points` (r, 6).

    Unless `coupled`, k is taken as 1, and its derivatives are left at zero: half of the work. Far
    from every table the powers overflow: what is then not a number is no improvement to anyone.
    """
    size = max(BLOCK // len(problem.log_params), 1)
    blocks = [slice(first, first + size) for first in range(0, len(points), size)]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = [
            _block(problem, penalty, points[block], which[block], coupled=coupled)
            for block in blocks
        ]
    if len(found) == 1:
        return found[0]
    value, gradient, hessian = (np.concatenate(part) for part in zip(*found, strict=True))
    return value, gradient, hessian


def _block(
    problem: Problem, penalty: Penalty, points: Array, which: Index, *, coupled: bool
) -> tuple[Array, Array, Array]:
    """`evaluate` for few enough replicates that its arrays stay in cache."""
    measured, weights = problem.rows(which)
    g = slopes(problem, points, coupled=coupled)
    value, slope, curvature = penalty(g.predicted, measured)
    slope, curvature = weights * slope, weights * curvature
    by = {"p": slope * g.p, "q": slope * g.q, "e": slope * g.e}
    w = _curvatures(g, by, curvature - slope)
    if g.r is not None:
        _couple(w, g, by, slope, curvature - slope, points[:, 5, None].astype(slope.dtype))
        by["r"] = slope * g.r
    return (weights * value).sum(axis=1), _gradient(by, problem), _hessian(w, problem)


def _curvatures(g: Slopes, by: dict[str, Array], excess: Array) -> dict[str, Array]:
    """Second derivatives by (ln A, ln B, ln E), run by run, where k is 1: (r, n) each.

    ln T is a logarithm of a sum of exponentials: its Hessian is diag(g) - g g'.
    """
    to_p, to_q = excess * g.p, excess * g.q
    return {
        "pp": to_p * g.p + by["p"], "qq": to_q * g.q + by["q"], "pq": to_p * g.q,
        "pe": to_p * g.e, "qe": to_q * g.e, "ee": excess * g.e * g.e + by["e"],
    }  # fmt: skip


def _couple(
    w: dict[str, Array], g: Slopes, by: dict[str, Array], slope: Array, excess: Array, k: Array
) -> None:
    """Add what k other than 1 brings to `w`, and the second derivatives by k."""
    assert g.r is not None
    assert g.share_n is not None
    assert g.reducible is not None
    more = k - 1
    by_share = by["p"] * g.share_n
    w["pq"] += more * (by["p"] - by_share)
    w["pp"] += more * by_share
    w["qq"] += more * (by["q"] - by["q"] * g.share_n)
    to_r, turn = excess * g.r, g.reducible + 1 / k
    w["rr"] = (to_r + slope * g.reducible) * g.r
    w["pr"] = to_r * g.p + by["p"] * turn
    w["qr"] = to_r * g.q + by["q"] * turn
    w["er"] = to_r * g.e


def _gradient(by: dict[str, Array], problem: Problem) -> Array:
    gradient = np.zeros((len(by["p"]), 6))
    gradient[:, (0, 3)] = by["p"] @ problem.powers_n[:, :2]
    gradient[:, (1, 4)] = by["q"] @ problem.powers_d[:, :2]
    gradient[:, 2] = by["e"].sum(axis=1)
    if "r" in by:
        gradient[:, 5] = by["r"].sum(axis=1)
    return gradient


def _hessian(w: dict[str, Array], problem: Problem) -> Array:
    """Weighted moments of the features 1, -n, -d, one matrix product a pair of parts."""
    n, d, both = problem.powers_n, problem.powers_d, problem.powers_both
    a, b, e, alpha, beta, k = range(6)
    h = np.zeros((len(w["pp"]), 6, 6))
    h[:, a, a], h[:, a, alpha], h[:, alpha, alpha] = (w["pp"] @ n).T
    h[:, b, b], h[:, b, beta], h[:, beta, beta] = (w["qq"] @ d).T
    h[:, a, b], h[:, b, alpha], h[:, a, beta], h[:, alpha, beta] = (w["pq"] @ both).T
    h[:, a, e], h[:, e, alpha] = (w["pe"] @ n[:, :2]).T
    h[:, b, e], h[:, e, beta] = (w["qe"] @ d[:, :2]).T
    h[:, e, e] = w["ee"].sum(axis=1)
    if "rr" in w:
        h[:, a, k], h[:, alpha, k] = (w["pr"] @ n[:, :2]).T
        h[:, b, k], h[:, beta, k] = (w["qr"] @ d[:, :2]).T
        h[:, e, k], h[:, k, k] = w["er"].sum(axis=1), w["rr"].sum(axis=1)
    h[:, LOWER[0], LOWER[1]] = h[:, LOWER[1], LOWER[0]]
    return h
