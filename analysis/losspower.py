"""L(N), L(D), L(C): loss as a power law of one quantity, with and without a floor.

ln L = ln(E + c · x^-p) by least squares, every bootstrap replicate from its own grid over E and
finished by Newton's method: Kaplan et al. (arXiv 2001.08361), section 1.2; the floor is that of
Henighan et al. (arXiv 2010.14701).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from analysis import wording
from analysis.cells import ONE_BUDGET, Cells
from analysis.laws import Array, Value
from analysis.newton import Index, Minima, coordinates, minimize
from analysis.powerlaw import log_fit
from analysis.results import Certificate, FitError, FitStatus, Interval, percentile_interval
from analysis.uncertainty import UNIDENTIFIED_SHARE, redrawn, residuals

Variable: TypeAlias = Literal["params", "tokens", "budget"]
FLOORS = np.array([1e-4, 0.02, 0.2, 0.4, 0.55, 0.7, 0.8, 0.88, 0.94, 0.98])
"""Shares of the lowest loss from which E is searched."""
NO_FLOOR = -700.0
"""ln of an E that is none."""
AMPLE = 2.0
"""How far the other quantity may differ between the best runs of L(N) or L(D): a factor."""
LETTERS = ("E", "coef", "exponent")


@dataclass(frozen=True, kw_only=True)
class LossPower:
    """L(x) = E + coef · x^-exponent; numbers, or a draw an element."""

    E: Value
    """nat/token; 0 where no floor was fitted."""
    coef: Value
    exponent: Value

    def loss(self, x: Value) -> Value:
        """Loss at `x`, nat/token."""
        return self.E + self.coef * x**-self.exponent


@dataclass(frozen=True, kw_only=True)
class LossPowerFit:
    """A power law through the best loss of each level of one quantity."""

    variable: Variable
    law: LossPower
    floor: bool
    """Whether E was fitted; else it is 0."""
    objective: float
    """Mean squared error of ln loss."""
    levels: int
    status: FitStatus
    certificate: Certificate
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """95 %, by letter; empty without a bootstrap."""
    draws: LossPower | None = field(default=None, compare=False, repr=False)

    @property
    def params(self) -> dict[str, float]:
        """What was fitted, by letter."""
        letters = LETTERS if self.floor else LETTERS[1:]
        return {letter: float(getattr(self.law, letter)) for letter in letters}

    def predict(self, x: Value) -> Value:
        """Loss at `x` weights, tokens or FLOP, nat/token."""
        return self.law.loss(x)

    def prediction_interval(self, x: float) -> Interval:
        """95 % of where one new run at `x` would lie: the draws plus the noise of the levels.

        Raises:
            FitError: it was fitted without a bootstrap, or read from a file, which keeps none.
        """
        if self.draws is None:
            raise FitError(f"L({wording.LETTER[self.variable]}): no bootstrap draws")
        drawn = np.asarray(self.draws.loss(x))
        free = max(self.levels - len(self.params), 1)
        noise = float(np.sqrt(self.objective * self.levels / free))
        added = np.random.default_rng(0).normal(0.0, noise, size=drawn.shape)
        return percentile_interval(drawn * np.exp(added))

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; draws are left out."""
        return {
            "variable": self.variable, "floor": self.floor, "params": self.params,
            "objective": self.objective, "levels": self.levels, "status": self.status.state,
            "reason": self.status.reason, "certificate": self.certificate.to_dict(),
            "intervals": {letter: list(ends) for letter, ends in self.intervals.items()},
        }  # fmt: skip

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "LossPowerFit":
        """A fit read back."""
        return cls(
            variable=record["variable"], floor=record["floor"],
            law=LossPower(**{"E": 0.0, **record["params"]}),
            objective=record["objective"], levels=record["levels"],
            status=FitStatus(state=record["status"], reason=record["reason"]),
            certificate=Certificate.from_dict(record["certificate"]),
            intervals={name: (low, high) for name, (low, high) in record["intervals"].items()},
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LossPowers:
    """The power laws that a table supports."""

    fits: tuple[LossPowerFit, ...] = ()
    """Of each quantity without a floor, then with one."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Why there is none, by its name in words."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"fits": [fit.to_dict() for fit in self.fits], "left_out": dict(self.left_out)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "LossPowers":
        """Laws read back."""
        fits = tuple(LossPowerFit.from_dict(fit) for fit in record["fits"])
        return cls(fits=fits, left_out=record["left_out"])


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """The best loss at each level of one quantity."""

    x: Array
    """Levels, smallest first: (n,)."""
    loss: Array
    """nat/token: (n,)."""
    params: Array
    """N of the best run of each level: (n,)."""
    tokens: Array
    """Likewise its D: (n,)."""


def frontier(cells: Cells, variable: Variable) -> Frontier:
    """The best run of each level of `variable`; of budgets, those that no smaller one beats."""
    values = cells.budgets[cells.profile] if variable == "budget" else getattr(cells, variable)
    level = np.round(np.log(values), 2)  # tables round their counts
    order = np.lexsort((cells.loss, level))
    first = order[np.unique(level[order], return_index=True)[1]]
    if variable == "budget":
        loss = cells.loss[first]
        first = first[loss <= np.minimum.accumulate(loss)]
    return Frontier(
        x=values[first], loss=cells.loss[first], params=cells.params[first],
        tokens=cells.tokens[first],
    )  # fmt: skip


def loss_powers(cells: Cells, replicates: int, seed: np.random.SeedSequence) -> LossPowers:
    """L(N), L(D), L(C), each without and with a floor.

    A law of one quantity means something where the other was ample: L(N) and L(D) are left out
    where the best runs of the levels differ in the other too, as along an isoFLOP profile.
    """
    fits: list[LossPowerFit] = []
    left_out: dict[str, str] = {}
    for variable, stream in zip(get_args(Variable), seed.spawn(3), strict=True):
        name, points = f"L({wording.LETTER[variable]})", frontier(cells, variable)
        if refused := _refused(variable, points):
            left_out[name] = refused
            continue
        floors = (False, True) if len(points.x) >= needed(floor=True) else (False,)
        rng = np.random.default_rng(stream)
        for floor in floors:
            try:
                fits.append(_fitted(variable, points, floor, cells.noise, replicates, rng))
            except FitError as error:
                left_out[f"{name} over a floor" if floor else name] = str(error)
    return LossPowers(fits=tuple(fits), left_out=left_out)


def needed(floor: bool) -> int:
    """Levels that leave at least one degree of freedom."""
    return 4 if floor else 3


def loss_power(x: Array, loss: Array, *, floor: bool) -> LossPower:
    """The law alone, through levels `x` (n,) of `loss` (n,), nat/token.

    Raises:
        FitError: too few levels, or Newton's method did not arrive.
    """
    return _solve(x, loss, floor)[0]


def _refused(variable: Variable, points: Frontier) -> str:
    """Why there is no law of `variable`; empty where there can be one."""
    if len(points.x) < needed(floor=False):
        return f"needs at least {needed(floor=False)} levels, got {len(points.x)}"
    if np.ptp(np.log(points.x)) < ONE_BUDGET:
        return f"its {len(points.x)} levels lie within 5 % of each other"
    if variable == "budget":
        return ""
    other = "tokens" if variable == "params" else "params"
    values = getattr(points, other)
    if values.max() <= AMPLE * values.min():
        return ""
    return f"the best runs differ in {other} too, from {values.min():.3g} to {values.max():.3g}"


def _fitted(
    variable: Variable, points: Frontier, floor: bool, noise: float, replicates: int,
    rng: np.random.Generator,
) -> LossPowerFit:  # fmt: skip
    law, certificate = _solve(points.x, points.loss, floor)
    left = np.log(points.loss / law.loss(points.x))
    drawn = _draws(points, law, floor, noise, replicates, rng)
    draws = _law(drawn.points, points.x) if drawn else None
    letters = LETTERS if floor else LETTERS[1:]
    return LossPowerFit(
        variable=variable, law=law, floor=floor, objective=float(np.mean(left**2)),
        levels=len(points.x), status=_status(certificate, drawn, floor), certificate=certificate,
        draws=draws,
        intervals={x: percentile_interval(getattr(draws, x)) for x in letters} if draws else {},
    )  # fmt: skip


def _status(certificate: Certificate, drawn: Minima | None, floor: bool) -> FitStatus:
    doubts = [f"{letter} ended on its bound" for letter in certificate.bounds]
    if not certificate.positive_definite:
        doubts.append("the Hessian at the optimum is not positive definite")
    if drawn is not None:
        held = drawn.held[:, 0 if floor else 1 :].any(axis=1) | ~drawn.converged
        if held.mean() > UNIDENTIFIED_SHARE:
            doubts.append(f"{held.mean():.0%} of bootstrap draws end on a bound")
    return FitStatus(state="doubtful" if doubts else "ok", reason="; ".join(doubts))


def _draws(
    points: Frontier, law: LossPower, floor: bool, noise: float, replicates: int,
    rng: np.random.Generator,
) -> Minima | None:  # fmt: skip
    """The optimum on new residuals, never below the `noise` of ln loss known from elsewhere.

    None without a bootstrap.
    """
    if replicates < 2:
        return None
    z = np.log(points.x) - np.log(points.x).mean()
    power = np.asarray(law.coef * points.x**-law.exponent)
    share = power / (law.E + power)
    jacobian = np.column_stack([1 - share, share, -z * share])[:, 0 if floor else 1 :]
    each = np.arange(len(z))
    predicted = np.log(law.loss(points.x))
    left = residuals(np.log(points.loss), predicted, jacobian, each, floor=noise)
    drawn = redrawn(left, each, "residual", replicates, rng)
    starts, errors = _starts(z, np.exp(drawn), floor)
    return _minimize(z, drawn, starts[errors.argmin(axis=0), np.arange(replicates)], floor)


def _solve(x: Array, loss: Array, floor: bool) -> tuple[LossPower, Certificate]:
    """The optimum on one table, and the evidence for it."""
    if len(x) < needed(floor):
        kind = "with" if floor else "without"
        raise FitError(
            f"a power law {kind} a floor needs at least {needed(floor)} levels, got {len(x)}"
        )
    z = np.log(x) - np.log(x).mean()
    starts = _starts(z, loss[None], floor)[0][:, 0]
    found = _minimize(z, np.log(loss)[None], starts, floor)
    best = found.best()
    if best is None:
        raise FitError("Newton's method did not arrive: the levels do not bend as a power law does")
    law = _law(found.points[best], x)
    proof = Certificate.of(found, best, LETTERS, given=() if floor else ("E",))
    return LossPower(**{name: float(value) for name, value in vars(law).items()}), proof


def _law(points: Array, x: Array) -> LossPower:
    """From coordinates (..., 3), centered on ln `x`, to the law."""
    ln_e, ln_c, exponent = coordinates(points)
    E = np.where(ln_e > NO_FLOOR, np.exp(ln_e), 0.0)
    return LossPower(E=E, coef=np.exp(ln_c + exponent * np.log(x).mean()), exponent=exponent)


def _starts(z: Array, loss: Array, floor: bool) -> tuple[Array, Array]:
    """For each E tried, the line through ln(loss - E): (tried, r, 3), and its errors (tried, r)."""
    lowest = loss.min(axis=1, keepdims=True)
    points: list[Array] = []
    errors: list[Array] = []
    for share in FLOORS if floor else (0.0,):
        under = share * lowest
        coef, slope = log_fit(np.exp(z), loss - under)
        ln_e = np.log(under[:, 0]) if floor else np.full(len(loss), NO_FLOOR)
        points.append(np.column_stack([ln_e, np.log(coef), -slope]))
        again = under + coef[:, None] * np.exp(slope[:, None] * z)
        errors.append((np.log(loss / again) ** 2).sum(axis=1))
    return np.stack(points), np.stack(errors)


def _minimize(z: Array, log_loss: Array, starts: Array, floor: bool) -> Minima:
    """Newton's method on every row of `log_loss` (r, n), or on one row from every start (r, 3)."""
    lowest = log_loss.min(axis=1)
    lower = np.tile([NO_FLOOR, -50.0, 1e-3], (len(starts), 1))
    upper = np.tile([NO_FLOOR, 50.0, 3.0], (len(starts), 1))
    if floor:
        lower[:, 0], upper[:, 0] = lowest + np.log(FLOORS[0]), lowest
    return minimize(partial(_evaluate, z, log_loss), starts, lower, upper)


def _evaluate(z: Array, log_loss: Array, points: Array, which: Index) -> tuple[Array, Array, Array]:
    """Half the squares of ln loss (r,), their gradient (r, 3) and Hessian (r, 3, 3)."""
    measured = log_loss if len(log_loss) == 1 else log_loss[which]
    ln_e, ln_c, exponent = coordinates(points)[:, :, None]
    power = ln_c - exponent * z
    predicted = np.logaddexp(ln_e, power)
    share = np.exp(power - predicted)
    left = predicted - measured
    slopes = np.stack([1 - share, share, -z * share], axis=1)  # (r, 3, runs)
    turns = np.stack([-np.ones_like(z), np.ones_like(z), -z])  # (3, runs)
    bend = left * share * (1 - share)
    hessian = np.einsum("rin,rjn->rij", slopes, slopes) + np.einsum(
        "in,jn,rn->rij", turns, turns, bend
    )
    return 0.5 * (left**2).sum(axis=1), np.einsum("rin,rn->ri", slopes, left), hessian
