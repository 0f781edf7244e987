"""What one run is asked: six numbers, whether they are allowed, and the exact trial they buy."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Self

from cluster.service.refusals import OutOfRange
from cluster.service.settings import Ranges, Settings
from tuner import ladder
from tuner.config import digest
from tuner.question import Question
from tuner.reports import affordable, report_steps
from tuner.space import Trial


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A configuration as the course's API knows it; two that are equal are one run."""

    d_model: int
    num_layers: int
    num_heads: int
    batch_size: int
    """Sequences a step."""
    learning_rate: float
    """Peak rate."""
    train_flops: int
    """FLOP: what is charged, whatever whole steps use of it."""

    @classmethod
    def from_key(cls, key: str) -> Self:
        """The configuration that has this key."""
        return cls(**json.loads(key))

    @property
    def key(self) -> str:
        """One text for one configuration."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def digest(self) -> str:
        """A short name for it, fit for a file."""
        return digest(self.key)


def check(asked: Configuration, ranges: Ranges) -> None:
    """Hold a configuration against what may be asked.

    Raises:
        OutOfRange: a value may not; the first of them is named.
    """
    for name in ("d_model", "num_layers", "num_heads"):
        _within(name, getattr(asked, name), getattr(ranges, name))
    _among("batch_size", asked.batch_size, ranges.batch_size)
    _within("learning_rate", asked.learning_rate, ranges.learning_rate)
    _among("train_flops", asked.train_flops, ranges.train_flops)


def trial(settings: Settings, asked: Configuration, vocab_size: int, most_tokens: float) -> Trial:
    """The exact trial that answers a configuration.

    Args:
        settings: of the service.
        asked: within its ranges.
        vocab_size: distinct tokens.
        most_tokens: that a trial may see.

    Raises:
        OutOfRange: it has no whole head size (where it is trained), buys no whole step, or needs
            more text than there is.
    """
    sweep, heads = settings.sweep, asked.num_heads
    if asked.d_model % heads:
        if settings.backend == "train":
            raise OutOfRange(
                f"d_model must be a multiple of num_heads, got {asked.d_model} and {heads}"
            )
        heads = 1  # the course's service took it; no count depends on heads
    question = Question(
        budget=float(asked.train_flops), size=(asked.num_layers, asked.d_model),
        learning_rate=asked.learning_rate, number=0, seed=sweep.seed, batch_size=asked.batch_size,
    )  # fmt: skip
    shape = replace(ladder.shape(sweep, question.size, vocab_size), num_heads=heads)
    per_step = shape.flops_per_step(asked.batch_size, sweep.convention)
    steps = asked.train_flops // per_step
    if not steps:
        raise OutOfRange(
            f"train_flops {asked.train_flops} buys no whole step of this model: one takes "
            f"{per_step}; ask for more FLOPs or a smaller model"
        )
    found = Trial(
        question=question, shape=shape, batch_size=asked.batch_size,
        weight_decay=sweep.training.weight_decay, steps=steps, flops_per_step=per_step,
        report_steps=(steps,),
    )  # fmt: skip
    if found.tokens > most_tokens:
        raise OutOfRange(
            f"train_flops {asked.train_flops} buys {found.tokens} tokens, the corpus has "
            f"{most_tokens:.0f}; ask for fewer FLOPs or a larger model"
        )
    count = affordable(found, sweep.data.held_out_tokens)
    return replace(found, report_steps=report_steps(found, count))


def _within(name: str, value: float, limits: tuple[float, float]) -> None:
    low, high = limits
    if not low <= value <= high:  # NaN is not either
        raise OutOfRange(f"{name} must be in range [{low}, {high}], got {_shown(value)}")


def _among(name: str, value: int, choices: tuple[int, ...]) -> None:
    if value not in choices:
        listed = ", ".join(map(str, choices))
        raise OutOfRange(f"{name} must be one of [{listed}], got {_shown(value)}")


def _shown(value: float) -> str:
    text = str(value)
    return text if len(text) <= SHOWN_DIGITS else f"{text[:SHOWN_DIGITS]}…"


SHOWN_DIGITS = 40
"""Of a wrong value, in a message."""
