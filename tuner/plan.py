"""What a sweep will do and cost at most, before anything is spent. Needs neither torch nor ray."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from data.bounds import most_tokens
from data.names import STDLIB
from model.devices import DEVICES
from model.memory import TooLargeError, training_bytes
from model.payoff import STACKED_WIDTH
from model.speed import Speed
from tuner import space
from tuner.chains import quota, trunk
from tuner.config import Sweep
from tuner.errors import BudgetError, ConfigError
from tuner.kernels import kernels
from tuner.question import Cell
from tuner.sections import Cap
from tuner.slot import Slot
from tuner.space import Trial
from tuner.throughput import Throughput, dtype, known

BYTE_VOCABULARY = 256
PAIR_BYTES = 4
"""Text that a byte-pair token stands for, about: 3 to 4.5 by vocabulary and language."""
RETRIES = 0.05
"""Share of the plan's FLOPs kept for work that deaths undo, where no cap is written."""


@dataclass(frozen=True, kw_only=True)
class BudgetPlan:
    """One isoFLOP profile."""

    budget: float
    """FLOP a trial."""
    trials: int
    shapes: tuple[space.Size, ...]
    """(num_layers, d_model) of each size, as predicted now; a warm start may move them."""
    params: tuple[int, int]
    """Fewest and most non-embedding weights."""
    tokens: tuple[int, int]
    """Fewest and most training tokens of a trial."""
    steps: tuple[int, int]
    """Fewest and most optimizer steps of a trial."""
    flops: float
    """At most, FLOP."""
    flops_exact: float
    """Of every trial in full, a forked one's from its fork, every matrix product counted, FLOP."""
    flops_6nd: float
    """Likewise, as 6 · N · D with N non-embedding, FLOP."""
    flops_expected: float
    """With pruning, FLOP."""
    memory: tuple[int, int]
    """Least and most of a trial whose whole batch is computed at once, byte: an upper bound. What
    does not fit is computed in parts."""
    hours: float
    """At most, of one slot."""
    hours_expected: float
    """With pruning, of one slot."""
    money: float
    """At most, at `cap.price_per_hour`."""
    money_expected: float
    """With pruning."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole sweep."""

    name: str
    explore: BudgetPlan | None
    """Stage one, if there is one."""
    budgets: tuple[BudgetPlan, ...]
    trials: int
    flops: float
    """Of the planned trials, at most, FLOP."""
    flops_exact: float
    """Of the planned trials in full, every matrix product counted, FLOP."""
    flops_6nd: float
    """Of the planned trials in full, as 6 · N · D with N non-embedding, FLOP."""
    cap: float
    """What the ledger will never exceed, FLOP; extension and retries spend what pruning saves."""
    flops_expected: float
    """With pruning and without extension, FLOP."""
    hours: float
    """At most, of one slot, at `throughput`."""
    hours_expected: float
    """With pruning and without extension."""
    money: float
    """At most, at `cap.price_per_hour`."""
    money_expected: float
    """With pruning and without extension."""
    devices_a_slot: float
    """GPUs, or the share of one, that a slot takes; workers on a CPU."""
    target: float | None
    """Compute that the sweep answers for, FLOP; None where nothing says."""
    interval: float | None
    """Share of N_opt at which runs chosen by value stop; None: the whole plan is run."""
    throughput: Throughput
    """How fast a slot is reckoned to train."""
    warnings: tuple[str, ...]

    @property
    def stages(self) -> tuple[BudgetPlan, ...]:
        """Stage one and the profiles."""
        return (self.explore, *self.budgets) if self.explore else self.budgets

    def to_dict(self) -> dict[str, object]:
        """Every number the table shows."""
        return asdict(self)


def plan(sweep: Sweep, vocab_size: int | None = None, throughput: Throughput | None = None) -> Plan:
    """Count the sweep.

    Args:
        sweep: what to count.
        vocab_size: distinct tokens, where the corpus is known; left out: by the tokenizer's name.
        throughput: of a slot; left out: what the sweep file alone says of it.

    Raises:
        ConfigError: a trial would not get one whole step.
        BudgetError: the cap buys no trial at all.
    """
    vocab_size = vocab_size or vocabulary(sweep)
    speed = throughput or known(sweep)
    budgets = tuple(
        _budget(sweep, budget, vocab_size, speed) for budget in space.budgets(sweep, vocab_size)
    )
    explore = _explored(sweep, vocab_size, speed)
    stages = (explore, *budgets) if explore else budgets
    total = sum(b.flops for b in stages)
    limit = sweep.cap.flops or total * (1 + RETRIES)
    _refuse(sweep, stages, limit)
    most = slot_seconds(sweep) / 3600
    hours = min(most, sum(b.hours for b in stages) * limit / total) if total else 0.0
    hours_expected = min(hours, sum(b.hours_expected for b in stages))
    price = sweep.cap.price_per_hour * sweep.resources.devices_a_slot()
    return Plan(
        name=sweep.name,
        explore=explore,
        budgets=budgets,
        trials=sum(b.trials for b in stages),
        flops=total,
        flops_exact=sum(b.flops_exact for b in stages),
        flops_6nd=sum(b.flops_6nd for b in stages),
        cap=limit,
        flops_expected=min(limit, sum(b.flops_expected for b in stages)),
        hours=hours,
        hours_expected=hours_expected,
        money_expected=hours_expected * price,
        devices_a_slot=sweep.resources.devices_a_slot(),
        target=sweep.target_budget,
        interval=sweep.target.interval,
        throughput=speed,
        money=hours * price,
        warnings=(
            *_warnings(sweep, budgets, total, limit),
            *too_slow(sweep, stages),
            *_unstacked(sweep, stages, vocab_size),
        ),
    )


def device_seconds(cap: Cap) -> float:
    """Most device time a sweep may take, by its caps on time and money; infinite without."""
    by_money = math.inf if cap.money is None else cap.money / cap.price_per_hour * 3600
    return min(math.inf if cap.seconds is None else cap.seconds, by_money)


def slot_seconds(sweep: Sweep, sharing: int = 1) -> float:
    """The same as time of slots, `sharing` of which share a GPU where that is not written."""
    return device_seconds(sweep.cap) / sweep.resources.devices_a_slot(sharing)


def time_cap(cap: Cap) -> str:
    """The tighter of the caps on time and money, as it is written."""
    by_seconds = cap.seconds is not None and cap.seconds <= device_seconds(cap)
    return f"cap.seconds = {cap.seconds:g}" if by_seconds else f"cap.money = {cap.money:g}"


def too_slow(sweep: Sweep, stages: Sequence[BudgetPlan]) -> list[str]:
    """That the trials, as fast as slots are reckoned, take longer than the caps on time and money
    let them; empty if they do not. A known law and recorded runs take none."""
    hours, most = sum(stage.hours_expected for stage in stages), slot_seconds(sweep) / 3600
    if sweep.backend in {"law", "replay"} or hours <= most:
        return []
    return [
        f"`{time_cap(sweep.cap)}` is {most:.3g} hours of a slot: the plan takes about {hours:.3g} "
        "with pruning"
    ]


def vocabulary(sweep: Sweep) -> int:
    """Distinct tokens of the sweep's corpus, by its tokenizer's name."""
    kind, _, size = sweep.data.tokenizer.partition(":")
    return BYTE_VOCABULARY if kind == "byte" else int(size)


def _explored(sweep: Sweep, vocab_size: int, speed: Throughput) -> BudgetPlan | None:
    """Stage one, if there is one."""
    budget = sweep.explore.budget
    if budget is None:
        return None
    size = space.explored_size(sweep, budget, vocab_size)
    return _count(sweep, budget, (size,), sweep.explore.trials, vocab_size, speed)


def _budget(sweep: Sweep, budget: float, vocab_size: int, speed: Throughput) -> BudgetPlan:
    shapes = space.window(sweep, budget, vocab_size)
    each = sweep.search.trials * sweep.search.seeds
    return _count(sweep, budget, shapes, each, vocab_size, speed)


def _count(
    sweep: Sweep,
    budget: float,
    shapes: tuple[space.Size, ...],
    each: int,
    vocab_size: int,
    speed: Throughput,
) -> BudgetPlan:
    """Count the trials of one budget, `each` of them at each of its shapes, fewer where they go on
    from a smaller one."""
    cells = [
        Cell(budget=budget, size=s, number=0, seed=0, trunk=trunk(sweep, budget, s, vocab_size))
        for s in shapes
    ]
    of_size = [space.largest(sweep, cell, vocab_size) for cell in cells]
    trials = [trial for some in of_size for trial in some]
    counts = [_counted(sweep, each, some[0]) for some in of_size]
    most, expected = [most for _, most, _ in counts], [expected for *_, expected in counts]
    sizes = [t.shape.params_non_embedding for t in trials]
    gpu, reckoned = sweep.resources.gpus_per_trial > 0, dtype(sweep)
    memory = [training_bytes(t.shape, t.batch_size, reckoned, fused=gpu) for t in trials]
    hours_each = [budget / speed.rate(width) / 3600 for _, width in shapes]
    hours, hours_expected = (
        sum(n * each for n, each in zip(runs, hours_each, strict=True)) for runs in (most, expected)
    )
    price = sweep.cap.price_per_hour * sweep.resources.devices_a_slot()
    return BudgetPlan(
        budget=budget,
        trials=sum(count for count, *_ in counts),
        shapes=shapes,
        params=(min(sizes), max(sizes)),
        tokens=(min(t.tokens for t in trials), max(t.tokens for t in trials)),
        steps=(min(t.steps for t in trials), max(t.steps for t in trials)),
        flops=budget * sum(most),
        flops_exact=_total(most, of_size, lambda t: t.tokens * t.shape.flops_per_token("exact")),
        flops_6nd=_total(most, of_size, lambda t: t.tokens * t.shape.flops_per_token("6ND")),
        flops_expected=_total(expected, of_size, lambda t: t.flops),
        memory=(min(memory), max(memory)),
        hours=hours,
        hours_expected=hours_expected,
        money=hours * price,
        money_expected=hours_expected * price,
    )


def _counted(sweep: Sweep, each: int, trial: Trial) -> tuple[int, float, float]:
    """Trials like this one where `each` begin anew, and what they are charged in whole runs: at
    most, and with pruning."""
    count = int(min(each, quota(sweep) * sweep.search.seeds)) if trial.question.trunk else each
    begun = trial.start / max(1, trial.steps)
    most = count * (1 - begun)
    return count, most, most * _share(sweep, count, begun)


def _total(
    runs: Sequence[float], of_size: Sequence[Sequence[Trial]], flops: Callable[[Trial], int]
) -> float:
    """FLOPs of so many `runs` of each size, of each batch size that is searched as many."""
    means = (sum(map(flops, some)) / len(some) for some in of_size)
    return math.fsum(n * mean for n, mean in zip(runs, means, strict=True))


def _share(sweep: Sweep, each: int, begun: float) -> float:
    """Share of one shape's FLOPs from `begun` on that are spent, if each rung keeps its quota."""
    runs = max(1, each // sweep.search.seeds)
    if not sweep.pruning.enabled:
        return 1.0
    spent, start, alive = 0.0, begun, float(runs)
    for rung in sweep.report_fractions:
        if rung <= begun:
            continue
        spent += alive * (rung - start)
        start = rung
        alive = max(1.0, alive / sweep.pruning.reduction)
    return spent / runs / (1 - begun)


def _refuse(sweep: Sweep, budgets: tuple[BudgetPlan, ...], limit: float) -> None:
    faults = [
        f"`budgets`: {b.budget:g} FLOP buy no whole step of the largest of its shapes "
        f"{b.shapes}; raise the budget, or lower training.batch_size or the ladder"
        for b in budgets
        if b.steps[0] < 1 and b.budget
    ]
    if not budgets[0].budget:
        faults.append(
            f"`grid.tokens`: {sweep.grid.tokens[0]} are no whole step; raise them, or lower "
            "training.batch_size or shapes.context_length"
        )
    names = [f"{b.budget:g}" for b in budgets]
    if len(set(names)) < len(names):
        alike = sorted(name for name in set(names) if names.count(name) > 1)
        faults.append(f"budgets {', '.join(alike)} are alike to six digits: keep them apart")
    if faults:
        raise ConfigError("\n".join(f"{sweep.name}: {fault}" for fault in faults))
    if limit < budgets[0].budget:
        raise BudgetError(
            f"{sweep.name}: `cap.flops` = {limit:g} buys no trial at the smallest budget, "
            f"{budgets[0].budget:g}; raise it"
        )


def check_corpus(sweep: Sweep, counted: Plan, train_tokens: int) -> None:
    """Refuse trials that would see their corpus more than once, unless that is permitted.

    Raises:
        ConfigError: which budgets, by how much, and what to do.
    """
    if sweep.data.allow_repeats:
        return
    faults = [
        f"budget {b.budget:g}: its smallest shape sees {b.tokens[1]:,} tokens, {sweep.data.source} "
        f"has {train_tokens:,}; use more text, larger shapes, or data.allow_repeats = true"
        for b in counted.budgets
        if b.tokens[1] > train_tokens
    ]
    if faults:
        raise ConfigError("\n".join(f"{sweep.name}: {fault}" for fault in faults))


def check_memory(sweep: Sweep, counted: Plan, vocab_size: int, slot: Slot) -> None:
    """Refuse sizes of which not even one sequence fits in a trial's memory.

    Raises:
        ConfigError: all such, by how much, and what to do.
    """
    faults = []
    asked = {(stage.budget, size) for stage in counted.stages for size in stage.shapes}
    for budget, size in sorted(asked):
        cell = Cell(budget=budget, size=size, number=0, seed=0)
        for trial in space.largest(sweep, cell, vocab_size):
            # Its own batch: devices left open are only as many as share that out evenly.
            try:
                slot.split(trial.shape, trial.batch_size, sweep.resources)
            except TooLargeError as error:
                faults.append(f"{sweep.name}: {error}")
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))


def _warnings(
    sweep: Sweep, budgets: tuple[BudgetPlan, ...], total: float, limit: float
) -> list[str]:
    short = [
        f"budget {b.budget:g}: a trial gets as few as {b.steps[0]} steps, below "
        f"sound_steps = {sweep.sound_steps}; batch size will decide the loss: lower "
        "training.batch_size or drop the budget"
        for b in budgets
        if b.steps[0] < sweep.sound_steps
    ]
    few = [
        f"budget {b.budget:g}: {len(b.shapes)} sizes cannot bracket a minimum by two on each side"
        for b in budgets
        if len(b.shapes) < 5 and sweep.design == "isoflop"
    ]
    over = []
    if total > limit:
        over.append(
            f"the plan's {total:.3g} FLOP exceed the cap of {limit:.3g}: it will be cut short"
        )
    at_once = ["a known law answers at once: hours are what training would take"]
    told = short + few + over + _repeated(sweep, budgets) + _lacking(sweep)
    return told + at_once * (sweep.backend == "law")


def _lacking(sweep: Sweep) -> list[str]:
    """That what reads the sweep's source is not installed: `run` would end there."""
    source = sweep.data.source
    if sweep.backend != "train" or source == STDLIB or source.startswith("synthetic:"):
        return []
    from data.public import lacking  # noqa: PLC0415  most sources are told of without NumPy

    told = lacking(source)
    return [f"data.source: {told} (a corpus that is prepared already does without)"] if told else []


def _repeated(sweep: Sweep, budgets: tuple[BudgetPlan, ...]) -> list[str]:
    """The budgets whose smallest shape reads its source again, where that is permitted."""
    if not sweep.data.allow_repeats or sweep.backend != "train":
        return []
    of_token = 1 if sweep.data.tokenizer.startswith("byte") else PAIR_BYTES
    held = most_tokens(sweep.data.source, sweep.data.max_bytes) / of_token
    return [
        f"budget {b.budget:g}: its smallest shape reads {b.tokens[1]:.3g} tokens, about "
        f"{b.tokens[1] / held:.2g} times all that data.source and max_bytes hold"
        for b in budgets
        if b.tokens[1] > held
    ]


def _unstacked(sweep: Sweep, stages: tuple[BudgetPlan, ...], vocab_size: int) -> list[str]:
    """The sizes that get a process each although stacks were asked for."""
    if sweep.resources.stack == 1 or sweep.backend != "train":
        return []
    asked = dict.fromkeys((stage.budget, size) for stage in stages for size in stage.shapes)
    trials = {
        size: space.largest(sweep, Cell(budget=budget, size=size, number=0, seed=0), vocab_size)
        for budget, size in asked
    }
    gpu, name = sweep.resources.gpus_per_trial > 0, sweep.resources.device
    if gpu and name is None:
        return []  # hangs on its peak
    slot = Slot(speed=Speed(dtype=dtype(sweep)), peaks=_peaks(sweep))
    alone = [
        f"{layers}x{width}"
        for (layers, width), some in trials.items()
        if not any(kernels(sweep, trial, slot).stacked for trial in some)
    ]
    taken = (
        "decoders without dropout or qk_norm whose kernels take longer to start than to compute"
        if gpu
        else f"plain decoders up to width {STACKED_WIDTH}, in float32 on one thread of a CPU"
    )
    told = f"resources.stack: {', '.join(alone)} train one a process; stacks are for {taken}"
    return [told] if alone else []


def _peaks(sweep: Sweep) -> dict[str, float]:
    """FLOP/s of the GPU that the sweep names, if it does."""
    name = sweep.resources.device
    return {} if name is None else {name: DEVICES[name].peak(dtype(sweep))}
