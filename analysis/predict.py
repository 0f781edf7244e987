"""What to train with a given budget: weights, tokens, loss, a real shape, learning rate, batch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from analysis.cells import Cells, cells
from analysis.comparison import Fits
from analysis.laws import Array, LossLaw
from analysis.proposal import ProposedShape, Surroundings, proposed_shape
from analysis.quality import EXTRAPOLATION
from analysis.results import Fit, FitError, Interval
from analysis.runs import Runs
from analysis.serving import Deployment, deployment

NEAR_OPTIMUM = 2.5
"""Cells within this factor of a budget's best size speak for its learning rate."""
FEW_STEPS = 200
"""Below this many optimizer steps a run is decided by its batch, not by its size."""
LOSS_FITS = ("chinchilla", "skaling", "chinchilla_lad", "chinchilla_logmse", "chinchilla_mse")
"""Who is asked for a loss, in this order, where the chosen approach has none."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What to train with `budget` FLOP."""

    budget: float
    params: Estimate
    """N by the convention of the fit."""
    tokens: Estimate
    loss: Estimate | None
    """Where the loss of one such run would lie; None where no loss law could be fitted."""
    shape: ProposedShape | None
    learning_rate: float | None
    """Peak rate; None where the runs name none."""
    batch_size: int | None
    """Sequences a step; None where the runs name none."""
    approach: str
    warnings: tuple[str, ...]
    deployment: Deployment | None = None
    """The cheapest model of the same loss over a life of serving, where that was asked for."""
    deployment_shape: ProposedShape | None = None

    def to_dict(self) -> dict[str, Any]:
        """The answer of `isoflop predict --json`."""
        return {
            "budget": self.budget,
            "params": vars(self.params),
            "tokens": vars(self.tokens),
            "loss": None if self.loss is None else vars(self.loss),
            "shape": None if self.shape is None else vars(self.shape),
            "learning_rate": self.learning_rate,
            "batch_size": self.batch_size,
            "approach": self.approach,
            "warnings": list(self.warnings),
            "deployment": None if self.deployment is None else self.deployment.to_dict(),
            "deployment_shape": (
                None if self.deployment_shape is None else vars(self.deployment_shape)
            ),
        }

    def summary(self) -> str:
        """All of it for a person to read."""
        lines = [f"{self.budget:.4g} FLOP, by {self.approach}, with 95 % intervals"]
        for name, value in (("params", self.params), ("tokens", self.tokens), ("loss", self.loss)):
            if value is not None:
                bounds = f"[{value.low:.4g}, {value.high:.4g}]"
                lines.append(f"  {name:<14}{value.value:<10.4g}{bounds}")
        if self.shape is not None:
            lines.append(f"  {'shape':<14}{_shape_in_words(self.shape)}")
        for name, value in (("learning_rate", self.learning_rate), ("batch_size", self.batch_size)):
            if value is not None:
                lines.append(f"  {name:<14}{value:.3g}")
        lines += self._serving()
        return "\n".join([*lines, *(f"  ! {warning}" for warning in self.warnings)])

    def _serving(self) -> list[str]:
        """Lines on the model that is cheapest to train and serve."""
        cheapest = self.deployment
        if cheapest is None:
            return []
        more = cheapest.compute_optimal_flops / cheapest.flops
        lines = [
            f"  of the same loss, cheapest to train and to serve {cheapest.served:.4g} tokens:",
            f"  {'params':<14}{cheapest.params:.4g}",
            f"  {'tokens':<14}{cheapest.tokens:.4g}",
            f"  {'FLOP':<14}{cheapest.training_flops:.4g} training + {cheapest.serving_flops:.4g} "
            f"serving; the compute-optimal one needs {more:.3g} times as many",
        ]
        if self.deployment_shape is not None:
            lines.append(f"  {'shape':<14}{_shape_in_words(self.deployment_shape)}")
        return lines


def _shape_in_words(shape: ProposedShape) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in vars(shape).items())


def predict(
    runs: Runs, fits: Fits, budget: float, *, shape: bool = True, served: float | None = None
) -> Prediction:
    """The allocation of `budget` FLOP by the chosen approach, with intervals.

    `served` tokens, prompt and answer, over the model's life ask for the `deployment` as well: the
    model of the same loss that takes the fewest FLOPs to train and to serve.

    Raises:
        FitError: `fits` carries no bootstrap draws; or, for `served`, no law of loss.
        ValueError: `budget` is not positive, or `served` is not.
    """
    for name, value in (("budget", budget), ("served", served)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number, got {value}")
    best, points = fits.best, cells(runs)
    params, tokens = float(best.n_opt(budget)), float(best.d_opt(budget))
    source = _loss_fit(fits)
    around = surroundings(runs)
    proposed = proposed_shape(params, around) if shape else None
    cheapest = None if served is None else _deployment(source, budget, served)
    rate = trend(points, points.learning_rate, budget)
    batch = trend(points, points.batch_size, budget)
    batch_size = None if batch is None else max(round(batch), 1)
    return Prediction(
        budget=budget,
        params=_estimate(params, best.n_opt_interval(budget)),
        tokens=_estimate(tokens, best.d_opt_interval(budget)),
        loss=None if source is None else _loss(source, params, tokens),
        shape=proposed,
        learning_rate=rate,
        batch_size=batch_size,
        approach=best.name,
        deployment=cheapest,
        deployment_shape=proposed_shape(cheapest.params, around) if shape and cheapest else None,
        warnings=(
            *_warnings(fits, points, budget, tokens, batch_size, around),
            *_loss_warnings(source, best),
            *_rate_warnings(runs, proposed),
        ),
    )


def _estimate(value: float, interval: Interval) -> Estimate:
    return Estimate(value=value, low=interval[0], high=interval[1])


def _loss_fit(fits: Fits) -> Fit | None:
    """The chosen law; else the first trusted one; else the one of smallest residuals."""
    there = {fit.name: fit for fit in fits.approaches if isinstance(fit.law, LossLaw)}
    if fits.chosen in there:
        return there[fits.chosen]
    trusted = [there[x] for x in LOSS_FITS if x in there and there[x].status.state == "ok"]
    closest = sorted(there.values(), key=lambda fit: fit.noise)
    return next(iter([*trusted, *closest]), None)


def _deployment(source: Fit | None, budget: float, served: float) -> Deployment:
    if source is None or not isinstance(source.law, LossLaw):
        raise FitError("equal loss cannot be told without a law of loss: none could be fitted")
    return deployment(source.law, budget, served)


def _loss(fit: Fit, params: float, tokens: float) -> Estimate:
    value = float(fit.predict(params, tokens))
    return _estimate(value, fit.loss_prediction_interval(params, tokens))


def _loss_warnings(source: Fit | None, best: Fit) -> list[str]:
    if source is None:
        return ["no law of loss could be fitted: the loss is not predicted"]
    if source.name == best.name:
        return []
    doubt = f", which is doubtful: {source.status.reason}" if source.status.reason else ""
    return [f"{best.name} has no law of loss: the loss is {source.name}'s{doubt}"]


def _rate_warnings(runs: Runs, shape: ProposedShape | None) -> list[str]:
    """What the learning rate is a rate of, where the runs scaled theirs by width."""
    names = set(runs.table.get("parametrization", ()))
    if names not in ({"mup"}, {"completep"}):
        return []
    scale = "16 / d_model" if shape is None else f"16 / {shape.d_model} = {16 / shape.d_model:.3g}"
    return [
        "the learning rate is that of embeddings, gains and biases "
        f"({names.pop()} parametrization): hidden matrices and the head train at {scale} times it"
    ]


def surroundings(runs: Runs) -> Surroundings:
    """Vocabulary and context of the runs' largest budget, where they name them."""
    largest = runs.table.sort_values("budget").tail(1)
    known = [0, 0]
    for place, name in enumerate(("vocab_size", "context_length")):
        if name in largest.columns and largest[name].notna().all():
            known[place] = int(largest[name].iloc[0])
    return Surroundings(count=runs.count, vocab_size=known[0], context_length=known[1])


def trend(points: Cells, values: Array, budget: float) -> float | None:
    """A recipe number at `budget`, from the best cells near each budget's optimum.

    A power law in the budget where its slope is significant (95 %), else the geometric mean: two
    noisy budgets must not decide over five orders of magnitude.
    """
    known = np.isfinite(values) & (values > 0)
    best = {p: points.params[points.profile == p][points.loss[points.profile == p].argmin()]
            for p in np.unique(points.profile)}  # fmt: skip
    center = np.array([best[p] for p in points.profile])
    near = known & (np.abs(np.log(points.params / center)) < np.log(NEAR_OPTIMUM))
    if not near.any():
        return None
    x, y = np.log(points.budget[near]), np.log(values[near])
    slope = _significant_slope(x, y)
    return float(np.exp(y.mean() + slope * (np.log(budget) - x.mean())))


def _significant_slope(x: Array, y: Array) -> float:
    """Least-squares slope, or 0 where its 95 % interval holds 0 or the fit leaves no freedom."""
    if len(x) < 3 or np.ptp(x) < 0.1:
        return 0.0
    centered = x - x.mean()
    power = centered @ centered
    slope = float(y @ centered / power)
    left = y - y.mean() - slope * centered
    error = float(np.sqrt(left @ left / (len(x) - 2) / power))
    return slope if abs(slope) > student.ppf(0.975, len(x) - 2) * error else 0.0


def _warnings(
    fits: Fits, points: Cells, budget: float, tokens: float, batch_size: int | None,
    around: Surroundings,
) -> list[str]:  # fmt: skip
    found = []
    largest, smallest = float(points.budget.max()), float(points.budget.min())
    if budget > EXTRAPOLATION * largest:
        found.append(
            f"{budget / largest:.3g} times the largest budget measured ({largest:.3g} FLOP): "
            f"beyond {EXTRAPOLATION:g} times a fit is a guess that intervals do not cover"
        )
    if budget < smallest:
        found.append(f"below the smallest budget measured ({smallest:.3g} FLOP)")
    if fits.best.status.state != "ok":
        found.append(f"{fits.best.name}: {fits.best.status.reason}")
    if not around.vocab_size:
        found.append("the runs name no vocabulary: the shape's head and embeddings are not counted")
    if batch_size is not None and around.context_length:
        steps = tokens / (batch_size * around.context_length)
        if steps < FEW_STEPS:
            found.append(f"{steps:.0f} optimizer steps at batch {batch_size}: take a smaller batch")
    return found
