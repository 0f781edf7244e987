"""What is settled once a sweep, before its first trial: data, code, speed. Needs no ray."""

import hashlib
import json
import math
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from tuner.config import Sweep, digest
from tuner.errors import ConfigError
from tuner.ledger import Ledger

ANSWERING = ("data", "model", "tuner/backends")
"""Folders whose code decides what a trial reports."""
SOURCES = (".py", ".cpp")
"""How the names of its files end."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a sweep's rows come from."""

    commit: str
    """Of this code, or its version where there is no repository."""
    torch: str
    corpus: str
    """Fingerprint; empty where the backend reads none."""
    tokenizer: str
    vocab_size: int
    """Distinct tokens."""
    train_tokens: int
    """Length of the training split, token."""
    bytes_per_token: float
    """Of the held-out split, byte."""
    model: str = ""
    """Fingerprint of the source of a model of one's own."""

    def determining(self) -> dict[str, str]:
        """The part that rows are a function of."""
        settled = {"corpus": self.corpus, "tokenizer": self.tokenizer, "torch": self.torch}
        return settled | ({"model": self.model} if self.model else {})

    def most_tokens(self, sweep: Sweep) -> float:
        """Tokens that a trial may see, but for what the corpus holds beside whole windows."""
        if not self.train_tokens or sweep.data.allow_repeats:
            return math.inf
        window = sweep.shapes.context_length
        return self.train_tokens // window * window


def settle(ledger: Ledger, found: Provenance) -> Provenance:
    """Write the provenance down, or hold what is found against what stands there.

    Raises:
        ConfigError: data or torch are not those the sweep began with.
    """
    stands = read(ledger)
    if stands is None:
        ledger.write_fact("provenance", json.dumps(asdict(found)))
        return found
    if stands.determining() != found.determining():
        raise ConfigError(
            f"{ledger.path}: the sweep began with {stands.determining()}, now there is "
            f"{found.determining()}; rows would not compare. Restore these, or begin a new sweep"
        )
    return stands


def read(ledger: Ledger) -> Provenance | None:
    """What the ledger says, or None if the sweep never began."""
    text = ledger.fact("provenance")
    return None if text is None else Provenance(**json.loads(text))


def commit() -> str:
    """The commit of this code, `+` behind it if files differ; its version outside a repository."""
    root = Path(__file__).parent.parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=root, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return version("isoflop")
    return found.stdout.strip()


def code() -> str:
    """Stands for the code that rows are a function of: every source file of these folders."""
    root = Path(__file__).parent.parent
    paths = (path for name in ANSWERING for path in (root / name).rglob("*"))
    files = sorted(path for path in paths if path.suffix in SOURCES)
    return digest([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])


def version(distribution: str) -> str:
    """The installed version of a distribution, or nothing."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
