"""The service's memory in one SQLite file: keys, runs, answers, and every FLOP.

The file is the only truth: any number of processes of one machine open it, and none keeps a state
of its own. What a run may cost is reserved in the transaction that accepts it, charged in the one
that enters its answer, and given back in the one that says it failed.
"""

import itertools
import json
import secrets
import sqlite3
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cluster.service.configuration import Configuration
from cluster.service.keys import Key, digest, matching
from cluster.service.records import SCHEMA, Answer, Run, Status, key_of, run_of
from cluster.service.refusals import AlreadyEnded, NoSuchRun, OverBudget, TooMany, UnknownKey


class Ledger:
    """A connection to the record; a thread's calls wait for another's."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.RLock()
        path.touch(mode=0o600)  # its secret signs sessions; SQLite gives its log the same mode
        self._db = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        # FULL, not NORMAL: what was answered to somebody must outlive a power cut.
        self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {SCHEMA}")
        self._db.execute(
            "INSERT OR IGNORE INTO facts VALUES ('secret', ?)", (secrets.token_hex(32),)
        )
        self.secret = bytes.fromhex(self.fact("secret") or "")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def version(self) -> int:
        """Another number whenever another connection has written."""
        return self._one("PRAGMA data_version")[0]

    def fact(self, name: str) -> str | None:
        """What was written under `name`, or None."""
        row = self._one("SELECT value FROM facts WHERE name = ?", name)
        return None if row is None else row[0]

    def write_fact(self, name: str, value: str) -> None:
        """Write `value` under `name`, over what stood there."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    # --- keys

    def add_key(self, name: str, key: str, budget: float | None = None) -> None:
        """Let `key` ask.

        Raises:
            ValueError: the name or the key is there already.
        """
        try:
            with self._transaction() as db:
                db.execute(
                    "INSERT INTO keys (name, digest, budget, added) VALUES (?, ?, ?, ?)",
                    (name, digest(self.secret, key), budget, _now()),
                )
        except sqlite3.IntegrityError:
            raise ValueError("that name or that key is there already") from None

    def ensure_key(self, name: str, key: str) -> None:
        """Let `key` ask under `name` or one that is like it; nothing if it may already.

        Raises:
            ValueError: the key was revoked.
        """
        known = self.keys()
        if matching(self.secret, key, known) is None:
            taken = {other.name for other in known}
            free = (f"{name}-{number}" for number in itertools.count(2))
            self.add_key(next(n for n in itertools.chain([name], free) if n not in taken), key)

    def revoke_key(self, name: str) -> bool:
        """Refuse a key from now on; False if none of that name is good."""
        with self._transaction() as db:
            done = db.execute(
                "UPDATE keys SET revoked = ? WHERE name = ? AND revoked = ''", (_now(), name)
            )
        return bool(done.rowcount)

    def keys(self) -> list[Key]:
        """Every key, in the order they were added."""
        return [key_of(row) for row in self._all("SELECT * FROM keys ORDER BY number")]

    def key(self, number: int) -> Key:
        """One key."""
        return key_of(self._one("SELECT * FROM keys WHERE number = ?", number))

    # --- asking

    def accept(self, key: Key, asked: Configuration, *, budget: float, at_most: int) -> Run:
        """The run that answers `asked` for `key`: the one it has, or a new one, paid for.

        One transaction decides, so no two callers can spend the same FLOPs or start the same run.

        Args:
            key: who asks.
            asked: what.
            budget: FLOP, where the key has no budget of its own.
            at_most: runs of the key that may wait or train.

        Raises:
            UnknownKey: the key was revoked meanwhile.
            OverBudget: what is charged and reserved leaves too little.
            TooMany: so many are waiting.
        """
        with self._transaction() as db:
            known = self.key(key.number)
            if known.revoked:
                raise UnknownKey("it was revoked")
            has = self.answerable(key, asked)
            if has is not None:
                return has
            cost = asked.train_flops - self._paid(key.number, asked.key)
            _afford(known, cost, budget if known.budget is None else known.budget)
            if self.waiting(key) >= at_most:
                raise TooMany(f"{at_most} runs of this key are waiting; ask again later")
            run = secrets.token_hex(8)
            db.execute(
                "INSERT INTO runs (id, key, configuration, flops, status, asked) "
                "VALUES (?, ?, ?, ?, 'queued', ?)",
                (run, key.number, asked.key, str(cost), _now()),
            )
            self._book(key.number, reserved=cost)
            answer = self.answer(asked)
            if answer is not None:
                self._complete(self.run(run), answer)
            return self.run(run)

    def answerable(self, key: Key, asked: Configuration) -> Run | None:
        """The key's run of this configuration that waits, trains, is answered or diverged."""
        row = self._one(
            "SELECT * FROM runs WHERE key = ? AND configuration = ? "
            "AND status IN ('queued', 'running', 'completed', 'diverged')",
            key.number, asked.key,
        )  # fmt: skip
        return None if row is None else run_of(row)

    def waiting(self, key: Key) -> int:
        """Runs of a key that wait or train."""
        return self._one(
            "SELECT COUNT(*) FROM runs WHERE key = ? AND status IN ('queued', 'running')",
            key.number,
        )[0]

    def cancel(self, key: Key, run: str) -> Run:
        """Give up a run; a waiting one is refunded, what a training one has spent is charged.

        Raises:
            NoSuchRun: the key has none of that name.
            AlreadyEnded: it is over.
        """
        with self._transaction():
            found = self.run(run)
            if found.key != key.number:
                raise NoSuchRun(_UNKNOWN_RUN)
            if found.over:
                raise AlreadyEnded(f"the run is {found.status}")
            # A training run stays reserved until whoever trains it says what it has spent.
            if found.status == "queued":
                self._end(found, "canceled", "canceled before it began")
            else:
                self._set(found, status="canceled", reason="canceled")
            return self.run(run)

    # --- reading

    def run(self, run: str) -> Run:
        """One run.

        Raises:
            NoSuchRun: there is none of that name.
        """
        row = self._one("SELECT * FROM runs WHERE id = ?", run)
        if row is None:
            raise NoSuchRun(_UNKNOWN_RUN)
        return run_of(row)

    def runs(self, key: Key, *statuses: Status) -> list[Run]:
        """A key's runs in the order they were asked: all, or those in the statuses named."""
        rows = self._all(
            f"SELECT * FROM runs WHERE key = ? {_among(statuses)} ORDER BY number",
            key.number, *statuses,
        )  # fmt: skip
        return list(map(run_of, rows))

    def has_runs(self, key: Key) -> bool:
        """Did the key ask anything?"""
        return self._one("SELECT 1 FROM runs WHERE key = ? LIMIT 1", key.number) is not None

    def everybodys(self, *statuses: Status) -> list[Run]:
        """All runs in these statuses, in the order they were asked."""
        where = f"SELECT * FROM runs WHERE 1 {_among(statuses)} ORDER BY number"
        return list(map(run_of, self._all(where, *statuses)))

    def stopping(self) -> list[Run]:
        """Canceled runs of which nobody has said yet what they spent."""
        return list(
            map(run_of, self._all("SELECT * FROM runs WHERE status = 'canceled' AND ended = ''"))
        )

    def next_queued(self) -> Run | None:
        """The run to start next: of the key that trains least, its oldest; one a configuration."""
        row = self._one(
            "SELECT waiting.* FROM runs AS waiting LEFT JOIN "
            "(SELECT key, COUNT(*) AS busy FROM runs WHERE status = 'running' GROUP BY key) "
            "AS training ON training.key = waiting.key WHERE waiting.status = 'queued' "
            "AND waiting.configuration NOT IN "
            "(SELECT configuration FROM runs WHERE status = 'running') "
            "ORDER BY COALESCE(training.busy, 0), waiting.number LIMIT 1"
        )
        return None if row is None else run_of(row)

    def ended(self, runs: Collection[str]) -> list[Run]:
        """Those of `runs` that are over."""
        rows = self._all(
            "SELECT * FROM runs WHERE id IN (SELECT value FROM json_each(?)) "
            "AND status NOT IN ('queued', 'running')",
            json.dumps(list(runs)),
        )
        return list(map(run_of, rows))

    def answer(self, asked: Configuration) -> Answer | None:
        """What is on record for a configuration, whoever asked it."""
        row = self._one("SELECT loss, answered_by FROM answers WHERE configuration = ?", asked.key)
        return None if row is None else Answer(loss=row[0], by=row[1])

    # --- running

    def begin(self, run: Run) -> bool:
        """An attempt starts; False if the run no longer waits."""
        with self._transaction() as db:
            done = db.execute(
                "UPDATE runs SET status = 'running', attempts = attempts + 1, "
                "started = CASE started WHEN '' THEN ? ELSE started END "
                "WHERE id = ? AND status = 'queued'",
                (_now(), run.id),
            )
        return bool(done.rowcount)

    def settle(self, asked: Configuration, answer: Answer) -> None:
        """Enter an answer: every run that waits for it is completed and charged."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?)",
                (asked.key, answer.loss, answer.by),
            )
            for run in self._unfinished(asked):
                self._complete(run, answer)

    def diverge(self, asked: Configuration, reason: str, spent: int) -> None:
        """A training has no loss and would not have one again: whoever waits for it has paid.

        Args:
            asked: what was trained.
            reason: what is told.
            spent: FLOP, of `asked.train_flops`, up to where it diverged.
        """
        with self._transaction():
            for run in self._unfinished(asked):
                self._end(run, "diverged", reason, spent=spent)

    def wait_again(self, run: Run, *, deaths: int = 0) -> None:
        """An attempt is over before its end: let the run wait for another."""
        with self._transaction() as db:
            db.execute(
                "UPDATE runs SET status = 'queued', deaths = deaths + ? "
                "WHERE id = ? AND status = 'running'",
                (deaths, run.id),
            )

    def refund(self, run: Run, status: Literal["failed", "refused"], reason: str) -> None:
        """End a run without an answer; nothing is charged."""
        with self._transaction():
            if not self.run(run.id).over:
                self._end(run, status, reason)

    def stopped(self, run: Run, spent: int) -> None:
        """A canceled run has ceased to train: charge what it spent, give back the rest.

        Args:
            run: the run.
            spent: FLOP that its configuration's training has taken, earlier runs' included.
        """
        with self._transaction():
            found = self.run(run.id)
            if found.status == "canceled" and not found.ended:
                self._end(found, "canceled", "canceled", spent=spent)

    def _complete(self, run: Run, answer: Answer) -> None:
        self._set(run, loss=answer.loss, answered_by=answer.by)
        self._end(run, "completed", "", spent=run.configuration.train_flops)

    def _unfinished(self, asked: Configuration) -> list[Run]:
        """Everybody's runs that wait for the answer to a configuration."""
        return list(
            map(
                run_of,
                self._all(
                    "SELECT * FROM runs WHERE configuration = ? "
                    "AND status IN ('queued', 'running')",
                    asked.key,
                ),
            )
        )

    def _paid(self, key: int, configuration: str) -> int:
        """FLOP that a key was charged for a configuration: of runs that it canceled."""
        rows = self._all(
            "SELECT charged FROM runs WHERE key = ? AND configuration = ?", key, configuration
        )
        return sum(int(row["charged"]) for row in rows)

    def _end(self, run: Run, status: Status, reason: str, *, spent: int = 0) -> None:
        # What was paid for an earlier run of the configuration is not paid twice.
        spent = min(spent, run.configuration.train_flops)
        charged = max(0, spent - self._paid(run.key, run.configuration.key))
        self._set(run, status=status, reason=reason, charged=str(charged), ended=_now())
        self._book(run.key, reserved=-run.flops, charged=charged)

    def _set(self, run: Run, **columns: str | float) -> None:
        assigned = ", ".join(f"{name} = ?" for name in columns)
        self._db.execute(f"UPDATE runs SET {assigned} WHERE id = ?", (*columns.values(), run.id))

    def _book(self, key: int, *, reserved: int = 0, charged: int = 0) -> None:
        known = self.key(key)
        self._db.execute(
            "UPDATE keys SET reserved = ?, charged = ? WHERE number = ?",
            (str(known.reserved + reserved), str(known.charged + charged), key),
        )

    # --- SQLite

    def _one(self, query: str, *values: Any) -> Any:
        with self._lock:
            return self._db.execute(query, values).fetchone()

    def _all(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:  # a disk that is full may fail the commit, too, or have rolled back itself
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")


_UNKNOWN_RUN = "this key has no such run"


def _afford(key: Key, flops: int, budget: float) -> None:
    committed = key.charged + key.reserved
    if committed + flops > budget:
        raise OverBudget(
            f"train_flops {flops} exceeds what is left of the budget: "
            f"{max(0, int(budget) - committed)} of {int(budget)}"
        )


def _among(statuses: Sequence[Status]) -> str:
    return f"AND status IN ({', '.join('?' * len(statuses))})" if statuses else ""


def _now() -> str:
    return datetime.now(UTC).isoformat()
