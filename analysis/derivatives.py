"""The law's objective with its exact first and second derivatives, for many tables at once.

With P = A / N^alpha, Q = B / D^beta, S = (P + Q)^k and T = S + E, ln T has the derivatives p, q, e
by ln A, ln B, ln E, and r by k; those by alpha and beta follow through the features -ln N, -ln D.
Arithmetic is done in the precision of the problem's arrays.
"""

from dataclasses import dataclass

import numpy as np

from analysis.laws import Array
from analysis.newton import Index, coordinates
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
    ln_a, ln_b, ln_e, alpha, beta, k = coordinates(points.astype(n.dtype, copy=False))[:, :, None]
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
    by_letter = [g.p, g.q, g.e] if g.r is None else [g.p, g.q, g.e, g.r]
    letters = len(by_letter)
    parts = np.empty((letters + letters * (letters + 1) // 2, *slope.shape), dtype=slope.dtype)
    by, second = parts[:letters], parts[letters:]
    for place, one in enumerate(by_letter):
        np.multiply(slope, one, out=by[place])
    excess = curvature - slope
    _curvatures(g, by, excess, second)
    if g.r is not None:
        _couplings(g, by, slope, excess, points[:, 5, None].astype(slope.dtype), second)
    moments = _moments(parts, problem)
    gradient, hessian = np.zeros((len(points), 6)), np.zeros((len(points), 6, 6))
    fitted = letters + 2
    gradient[:, :fitted] = moments[:, LETTER[:fitted], FEATURE[:fitted]]
    hessian[:, :fitted, :fitted] = moments[
        :, letters + PAIR[:fitted, :fitted], PRODUCT[:fitted, :fitted]
    ]
    return gradient, hessian


def along(problem: Problem, g: Slopes, step: Array) -> Array:
    """How ln of the predicted loss moves with `step` (r, 6), to first order: (r, n)."""
    step = step.astype(g.p.dtype)
    by_n, by_d = problem.features[:, :2].T, problem.features[:, :3:2].T
    moved = g.p * (step[:, :4:3] @ by_n) + g.q * (step[:, 1:5:3] @ by_d) + g.e * step[:, 2:3]
    return moved if g.r is None else moved + g.r * step[:, 5:]


def _moments(parts: Array, problem: Problem) -> Array:
    """Sums over runs of each part (parts, r, n) times each feature: (r, parts, features)."""
    count, replicates, runs = parts.shape
    moments = parts.reshape(-1, runs) @ problem.features
    return moments.reshape(count, replicates, -1).transpose(1, 0, 2)


def _curvatures(g: Slopes, by: Array, excess: Array, out: Array) -> None:
    """Second derivatives pp, pq, pe, qq, qe, ee, where k is 1: the first six of `out` (…, r, n).

    ln T is a logarithm of a sum of exponentials: its Hessian is diag(g) - g g'.
    """
    to_p, to_q, to_e = excess * g.p, excess * g.q, excess * g.e
    for place, (left, right) in enumerate(
        ((to_p, g.p), (to_p, g.q), (to_p, g.e), (to_q, g.q), (to_q, g.e), (to_e, g.e))
    ):
        np.multiply(left, right, out=out[place])
    for diagonal, first in zip((0, 3, 5), by, strict=False):
        out[diagonal] += first


def _couplings(g: Slopes, by: Array, slope: Array, excess: Array, k: Array, out: Array) -> None:
    """What k other than 1 brings to the first six of `out`; then pr, qr, er, rr."""
    assert g.r is not None
    assert g.share_n is not None
    assert g.reducible is not None
    more, by_share = k - 1, by[0] * g.share_n
    out[0] += more * by_share
    out[1] += more * (by[0] - by_share)
    out[3] += more * (by[1] - by[1] * g.share_n)
    to_r, turn = excess * g.r, g.reducible + 1 / k
    np.add(to_r * g.p, by[0] * turn, out=out[6])
    np.add(to_r * g.q, by[1] * turn, out=out[7])
    np.multiply(to_r, g.e, out=out[8])
    np.multiply(to_r + slope * g.reducible, g.r, out=out[9])
