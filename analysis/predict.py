"""What to train with a given budget: weights, tokens, loss, a real shape, learning rate, batch."""

from dataclasses import dataclass
from typing import Any

from analysis.fit import Fits
from analysis.runs import Runs


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ProposedShape:
    """A decoder near the asked number of weights. Feed-forward width is 4 · d_model."""

    d_model: int
    num_layers: int
    num_heads: int
    d_ff: int
    params: int
    """Weights by the convention of the fit."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What to train with `budget` FLOP."""

    budget: float
    params: Estimate
    """N by the convention of the fit."""
    tokens: Estimate
    loss: Estimate | None
    """None where no loss law could be fitted."""
    shape: ProposedShape | None
    learning_rate: float | None
    """Peak rate; None where the runs name none."""
    batch_size: int | None
    """Sequences a step; None where the runs name none."""
    approach: str
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The answer of `isoflop predict --json`."""
        raise NotImplementedError

    def summary(self) -> str:
        """All of it for a person to read."""
        raise NotImplementedError


def predict(runs: Runs, fits: Fits, budget: float, *, shape: bool = True) -> Prediction:
    """The allocation of `budget` FLOP by the chosen approach, with intervals."""
    raise NotImplementedError
