"""From the ledger to the run table and its curves. Needs no ray."""

import math
from pathlib import Path

import pandas as pd

from analysis import runs
from model.progress import Progress
from tuner import slot as slots
from tuner import space
from tuner.config import Sweep
from tuner.ledger import ENDED, Ledger, Record
from tuner.provenance import Provenance
from tuner.slot import Slot
from tuner.space import Trial

TRIALS = ("trials.parquet", "trials.csv")
CURVES = "curves.parquet"


def export(folder: Path, sweep: Sweep, ledger: Ledger, provenance: Provenance) -> pd.DataFrame:
    """Write the run table and the curves of a sweep into its folder; return the table."""
    records, slot = ledger.records(*ENDED), slots.read(ledger)
    rows: list[dict[str, object]] = []
    curves: list[dict[str, object]] = []
    for record in records:
        trial = space.trial(sweep, record.question, provenance.vocab_size)
        reports = ledger.reports(record.key)
        last = reports[-1] if reports else None
        rows.append(_row(sweep, record, trial, last, provenance, slot))
        curves += [_point(record.key, progress) for progress in reports if not progress.diverged]
    # In the plan's order, not the clock's: the same sweep gives the same table.
    table = runs.frame(rows).sort_values(["budget", "params", "trial"], ignore_index=True)
    for name in TRIALS:
        runs.write(table, folder / name)
    runs.write(runs.frame(curves, runs.CURVE_COLUMNS), folder / CURVES)
    return table


def _row(
    sweep: Sweep,
    record: Record,
    trial: Trial,
    last: Progress | None,
    provenance: Provenance,
    slot: Slot,
) -> dict[str, object]:
    """One row of the run table."""
    asked, shape, training = trial.question, trial.shape, sweep.training
    schedule, warmup, parent = training.schedule, training.warmup, ""
    if trial.fork is not None:  # it is that of its length alone
        schedule, warmup = "wsd", trial.fork.warmup / trial.steps
        parent = asked.cell.parent if record.spared else ""
    return {
        "sweep": sweep.name, "trial": trial.key, "parent": parent, "seed": asked.seed,
        "budget": asked.budget, "d_model": shape.d_model, "num_layers": shape.num_layers,
        "num_heads": shape.num_heads, "d_ff": shape.d_ff, "vocab_size": shape.vocab_size,
        "context_length": shape.context_length, "params": shape.params,
        "params_embedding": shape.params_embedding, "params_head": shape.params_head,
        "learning_rate": asked.learning_rate, "batch_size": trial.batch_size,
        "weight_decay": trial.weight_decay, "warmup": warmup,
        "schedule": schedule, "optimizer": training.optimizer,
        "parametrization": training.parametrization, "dtype": slot.speed.dtype,
        "backend": sweep.backend, "flops_charged": float(record.charged),
        "flops_per_token": shape.flops_per_token(sweep.convention), "attempts": record.attempts,
        "device": record.device.get("device", ""), "mfu": _mfu(last, record),
        "status": record.status, "reason": record.reason, "commit": provenance.commit,
        "config_hash": space.config_hash(sweep, trial, provenance.determining(), slot),
        "corpus": provenance.corpus, "tokenizer": provenance.tokenizer,
        "torch": provenance.torch, "started": record.started or None,
        **_outcome(last, provenance),
    }  # fmt: skip


def _outcome(last: Progress | None, provenance: Provenance) -> dict[str, object]:
    """The columns that the last report decides; without a report there is nothing to say."""
    if last is None:
        return {"flops": 0.0, "tokens": 0, "steps": 0}
    told = not last.diverged
    return {
        "flops": float(last.flops), "tokens": last.tokens, "steps": last.step,
        "seconds": last.seconds,
        "epochs": last.tokens / provenance.train_tokens if provenance.train_tokens else math.nan,
        "loss": last.loss if told else math.nan, "loss_se": last.loss_se if told else math.nan,
        "train_loss": last.train_loss if told else math.nan,
        "bpb": _bits_per_byte(last.loss, provenance) if told else math.nan,
    }  # fmt: skip


def _mfu(last: Progress | None, record: Record) -> float:
    peak = float(record.device.get("peak_flops", 0))
    if last is None or not peak or not last.seconds:
        return math.nan
    return last.flops / last.seconds / peak


def _bits_per_byte(loss: float, provenance: Provenance) -> float:
    size = provenance.bytes_per_token
    return loss / (math.log(2) * size) if size else math.nan


def _point(key: str, progress: Progress) -> dict[str, object]:
    return {
        "trial": key, "step": progress.step, "tokens": progress.tokens,
        "flops": float(progress.flops), "loss": progress.loss,
        "learning_rate": progress.learning_rate,
    }  # fmt: skip
