"""What to train with a given budget: weights, tokens, loss, a real shape, learning rate, batch."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.cells import Cells, cells
from analysis.comparison import Fits
from analysis.expected import Expected, expected_loss, law_of_loss
from analysis.laws import LossLaw
from analysis.proposal import ProposedShape, Surroundings, proposed_shape
from analysis.quality import EXTRAPOLATION, table_warnings
from analysis.results import Fit, FitError, Interval
from analysis.runs import Runs
from analysis.serving import Deployment, deployment
from analysis.trend import Estimate, spacing, trend

FEW_STEPS = 200
"""Below this many optimizer steps a run is decided by its batch, not by its size."""


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
    unsound: tuple[str, ...] = ()
    """Those of the warnings, the first ones, that no law of these runs survives."""
    deployment: Deployment | None = None
    """The cheapest model of the same loss over a life of serving, where that was asked for."""
    deployment_shape: ProposedShape | None = None
    shape_interval: tuple[ProposedShape, ProposedShape] | None = None
    """Shapes at both ends of the interval of N."""
    learning_rate_interval: Interval | None = None
    """95 %, and no narrower than the rates that were tried."""
    batch_size_interval: Interval | None = None
    """Likewise; None where the batch was given, not searched."""

    def to_dict(self) -> dict[str, Any]:
        """The answer of `isoflop predict --json`."""
        return {
            "budget": self.budget,
            "params": vars(self.params),
            "tokens": vars(self.tokens),
            "loss": None if self.loss is None else vars(self.loss),
            "shape": None if self.shape is None else vars(self.shape),
            "shape_interval": self.shape_interval and [vars(end) for end in self.shape_interval],
            "learning_rate": self.learning_rate,
            "learning_rate_interval": self.learning_rate_interval,
            "batch_size": self.batch_size,
            "batch_size_interval": self.batch_size_interval,
            "approach": self.approach,
            "warnings": list(self.warnings),
            "unsound": list(self.unsound),
            "deployment": None if self.deployment is None else self.deployment.to_dict(),
            "deployment_shape": (
                None if self.deployment_shape is None else vars(self.deployment_shape)
            ),
        }

    def summary(self) -> str:
        """All of it for a person to read."""
        lines = [f"not sound: {why}" for why in self.unsound]
        lines.append(f"{self.budget:.4g} FLOP, by {self.approach}, with 95 % intervals")
        for name, value in (("params", self.params), ("tokens", self.tokens), ("loss", self.loss)):
            if value is not None:
                bounds = f"[{value.low:.4g}, {value.high:.4g}]"
                lines.append(f"  {name:<14}{value.value:<10.4g}{bounds}")
        if self.shape is not None:
            lines.append(f"  {'shape':<14}{_shape_in_words(self.shape)}")
        for name, value, interval in (
            ("learning_rate", self.learning_rate, self.learning_rate_interval),
            ("batch_size", self.batch_size, self.batch_size_interval),
        ):
            if value is not None:
                bounds = f"[{interval[0]:.3g}, {interval[1]:.3g}]" if interval else ""
                lines.append(f"  {name:<14}{value:<10.3g}{bounds}".rstrip())
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
    expected = expected_loss(fits, budget, params, tokens)
    loss = None if expected is None else expected.loss
    around = surroundings(runs)
    proposed = proposed_shape(params, around) if shape else None
    cheapest = None if served is None else _deployment(law_of_loss(fits), budget, served)
    interval = best.n_opt_interval(budget)
    apart = {name: spacing(runs, name) for name in ("learning_rate", "batch_size")}
    rate = trend(points, points.learning_rate, budget, spacing=apart["learning_rate"])
    batch = trend(points, points.batch_size, budget, spacing=apart["batch_size"])
    batch_size = None if batch is None else max(round(batch.value), 1)
    return Prediction(
        budget=budget,
        params=_estimate(params, interval),
        tokens=_estimate(tokens, best.d_opt_interval(budget)),
        loss=loss,
        shape=proposed,
        shape_interval=(
            (proposed_shape(interval[0], around), proposed_shape(interval[1], around))
            if shape and np.isfinite(interval).all() and interval[0] > 1
            else None
        ),
        learning_rate=rate.value if rate else None,
        learning_rate_interval=_searched(rate, apart["learning_rate"]),
        batch_size=batch_size,
        batch_size_interval=_searched(batch, apart["batch_size"]),
        approach=best.name,
        deployment=cheapest,
        deployment_shape=proposed_shape(cheapest.params, around) if shape and cheapest else None,
        unsound=fits.unsound,
        warnings=(
            *fits.unsound,
            *_of_the_table(runs, points),
            *_warnings(fits, points, budget, tokens, batch_size, around),
            *_loss_warnings(fits, expected),
            *_no_gain(loss, points, budget),
            *_rate_warnings(runs, proposed),
        ),
    )


def _of_the_table(runs: Runs, points: Cells) -> tuple[str, ...]:
    """What is amiss with somebody's table; a sweep says it of its own runs, in its own words."""
    return table_warnings(runs, points) if runs.count == "as given" else ()


def _estimate(value: float, interval: Interval) -> Estimate:
    return Estimate(value=value, low=interval[0], high=interval[1])


def _searched(found: Estimate | None, spacing: float) -> Interval | None:
    """The interval of what was searched; what was given has none."""
    return (found.low, found.high) if found and spacing else None


def _deployment(source: Fit | None, budget: float, served: float) -> Deployment:
    if source is None or not isinstance(source.law, LossLaw):
        raise FitError("equal loss cannot be told without a law of loss: none could be fitted")
    return deployment(source.law, budget, served)


def _loss_warnings(fits: Fits, expected: Expected | None) -> list[str]:
    if expected is None:
        return ["no law of loss could be fitted: the loss is not predicted"]
    if expected.approach == fits.chosen:
        return []
    doubt = f", which is doubtful: {expected.doubt}" if expected.doubt else ""
    curve = ", the curve of the budgets' lowest losses" if expected.approach == "L(C)" else ""
    return [
        f"{fits.chosen} gives sizes, not losses: the loss is from {expected.approach}{curve}{doubt}"
    ]


def _no_gain(loss: Estimate | None, points: Cells, budget: float) -> list[str]:
    """A larger budget that is said to reach no lower loss: the law is wrong there."""
    below = points.loss[points.budget < budget]
    if loss is None or not len(below) or loss.value < below.min():
        return []
    return [
        f"the loss is not below the {below.min():.4g} that was measured at a smaller budget: the "
        "law of loss does not hold here"
    ]


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
    doubts = [x for x in fits.best.status.reason.split("; ") if x and x not in fits.unsound]
    if doubts:
        found.append(f"{fits.best.name}: {'; '.join(doubts)}")
    if not around.vocab_size:
        found.append("the runs name no vocabulary: the shape's head and embeddings are not counted")
    if batch_size is not None and around.context_length:
        steps = tokens / (batch_size * around.context_length)
        if steps < FEW_STEPS:
            found.append(f"{steps:.0f} optimizer steps at batch {batch_size}: take a smaller batch")
    return found
