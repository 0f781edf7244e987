"""What a fit gives: statsmodels' names, intervals from bootstrap draws, a status in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from analysis.laws import AllocationLaw, Law, LossLaw, Value, letters
from analysis.newton import Minima

State: TypeAlias = Literal["ok", "doubtful", "skipped", "failed"]
Interval: TypeAlias = tuple[float, float]
LEVEL = 0.95
"""Coverage of intervals where none is asked for."""
REPORTED_BUDGETS: tuple[float, ...] = (1e19, 1e21, 1e23, 1e24)
"""Where N_opt and D_opt are always given, FLOP."""


class FitError(Exception):
    """A fit cannot be made, or cannot answer what was asked; says why."""


@dataclass(frozen=True, kw_only=True)
class FitStatus:
    """Whether a fit can be trusted, and if not, why, in words."""

    state: State
    reason: str = ""
    """Empty when `ok`."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of a frontier: the best N and D found at one budget."""

    budget: float
    """FLOP."""
    params: float
    tokens: float
    loss: float
    """nat/token; of the fitted minimum where the method fits one."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Evidence that an optimizer arrived."""

    gradient: float
    """Largest component of the projected gradient, relative to the objective."""
    condition: float
    """Condition number of the Hessian in logarithms and exponents, centered."""
    starts: int
    """Starts polished, drawn from a global grid."""
    reached: float
    """Share of starts that ended at the optimum."""
    positive_definite: bool
    """The Hessian is, on the coordinates that no bound holds."""
    bounds: tuple[str, ...] = ()
    """Parameters that ended on a bound."""

    @classmethod
    def of(
        cls, minima: Minima, best: int, letters: Sequence[str], *, given: Sequence[str]
    ) -> "Certificate":
        """Of starts polished on one table, of which `best` won; `given` letters were not fitted."""
        lowest, held = minima.values[best], minima.held[best]
        eigenvalues = np.linalg.eigvalsh(minima.hessians[best][np.ix_(~held, ~held)])
        definite = bool(eigenvalues[0] > 0)
        return cls(
            gradient=float(np.abs(minima.gradients[best]).max()),
            condition=float(eigenvalues[-1] / eigenvalues[0]) if definite else float("inf"),
            starts=len(minima.values),
            reached=float(np.mean(minima.values <= lowest + 1e-6 * abs(lowest) + 1e-15)),
            positive_definite=definite,
            bounds=tuple(x for x, h in zip(letters, held, strict=True) if h and x not in given),
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**vars(self), "bounds": list(self.bounds)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Certificate":
        """A certificate read back."""
        others = {name: value for name, value in record.items() if name != "bounds"}
        return cls(bounds=tuple(record["bounds"]), **others)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One approach's law, with intervals from `draws`."""

    name: str
    law: Law | None
    """None when skipped or failed."""
    status: FitStatus
    objective: float | None = None
    """What was minimized, at its minimum; `objective_name` says what it is."""
    objective_name: str = ""
    points: tuple[Point, ...] = ()
    """Profile minima or frontier points under the law; for approach 3, its optimum a budget."""
    warnings: tuple[str, ...] = ()
    certificate: Certificate | None = None
    bse: Mapping[str, float] = field(default_factory=dict)
    """Standard error of each parameter."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """95 % interval of each parameter and of `a`."""
    given: tuple[str, ...] = ()
    """Letters that were given, not fitted: a pinned irreducible loss."""
    draws: Law | None = field(default=None, compare=False, repr=False)
    """The law with one value a bootstrap replicate; None where no bootstrap was run."""
    noise: float = field(default=0.0, compare=False)
    """Standard deviation of log loss around the law: what a single new run adds."""
    at: tuple[float, ...] = REPORTED_BUDGETS
    """Budgets at which `to_dict` gives N_opt and D_opt, FLOP."""

    @property
    def params(self) -> dict[str, float]:
        """What the approach fits, by letter; empty where nothing was fitted."""
        if self.law is None:
            return {}
        return _numbers(letters(self.law))

    @property
    def fitted(self) -> Law:
        """The law. Raises `FitError` with the reason where there is none."""
        if self.law is None:
            raise FitError(f"{self.name}: {self.status.state}: {self.status.reason}")
        return self.law

    @property
    def a(self) -> float:
        """Exponent of N_opt in C."""
        return float(self.fitted.a)

    @property
    def b(self) -> float:
        """Exponent of D_opt in C."""
        return float(self.fitted.b)

    @property
    def allocation(self) -> AllocationLaw:
        """N_opt and D_opt as power laws of C, whatever was fitted."""
        law = self.fitted
        return AllocationLaw(n_coef=law.n_opt(1.0), a=law.a, d_coef=law.d_opt(1.0), b=law.b)

    def conf_int(self) -> dict[str, Interval]:
        """95 % interval of each parameter."""
        return {name: self.intervals[name] for name in self.params if name in self.intervals}

    def n_opt(self, budget: Value) -> Value:
        """Weights of lowest loss at `budget` FLOP."""
        return self.fitted.n_opt(budget)

    def d_opt(self, budget: Value) -> Value:
        """Tokens of lowest loss at `budget` FLOP."""
        return self.fitted.d_opt(budget)

    def predict(self, params: Value, tokens: Value) -> Value:
        """Loss of `params` weights after `tokens` tokens.

        Raises:
            FitError: nothing was fitted, or the approach has no law of loss.
        """
        return self._loss_law(self.fitted).loss(params, tokens)

    def n_opt_interval(self, budget: float, level: float = LEVEL) -> Interval:
        """Interval of `n_opt(budget)`."""
        return percentile_interval(self._drawn().n_opt(budget), level)

    def d_opt_interval(self, budget: float, level: float = LEVEL) -> Interval:
        """Interval of `d_opt(budget)`."""
        return percentile_interval(self._drawn().d_opt(budget), level)

    def loss_interval(self, params: float, tokens: float, level: float = LEVEL) -> Interval:
        """Confidence interval of the loss at (N, D): where the mean of many runs would lie."""
        return percentile_interval(self._loss_law(self._drawn()).loss(params, tokens), level)

    def loss_prediction_interval(
        self, params: float, tokens: float, level: float = LEVEL
    ) -> Interval:
        """Prediction interval at (N, D): where one new run would lie; same draws plus its noise."""
        drawn = np.asarray(self._loss_law(self._drawn()).loss(params, tokens))
        noise = np.random.default_rng(0).normal(0.0, self.noise, size=drawn.shape)
        return percentile_interval(drawn * np.exp(noise), level)

    def _drawn(self) -> Law:
        if self.draws is None:
            raise FitError(
                f"{self.name}: no bootstrap draws (fitted with replicates=0, or read from a file, "
                "which keeps none): fit the runs again for bands"
            )
        return self.draws

    def _loss_law(self, law: Law) -> LossLaw:
        if not isinstance(law, LossLaw):
            raise FitError(f"{self.name} fits N_opt and D_opt alone: it has no law of loss")
        return law

    def to_dict(self) -> dict[str, Any]:
        """The JSON of one approach; draws are left out."""
        known = self.law is not None
        return {
            "name": self.name,
            "params": self.params,
            "given": list(self.given),
            "objective": self.objective,
            "objective_name": self.objective_name,
            "a": self.a if known else None,
            "b": self.b if known else None,
            "se_a": self.bse.get("a"),
            "ci_a": list(self.intervals["a"]) if "a" in self.intervals else None,
            "bse": dict(self.bse),
            "ci": {name: list(pair) for name, pair in self.intervals.items()},
            "allocation": _numbers(letters(self.allocation)) if known else {},
            "points": [vars(point) for point in self.points],
            "n_opt": {key(c): float(self.n_opt(c)) for c in self.at} if known else {},
            "d_opt": {key(c): float(self.d_opt(c)) for c in self.at} if known else {},
            "status": self.status.state,
            "reason": self.status.reason,
            "warnings": list(self.warnings),
            "certificate": None if self.certificate is None else self.certificate.to_dict(),
            "noise": self.noise,
            "at": list(self.at),
            "cost": _cost(self.law),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Fit":
        """A fit read back, without draws: it answers everything but bands."""
        certificate = record["certificate"]
        return cls(
            name=record["name"],
            law=_law(record["params"], record["cost"]),
            status=FitStatus(state=record["status"], reason=record["reason"]),
            given=tuple(record["given"]),
            objective=record["objective"],
            objective_name=record["objective_name"],
            points=tuple(Point(**point) for point in record["points"]),
            warnings=tuple(record["warnings"]),
            certificate=None if certificate is None else Certificate.from_dict(certificate),
            bse=record["bse"],
            intervals={name: (low, high) for name, (low, high) in record["ci"].items()},
            noise=record["noise"],
            at=tuple(record["at"]),
        )


def _numbers(values: Mapping[str, Value]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _cost(law: Law | None) -> dict[str, float] | None:
    """What a budget counts under a law of loss: how C follows from N and D."""
    if not isinstance(law, LossLaw):
        return None
    names = ("flops_per_param_token", "cost_exponent")
    return {name: float(getattr(law, name)) for name in names}


def _law(params: Mapping[str, float], cost: Mapping[str, float] | None) -> Law | None:
    if not params:
        return None
    return AllocationLaw(**params) if cost is None else LossLaw(**params, **cost)


def key(budget: float) -> str:
    """A budget as the key of a JSON object: shortest of `1e+23` and all its digits."""
    short = f"{budget:.6g}"
    return short if float(short) == budget else repr(float(budget))


def percentile_interval(draws: Value, level: float = LEVEL) -> Interval:
    """Central interval of `draws` that holds a share `level` of them."""
    tail = 50.0 * (1.0 - level)
    values = np.asarray(draws)
    # Between two infinities nothing can be interpolated.
    method = "linear" if np.isfinite(values).all() else "nearest"
    low, high = np.percentile(values, [tail, 100.0 - tail], method=method)
    return float(low), float(high)
