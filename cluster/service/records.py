"""What the ledger holds: its tables, and a row of each as a record."""

import sqlite3
from dataclasses import dataclass
from typing import Literal

from cluster.service.configuration import Configuration
from cluster.service.keys import Key

Status = Literal["queued", "running", "completed", "diverged", "refused", "failed", "canceled"]
"""`diverged`: has no loss, and is charged up to there; `refused`: cannot be answered, whoever
tries; `failed`: our fault. The last two are not charged."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT UNIQUE NOT NULL,
    digest TEXT UNIQUE NOT NULL,
    budget REAL,
    added TEXT NOT NULL,
    revoked TEXT NOT NULL DEFAULT '',
    reserved TEXT NOT NULL DEFAULT '0',  -- FLOP; text, because a sum may pass 2**63
    charged TEXT NOT NULL DEFAULT '0'
);
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL,
    key INTEGER NOT NULL REFERENCES keys(number),
    configuration TEXT NOT NULL,
    flops TEXT NOT NULL,
    charged TEXT NOT NULL DEFAULT '0',
    status TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    loss REAL,
    answered_by TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,  -- attempts that died while the service lived
    asked TEXT NOT NULL,
    started TEXT NOT NULL DEFAULT '',
    ended TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX IF NOT EXISTS asked_once ON runs (key, configuration)
    WHERE status IN ('queued', 'running', 'completed', 'diverged');
CREATE INDEX IF NOT EXISTS unfinished ON runs (status) WHERE status IN ('queued', 'running');
CREATE TABLE IF NOT EXISTS answers (  -- one training answers every key that asks for it
    configuration TEXT PRIMARY KEY,
    loss REAL NOT NULL,
    answered_by TEXT NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a configuration reaches."""

    loss: float
    """Held-out, nat/token."""
    by: str
    """What answered: a device, a law, recorded runs."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A configuration that a key asked."""

    number: int
    id: str
    key: int
    configuration: Configuration
    flops: int
    """What it may cost."""
    charged: int
    """What it did cost."""
    status: Status
    reason: str
    """Why it ended other than completed."""
    loss: float | None
    """nat/token, once it is completed."""
    answered_by: str
    attempts: int
    """Times it was started."""
    deaths: int
    """Attempts that died while the service lived."""
    asked: str
    """ISO 8601, UTC, as the two below."""
    started: str
    ended: str

    @property
    def over(self) -> bool:
        """It waits for nothing any more."""
        return self.status not in {"queued", "running"}


def key_of(row: sqlite3.Row) -> Key:
    """A row of `keys`."""
    return Key(
        number=row["number"], name=row["name"], digest=row["digest"], budget=row["budget"],
        added=row["added"], revoked=row["revoked"],
        reserved=int(row["reserved"]), charged=int(row["charged"]),
    )  # fmt: skip


def run_of(row: sqlite3.Row) -> Run:
    """A row of `runs`."""
    return Run(
        number=row["number"], id=row["id"], key=row["key"],
        configuration=Configuration.from_key(row["configuration"]),
        flops=int(row["flops"]), charged=int(row["charged"]),
        status=row["status"], reason=row["reason"],
        loss=row["loss"], answered_by=row["answered_by"],
        attempts=row["attempts"], deaths=row["deaths"],
        asked=row["asked"], started=row["started"], ended=row["ended"],
    )  # fmt: skip
