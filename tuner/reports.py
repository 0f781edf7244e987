"""How often a lone training is evaluated and saved. Needs no torch."""

from tuner.space import Trial

EVALUATION_SHARE = 0.05
"""Of training's FLOPs that evaluation may take where nobody says how often to report."""


def affordable(trial: Trial, held_out_tokens: int) -> int:
    """Reports whose evaluations, a forward pass each, keep to their share; 4 at least."""
    count = EVALUATION_SHARE * 3 * trial.tokens / held_out_tokens
    return min(100, max(4, round(count)))


def report_steps(trial: Trial, reports: int) -> tuple[int, ...]:
    """Steps after which a trial reports, evenly spaced; the last is its last."""
    steps = {-(-trial.steps * number // reports) for number in range(1, reports + 1)}
    return tuple(sorted(steps))
