"""The sweep's decisions: what runs next, who goes on, what is paid. Needs no ray.

Ray (`tuner.sweep`) and simulated time (`tuner.simulate`) drive the same object: `ask` for a trial,
`report` what it reached, `fail` it when it died. Every answer is in the ledger before it is given,
so an engine built on the same folder after any death goes on where the other stopped.
"""

import math
import time
from collections.abc import Iterable
from enum import Enum

from model.progress import Progress
from tuner import space
from tuner.agenda import Agenda
from tuner.answers import Answers
from tuner.backends.contract import FinalError, NodeLostError, OutOfMemoryError
from tuner.config import Sweep
from tuner.early import Early
from tuner.ledger import CAP, ENDED, GONE, NOT_REPEATED, TIME_SPENT, Ledger, Record, Status
from tuner.meter import Clock, Meter, patience
from tuner.question import Cell
from tuner.scheduler import Asha
from tuner.search import Studies
from tuner.space import Size, Trial

HOPELESS = 6
"""Failed trials after which a sweep without any other ended trial is given up."""


Verdict = tuple[Status, str]
"""How a trial ended, and why."""


class Nothing(Enum):
    """Why there is no trial to hand out."""

    YET = "wait for a running trial, of this sweep or another"
    LEFT = "the sweep is done"


class Engine:
    """One sweep, deciding."""

    def __init__(
        self,
        sweep: Sweep,
        ledger: Ledger,
        studies: Studies,
        *,
        cap: float,
        max_tokens: float = math.inf,
        answers: Answers | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.sweep = sweep
        self.ledger = ledger
        self.studies = studies
        self.cap = cap
        self.answers = answers
        self.vocab_size = studies.vocab_size
        self.asha = Asha(
            reduction=sweep.pruning.reduction, min_population=sweep.pruning.min_population
        )
        self.early = Early()
        self.meter = Meter(sweep, ledger, clock)
        self._repeated: set[tuple[str, int]] = set()
        self.agenda = Agenda(sweep, ledger, self.vocab_size, max_tokens)
        self._recover()

    # --- ask

    def ask(self) -> Trial | Nothing:
        """The next trial to start, its FLOPs reserved; or why there is none."""
        nothing = Nothing.YET if self.ledger.has("running") else Nothing.LEFT
        if self.hopeless:
            return nothing
        is_short = put_off = False
        for trial in map(self.trial, self.ledger.records("waiting")):
            if self._put_off(trial):
                put_off = True
            elif self._recalled(trial):
                continue
            elif self._start(trial):
                return trial
            elif nothing is Nothing.LEFT:  # no running trial will give anything back
                record = self.ledger.record(trial.key)
                self._end(record, "failed", f"{CAP}nothing is left for another attempt")
            else:
                is_short = True
        while not is_short and (proposed := self._propose()):
            if self._put_off(proposed):
                put_off = True
            elif self._recalled(proposed):
                continue
            elif self._start(proposed):
                return proposed
            else:
                is_short = True
        return Nothing.YET if put_off else nothing

    def _put_off(self, trial: Trial) -> bool:
        """Does the trial wait for the answer of another sweep? If not, it is this one's to find.

        Ask before `_recalled`: what another has just answered is on record before it is given up.
        """
        if self.answers is None or self.answers.take(trial):
            return False
        return not self.ledger.record(trial.key).attempts  # what is begun goes on

    @property
    def hopeless(self) -> str:
        """Why the sweep was given up: the reason of its first failures, if nothing else came.

        What a cap cut is no failure.
        """
        if self.ledger.has("completed", "pruned"):
            return ""
        reasons = [r.reason for r in self.ledger.records("failed") if not r.is_cut]
        return reasons[0] if len(reasons) >= HOPELESS else ""

    def trial(self, record: Record) -> Trial:
        """The trial behind a record."""
        return space.trial(self.sweep, record.question, self.vocab_size)

    def _start(self, trial: Trial) -> bool:
        flops = trial.flops - self.ledger.paid(trial.key)
        return self.meter.allows(flops) and self.ledger.reserve(trial.key, flops, self.cap)

    def live(self) -> None:
        """Tell other sweeps that this one still works on what it took; call it now and then."""
        if self.answers:
            self.answers.renew()

    def begin(self, *keys: str) -> None:
        """Trials that were handed out have their slot now, one for them all."""
        self.meter.begin(*keys)

    def take(self, trial: Trial) -> bool:
        """Start a waiting trial, its FLOPs reserved, if it is this sweep's and there is room."""
        return not (self._put_off(trial) or self._recalled(trial)) and self._start(trial)

    def _propose(self) -> Trial | None:
        """Enter the first cell of the agenda."""
        room = min(self.cap - self.ledger.committed(), self.meter.room)
        cell = next(self.agenda.cells(room), None)
        return self.enter(cell) if cell is not None and self.affords(cell) else None

    def largest(self, cell: Cell) -> int:
        """FLOPs that a cell may be charged."""
        return max(
            t.flops - self._spared(cell, t)
            for t in space.largest(self.sweep, cell, self.vocab_size)
        )

    def _spared(self, cell: Cell, trial: Trial) -> int:
        """FLOPs of a cell's trial that were charged to its parent, whose trunk it goes on from.

        A parent that was answered from the record was not trained here, and left no trunk.
        """
        if not (cell.parent and self.ledger.knows(cell.parent)):
            return 0
        parent = self.ledger.record(cell.parent)
        trained = parent.status == "completed" and parent.attempts
        return trial.start * trial.flops_per_step if trained else 0

    def affords(self, cell: Cell) -> bool:
        """Is there room for a cell, in FLOPs and in time?"""
        flops = self.largest(cell)
        return self.ledger.committed() + flops <= self.cap and self.meter.allows(flops)

    def enter(self, cell: Cell) -> Trial:
        """Let the search fill in a cell, and enter the trial, which waits."""
        given, rates = self.agenda.setting(cell), self.agenda.rates
        setting, optuna = self.studies.propose(
            cell, given, rates or self.sweep.search.learning_rate
        )
        question = cell.asked(setting)
        trial = space.trial(self.sweep, question, self.vocab_size)
        self.ledger.add(question, optuna, self._spared(cell, trial))
        self.agenda.strike(cell)
        return trial

    def _recalled(self, trial: Trial) -> bool:
        """Answer a trial from the record, if that ends it; nothing is charged."""
        begun = self.ledger.record(trial.key).attempts
        answer = None if begun or self.answers is None else self.answers.find(trial)
        if answer is None:
            return False
        for told, progress in enumerate(answer.reports, 1):
            verdict = _ended(trial, progress) or self._cut(trial, progress)
            if verdict:
                record = self.ledger.record(trial.key)
                self.ledger.recall(trial.key, answer.reports[:told], answer.device, *verdict)
                self._conclude(record, verdict[0])
                return True
        return False  # it was pruned once, and would go on now

    # --- report, fail

    def report(
        self, key: str, progress: Progress, device: dict[str, str], *, began: int | None = None
    ) -> bool:
        """Enter an evaluation; True if the trial goes on, False if it is over.

        Args:
            key: of the trial.
            progress: what it reports; what was reported before is passed over.
            device: what it runs on.
            began: step from which this attempt trains; None if it lost no checkpoint.
        """
        record = self.ledger.record(key)
        if record.status != "running":
            return False
        trial = self.trial(record)
        seen = self.ledger.last(key)
        if seen is None or progress.step <= seen.step:
            paid = self._repeats(record, trial, progress, began)
            # The last report seen is judged again: a kill may have come before its verdict.
            if not paid or (seen is not None and progress.step < seen.step):
                return paid
        self.ledger.report(key, progress, device)
        self.meter.book(key)
        verdict = _ended(trial, progress) or self._stopped(trial, progress)
        if verdict:
            self.meter.leave(key)
            self._end(record, *verdict)
        return verdict is None

    def _stopped(self, trial: Trial, progress: Progress) -> Verdict | None:
        """How a trial that could go on ends, if it may not."""
        if self.meter.spent:
            return "failed", f"{CAP}{TIME_SPENT}"
        return self._cut(trial, progress)

    def _cut(self, trial: Trial, progress: Progress) -> Verdict | None:
        """How a trial ends that ASHA or foresight does not let go on."""
        group = _group(trial, progress.step)
        # A run chosen for what it tells is heard to its end, best of its shape or not.
        pruning = self.sweep.pruning.enabled and self.agenda.value is None
        if not pruning:
            return None
        share = f"{progress.flops / trial.flops:.0%} of the budget"
        if not self.asha.goes_on(group, trial.key, progress.loss):
            return "pruned", f"ASHA at {share}"
        least = self.sweep.pruning.chance
        chance = self.early.chance(trial, progress) if least else 1.0
        if chance >= least:
            return None
        return "pruned", f"a chance of {chance:.1%} at {share} to end as its shape's best rate"

    def _repeats(self, record: Record, trial: Trial, progress: Progress, began: int | None) -> bool:
        """An attempt repeats reports, or begins: if its checkpoint is gone, or its parent's trunk,
        it repeats the training too.

        That work is charged again, once an attempt; where the cap forbids it the trial ends, and
        what it repeated is charged from what was set aside for its rest.
        """
        paid = self.ledger.paid(record.key)
        again = 0 if began is None else paid - began * trial.flops_per_step
        attempt = (record.key, record.attempts)
        if again <= 0 or attempt in self._repeated:
            return True
        self._repeated.add(attempt)
        if self.ledger.charge_again(record.key, again, self.cap):
            return True
        self.meter.end(record.key)
        repeated = min(record.reserved, progress.flops - paid + again)
        self._end(record, "failed", f"{CAP}{NOT_REPEATED}", lost=repeated)
        return False

    def forgo(self, key: str) -> None:
        """The checkpoint of one that a cap cut is about to go: it would have to begin anew."""
        record = self.ledger.record(key)
        if record.is_cut and not record.begins_anew:
            self.ledger.settle(key, "failed", f"{record.reason}; {GONE}")

    def silent(self) -> dict[str, float]:
        """Running trials that should have reported long ago, with the seconds of their silence.

        Nothing is decided: whoever drives the engine ends them, and then calls `fail`.
        """
        running = self.ledger.records("running")
        silences = {record.key: self.meter.silence(record.key) for record in running}
        return {r.key: silences[r.key] for r in running if silences[r.key] > self._patience(r)}

    def _patience(self, record: Record) -> float:
        """Seconds without a report after which a trial hangs."""
        if self.sweep.resources.silence is not None:
            return self.sweep.resources.silence
        if self.sweep.backend == "api":  # its client gives up by itself
            return self.sweep.api.timeout + self.sweep.api.patience
        together = map(self.ledger.record, self.meter.beside(record.key))
        due = sum(self._next_report(other) for other in together)
        return patience(self.meter.takes(due))

    def running(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` whose trials run."""
        return [key for key in keys if self.ledger.record(key).status == "running"]

    def fail(
        self, key: str, reason: str, error: BaseException | None = None, *, others: int = 0
    ) -> None:
        """A trial's process died: charge what may be lost, and let it wait for another attempt.

        Args:
            key: of the trial.
            reason: why, as far as is known.
            error: what the attempt raised, if it raised anything. After one that ran out of memory
                there is one attempt at half its micro-batch; after a final one there is none. One
                whose machine was taken away counts as no death, but ends one that had them all.
            others: trials that ran in its process: which of them raised the error, or was too
                large, is not known, so that it only counts as a death.
        """
        record = self.ledger.record(key)
        if record.status != "running":
            return
        self._lose(record, reason)
        if isinstance(error, NodeLostError):
            if self.ledger.deaths(key) >= self.sweep.resources.max_attempts:
                self._end(record, "failed", reason)  # blamed while it ran again
            return
        if others:
            error = None
        if _is_final(record, error):
            self._end(record, "failed", reason)
        elif not self.blame(key, reason) and isinstance(error, OutOfMemoryError):
            self.ledger.limit(key, error.micro_batch_size // 2)

    def blame(self, key: str, reason: str) -> bool:
        """Count a death as the trial's own; True if that was one too many for another attempt."""
        often = self.ledger.count_death(key) >= self.sweep.resources.max_attempts
        record = self.ledger.record(key)
        if often and record.status == "waiting":
            self._end(record, "failed", reason)
        return often

    def _lose(self, record: Record, reason: str) -> None:
        """End an attempt: all work up to the next report may be lost, and is charged."""
        if record.status != "running":
            return
        lost = self._next_report(record)
        self.meter.end(record.key, lost=lost)
        self.ledger.settle(record.key, "waiting", reason, lost=lost)

    def _next_report(self, record: Record) -> int:
        """FLOPs from a trial's last report to its next."""
        trial = self.trial(record)
        reached = self.ledger.paid(record.key) // trial.flops_per_step
        return (trial.next_report(reached) - reached) * trial.flops_per_step

    def _end(self, record: Record, status: Status, reason: str, *, lost: int = 0) -> None:
        self.ledger.settle(record.key, status, reason, lost=lost)
        self._conclude(record, status)

    def _conclude(self, record: Record, status: Status) -> None:
        """Tell everyone who learns from a trial that the ledger says it is over; twice is once."""
        trial, reports = self.trial(record), self.ledger.reports(record.key)
        self.agenda.changed(record.question.budget)
        if status == "completed":
            self.early.learn(trial, reports)
        self.studies.tell(record.question.budget, record.optuna, status, reports, trial.flops)
        if self.answers:
            self.answers.keep(trial, reports, self.ledger.record(record.key).device)
            self.answers.drop(trial)

    # --- after a death

    def _recover(self) -> None:
        """Bring rungs, studies and reservations to what the ledger says."""
        self.studies.restore(self.ledger.records())
        for record in self.ledger.records():
            self.agenda.strike(record.question.cell)
            trial = self.trial(record)
            reports = self.ledger.reports(record.key)
            for progress in reports:
                if not progress.diverged:
                    self.asha.remember(_group(trial, progress.step), trial.key, progress.loss)
            verdict = _ended(trial, reports[-1]) if reports else None
            if record.status in ENDED:
                self._conclude(record, record.status)
            elif verdict:
                self._end(record, *verdict)
            else:
                self._lose(record, "the sweep was interrupted")
        known = {(r.question.budget, r.optuna) for r in self.ledger.records()}
        self.studies.forget_unknown(known)
        self._put_back()

    def _put_back(self) -> None:
        """Let what a cap had cut wait again, as far as the cap now has room for it.

        It goes on from its checkpoint, and what it was charged stays charged.
        """
        ahead = sum(map(self._rest, self.ledger.records("waiting")))
        for record in self.ledger.records("failed"):
            if not record.is_cut:
                continue
            flops = ahead + self._rest(record)
            if self.ledger.committed() + flops <= self.cap and self.meter.allows(flops):
                # Optuna first: what the ledger does not know of is forgotten after a kill.
                again = self.studies.again(record.question.budget, record.optuna)
                self.ledger.put_back(record.key, again)
                ahead = flops

    def _rest(self, record: Record) -> int:
        return self.ledger.rest(record, self.trial(record).flops)


def _is_final(record: Record, error: BaseException | None) -> bool:
    """Would another attempt end as this one did?"""
    if isinstance(error, OutOfMemoryError):
        return record.micro_batch_size is not None or error.micro_batch_size == 1
    return isinstance(error, FinalError)


def _ended(trial: Trial, progress: Progress) -> Verdict | None:
    """How a trial ended by itself, if it did."""
    if progress.diverged:
        return "failed", f"diverged by step {progress.step} of {trial.steps}"
    return ("completed", "") if progress.step >= trial.steps else None


def _group(trial: Trial, step: int) -> tuple[float, Size, int, int]:
    """What a trial's loss after `step` is compared with."""
    rung = sum(at <= step for at in trial.report_steps)
    if trial.fork:  # it reports nothing of what its parent's trunk did: counted from the end
        rung -= len(trial.report_steps)
    asked = trial.question
    return asked.budget, asked.size, asked.seed, rung
