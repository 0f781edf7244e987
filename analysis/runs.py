"""The run table: its columns, their units, how it is written and read. One row a logical trial."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import pandas as pd

from analysis import tables
from analysis.tables import Count, Dropped, FlopCount, RunTableError

__all__ = [
    "COLUMNS", "CURVE_COLUMNS", "REQUIRED", "VOLATILE", "Column", "Dropped", "RunTableError",
    "Runs", "frame", "read", "write",
]  # fmt: skip

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
        "text", "", schedule="shape of the rate after warm-up", optimizer="name",
        parametrization="of rates: mup (matrices at 16 / d_model), completep (depth too), standard",
        dtype="of matmuls", backend="what spent the FLOPs",
    ),
    # A float, because a trial may pass 2**63; steps, batch and flops_per_token give it exactly.
    *_columns(
        "float", "FLOP", flops="spent by the run that reached this row, never above budget",
        flops_charged="booked in the ledger, retries included",
    ),
    *_columns(
        "int", "FLOP", flops_per_token="training, forward and backward, by the sweep's convention",
    ),
    *_columns("int", "token", tokens="training tokens seen, repeats counted"),
    *_columns("float", "", epochs="tokens over the training split's length"),
    *_columns("int", "", steps="optimizer steps done"),
    *_columns("float", "s", seconds="spent on training steps"),
    *_columns("int", "", attempts="times the trial was started"),
    *_columns("float", "", mfu="share of the device's measured peak"),
    *_columns("text", "", device="what it ran on"),
    *_columns(
        "float", "nat/token", loss="held-out cross-entropy at the end",
        loss_se="its standard error", train_loss="mean training loss since the last evaluation",
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
    *_columns("float", "FLOP", flops="spent so far"),
    *_columns("float", "nat/token", loss="held-out cross-entropy"),
    *_columns("float", "", learning_rate="rate of the last step"),
)

REQUIRED: tuple[str, ...] = ("budget", "params", "tokens", "loss")
"""Columns a fit cannot do without."""

VOLATILE: tuple[str, ...] = ("seconds", "attempts", "mfu", "device", "started", "flops_charged")
"""Columns that are no function of configuration and seed: left out when tables are compared."""

_DTYPES = {"text": "string", "int": "Int64", "float": "float64", "time": "datetime64[us, UTC]"}


def frame(rows: list[dict[str, object]], columns: tuple[Column, ...] = COLUMNS) -> pd.DataFrame:
    """Rows as a table: every column present, in order, in its type; unknown keys are an error."""
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


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs ready to be fitted. Build one with `read` or `Runs.of`."""

    table: pd.DataFrame
    """Completed runs, one a row: `budget params tokens loss` as floats, in FLOP, weights, tokens
    and nat/token, and whatever else the file had. `params` is N by the convention `count` (the
    total is `params_total` then); `row` is the row of the file, counted from 1."""
    trials: pd.DataFrame
    """Every row as it was read, pruned and failed ones too, under our column names."""
    dropped: tuple[Dropped, ...] = ()
    """Rows that no fit sees, each with its reason."""
    source: str = ""
    """Where the runs came from, as the person named it."""
    curves: pd.DataFrame | None = None
    """Training curves (`CURVE_COLUMNS`) where there are any."""
    count: Count = "as given"
    """Which weights N counts."""
    flops: FlopCount = "budget"
    """What `budget` means: as in the file, or re-keyed as 6 N D or as the FLOPs really spent."""

    @classmethod
    def of(
        cls,
        table: pd.DataFrame,
        *,
        source: str = "a table",
        curves: pd.DataFrame | None = None,
        column_map: Mapping[str, str] = MappingProxyType({}),
    ) -> "Runs":
        """Runs from a table in memory, checked as `read` checks a file, but in any unit.

        Raises:
            RunTableError: with all faults.
        """
        trials = tables.named(table, column_map, source)
        own = tables.is_ours(trials)
        usable, dropped = tables.usable(trials, source)
        if own:
            usable = tables.counted(usable, "non_embedding")
        return cls(
            table=usable, trials=trials, dropped=dropped, source=source, curves=curves,
            count="non_embedding" if own else "as given",
        )  # fmt: skip

    @property
    def reach(self) -> float:
        """Ten times the largest budget, FLOP: where answers are given that nobody asked for."""
        return 10 * float(self.table["budget"].max())

    def with_convention(self, count: Count, *, flops: FlopCount = "budget") -> "Runs":
        """The same runs with another N and another C.

        `budget` stays the key of an isoFLOP profile; under `6ND` and `exact` each profile's
        `budget` becomes the geometric mean of what its runs spent by that count.

        Raises:
            RunTableError: the table lacks the counts (`params_embedding`, `params_head`, `flops`).
        """
        table = tables.counted(self.table, count)
        return replace(self, table=tables.rekeyed(table, flops), count=count, flops=flops)


def read(path: Path, *, column_map: Mapping[str, str] = MappingProxyType({})) -> Runs:
    """Read runs from a sweep's folder, or a file: .parquet, .csv, .json (array of objects), .jsonl.

    `column_map` gives their column names for ours (`{"their_loss": "loss"}`), beyond the aliases of
    `analysis.tables.ALIASES`. Any two of `budget params tokens` give the third by C = 6 N D.

    Raises:
        RunTableError: with all faults.
    """
    table_path, curves_path = tables.locate(path)
    curves = tables.load(curves_path) if curves_path is not None else None
    table = tables.load(table_path)
    runs = Runs.of(table, source=str(path), curves=curves, column_map=column_map)
    tables.refuse_millions(runs.table, runs.trials.columns, str(path))
    return runs
