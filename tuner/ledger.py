"""The sweep's memory in one SQLite file: every trial, what it reported, and every FLOP it may cost.

FLOPs are reserved before a trial starts and settled when it ends. The sum of what is charged and
what is reserved never exceeds the cap: each reservation is one transaction that checks it.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote

from model.progress import Progress
from tuner.question import Question

Status = Literal["waiting", "running", "completed", "pruned", "failed"]
ENDED: tuple[Status, ...] = ("completed", "pruned", "failed")

END, DONE = "end", "done"
"""Name of the fact that says how the sweep's last run ended, `done` or `interrupted` (empty as long
as it runs, and after a kill); and the first of these."""
CAP = "cap: "
"""How the reason begins of a trial that a cap ended."""
TIME_SPENT = "the sweep's time is spent"
"""How it goes on where the cap is on time or money."""
GONE = "its checkpoint is gone"
"""What it says of a trial that would have to begin anew."""
NOT_REPEATED = f"{GONE}, and nothing is left to repeat it"
"""How it goes on where that is why."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS trials (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT UNIQUE NOT NULL,
    question TEXT NOT NULL,
    optuna INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'waiting',
    reason TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,       -- attempts that died while the sweep lived
    micro_batch_size INTEGER,            -- sequences at once, at most, since memory ran out
    spared TEXT NOT NULL DEFAULT '0',    -- FLOP that its parent's trunk was charged
    reserved TEXT NOT NULL DEFAULT '0',  -- FLOP; text, because a trial may pass 2**63
    charged TEXT NOT NULL DEFAULT '0',
    seconds REAL NOT NULL DEFAULT 0,         -- slot time
    started TEXT NOT NULL DEFAULT '',
    device TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS trials_by_status ON trials (status);
CREATE TABLE IF NOT EXISTS totals (  -- of all trials: a sum over them would take ever longer
    one INTEGER PRIMARY KEY CHECK (one = 1),
    reserved TEXT NOT NULL,
    charged TEXT NOT NULL,
    seconds REAL NOT NULL
);
INSERT OR IGNORE INTO totals VALUES (1, '0', '0', 0);
CREATE TABLE IF NOT EXISTS reports (
    key TEXT NOT NULL REFERENCES trials(key),
    step INTEGER NOT NULL,
    progress TEXT NOT NULL,
    PRIMARY KEY (key, step)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One trial as the ledger knows it."""

    number: int
    key: str
    question: Question
    optuna: int
    """Number of the trial in its budget's Optuna study."""
    status: Status
    reason: str
    attempts: int
    """Times it was started."""
    spared: int
    """FLOP of its run that its parent's trunk was charged, and it is not."""
    reserved: int
    """FLOP."""
    charged: int
    """FLOP."""
    seconds: float
    """Slot time."""
    started: str
    """First start, ISO 8601, UTC."""
    micro_batch_size: int | None
    """Sequences computed at once, at most, since an attempt ran out of memory; None: no limit."""
    device: dict[str, str]
    """What it ran on."""

    @property
    def is_cut(self) -> bool:
        """Did a cap end it? A higher one lets it go on."""
        return self.status == "failed" and self.reason.startswith(CAP)

    @property
    def is_out_of_time(self) -> bool:
        """Did a cap on time or money end it?"""
        return self.is_cut and TIME_SPENT in self.reason

    @property
    def begins_anew(self) -> bool:
        """Would one that a cap cut have nothing to go on from?"""
        return self.is_cut and GONE in self.reason


class Ledger:
    """A sweep's record, durable at every statement's end; one writer, any number of readers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None, timeout=60, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        # FULL, not NORMAL: a power cut after a settled trial must not bring its FLOPs back.
        self._db.executescript(
            # At once: whoever looks meanwhile finds all tables or none.
            f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; BEGIN IMMEDIATE; {_SCHEMA} COMMIT;"
        )

    @classmethod
    def reading(cls, path: Path) -> Self:
        """The record of a sweep for one who only looks: nothing is written, wherever it lies."""
        ledger = cls.__new__(cls)
        ledger.path = path
        ledger._db = _looked_at(path)
        return ledger

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # --- facts: what was settled once for the whole sweep

    def fact(self, name: str) -> str | None:
        """What was written under `name`, or None."""
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def write_fact(self, name: str, value: str) -> str:
        """Write `value` under `name`, over what stood there; return it."""
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
        return value

    # --- trials

    def add(self, question: Question, optuna: int, spared: int = 0) -> None:
        """Enter a trial that waits for its start, and what its parent's trunk spares it, FLOP."""
        self._db.execute(
            "INSERT INTO trials (key, question, optuna, spared) VALUES (?, ?, ?, ?)",
            (question.key, json.dumps(asdict(question)), optuna, str(spared)),
        )

    def reserve(self, key: str, flops: int, cap: float) -> bool:
        """Start an attempt: set `flops` aside for it, unless that would pass the cap."""
        with self._transaction():
            if self.committed() + flops > cap:
                return False
            started = self._db.execute(
                "UPDATE trials SET status = 'running', attempts = attempts + 1, "
                "started = CASE started WHEN '' THEN ? ELSE started END "
                "WHERE key = ? AND status = 'waiting'",
                (datetime.now(UTC).isoformat(), key),
            )
            if started.rowcount:
                self._book(key, reserved=flops)
        return True

    def report(self, key: str, progress: Progress, device: dict[str, str]) -> None:
        """Enter an evaluation; move its FLOPs from reserved to charged; once, if told twice."""
        with self._transaction():
            paid = self.paid(key)
            fresh = self._db.execute(
                "INSERT OR IGNORE INTO reports VALUES (?, ?, ?)",
                (key, progress.step, json.dumps(asdict(progress))),
            )
            if fresh.rowcount:
                spent = max(0, progress.flops - paid)
                self._book(key, charged=spent, reserved=-spent)
                self._db.execute(
                    "UPDATE trials SET device = ? WHERE key = ?", (json.dumps(device), key)
                )

    def recall(
        self,
        key: str,
        reports: Sequence[Progress],
        device: dict[str, str],
        status: Status,
        reason: str,
    ) -> None:
        """End a trial that never started with what is on record for its question: free."""
        with self._transaction():
            self._db.executemany(
                "INSERT INTO reports VALUES (?, ?, ?)",
                [(key, progress.step, json.dumps(asdict(progress))) for progress in reports],
            )
            self._db.execute(
                "UPDATE trials SET status = ?, reason = ?, device = ? WHERE key = ?",
                (status, reason, json.dumps(device), key),
            )

    def charge_again(self, key: str, flops: int, cap: float) -> bool:
        """Charge work that a trial repeats, unless that would pass the cap."""
        with self._transaction():
            if self.committed() + flops > cap:
                return False
            self._book(key, charged=flops)
        return True

    def settle(self, key: str, status: Status, reason: str = "", *, lost: int = 0) -> None:
        """End an attempt: charge `lost` FLOPs on top of what was reported, refund the rest."""
        with self._transaction():
            self._book(key, charged=lost, reserved=-self.record(key).reserved)
            self._db.execute(
                "UPDATE trials SET status = ?, reason = ? WHERE key = ?", (status, reason, key)
            )

    def put_back(self, key: str, optuna: int) -> None:
        """Let a trial that was over wait again, under a new number in its Optuna study."""
        self._db.execute(
            "UPDATE trials SET status = 'waiting', reason = '', optuna = ? WHERE key = ?",
            (optuna, key),
        )

    def count_death(self, key: str) -> int:
        """One more attempt died by itself; how many have."""
        self._db.execute("UPDATE trials SET deaths = deaths + 1 WHERE key = ?", (key,))
        return self.deaths(key)

    def limit(self, key: str, micro_batch_size: int) -> None:
        """Let further attempts compute at most so many sequences at once."""
        self._db.execute(
            "UPDATE trials SET micro_batch_size = ? WHERE key = ?", (micro_batch_size, key)
        )

    def occupy(self, key: str, seconds: float) -> None:
        """Add to the time a trial occupied its slot."""
        with self._transaction():
            self._db.execute(
                "UPDATE trials SET seconds = seconds + ? WHERE key = ?", (seconds, key)
            )
            self._db.execute("UPDATE totals SET seconds = seconds + ?", (seconds,))

    def _book(self, key: str, *, charged: int = 0, reserved: int = 0) -> None:
        """Add to what a trial and the sweep are charged and have reserved, FLOP."""
        record = self.record(key)
        self._db.execute(
            "UPDATE trials SET charged = ?, reserved = ? WHERE key = ?",
            (str(record.charged + charged), str(record.reserved + reserved), key),
        )
        self._db.execute(
            "UPDATE totals SET charged = ?, reserved = ?",
            (str(self.charged() + charged), str(self.reserved() + reserved)),
        )

    # --- reading

    def records(self, *statuses: Status) -> list[Record]:
        """All trials in the order they were asked, or those in the statuses named."""
        marks = ", ".join("?" * len(statuses))
        where = f"WHERE status IN ({marks})" if statuses else ""
        rows = self._db.execute(f"SELECT * FROM trials {where} ORDER BY number", statuses)
        return [_record(row) for row in rows.fetchall()]

    def has(self, *statuses: Status) -> bool:
        """Is any trial in one of the statuses named?"""
        marks = ", ".join("?" * len(statuses))
        found = self._db.execute(
            f"SELECT 1 FROM trials WHERE status IN ({marks}) LIMIT 1", statuses
        )
        return found.fetchone() is not None

    def lasts(self) -> dict[str, Progress]:
        """The latest report of every trial that has one."""
        rows = self._db.execute("SELECT key, MAX(step), progress FROM reports GROUP BY key")
        return {key: Progress(**json.loads(text)) for key, _, text in rows.fetchall()}

    def knows(self, key: str) -> bool:
        """Was a trial of that name entered?"""
        found = self._db.execute("SELECT 1 FROM trials WHERE key = ?", (key,)).fetchone()
        return found is not None

    def record(self, key: str) -> Record:
        """One trial.

        Raises:
            KeyError: no trial of that name.
        """
        row = self._db.execute("SELECT * FROM trials WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return _record(row)

    def reports(self, key: str) -> list[Progress]:
        """What a trial reported, in order."""
        rows = self._db.execute(
            "SELECT progress FROM reports WHERE key = ? ORDER BY step", (key,)
        ).fetchall()
        return [Progress(**json.loads(text)) for (text,) in rows]

    def deaths(self, key: str) -> int:
        """Attempts of a trial that died by themselves."""
        row = self._db.execute("SELECT deaths FROM trials WHERE key = ?", (key,)).fetchone()
        return row["deaths"]

    def last(self, key: str) -> Progress | None:
        """A trial's latest report, or None."""
        row = self._db.execute(
            "SELECT progress FROM reports WHERE key = ? ORDER BY step DESC LIMIT 1", (key,)
        ).fetchone()
        return None if row is None else Progress(**json.loads(row[0]))

    def paid(self, key: str) -> int:
        """FLOPs of a trial's run, from its first, that were charged to it or to its parent."""
        last = self.last(key)
        return last.flops if last else self.record(key).spared

    def rest(self, record: Record, flops: int) -> int:
        """FLOPs that a trial of `flops` in all would be charged yet, if it went on."""
        return flops if record.begins_anew else flops - self.paid(record.key)

    def committed(self) -> int:
        """FLOPs charged and reserved."""
        charged, reserved = self._db.execute("SELECT charged, reserved FROM totals").fetchone()
        return int(charged) + int(reserved)

    def charged(self) -> int:
        """FLOPs charged."""
        return int(self._total("charged"))

    def reserved(self) -> int:
        """FLOPs set aside for running trials."""
        return int(self._total("reserved"))

    def seconds(self) -> float:
        """Slot time of all trials."""
        return float(self._total("seconds"))

    def counts(self) -> dict[str, int]:
        """Trials by status."""
        rows = self._db.execute("SELECT status, COUNT(*) FROM trials GROUP BY status").fetchall()
        return dict(map(tuple, rows))

    def _total(self, column: str) -> str:
        return self._db.execute(f"SELECT {column} FROM totals").fetchone()[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _looked_at(path: Path) -> sqlite3.Connection:
    """A connection that cannot write; without locks where storage is read-only and has none."""
    place = quote(str(path.resolve()))
    for options in ("mode=ro", "mode=ro&immutable=1"):
        db = sqlite3.connect(
            f"file:{place}?{options}", uri=True, timeout=60, check_same_thread=False
        )
        db.row_factory = sqlite3.Row
        try:
            db.execute("SELECT 1 FROM facts LIMIT 1")
        except sqlite3.OperationalError:
            db.close()
            if "immutable" in options:
                raise
        else:
            return db
    raise AssertionError("unreachable")


def _record(row: sqlite3.Row) -> Record:
    fields = dict(row)
    return Record(
        **{name: fields[name] for name in ("number", "key", "optuna", "status", "reason")},
        **{name: fields[name] for name in ("attempts", "seconds", "started", "micro_batch_size")},
        question=Question.from_dict(json.loads(fields["question"])),
        spared=int(fields["spared"]),
        reserved=int(fields["reserved"]),
        charged=int(fields["charged"]),
        device=json.loads(fields["device"]),
    )
