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

LETTER, FEATURE = np.array([0, 1, 2, 0, 1, 3]), np.array([0, 0, 0, 1, 2, 0])
"""Coordinate by coordinate: which of p, q, e, r it acts through, times which of 1, -ln N, -ln D."""
PAIR = np.array([[0, 1, 2, 6], [1, 3, 4, 7], [2, 4, 5, 8], [6, 7, 8, 9]])[LETTER[:, None], LETTER]
PRODUCT = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])[FEATURE[:, None], FEATURE]
"""Likewise for two coordinates: which second derivative, times which product of features."""
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
    if len(problem.log_params) > BLOCK:
        found = [
            evaluate(part, penalty, points, which, coupled=coupled) for part in problem.parts(BLOCK)
        ]
        value, gradient, hessian = (np.sum(part, axis=0) for part in zip(*found, strict=True))
        return value, gradient, hessian
    size = BLOCK // len(problem.log_params)
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
    gradient, hessian = assembled(problem, points, g, weights * slope, weights * curvature)
    return (weights * value).sum(axis=1), gradient, hessian


def assembled(
    problem: Problem, points: Array, g: Slopes, slope: Array, curvature: Array
) -> tuple[Array, Array]:
    """Gradient (r, 6) and Hessian (r, 6, 6) of a weighted sum over runs.

    `slope` and `curvature` (r, n) are its derivatives by ln of the predicted loss, weights
    included.
    """
    by = [slope * g.p, slope * g.q, slope * g.e]
    second = _curvatures(g, by, curvature - slope)
    if g.r is not None:
        k = points[:, 5, None].astype(slope.dtype)
        second += _couplings(second, g, by, slope, curvature - slope, k)
        by.append(slope * g.r)
    gradient, hessian = np.zeros((len(points), 6)), np.zeros((len(points), 6, 6))
    fitted = 5 if g.r is None else 6
    gradient[:, :fitted] = _moments(by, problem)[LETTER[:fitted], :, FEATURE[:fitted]].T
    pairs = _moments(second, problem)[PAIR[:fitted, :fitted], :, PRODUCT[:fitted, :fitted]]
    hessian[:, :fitted, :fitted] = pairs.transpose(2, 0, 1)
    return gradient, hessian


def along(problem: Problem, g: Slopes, step: Array) -> Array:
    """How ln of the predicted loss moves with `step` (r, 6), to first order: (r, n)."""
    step = step.astype(g.p.dtype)
    by_n, by_d = problem.features[:, :2].T, problem.features[:, :3:2].T
    moved = g.p * (step[:, :4:3] @ by_n) + g.q * (step[:, 1:5:3] @ by_d) + g.e * step[:, 2:3]
    return moved if g.r is None else moved + g.r * step[:, 5:]


def _moments(parts: list[Array], problem: Problem) -> Array:
    """Sums over runs of each part times each feature: (parts, r, features)."""
    stacked = np.stack(parts)
    return (stacked.reshape(-1, stacked.shape[2]) @ problem.features).reshape(
        len(parts), -1, problem.features.shape[1]
    )


def _curvatures(g: Slopes, by: list[Array], excess: Array) -> list[Array]:
    """Second derivatives pp, pq, pe, qq, qe, ee, run by run, where k is 1: (r, n) each.

    ln T is a logarithm of a sum of exponentials: its Hessian is diag(g) - g g'.
    """
    to_p, to_q = excess * g.p, excess * g.q
    return [
        to_p * g.p + by[0], to_p * g.q, to_p * g.e,
        to_q * g.q + by[1], to_q * g.e, excess * g.e * g.e + by[2],
    ]  # fmt: skip


def _couplings(
    second: list[Array], g: Slopes, by: list[Array], slope: Array, excess: Array, k: Array
) -> list[Array]:
    """Second derivatives pr, qr, er, rr; and what k other than 1 brings to `second`, in place."""
    assert g.r is not None
    assert g.share_n is not None
    assert g.reducible is not None
    more, by_share = k - 1, by[0] * g.share_n
    second[0] += more * by_share
    second[1] += more * (by[0] - by_share)
    second[3] += more * (by[1] - by[1] * g.share_n)
    to_r, turn = excess * g.r, g.reducible + 1 / k
    return [
        to_r * g.p + by[0] * turn, to_r * g.q + by[1] * turn, to_r * g.e,
        (to_r + slope * g.reducible) * g.r,
    ]  # fmt: skip
