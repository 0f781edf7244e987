"""From a budget to what may be tried at it, and to a trial's exact steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Self

from model.shape import Shape
from tuner.config import ConfigError, Sweep, digest
from tuner.grid import crossings, whole_steps
from tuner.ladder import Size, built, shape

if TYPE_CHECKING:
    from tuner.recording import Recording


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a trial is asked: with the sweep, all that its row is a function of."""

    budget: float
    """FLOP."""
    size: Size
    """(num_layers, d_model)."""
    learning_rate: float
    number: int
    """Counts the rates tried at this (budget, size) from 0."""
    seed: int
    """Of weights and data order."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """A question from its fields, `size` as any pair."""
        return cls(**_sized(fields))

    @property
    def key(self) -> str:
        """Its trial's name within the sweep."""
        layers, width = self.size
        return f"{self.budget:g}-{layers}x{width}-r{self.number}-s{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A question whose learning rate may still be open."""

    budget: float
    """FLOP."""
    size: Size
    """(num_layers, d_model)."""
    number: int
    """Counts the rates tried at this (budget, size) from 0."""
    seed: int
    """Of weights and data order."""
    rate: float | None = None
    """Learning rate; None leaves it to the search."""

    def asked(self, learning_rate: float) -> Question:
        """The question, its rate settled."""
        return Question(
            budget=self.budget, size=self.size, number=self.number, seed=self.seed,
            learning_rate=learning_rate,
        )  # fmt: skip

    @property
    def key(self) -> str:
        """Its trial's name within the sweep."""
        return self.asked(0.0).key

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """A cell from its fields, `size` as any pair."""
        return cls(**_sized(fields))


def _sized(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that went through JSON, where a pair is a list."""
    layers, width = fields["size"]
    return {**fields, "size": (layers, width)}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training, exactly."""

    question: Question
    shape: Shape
    batch_size: int
    """Sequences a step."""
    steps: int
    """The most whole optimizer steps whose FLOPs fit in the budget."""
    flops_per_step: int
    """By the sweep's convention."""
    report_steps: tuple[int, ...]
    """Steps after which the trial is evaluated; the last is `steps`."""

    @property
    def key(self) -> str:
        """Name within the sweep."""
        return self.question.key

    @property
    def flops(self) -> int:
        """FLOPs of the whole run: at most `budget`, and less by less than one step."""
        return self.steps * self.flops_per_step

    @property
    def tokens(self) -> int:
        """Training tokens of the whole run."""
        return self.steps * self.batch_size * self.shape.context_length

    def next_report(self, step: int) -> int:
        """The first step after `step` at which the trial reports."""
        return next(at for at in self.report_steps if at > step)


def trial(sweep: Sweep, question: Question, vocab_size: int) -> Trial:
    """The trial that answers `question`."""
    full = shape(sweep, question.size, vocab_size)
    if sweep.design == "grid":
        tokens = crossings(sweep, vocab_size)[question.budget, question.size]
        batch_size = sweep.batch_size(tokens)
        steps = whole_steps(tokens, batch_size, full)
    else:
        batch_size = sweep.batch_size(question.budget)
        steps = full.steps(question.budget, batch_size, sweep.convention)
    reports = {max(1, round(share * steps)) for share in sweep.report_fractions}
    return Trial(
        question=question,
        shape=full,
        batch_size=batch_size,
        steps=steps,
        flops_per_step=full.flops_per_step(batch_size, sweep.convention),
        report_steps=tuple(sorted(reports)),
    )


def budgets(sweep: Sweep, vocab_size: int) -> tuple[float, ...]:
    """FLOPs given to trials, rising: as written, or those of a grid's crossings."""
    if sweep.design == "grid":
        return tuple(sorted({budget for budget, _ in crossings(sweep, vocab_size)}))
    return sweep.budgets


def ladder(sweep: Sweep, vocab_size: int) -> tuple[Size, ...]:
    """The whole ladder, fewest weights first: as written, recorded, or built around the optima."""
    sizes = sweep.shapes.ladder or _recorded(sweep) or built(sweep, vocab_size)
    return tuple(
        sorted(sizes, key=lambda size: shape(sweep, size, vocab_size).params_non_embedding)
    )


def offered(sweep: Sweep, budget: float, vocab_size: int) -> tuple[Size, ...]:
    """The sizes of the ladder that make sense at `budget`: in a grid those that cross there, for
    a replay those that are on record there."""
    sizes = ladder(sweep, vocab_size)
    if sweep.design == "grid":
        return tuple(size for size in sizes if (budget, size) in crossings(sweep, vocab_size))
    if sweep.backend == "replay":
        record = _record(sweep)
        params = {size: shape(sweep, size, vocab_size).params_non_embedding for size in sizes}
        return tuple(size for size in sizes if record.holds(budget, params[size]))
    return sizes


def window(
    sweep: Sweep, budget: float, vocab_size: int, n_opt: float | None = None
) -> tuple[Size, ...]:
    """The sizes of the ladder to try at `budget`: `per_budget` of them around the optimum.

    Args:
        sweep: whose ladder it is.
        budget: FLOP.
        vocab_size: distinct tokens.
        n_opt: predicted optimum, non-embedding weights; left out: where `tokens_per_param` puts it.

    Raises:
        ConfigError: nothing is on record at this budget.
    """
    sizes = offered(sweep, budget, vocab_size)
    if not sizes:
        raise ConfigError(
            f"{sweep.name}: budget {budget:g}: {sweep.replay.table} holds no size within a factor "
            f"of {sweep.replay.within:g}; drop the budget, or widen replay.within or shapes.ladder"
        )
    count = sweep.shapes.per_budget
    if count is None:
        return sizes
    center = min(range(len(sizes)), key=lambda i: _off(sweep, budget, sizes[i], vocab_size, n_opt))
    first = min(max(0, center - count // 2), max(0, len(sizes) - count))
    return sizes[first : first + count]


def cells(sweep: Sweep, budget: float, sizes: Sequence[Size]) -> list[Cell]:
    """What is asked at a budget: sizes in turn, so that each has one rate before any has two."""
    search = sweep.search
    places = product(range(search.trials), sizes, range(search.seeds))
    return [
        Cell(budget=budget, size=size, number=number, seed=sweep.seed + seed)
        for number, size, seed in places
    ]


def rates(sweep: Sweep, count: int) -> tuple[float, ...]:
    """`count` learning rates evenly spaced in log space, inside the range, none on its edge."""
    low, high = (math.log(rate) for rate in sweep.search.learning_rate)
    return tuple(math.exp(low + (high - low) * (i + 0.5) / count) for i in range(count))


def config_hash(sweep: Sweep, trial: Trial, provenance: dict[str, str]) -> str:
    """Stands for everything a row is a function of: configuration, seed, data, precision."""
    asked = (
        trial.question.budget, trial.question.learning_rate, trial.question.seed, trial.shape,
        trial.batch_size, trial.steps, trial.report_steps, sweep.backend, sweep.convention,
        sweep.data.held_out_tokens, *_answering(sweep), provenance,
    )  # fmt: skip
    return digest([repr(part) for part in asked])


def _answering(sweep: Sweep) -> tuple[object, ...]:
    """The settings of the sweep's backend that its answers are a function of."""
    if sweep.backend == "replay":
        return sweep.replay.match, sweep.replay.within, _record(sweep).fingerprint
    settings = sweep.law if sweep.backend == "law" else sweep.training
    # Threads and device may move the last bits of a sum.
    place = (sweep.resources.cpus_per_trial, sweep.resources.gpus_per_trial)
    pretended = {"seconds_per_trial", "flops_per_second", "faults"}
    told = settings.model_dump(mode="json", exclude={"batch_size", *pretended})
    return (told, *((*place, sweep.model) if sweep.backend == "train" else ()))


def _record(sweep: Sweep) -> "Recording":
    from tuner import recording  # noqa: PLC0415  planning other sweeps needs no pandas

    return recording.of(sweep)


def _recorded(sweep: Sweep) -> tuple[Size, ...]:
    return _record(sweep).sizes if sweep.backend == "replay" else ()


def _off(sweep: Sweep, budget: float, size: Size, vocab_size: int, n_opt: float | None) -> float:
    """How far, in log N, a shape is from the predicted optimum of a budget."""
    full = shape(sweep, size, vocab_size)
    if n_opt is not None:
        return abs(math.log(full.params_non_embedding / n_opt))
    tokens = budget / full.flops_per_token(sweep.convention)
    ratio = tokens / full.params_non_embedding
    # At fixed compute tokens / N falls with the square of N.
    return abs(math.log(ratio / sweep.shapes.tokens_per_param)) / 2
