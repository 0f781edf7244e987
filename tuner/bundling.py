"""Which trials share a process. Needs neither torch nor ray."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice

from model.memory import USABLE, training_bytes
from tuner.bundle import Bundle, Member
from tuner.engine import Engine, Nothing
from tuner.kernels import kernels
from tuner.question import Cell
from tuner.slot import Slot
from tuner.space import Trial


def ask(engine: Engine, slot: Slot, free: int = 1) -> Bundle | Nothing:
    """The next trials to start in one process, their FLOPs reserved; or why there are none.

    Args:
        engine: that decides.
        slot: what each process has.
        free: slots that wait for trials, at least this one.
    """
    first = engine.ask()
    if isinstance(first, Nothing):
        return first
    most = room(engine, first, slot)
    trials = [first, *(_companions(engine, first, most, free) if most > 1 else ())]
    return Bundle(members=tuple(_member(engine, trial) for trial in trials))


def room(engine: Engine, trial: Trial, slot: Slot) -> int:
    """Trials like `trial` that one process may carry."""
    sweep = engine.sweep
    most = sweep.resources.stack
    if sweep.backend != "train" or most == 1:
        return most
    if _halved(engine, trial) or not kernels(sweep, trial, slot).stacked:
        return 1
    most >>= engine.ledger.deaths(trial.key)  # so many may have been too large together
    fused = sweep.resources.gpus_per_trial > 0
    each = training_bytes(trial.shape, trial.batch_size, slot.speed.dtype, fused=fused)
    return max(1, int(min(most, USABLE * slot.memory / each)))


def _companions(engine: Engine, first: Trial, most: int, free: int) -> list[Trial]:
    """Further trials that share a process with `first`, so that they are `most` with it.

    They are of its budget, shape and batch size, waiting ones before new ones. None is asked whose
    slot would then stand idle, nor before there is room for all that is still open at the budget:
    each of its sizes has one rate before the cap lets any have two.
    """
    waiting = map(engine.trial, engine.ledger.records("waiting"))
    alike = [trial for trial in waiting if _fits(engine, trial, first)]
    cells = engine.agenda.beside(first.question.budget)
    most = min(most, -(-(1 + len(alike) + len(cells)) // free))
    if sum(map(engine.largest, cells)) > engine.cap - engine.ledger.committed():
        cells.clear()
    started = filter(engine.take, chain(alike, _entered(engine, cells, first)))
    return list(islice(started, most - 1))


def _entered(engine: Engine, cells: Sequence[Cell], first: Trial) -> Iterator[Trial]:
    """New trials that may share a process with `first`, until the search wants another kind."""
    for cell in cells:
        if cell.size != first.question.size or not engine.affords(cell):
            continue
        trial = engine.enter(cell)
        if not _fits(engine, trial, first):
            return  # it waits, and is the first to be asked
        yield trial


def _fits(engine: Engine, trial: Trial, first: Trial) -> bool:
    """Can one process carry both? A trial's last attempt is its own: others may have been what
    killed the ones before."""
    alike = {(t.question.budget, t.shape, t.batch_size) for t in (trial, first)}
    deaths = max(engine.ledger.deaths(t.key) for t in (trial, first))
    alone = _halved(engine, trial) or deaths >= engine.sweep.resources.max_attempts - 1
    return len(alike) == 1 and not alone


def _halved(engine: Engine, trial: Trial) -> bool:
    """Did a trial run out of memory by itself?"""
    return engine.ledger.record(trial.key).micro_batch_size is not None


def _member(engine: Engine, trial: Trial) -> Member:
    record = engine.ledger.record(trial.key)
    return Member(
        question=trial.question,
        attempt=record.attempts,
        micro_batch_size=record.micro_batch_size,
    )
