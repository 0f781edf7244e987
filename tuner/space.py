"""From a budget to what may be tried at it, and to a trial's exact steps."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from model.shape import Shape
from tuner.config import Sweep, digest
from tuner.errors import ConfigError
from tuner.fork import Fork, fork
from tuner.grid import crossings, whole_steps
from tuner.kernels import kernels
from tuner.ladder import Size, built, lengthened, shape
from tuner.question import Cell, Question, Setting
from tuner.slot import Slot

if TYPE_CHECKING:
    from tuner.recording import Recording


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training, exactly."""

    question: Question
    shape: Shape
    batch_size: int
    """Sequences a step."""
    weight_decay: float
    """Decoupled decay."""
    steps: int
    """The most whole optimizer steps whose FLOPs fit in the budget."""
    flops_per_step: int
    """By the sweep's convention."""
    report_steps: tuple[int, ...]
    """Steps after which the trial is evaluated; the last is `steps`."""
    fork: Fork | None = None
    """Its place on a trunk, where trials are forked."""

    @property
    def key(self) -> str:
        """Name within the sweep."""
        return self.question.key

    @property
    def flops(self) -> int:
        """FLOPs of the whole run: at most `budget`, and less by less than one step."""
        return self.steps * self.flops_per_step

    @property
    def start(self) -> int:
        """Steps that its parent's trunk has done, from which it goes on; 0 without one."""
        return self.fork.start if self.fork else 0

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
    decay = question.weight_decay
    if sweep.design == "grid":
        tokens = crossings(sweep, vocab_size)[question.budget, question.size]
        batch_size = sweep.batch_size(tokens)
        steps = whole_steps(tokens, batch_size, full)
    else:
        batch_size = question.batch_size or sweep.batch_size(question.budget)
        steps = full.steps(question.budget, batch_size, sweep.convention)
    reports = {max(1, round(share * steps)) for share in sweep.report_fractions}
    place = None
    if sweep.training.schedule == "forks":
        shorter = [full.steps(budget, batch_size, sweep.convention) for budget in question.trunk]
        place = fork(sweep.training, (*shorter, steps))
        reports = {step for step in reports | {place.at} if step > place.start}
    return Trial(
        question=question,
        shape=full,
        batch_size=batch_size,
        weight_decay=sweep.training.weight_decay if decay is None else decay,
        steps=steps,
        flops_per_step=full.flops_per_step(batch_size, sweep.convention),
        report_steps=tuple(sorted(reports)),
        fork=place,
    )


def budgets(sweep: Sweep, vocab_size: int) -> tuple[float, ...]:
    """FLOPs given to trials, rising: as written, or those of a grid's crossings."""
    if sweep.design == "grid":
        return tuple(sorted({budget for budget, _ in crossings(sweep, vocab_size)}))
    return sweep.budgets


def studied(sweep: Sweep, vocab_size: int) -> tuple[float, ...]:
    """Every budget that has an Optuna study: stage one's, if there is one, and the profiles'."""
    explored = () if sweep.explore.budget is None else (sweep.explore.budget,)
    return (*explored, *budgets(sweep, vocab_size))


def ladder(sweep: Sweep, vocab_size: int) -> tuple[Size, ...]:
    """The whole ladder, fewest weights first: as written, recorded, or built around the optima."""
    sizes = sweep.shapes.ladder or _recorded(sweep) or built(sweep, vocab_size)
    return rising(sweep, sizes, vocab_size)


def is_built(sweep: Sweep) -> bool:
    """Is the ladder neither written nor recorded, and so the sweep's own to lengthen?"""
    return not sweep.shapes.ladder and sweep.backend != "replay"


def rising(sweep: Sweep, sizes: Iterable[Size], vocab_size: int) -> tuple[Size, ...]:
    """Sizes, fewest weights first."""
    params = {size: shape(sweep, size, vocab_size).params_non_embedding for size in sizes}
    return tuple(sorted(params, key=params.__getitem__))


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


def reach(
    sweep: Sweep, budget: float, vocab_size: int, tried: Sequence[Size], count: int
) -> tuple[Size, ...]:
    """The sizes that an extension at `budget` may add to those tried, and these, fewest weights
    first: the ladder's, and beyond the ends of a built one `count` more with steps enough."""
    known = rising(sweep, (*offered(sweep, budget, vocab_size), *tried), vocab_size)
    if not is_built(sweep):
        return known
    more = lengthened(sweep, known, vocab_size, count)
    least = sweep.training.min_steps
    return tuple(
        size for size in more if size in known or _steps(sweep, budget, size, vocab_size) >= least
    )


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


def exploration(sweep: Sweep, vocab_size: int) -> list[Cell]:
    """What stage one asks: settings at one shape and one small budget; nothing without one."""
    budget, seed = sweep.explore.budget, sweep.seed
    if budget is None:
        return []
    size = explored_size(sweep, budget, vocab_size)
    numbers = range(sweep.explore.trials)
    return [Cell(budget=budget, size=size, number=number, seed=seed) for number in numbers]


def explored_size(sweep: Sweep, budget: float, vocab_size: int) -> Size:
    """The shape of stage one: as written, or the one nearest the predicted optimum."""
    sizes = offered(sweep, budget, vocab_size)
    return sweep.explore.size or min(
        sizes, key=lambda size: _off(sweep, budget, size, vocab_size, None)
    )


def choices(sweep: Sweep) -> list[tuple[int | None, float | None]]:
    """Every (batch size, weight decay) that is searched; None where one is not."""
    search = sweep.search
    return list(product(search.batch_size or (None,), search.weight_decay or (None,)))


def middle(sweep: Sweep) -> Setting:
    """The setting in the middle of what is searched."""
    low, high = sweep.search.learning_rate
    found = choices(sweep)
    batch_size, weight_decay = found[len(found) // 2]
    rate = math.sqrt(low * high)
    return Setting(learning_rate=rate, batch_size=batch_size, weight_decay=weight_decay)


def largest(sweep: Sweep, cell: Cell, vocab_size: int) -> list[Trial]:
    """The trials a cell may become, but for their rates: one a batch size."""
    batches = sweep.search.batch_size or (None,)
    settings = (Setting(learning_rate=1.0, batch_size=batch_size) for batch_size in batches)
    return [trial(sweep, cell.asked(setting), vocab_size) for setting in settings]


def possible(
    sweep: Sweep,
    budget: float,
    sizes: Iterable[Size],
    vocab_size: int,
    *,
    max_tokens: float,
    slot: Slot,
) -> list[Size]:
    """Those of `sizes` that get a whole step at `budget`, see no more than `max_tokens`, and of
    which one sequence at least fits in the memory of `slot`."""
    able = []
    for size in sizes:
        trials = largest(sweep, Cell(budget=budget, size=size, number=0, seed=0), vocab_size)
        if all(trial.steps and trial.tokens <= max_tokens for trial in trials) and all(
            slot.holds(trial.shape, trial.batch_size, sweep.resources) for trial in trials
        ):
            able.append(size)
    return able


def rates(range_: tuple[float, float], count: int) -> tuple[float, ...]:
    """`count` learning rates evenly spaced in log space, inside a range, none on its edge."""
    low, high = (math.log(rate) for rate in range_)
    return tuple(math.exp(low + (high - low) * (i + 0.5) / count) for i in range(count))


def config_hash(sweep: Sweep, trial: Trial, provenance: dict[str, str], slot: Slot) -> str:
    """Stands for everything a row is a function of: configuration, seed, data, precision."""
    asked = (
        trial.question.budget, trial.question.learning_rate, trial.question.seed, trial.shape,
        trial.batch_size, trial.weight_decay, trial.steps, trial.report_steps, sweep.backend,
        sweep.convention, sweep.data.held_out_tokens, *_answering(sweep, trial, slot), provenance,
    )  # fmt: skip
    return digest([repr(part) for part in (*asked, *([trial.fork] if trial.fork else []))])


def _answering(sweep: Sweep, trial: Trial, slot: Slot) -> tuple[object, ...]:
    """The settings of the sweep's backend that its answers are a function of."""
    if sweep.backend == "replay":
        return sweep.replay.match, sweep.replay.within, _record(sweep).fingerprint
    if sweep.backend == "api":
        return (sweep.api.base_url,)
    if sweep.backend == "law":
        pretended = {"seconds_per_trial", "flops_per_second", "faults"}
        return (sweep.law.model_dump(mode="json", exclude=pretended),)
    elsewhere = {"batch_size", "weight_decay", "dtype", "min_steps"}
    told = sweep.training.model_dump(mode="json", exclude=elsewhere)
    computed = slot.determining(trial.shape, trial.batch_size, sweep.resources)
    return told, sweep.model, computed, kernels(sweep, trial, slot)


def _steps(sweep: Sweep, budget: float, size: Size, vocab_size: int) -> int:
    """The fewest steps that a size may get at a budget."""
    cell = Cell(budget=budget, size=size, number=0, seed=0)
    return min(trial.steps for trial in largest(sweep, cell, vocab_size))


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
