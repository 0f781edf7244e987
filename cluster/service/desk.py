"""The desk: what a request becomes. Every process has its own; none keeps a state."""

import asyncio
from collections import Counter
from dataclasses import dataclass

from cluster.service import configuration, keys
from cluster.service.configuration import Configuration
from cluster.service.keys import Key
from cluster.service.ledger import Ledger
from cluster.service.rates import Rates
from cluster.service.records import Run
from cluster.service.refusals import (
    Failed,
    NoSuchRun,
    NothingAsked,
    OutOfRange,
    Refusal,
    Silent,
    TooMany,
    UnknownKey,
)
from cluster.service.state import State
from tuner.space import Trial

RUNNER_SILENCE = 30.0
"""Seconds without a sign of the runner after which it counts as dead; it gives one a second."""
LOOK_EVERY = 0.01
"""Seconds between two looks for answers: one number read from shared memory each."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """Where a key stands, FLOP."""

    budget: float
    charged: int
    """Of runs that ended."""
    reserved: int
    """Of runs that wait or train."""
    left: float


class Desk:
    """Asks the ledger for whoever holds a key."""

    def __init__(self, state: State, *, replicas: int = 1) -> None:
        self.state = state
        # Two connections: who only reads never waits for one who writes.
        self._reading, self._writing = state.ledger(), state.ledger()
        per_second = state.settings.limits.requests_per_second
        self._rates = Rates(per_second / replicas) if per_second else None
        self._watch = Watch(self._reading)
        self._waiting: Counter[int] = Counter()
        self._waiting_limit = max(1, state.settings.limits.waiting // replicas)

    def close(self) -> None:
        """Close the ledger."""
        self._reading.close()
        self._writing.close()

    # --- who asks

    def key(self, presented: str) -> Key:
        """Whose key it is.

        Raises:
            UnknownKey: nobody's.
            TooMany: it asks too often.
        """
        ledger = self._reading
        found = keys.matching(ledger.secret, presented, ledger.keys())
        if found is None:
            raise UnknownKey(presented)
        return self._admit(found)

    def visitor(self, session: str) -> Key | None:
        """Whose browser it is, if it is logged in."""
        number = keys.session_key(self._reading.secret, session)
        found = None if number is None else self._reading.key(number)
        return None if found is None or found.revoked else self._admit(found)

    def session(self, key: Key) -> str:
        """A browser's token for a key."""
        return keys.session(self._reading.secret, key)

    def _admit(self, key: Key) -> Key:
        if self._rates and not self._rates.admits(key.number):
            limit = self.state.settings.limits.requests_per_second
            raise TooMany(f"more than {limit:g} requests a second; ask again later")
        return key

    # --- what they ask

    async def ask(self, key: Key, asked: Configuration) -> Run:
        """The run that answers `asked`, accepted and paid for.

        Raises:
            Refusal: it is not accepted; nothing is charged.
        """
        has = self._reading.answerable(key, asked)
        return await asyncio.to_thread(self._accept, key, asked) if has is None else has

    def _accept(self, key: Key, asked: Configuration) -> Run:
        """In a thread: it reads a record, and waits for whoever else writes."""
        settings, settled = self.state.settings, self.state.settled
        configuration.check(asked, settings.ranges)
        trial = configuration.trial(settings, asked, settled.vocab_size, settled.most_tokens)
        if settings.backend == "replay":
            _recorded(self.state, trial)
        return self._writing.accept(
            key, asked, budget=settings.budget, at_most=settings.limits.queued
        )

    async def answered(self, key: Key, asked: Configuration) -> Run:
        """The same once it is over, however long that takes.

        Raises:
            Refusal: it is not accepted, or ended without an answer.
        """
        has = self._reading.answerable(key, asked)
        run = has if has is not None and has.over else await self._waited(key, asked)
        if run.status == "completed":
            return run
        if run.status == "diverged":
            raise OutOfRange(f"{run.reason}; {run.charged} FLOP charged")
        if run.status == "refused":
            raise OutOfRange(f"{run.reason}; not charged")
        if run.status == "canceled":
            raise Refusal("the run was canceled")
        raise Failed(f"the run failed, and is not charged; ask again. Cause: {run.reason}")

    async def _waited(self, key: Key, asked: Configuration) -> Run:
        limit = self._waiting_limit
        if self._waiting[key.number] >= limit:
            raise TooMany(f"{limit} requests of this key wait already; ask later, or POST /runs")
        self._waiting[key.number] += 1
        try:
            return await self._watch.over(await self.ask(key, asked))
        finally:
            self._waiting[key.number] -= 1

    async def cancel(self, key: Key, run: str) -> Run:
        """Give a run up.

        Raises:
            NoSuchRun: the key has none of that name.
            AlreadyEnded: it is over.
        """
        return await asyncio.to_thread(self._writing.cancel, key, run)

    def run(self, key: Key, run: str) -> Run:
        """One of the key's runs.

        Raises:
            NoSuchRun: the key has none of that name.
        """
        found = self._reading.run(run)
        if found.key != key.number:
            raise NoSuchRun("this key has no such run")
        return found

    def runs(self, key: Key) -> list[Run]:
        """All of the key's, in the order they were asked."""
        return self._reading.runs(key)

    def answers(self, key: Key) -> list[Run]:
        """Those that have a loss."""
        return self._reading.runs(key, "completed")

    def total(self, key: Key) -> int:
        """FLOP charged.

        Raises:
            NothingAsked: the key has no runs.
        """
        if not self._reading.has_runs(key):
            raise NothingAsked("this key has asked nothing yet")
        return self._reading.key(key.number).charged

    def account(self, key: Key) -> Account:
        """Where the key stands."""
        known = self._reading.key(key.number)
        budget = self.state.settings.budget if known.budget is None else known.budget
        left = budget - known.charged - known.reserved
        return Account(
            budget=budget, charged=known.charged, reserved=known.reserved, left=max(0.0, left)
        )

    def check(self) -> None:
        """Make sure that the record can be read, and that a runner is at work.

        Raises:
            sqlite3.Error: it cannot.
            Silent: none has been for a while.
        """
        self._reading.version()
        silence = self.state.runner.silence()
        if silence > RUNNER_SILENCE:
            raise Silent("the runner does not answer: what is asked waits until it is back")


class Watch:
    """Wakes whoever waits for a run: one look at the ledger for all of them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: dict[str, asyncio.Future[Run]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def over(self, run: Run) -> Run:
        """The run once it is over; who gives up waiting changes nothing."""
        if run.over:
            return run
        loop = asyncio.get_running_loop()
        future = self._waiting.setdefault(run.id, loop.create_future())
        if self._looking is None or self._looking.done():
            self._looking = loop.create_task(self._look())
        return await asyncio.shield(future)

    async def _look(self) -> None:
        try:
            await self._pass_on()
        except Exception as error:  # the record cannot be read: tell all who wait
            for future in self._waiting.values():
                future.set_exception(error)
            self._waiting.clear()

    async def _pass_on(self) -> None:
        seen = -1
        fresh: set[str] = set()
        while self._waiting:
            version, waiting = self._ledger.version(), set(self._waiting)
            if version != seen or waiting - fresh:
                seen, fresh = version, waiting
                for run in self._ledger.ended(waiting):
                    self._waiting.pop(run.id).set_result(run)
            await asyncio.sleep(LOOK_EVERY)


def _recorded(state: State, trial: Trial) -> None:
    """Make sure that a recorded run answers a trial."""
    # Imported here: other backends need no pandas.
    from tuner import recording  # noqa: PLC0415
    from tuner.recording import NothingNearError  # noqa: PLC0415

    asked, record = trial.question, recording.of(state.settings.sweep)
    nearest = state.settings.replay.match == "nearest"
    match = record.nearest if nearest else record.interpolated
    try:
        match(asked.budget, trial.shape.params_non_embedding, asked.learning_rate, asked.seed)
    except NothingNearError as error:
        raise OutOfRange(str(error)) from None
