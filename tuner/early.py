"""From a loss in the middle of a run to its end, and whether the run can still be its shape's best.

What a run has yet to lose from a rung on is much alike among the runs of a sweep; the rest is a
trend in learning rate, size and tokens. Both are learned from the runs that completed, so that
curves are extrapolated together (Domhan et al., IJCAI 2015, take them one by one). Needs neither
ray nor optuna.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

from analysis.laws import Array
from model.progress import Progress
from tuner.space import Size, Trial

LEAST = 8
"""Completed runs from which a trend in four terms is learned, with some to judge its error by."""


class Early:
    """What the completed runs of a sweep say of those on the way."""

    def __init__(self) -> None:
        self._runs: dict[str, tuple[Trial, tuple[float, ...]]] = {}
        self._best: dict[tuple[float, Size, int], float] = {}

    def learn(self, trial: Trial, reports: Sequence[Progress]) -> None:
        """Take in a completed run; twice is once."""
        losses = tuple(progress.loss for progress in reports)
        if len(losses) < len(trial.report_steps):
            return
        self._runs[trial.key] = trial, losses
        group = _group(trial)
        self._best[group] = min(losses[-1], self._best.get(group, math.inf))

    def chance(self, trial: Trial, progress: Progress) -> float:
        """Chance that a run ends below every completed one of its budget, shape and seed.

        1 as long as none completed there, or too few did anywhere: a shape's first run goes on, so
        that every shape has one.
        """
        best = self._best.get(_group(trial))
        # By name, not in the order in which they ended: a resumed sweep has another.
        known = [
            (other, losses[rung] / losses[-1])
            for _, (other, losses) in sorted(self._runs.items())
            if (rung := _rung(other, trial, progress.step)) is not None
        ]
        if best is None or len(known) < LEAST:
            return 1.0
        places = np.array([_place(other) for other, _ in known])
        falls = np.log([fallen for _, fallen in known])
        fall, error, freedom = _foreseen(places, falls, np.array(_place(trial)))
        return float(student.cdf((math.log(best / progress.loss) + fall) / error, freedom))


def _rung(other: Trial, trial: Trial, step: int) -> int | None:
    """Which report of `other` came after the share of its run that `step` is of `trial`'s; None if
    none did: of what its parent's trunk covered a forked run reports nothing."""
    # Both shares were rounded to whole steps.
    apart = [abs(at * trial.steps - step * other.steps) for at in other.report_steps]
    nearest = min(range(len(apart)), key=apart.__getitem__)
    return nearest if apart[nearest] <= trial.steps + other.steps else None


def _foreseen(places: Array, falls: Array, where: Array) -> tuple[float, float, int]:
    """A linear trend's value at a place, its error for one run there, degrees of freedom."""
    center = places.mean(axis=0)
    terms = np.column_stack([np.ones(len(falls)), places - center])
    here = np.concatenate([[1.0], where - center])
    slopes, _, rank, _ = np.linalg.lstsq(terms, falls, rcond=None)
    left = falls - terms @ slopes
    freedom = len(falls) - int(rank)
    leverage = float(here @ np.linalg.pinv(terms.T @ terms) @ here)
    spread = math.sqrt(float(left @ left) / freedom * (1 + leverage))
    return float(here @ slopes), max(spread, 1e-9), freedom


def _place(trial: Trial) -> tuple[float, float, float]:
    """ln rate, ln N, ln D."""
    return (
        math.log(trial.question.learning_rate),
        math.log(trial.shape.params_non_embedding),
        math.log(trial.tokens),
    )


def _group(trial: Trial) -> tuple[float, Size, int]:
    asked = trial.question
    return asked.budget, asked.size, asked.seed
