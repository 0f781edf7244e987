"""Every approach on one table of runs, side by side, with their disagreement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.results import Certificate, Fit, FitError, FitStatus, Point
from analysis.runs import Dropped, Runs

__all__ = ["APPROACHES", "Certificate", "Fit", "FitError", "FitStatus", "Fits", "Point", "fit"]

APPROACHES: tuple[str, ...] = (
    "argmin", "argmin_raw", "parabola", "akima", "cubic", "envelope",
    "chinchilla", "chinchilla_lad", "chinchilla_logmse", "chinchilla_mse", "skaling",
)  # fmt: skip
"""All of them, in the order in which they are run and shown."""


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """How far apart the approaches are at one budget."""

    budget: float
    """FLOP."""
    ratio: float
    """Largest N_opt over smallest."""
    lowest: str
    """Approach of the smallest N_opt."""
    highest: str
    """Approach of the largest N_opt."""
    extra_flops: Mapping[str, float]
    """Share of the budget wasted by following each approach, were the chosen loss law true."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Extrapolation cross-validation: fit the smaller budgets, predict the larger ones."""

    approach: str
    error: float
    """Root mean square error of log loss on held-out runs, mean over folds."""
    folds: int


@dataclass(frozen=True, kw_only=True)
class Fits:
    """What `fit` gives."""

    n: int
    """Points fitted: one a (budget, shape), at its best learning rate."""
    dropped: tuple[Dropped, ...]
    approaches: tuple[Fit, ...]
    chosen: str
    """Name of the approach to follow; empty when none could be fitted."""
    chosen_because: str
    """Why, in words."""
    disagreement: tuple[Disagreement, ...] = ()
    validation: tuple[Validation, ...] = ()
    source: str = ""
    warnings: tuple[str, ...] = field(default=())

    def __getitem__(self, name: str) -> Fit:
        """The fit of one approach."""
        return next(fit for fit in self.approaches if fit.name == name)

    @property
    def best(self) -> Fit:
        """The chosen approach's fit."""
        return self[self.chosen]

    def to_dict(self) -> dict[str, Any]:
        """The answer of `isoflop fit --json`."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Fits":
        """Fits read back, without draws."""
        raise NotImplementedError

    def summary(self) -> str:
        """All of it for a person to read."""
        raise NotImplementedError


def fit(
    runs: Runs,
    *,
    approaches: Sequence[str] | None = None,
    at: Sequence[float] = (),
    replicates: int = 1000,
    seed: int = 0,
) -> Fits:
    """Fit every approach (or those named) to `runs`.

    `at` names more budgets at which N_opt and D_opt are wanted, FLOP; `replicates` bootstrap
    draws give the intervals.
    """
    raise NotImplementedError
