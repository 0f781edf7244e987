"""Anybody's table of runs, checked and brought to our column names: the workings of `runs.read`."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

Count: TypeAlias = Literal["as given", "total", "non_embedding", "transformer"]
FlopCount: TypeAlias = Literal["budget", "6ND", "exact"]

ALIASES: Mapping[str, tuple[str, ...]] = {
    "budget": (
        "C",
        "compute_budget",
        "compute",
        "flops",
        "FLOPs",
        "FLOP",
        "C_6ND",
        "training_flops",
    ),
    "params": ("N", "parameters", "n_params", "num_params", "params_active_precise", "model_size"),
    "tokens": ("D", "n_tokens", "num_tokens", "training_tokens", "dataset_size"),
    "loss": ("L", "final_loss", "val_loss", "validation_loss", "held_out_loss"),
    "trial": ("run_name", "run", "run_id"),
    "learning_rate": ("lr",),
}
"""Names other people give to our columns, in the order in which they are looked for."""

MEASURES = ("budget", "params", "tokens", "loss")
LEAST: Mapping[str, float] = {"budget": 1e6, "params": 1e3, "tokens": 1e3}
"""What the largest run of anybody's table has at least."""
NO_LOSS = "no loss"
"""Why a row is left out whose run diverged or was not measured."""
NO_LOSSES = ("", "nan", "inf", "+inf", "-inf", "infinity", "none", "<na>")
"""How files write it."""
_SUFFIXES = (".parquet", ".csv", ".json", ".jsonl", ".ndjson")
_SHOWN = 12  # faults printed before "and N more": a person mends a file by column, not by row


class RunTableError(Exception):
    """A table that cannot be fitted. `faults` holds every fault, each with place, value, remedy."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = tuple(faults)
        hidden = len(faults) - _SHOWN
        more = [f"… and {hidden} more"] if hidden > 0 else []
        super().__init__("\n".join([*faults[:_SHOWN], *more]))


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A row that no fit sees."""

    row: int
    """Row of the file, counted from 1 (the header is not a row)."""
    reason: str


def locate(path: Path) -> tuple[Path, Path | None]:
    """The table of runs and, for a sweep's folder, the table of curves where there is one."""
    if not path.exists():
        raise RunTableError([f"{path}: no such file or folder"])
    if not path.is_dir():
        return path, None
    tables = [path / name for name in ("trials.parquet", "trials.csv")]
    curves = [path / name for name in ("curves.parquet", "curves.csv")]
    found = [table for table in tables if table.exists()]
    if not found:
        raise RunTableError([f"{path}: holds neither trials.parquet nor trials.csv"])
    return found[0], next((curve for curve in curves if curve.exists()), None)


# Before 3.1 pandas read one number in five a last bit off; since then it warns of being asked.
_OLD = tuple(int(part) for part in pd.__version__.split(".")[:2]) < (3, 1)
_EXACT: dict[str, Any] = {"float_precision": "round_trip"} if _OLD else {}


def load(path: Path) -> pd.DataFrame:
    """The file as a table, nothing renamed."""
    try:
        match path.suffix.lower():
            case ".parquet":
                return pd.read_parquet(path)
            case ".csv":
                return pd.read_csv(path, **_EXACT)
            case ".json":
                return pd.DataFrame.from_records(json.loads(path.read_text()))
            case ".jsonl" | ".ndjson":
                lines = path.read_text().splitlines()
                return pd.DataFrame.from_records([json.loads(x) for x in lines if x.strip()])
    except (ValueError, TypeError, OSError) as error:
        raise RunTableError([f"{path}: cannot be read as {path.suffix}: {error}"]) from error
    raise RunTableError([f"{path}: unknown ending {path.suffix!r}; known: {', '.join(_SUFFIXES)}"])


def is_ours(table: pd.DataFrame) -> bool:
    """Whether the table is a sweep's own: then `params` is the total and `status` decides."""
    return {"params", "params_embedding", "params_head", "status"} <= set(table.columns)


def named(table: pd.DataFrame, column_map: Mapping[str, str], source: str) -> pd.DataFrame:
    """The table under our names, with the third of budget, params, tokens from C = 6 N D."""
    unknown = [name for name in column_map if name not in table.columns]
    if unknown:
        raise RunTableError([_no_column(source, x, column_map[x], table) for x in unknown])
    renamed = table.rename(columns=dict(column_map))
    for ours, theirs in ALIASES.items():
        alias = next((name for name in theirs if name in renamed.columns), None)
        if ours not in renamed.columns and alias is not None:
            renamed = renamed.rename(columns={alias: ours})
    _refuse_missing(renamed, [str(column) for column in table.columns], source)
    return renamed.reset_index(drop=True)


def _no_column(source: str, name: str, ours: str, table: pd.DataFrame) -> str:
    if ours in table.columns:
        return f"{source}: --map {name}={ours}: the file's name comes first: --map {ours}={name}"
    columns = [str(column) for column in table.columns]
    near = get_close_matches(name, columns, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(columns)}"
    return f"{source}: --map names a column {name!r} that is not there; {hint}"


def _refuse_missing(table: pd.DataFrame, columns: list[str], source: str) -> None:
    """Refuse a `table` under our names that lacks measures; `columns` are the file's own."""
    faults = []
    if "loss" not in table.columns:
        faults.append(_missing("loss", columns, source))
    absent = [name for name in ("budget", "params", "tokens") if name not in table.columns]
    if len(absent) > 1:
        faults += [_missing(name, columns, source) for name in absent]
        faults.append(f"{source}: any two of budget, params, tokens are enough (C = 6 N D)")
    if faults:
        raise RunTableError(faults)


def _missing(name: str, columns: list[str], source: str) -> str:
    aliases = ", ".join(ALIASES[name])
    return (
        f"{source}: no column {name!r} (nor {aliases}); it has {', '.join(columns)}. "
        f"Name yours with --map theirs={name}"
    )


def usable(table: pd.DataFrame, source: str) -> tuple[pd.DataFrame, tuple[Dropped, ...]]:
    """Rows to fit, their measures as floats, and the rows left out with the reason.

    Raises:
        RunTableError: values that are no positive numbers, or nothing completed.
    """
    rows = table.assign(row=np.arange(1, len(table) + 1))
    dropped: tuple[Dropped, ...] = ()
    if "status" in rows.columns:
        unfinished = rows[rows["status"].ne("completed").fillna(value=True)]
        dropped = tuple(
            Dropped(row=int(row), reason=_unfinished(status, reason))
            for row, status, reason in zip(
                unfinished["row"], unfinished["status"], _reasons(unfinished), strict=True
            )
        )
        rows = rows.drop(index=unfinished.index)
    words = (str(value).strip().lower() for value in rows["loss"])
    lost = rows[np.array([word in NO_LOSSES for word in words], dtype=bool)]
    if len(lost) == len(rows) > 0:
        raise RunTableError([f"{source}: no row has a loss: all {len(rows)} are NaN or empty"])
    dropped += tuple(Dropped(row=int(row), reason=NO_LOSS) for row in lost["row"])
    rows = rows.drop(index=lost.index)
    present = [name for name in MEASURES if name in rows.columns]
    numbers = {name: pd.to_numeric(rows[name], errors="coerce") for name in present}
    faults = [fault for name in present for fault in _bad_values(rows, name, numbers[name], source)]
    if rows.empty:
        faults.append(f"{source}: no completed run among {len(table)} rows")
    if faults:
        raise RunTableError(faults)
    return _third(
        rows.assign(**{name: numbers[name].astype("float64") for name in present})
    ), dropped


def refuse_millions(rows: pd.DataFrame, given: Collection[str], source: str) -> None:
    """Refuse a file whose largest run is smaller than any: it counts in millions, or in PF-days.

    Raises:
        RunTableError: with each such measure; those not `given` were computed.
    """
    faults = []
    for name, least in LEAST.items():
        if (largest := float(rows[name].max())) >= least:
            continue
        place = f"column {name!r}" if name in given else f"{name!r}, computed by C = 6 N D"
        faults.append(
            f"{source}: {place}: the largest is {largest:.4g}, less than {least:g}. "
            "Give single weights, tokens and FLOPs: multiply millions by 1e6, billions by 1e9"
        )
    if faults:
        raise RunTableError(faults)


def _reasons(rows: pd.DataFrame) -> list[object]:
    return rows["reason"].tolist() if "reason" in rows.columns else [""] * len(rows)


def _unfinished(status: object, reason: object) -> str:
    words = "" if pd.isna(reason) or not reason else f": {reason}"  # pyrefly: ignore
    return f"status is {'missing' if pd.isna(status) else status}, not completed{words}"  # pyrefly: ignore


def _bad_values(
    rows: pd.DataFrame, name: str, numbers: "pd.Series[float]", source: str
) -> list[str]:
    values = numbers.to_numpy(dtype="float64", na_value=np.nan)
    bad = ~(np.isfinite(values) & (values > 0))
    return [
        f"{source}: row {row}, column {name!r}: {_shown(value)} is not a positive number; "
        "mend it or leave the row out"
        for row, value in zip(rows["row"][bad], rows[name][bad], strict=True)
    ]


def _shown(value: object) -> str:
    """A cell as its file has it: what pandas reads as NaN was most often left blank."""
    return "a blank" if pd.isna(value) else repr(value)  # pyrefly: ignore


def _third(rows: pd.DataFrame) -> pd.DataFrame:
    """Fill in whichever of budget, params, tokens the table lacks by C = 6 N D."""
    if "budget" not in rows.columns:
        return rows.assign(budget=6.0 * rows["params"] * rows["tokens"])
    if "params" not in rows.columns:
        return rows.assign(params=rows["budget"] / (6.0 * rows["tokens"]))
    if "tokens" not in rows.columns:
        return rows.assign(tokens=rows["budget"] / (6.0 * rows["params"]))
    return rows


def counted(rows: pd.DataFrame, count: Count) -> pd.DataFrame:
    """Rows with `params` counting what `count` says; the total stays as `params_total`."""
    if count == "as given":
        return rows
    needs = {"total": (), "non_embedding": ("params_embedding",),
             "transformer": ("params_embedding", "params_head")}[count]  # fmt: skip
    absent = [name for name in needs if name not in rows.columns or rows[name].isna().any()]
    if absent:
        raise RunTableError([f"counting {count} weights needs a full column {n!r}" for n in absent])
    total = rows["params_total"] if "params_total" in rows.columns else rows["params"]
    without = sum((rows[name].astype("float64") for name in needs), start=0.0 * total)
    return rows.assign(params_total=total, params=total - without)


def rekeyed(rows: pd.DataFrame, flops: FlopCount) -> pd.DataFrame:
    """Rows whose `budget` is the mean, over each isoFLOP profile, of C by another count."""
    if flops == "budget":
        return rows
    if flops == "exact" and "flops" not in rows.columns:
        raise RunTableError(["counting exact FLOPs needs a column 'flops'"])
    spent = 6.0 * rows["params"] * rows["tokens"] if flops == "6ND" else rows["flops"]
    log_spent = spent.astype("float64").map(np.log)
    return rows.assign(budget=log_spent.groupby(rows["budget"]).transform("mean").map(np.exp))
