"""What a service's folder holds: its ledger, its checkpoints, and what was settled once for all."""

import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.service.configuration import Configuration
from cluster.service.ledger import Ledger
from cluster.service.pulse import Pulse
from cluster.service.settings import Settings
from data.corpus import Corpus
from tuner import corpora, plan
from tuner.backends.contract import Job
from tuner.errors import ConfigError
from tuner.slot import Slot
from tuner.storage import Place

LEDGER = "service.db"


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What was found when the service first started, and what its answers depend on besides."""

    vocab_size: int
    """Distinct tokens."""
    corpus: str
    """Folder of the prepared corpus; empty where none is read."""
    fingerprint: str
    """Of the corpus, or of the record."""
    most_tokens: float
    """Tokens that a run may see; infinite where it may repeat them."""
    determining: str
    """What answers are a function of in the settings, as JSON."""


@dataclass(frozen=True, kw_only=True)
class State:
    """A service's folder, and the settings it runs by. Travels to every process by value."""

    settings: Settings
    folder: Path
    settled: Settled

    def ledger(self) -> Ledger:
        """A connection of one's own to the record."""
        return Ledger(self.folder / LEDGER)

    def job(self, slot: Slot) -> Job:
        """What a backend is told besides the trial, where `slot` is what it runs on."""
        settled = self.settled
        return Job(
            sweep=self.settings.sweep, vocab_size=settled.vocab_size,
            corpus=Path(settled.corpus) if settled.corpus else None,
            checkpoints=Place.of(self.checkpoints), slot=slot,
        )  # fmt: skip

    @property
    def checkpoints(self) -> Path:
        """Where trainings keep their state."""
        return self.folder / "checkpoints"

    def checkpoint(self, asked: Configuration) -> Path:
        """Where the training of a configuration keeps its state, whoever asked for it."""
        return self.checkpoints / f"{asked.digest}.pickle"

    def pulse(self, asked: Configuration) -> Pulse:
        """By which the training of a configuration shows that it goes on."""
        return Pulse(path=self.checkpoints / f"{asked.digest}.pulse")

    def forget(self, asked: Configuration) -> None:
        """Remove what the training of a configuration left; what cannot be stays to be tidied."""
        with suppress(OSError):
            self.checkpoint(asked).unlink(missing_ok=True)
            self.pulse(asked).forget()

    @property
    def runner(self) -> Pulse:
        """By which the runner shows that it is at work."""
        return Pulse(path=self.folder / "runner.pulse")


def prepare(settings: Settings, folder: Path) -> State:
    """Open a service's folder, prepare its corpus, and hold both against what stands there.

    Raises:
        ConfigError: the folder cannot be written to, or its answers come from other settings.
        CorpusError: the corpus cannot be read or made.
        RunTableError: the record cannot be read.
    """
    folder = folder.resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written to ({error.strerror})") from None
    found = _settled(settings, folder)
    ledger = Ledger(folder / LEDGER)
    stands = ledger.fact("settled")
    if stands is None:
        ledger.write_fact("settled", json.dumps(asdict(found)))
    elif _dependent(Settled(**json.loads(stands))) != _dependent(found):
        ledger.close()
        raise ConfigError(
            f"{folder}: its answers come from other settings, text or records; name another "
            "folder with --dir, or restore them"
        )
    ledger.close()
    return State(settings=settings, folder=folder, settled=found)


def _settled(settings: Settings, folder: Path) -> Settled:
    sweep, corpus, fingerprint = settings.sweep, None, ""
    if settings.backend == "train":
        corpus = corpora.of(sweep, folder.parent)
        corpora.check(sweep, corpus)
        fingerprint = corpus.fingerprint
    elif settings.backend == "replay":
        from tuner import recording  # noqa: PLC0415  other backends need no pandas

        fingerprint = recording.of(sweep).fingerprint
    return Settled(
        vocab_size=corpus.vocab_size if corpus else plan.vocabulary(sweep),
        corpus=str(corpus.folder.resolve()) if corpus else "",
        fingerprint=fingerprint,
        most_tokens=_most_tokens(settings, corpus),
        determining=settings.determining,
    )


def _most_tokens(settings: Settings, corpus: Corpus | None) -> float:
    if corpus is None or settings.data.allow_repeats:
        return math.inf
    return corpus.tokens_per_epoch(settings.shapes.context_length)


def _dependent(settled: Settled) -> tuple[str, str, int]:
    return settled.determining, settled.fingerprint, settled.vocab_size
