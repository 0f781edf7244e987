"""Where a sweep stands, from its folder alone. Needs neither torch nor ray."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from model.progress import Progress
from tuner import plan, soundness, space
from tuner.config import Sweep, load
from tuner.errors import ConfigError
from tuner.ledger import DONE, END, ENDED, Ledger, Record
from tuner.meter import short
from tuner.plan import Plan
from tuner.provenance import Provenance, read
from tuner.throughput import OWN, Throughput, known

STATUSES = ("completed", "pruned", "failed", "running", "waiting")
RAISE = "raise it in the sweep's file and run that with the same --dir"
"""What to do about a cap that ended a sweep."""
TELLING = 0.25
"""Share of a sweep after which its own runs tell how long it takes: its first and smallest ones are
slower, FLOP by FLOP, than those that take most of the time (on the demo by a factor of five)."""


@dataclass(frozen=True, kw_only=True)
class BudgetStatus:
    """One budget's trials."""

    budget: float
    """FLOP."""
    planned: int
    """Allowed for by the plan and its extensions; of a sweep that is done, those it had."""
    completed: int
    pruned: int
    failed: int
    running: int
    waiting: int
    charged: int
    """FLOP."""
    best_loss: float | None
    """Nat/token."""
    best_size: space.Size | None
    """(num_layers, d_model)."""
    best_learning_rate: float | None


@dataclass(frozen=True, kw_only=True)
class SweepStatus:
    """The whole sweep."""

    name: str
    budgets: tuple[BudgetStatus, ...]
    cap: float
    """FLOP."""
    charged: int
    """FLOP."""
    reserved: int
    """FLOP, of running trials."""
    seconds: float
    """Training time of all trials together."""
    hours_left: float
    """Of one slot, for the planned trials that have not ended, with pruning, without extension."""
    stack: int
    """Trials that one slot carries, at most."""
    share_done: float
    """Of the FLOPs expected with pruning, those charged."""
    throughput: Throughput
    """What `hours_left` reckons with: the sweep's own runs as far as they go."""
    recalled: int
    """Trials answered from the record of the storage folder, free."""
    end: str
    """How its last run ended, `done` or `interrupted`; empty while it runs, and after a kill."""
    stopped: str
    """Which cap ended it before its plan was done, and what to do; empty if none did."""
    unsound: tuple[str, ...] = ()
    """What keeps its profiles from being trusted; told by `of_folder` of a sweep that is done."""

    @property
    def ended(self) -> int:
        """Trials that are over."""
        return sum(b.completed + b.pruned + b.failed for b in self.budgets)

    @property
    def failed(self) -> int:
        """Trials that failed."""
        return sum(b.failed for b in self.budgets)

    @property
    def planned(self) -> int:
        """Trials allowed for; of a sweep that is done, those it had."""
        return sum(b.planned for b in self.budgets)

    def to_dict(self) -> dict[str, object]:
        """Every number the table shows."""
        return asdict(self) | {"ended": self.ended, "planned": self.planned}

    def left(self) -> str:
        """How long it may still take with as many slots as are busy, once its own runs tell; the
        plan has told what was known before."""
        if self.end or self.throughput.source != OWN or self.share_done < TELLING:
            return ""
        slots = math.ceil(sum(b.running for b in self.budgets) / self.stack)
        hours = self.hours_left / max(1, slots)
        told = f"{math.ceil(hours * 60)} min" if hours < 2 else f"{hours:.1f} h"
        return f"; about {told} left, by {OWN}"

    def line(self) -> str:
        """One line for a log."""
        running = sum(b.running for b in self.budgets)
        recalled = f" ({self.recalled} from the record)" if self.recalled else ""
        return (
            f"{self.name}: {self.ended}/{self.planned} trials ended{recalled}, {running} running, "
            f"{self.charged:.3g} of {self.cap:.3g} FLOP spent{self.left()}"
            + (f"; {self.stopped}" if self.stopped else "")
        )


def of_folder(folder: Path) -> SweepStatus:
    """The status of the sweep in `folder`.

    Raises:
        ConfigError: there is none.
    """
    sweep, ledger, provenance = open_folder(folder)
    status = of(sweep, ledger)
    if status.end == DONE:
        unsound = soundness.faults(sweep, ledger, provenance.vocab_size)
        status = replace(status, unsound=tuple(unsound))
    ledger.close()
    return status


def open_folder(folder: Path) -> tuple[Sweep, Ledger, Provenance]:
    """The sweep in `folder`, its ledger and what was settled before its first trial.

    Raises:
        ConfigError: there is none, or it never began.
    """
    path = folder / "ledger.db"
    if not path.is_file():
        raise ConfigError(f"{folder}: no sweep here (no ledger.db); name a sweep's folder")
    ledger = Ledger.reading(path)
    provenance = read(ledger)
    if provenance is None:
        raise ConfigError(f"{folder}: the sweep never began; start it with: isoflop run")
    return load(folder / "sweep.toml"), ledger, provenance


def of(sweep: Sweep, ledger: Ledger) -> SweepStatus:
    """The status a ledger shows."""
    settled = read(ledger)
    vocab_size = settled.vocab_size if settled else plan.vocabulary(sweep)
    counted = plan.plan(sweep, vocab_size)
    by_budget: dict[float, list[Record]] = {b.budget: [] for b in counted.stages}
    for record in ledger.records():
        by_budget[record.question.budget].append(record)
    lasts, end = ledger.lasts(), ledger.fact(END) or ""
    planned = {b.budget: 0 if end == DONE else b.trials for b in counted.stages}
    budgets = tuple(_budget(b, planned[b], records, lasts) for b, records in by_budget.items())
    records = [record for some in by_budget.values() for record in some]
    speed = known(sweep).corrected(own_rates(records))
    if end != DONE:
        stopped = ""
    elif sweep.target.interval is not None:
        stopped = _unanswered(sweep, ledger, vocab_size)
    else:
        stopped = _stopped(sweep, counted, by_budget, ledger, vocab_size)
    return SweepStatus(
        name=sweep.name,
        budgets=budgets,
        cap=counted.cap,
        charged=sum(r.charged for r in records),
        reserved=sum(r.reserved for r in records),
        seconds=sum(lasts[r.key].seconds for r in records if r.attempts and r.key in lasts),
        hours_left=0.0 if end == DONE else _hours_left(counted, by_budget, lasts, speed),
        stack=sweep.resources.stack,
        share_done=float(ledger.charged()) / counted.flops_expected,
        throughput=speed,
        recalled=sum(not r.attempts and r.status in ENDED for r in records),
        end=end,
        stopped=stopped,
    )


def _stopped(
    sweep: Sweep,
    counted: Plan,
    by_budget: Mapping[float, Sequence[Record]],
    ledger: Ledger,
    vocab_size: int,
) -> str:
    """Which cap ended a sweep before its plan was done, and what to do; empty if none did.

    Of forked trials nobody knows how many go on.
    """
    cut = [record for record in ledger.records("failed") if record.is_cut]
    forked = sweep.training.schedule == "forks"
    missing = {s.budget: s.trials - len(by_budget[s.budget]) for s in counted.stages}
    open_ = {budget: n for budget, n in missing.items() if n > 0 and not forked}
    if not (cut or open_):
        return ""
    rests = (ledger.rest(r, space.trial(sweep, r.question, vocab_size).flops) for r in cut)
    next_ = min([*open_, *rests])
    cap = short(sweep, ledger, counted.cap, next_)
    if not cap and cut:  # by what others had set aside and gave back
        return f"{len(cut)} trials were cut, and there is room for them again: isoflop resume"
    if not cap:
        return ""
    told = f"{sum(open_.values())} of the plan's {counted.trials} trials not run"
    if not cut:
        return f"stopped by {cap}, with {told}; {RAISE}"
    return f"stopped by {cap}, with {told} and {len(cut)} cut, which go on then; {RAISE}"


def _unanswered(sweep: Sweep, ledger: Ledger, vocab_size: int) -> str:
    """Which cap ended a sweep before its interval was reached, and what to do; empty if none did.

    Of runs chosen by value none is planned.
    """
    from tuner import value  # noqa: PLC0415  other sweeps need no SciPy

    cap = value.spent(sweep, ledger, vocab_size)
    interval = f"target.interval = {sweep.target.interval:g}"
    return f"stopped by {cap}, before {interval} was reached; {RAISE}" if cap else ""


def own_rates(records: Sequence[Record]) -> dict[space.Size, float]:
    """FLOP/s that trials of each size reached in their slots, everything they did counted."""
    charged: dict[space.Size, float] = {}
    seconds: dict[space.Size, float] = {}
    for record in records:
        if record.charged and record.seconds:
            size = record.question.size
            charged[size] = charged.get(size, 0.0) + record.charged
            seconds[size] = seconds.get(size, 0.0) + record.seconds
    return {size: charged[size] / seconds[size] for size in charged}


def _hours_left(
    counted: Plan,
    by_budget: Mapping[float, Sequence[Record]],
    lasts: Mapping[str, Progress],
    speed: Throughput,
) -> float:
    """Hours of one slot, as far as the cap goes."""
    flops, seconds = 0.0, 0.0
    for stage in counted.stages:
        # By budget, not by size: a warm start moves the sizes.
        records = by_budget[stage.budget]
        ended = sum(record.status in ENDED for record in records)
        going = [r for r in records if r.status not in ENDED and r.key in lasts]
        done = sum(lasts[r.key].flops - r.spared for r in going)
        open_ = max(0, stage.trials - ended) * stage.flops_expected / stage.trials
        left = max(0.0, open_ - done)
        flops += left
        seconds += left * sum(1 / speed.rate(w) for _, w in stage.shapes) / len(stage.shapes)
    charged = sum(record.charged for records in by_budget.values() for record in records)
    allowed = max(0.0, counted.cap - charged)
    return seconds * min(1.0, allowed / flops) / 3600 if flops else 0.0


def _budget(
    budget: float, planned: int, records: list[Record], lasts: Mapping[str, Progress]
) -> BudgetStatus:
    counts = {name: sum(r.status == name for r in records) for name in STATUSES}
    done = [(lasts[r.key].loss, r) for r in records if r.status == "completed"]
    best = min(done, key=lambda pair: pair[0], default=None)
    return BudgetStatus(
        budget=budget,
        planned=max(planned, len(records)),
        charged=sum(r.charged for r in records),
        best_loss=best[0] if best else None,
        best_size=best[1].question.size if best else None,
        best_learning_rate=best[1].question.learning_rate if best else None,
        **counts,
    )
