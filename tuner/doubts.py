"""What a sweep says of its own soundness, from its folder: beside every answer drawn from it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from analysis.predict import Prediction
from tuner import soundness, status, value
from tuner.ledger import DONE
from tuner.status import SweepStatus, open_folder


def of(source: Path, standing: SweepStatus | None = None) -> list[str]:
    """What a sweep says of its own soundness; of another table there is nothing to say.

    Args:
        source: a sweep's folder, or a table.
        standing: where the sweep stands, by `status.of_folder`; left out, it is looked up.
    """
    if not (source / "ledger.db").is_file():
        return []
    sweep, ledger, provenance = open_folder(source)
    if standing is not None and standing.end == DONE:
        found = list(standing.unsound)
    else:
        found = soundness.faults(sweep, ledger, provenance.vocab_size)
    if sweep.target.interval is not None:
        found.insert(0, value.told(sweep, ledger, provenance.vocab_size))
    stopped = (standing or status.of(sweep, ledger)).stopped
    ledger.close()
    return [stopped, *found] if stopped else found


def told_with(prediction: Prediction, notes: Sequence[str]) -> Prediction:
    """The answer, with what its sweep says among its warnings."""
    return replace(prediction, warnings=(*prediction.warnings, *notes))
