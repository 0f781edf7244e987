"""What a training says of itself while it runs: the record every backend yields. Needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands at an evaluation."""

    step: int
    """Optimizer steps done."""
    tokens: int
    """Training tokens seen, repeats counted."""
    flops: int
    """Training FLOPs spent, by the sweep's convention; evaluation is not in it."""
    flops_evaluation: int
    """FLOPs spent on evaluation so far: recorded, not charged."""
    loss: float
    """Held-out cross-entropy, nat/token. Always finite: a diverged run reports `DIVERGED_LOSS`."""
    loss_se: float
    """Standard error of `loss` over held-out documents, nat/token."""
    train_loss: float
    """Mean training loss since the last evaluation, nat/token."""
    learning_rate: float
    """Rate the schedule gave to the last step."""
    seconds: float
    """Seconds spent on training steps so far, evaluation and loading excluded."""
    final: bool = False
    """The run reached its last step (or diverged) and will yield no more."""
    diverged: bool = False
    """Loss or weights ceased to be finite; the run stopped here."""


DIVERGED_LOSS = 1e3
"""Finite stand-in for a diverged run's loss, nat/token: schedulers compare it, no fit sees it."""
