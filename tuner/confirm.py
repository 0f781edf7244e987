"""The predicted optimum trained at a larger budget than any measured. Loads pandas and SciPy."""

import json
from dataclasses import dataclass
from pathlib import Path

from analysis.confirm import Confirmation
from analysis.expected import expected_loss
from analysis.fit import Fits, fit
from analysis.predict import Prediction, predict
from analysis.results import FitError
from analysis.runs import Runs
from analysis.runs import read as read_table
from tuner.config import Sweep, load, parse
from tuner.errors import ConfigError

BEYOND = 3.0
"""The run takes this many times the largest budget, where none is named."""
FILE = "confirm.json"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A confirming run before it is made."""

    sweep: Sweep
    """Of one trial."""
    folder: Path
    """Where it runs: inside the sweep's own."""
    fits: Fits
    """Made before it, of the sweep's runs alone."""
    largest: float
    """Largest budget among them, FLOP."""
    target: float | None
    """What the sweep's report answers for, FLOP."""


def prepare(folder: Path, budget: float | None) -> Asked:
    """Fit the sweep in `folder` and say what is to be trained.

    Args:
        folder: of a sweep.
        budget: of the run, FLOP; None for three times the largest.

    Raises:
        ConfigError: there is no sweep in `folder`, or the budget is not beyond its own.
        RunTableError: no law fits its runs.
    """
    sweep, runs = load(folder / "sweep.toml"), read_table(folder)
    largest = float(runs.table["budget"].max())
    budget = BEYOND * largest if budget is None else budget
    if budget <= largest:
        raise ConfigError(
            f"--budget {budget:g}: not beyond the largest measured, {largest:g}; a prediction is "
            "confirmed outside the runs it was made from"
        )
    fits = fit(runs, at=[budget])
    one = _of_one(sweep, runs, predict(runs, fits, budget))
    place = folder / f"confirm-{budget:g}"
    target = sweep.target_budget
    return Asked(sweep=one, folder=place, fits=fits, largest=largest, target=target)


def _of_one(sweep: Sweep, runs: Runs, wanted: Prediction) -> Sweep:
    """The sweep of one trial: the predicted size, rate and batch, all else as in `sweep`."""
    if wanted.shape is None or wanted.learning_rate is None or wanted.batch_size is None:
        raise ConfigError(f"{runs.source}: names no shapes, rates or batches to train with")
    best = int(runs.table["loss"].argmin())
    decay, rate = float(runs.table["weight_decay"].iloc[best]), wanted.learning_rate
    settings = sweep.model_dump(mode="json", exclude_none=True)
    for section in ("grid", "explore", "cap", "target"):
        settings.pop(section, None)
    settings["shapes"].pop("per_budget", None)
    settings["shapes"]["ladder"] = [[wanted.shape.num_layers, wanted.shape.d_model]]
    settings["training"] |= {"batch_size": wanted.batch_size, "weight_decay": decay}
    settings["pruning"]["enabled"] = False
    settings |= {
        "name": f"{sweep.name}-confirm", "design": "isoflop", "budgets": [wanted.budget],
        # One rate of a designed sampler is the geometric middle of its range.
        "search": {"trials": 1, "sampler": "grid", "learning_rate": [rate / 2, rate * 2],
                   "warm_start": False, "extend": False},
    }  # fmt: skip
    return parse(settings, place=f"{sweep.name}, to confirm")


def hold(folder: Path, asked: Asked) -> Confirmation:
    """Hold the run that was made against the fits made before it; write confirm.json.

    Raises:
        RunTableError: the run did not complete; its reason is named.
        FitError: no law of loss could be fitted.
    """
    runs = read_table(asked.folder)
    row = runs.table.iloc[0]
    budget, params, tokens = (float(row[name]) for name in ("budget", "params", "tokens"))
    expected = expected_loss(asked.fits, budget, params, tokens)
    if expected is None:
        raise FitError("no law of loss could be fitted: there is no loss to confirm")
    found = Confirmation(
        budget=budget, largest=asked.largest, num_layers=int(row["num_layers"]),
        d_model=int(row["d_model"]), params=params, tokens=tokens,
        learning_rate=float(row["learning_rate"]), batch_size=int(row["batch_size"]),
        predicted=expected.loss, measured=float(row["loss"]), approach=expected.approach,
    )  # fmt: skip
    (folder / FILE).write_text(json.dumps(found.to_dict(), indent=1) + "\n")
    return found


def read(folder: Path) -> Confirmation | None:
    """What was confirmed of the sweep in `folder`, if anything was."""
    path = folder / FILE
    return Confirmation.from_dict(json.loads(path.read_text())) if path.is_file() else None
