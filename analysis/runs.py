"""The run table: its columns, their units, and how it is written. One row a logical trial."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

Kind = Literal["text", "int", "float", "time"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the run table."""

    name: str
    kind: Kind
    unit: str
    means: str


def _columns(kind: Kind, unit: str, **means: str) -> list[Column]:
    return [Column(name=name, kind=kind, unit=unit, means=text) for name, text in means.items()]


COLUMNS: tuple[Column, ...] = (
    *_columns(
        "text", "", sweep="name of the sweep", trial="key of the logical trial",
        parent="trial this one was forked from, empty if none",
    ),
    *_columns("int", "", seed="seed of weights and data order"),
    *_columns("float", "FLOP", budget="compute given to the trial"),
    *_columns(
        "int", "", d_model="residual width", num_layers="blocks", num_heads="attention heads",
        d_ff="feed-forward width", vocab_size="distinct tokens",
        context_length="tokens a sequence",
    ),
    *_columns(
        "int", "weight", params="all weights", params_embedding="token and position embeddings",
        params_head="output projection",
    ),
    *_columns("float", "", learning_rate="peak rate"),
    *_columns("int", "sequence", batch_size="sequences a step"),
    *_columns(
        "float", "", weight_decay="decoupled decay", warmup="share of the run spent warming up",
    ),
    *_columns(
        "text", "", schedule="shape of the rate after warm-up", optimizer="name", dtype="of matmuls",
        backend="what spent the FLOPs",
    ),
    *_columns(
        "int", "FLOP", flops="spent by the run that reached this row, never above budget",
        flops_charged="booked in the ledger, retries included",
        flops_per_token="training, forward and backward, by the sweep's convention",
    ),
    *_columns("int", "token", tokens="training tokens seen, repeats counted"),
    *_columns("float", "", epochs="tokens over the training split's length"),
    *_columns("int", "", steps="optimizer steps done"),
    *_columns("float", "s", seconds="spent on training steps"),
    *_columns("int", "", attempts="times the trial was started"),
    *_columns("float", "", mfu="share of the device's measured peak"),
    *_columns("text", "", device="what it ran on"),
    *_columns(
        "float", "nat/token", loss="held-out cross-entropy at the end", loss_se="its standard error",
        train_loss="mean training loss since the last evaluation",
    ),
    *_columns("float", "bit/byte", bpb="held-out loss per byte of text"),
    *_columns(
        "text", "", status="completed, pruned or failed", reason="why it was pruned or failed",
        commit="of the code", config_hash="of everything the row is a function of",
        corpus="fingerprint", tokenizer="name and fingerprint", torch="version",
    ),
    *_columns("time", "UTC", started="first attempt"),
)  # fmt: skip

CURVE_COLUMNS: tuple[Column, ...] = (
    *_columns("text", "", trial="key of the logical trial"),
    *_columns("int", "", step="optimizer steps done"),
    *_columns("int", "token", tokens="training tokens seen"),
    *_columns("int", "FLOP", flops="spent so far"),
    *_columns("float", "nat/token", loss="held-out cross-entropy"),
    *_columns("float", "", learning_rate="rate of the last step"),
)

REQUIRED: tuple[str, ...] = ("budget", "params", "tokens", "loss")
"""Columns a fit cannot do without."""

VOLATILE: tuple[str, ...] = ("seconds", "attempts", "mfu", "device", "started", "flops_charged")
"""Columns that are no function of configuration and seed: left out when tables are compared."""

_DTYPES = {"text": "string", "int": "Int64", "float": "float64", "time": "datetime64[us, UTC]"}


def frame(rows: list[dict[str, object]], columns: tuple[Column, ...] = COLUMNS) -> pd.DataFrame:
    """Rows as a table with every column present, in order, in its type; unknown keys are an error."""
    names = [column.name for column in columns]
    unknown = {key for row in rows for key in row} - set(names)
    if unknown:
        raise ValueError(f"not columns of the run table: {sorted(unknown)}")
    table = pd.DataFrame(rows, columns=names)
    return table.astype({column.name: _DTYPES[column.kind] for column in columns})


def write(table: pd.DataFrame, path: Path) -> None:
    """Write `table` to `path` (.parquet or .csv): whole or not at all, even when killed midway."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    if path.suffix == ".parquet":
        table.to_parquet(temporary, index=False)
    else:
        table.to_csv(temporary, index=False)
    temporary.replace(path)
