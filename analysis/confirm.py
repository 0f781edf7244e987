"""One run beyond all others, held against what was predicted of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from analysis.trend import Estimate


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """What was predicted of a run before it was made, and what came out."""

    budget: float
    """FLOP."""
    largest: float
    """Largest budget that the prediction knew, FLOP."""
    num_layers: int
    d_model: int
    params: float
    """N by the convention of the fit."""
    tokens: float
    learning_rate: float
    batch_size: int
    """Sequences a step."""
    predicted: Estimate
    """Loss of one such run with its 95 % interval, nat/token."""
    measured: float
    """Loss, nat/token."""
    approach: str
    """Whose prediction it is."""

    @property
    def inside(self) -> bool:
        """Does the interval hold the loss measured?"""
        return self.predicted.low <= self.measured <= self.predicted.high

    @property
    def off(self) -> float:
        """Measured loss over the predicted one, less 1."""
        return self.measured / self.predicted.value - 1

    def to_dict(self) -> dict[str, Any]:
        """As `isoflop confirm --json` prints it."""
        return {**asdict(self), "inside": self.inside}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Confirmation":
        """A confirmation read back."""
        predicted = Estimate(**record["predicted"])
        others = {x: value for x, value in record.items() if x not in {"inside", "predicted"}}
        return cls(predicted=predicted, **others)

    def summary(self) -> str:
        """All of it for a person to read."""
        low, high = self.predicted.low, self.predicted.high
        return (
            f"{self.num_layers}x{self.d_model} at {self.budget:.4g} FLOP, "
            f"{self.budget / self.largest:.3g} times the largest budget of the sweep\n"
            f"  predicted     {self.predicted.value:.4f} [{low:.4f}, {high:.4f}] by "
            f"{self.approach}\n"
            f"  measured      {self.measured:.4f}, {self.off:+.2%}: {self.verdict}"
        )

    @property
    def verdict(self) -> str:
        """In words, whether the prediction stands."""
        if self.inside:
            return "inside the 95 % interval"
        side = "above" if self.off > 0 else "below"
        return f"{side} the 95 % interval: do not trust the law this far out"
