"""FLOPs to the answer on real runs: the race of `answer.py` on a dense grid that was recorded.

`recorded/` holds the table, its curves and the sweep that trained them. The largest budgets are
hidden from every arm; the truth is where the largest one's own profile has its minimum, by a
parabola in ln N and ln rate through its runs, so that no law is taken for granted. The rest is
replayed: a rate that an arm asks for is answered between the two recorded around it, and each race
draws which recorded seed of a budget and size answers first.
"""

import argparse
import json
import math
import platform
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from answer import ARMS, Grid, by_cells, commit, run
from threadpoolctl import threadpool_limits

from analysis import surface
from analysis.cells import SHAPE
from analysis.fit import fit
from analysis.results import FitError
from analysis.runs import Runs, RunTableError
from analysis.surface import Tuned
from tuner.config import Sweep, parse

HERE = Path(__file__).with_name("recorded")
WITHIN = 1.05
"""Factor in budget and N within which a run answers: less than from one recorded size to the next,
so that no size is answered by another."""


SEEDS = 2
"""On record at most."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What was recorded."""

    sweep: dict
    """The file that trained it."""
    trials: pd.DataFrame
    """Completed runs."""
    curves: pd.DataFrame

    @classmethod
    def read(cls):
        trials = pd.read_parquet(HERE / "trials.parquet")
        return cls(
            sweep=tomllib.loads((HERE / "sweep.toml").read_text(encoding="utf-8")),
            trials=trials[trials.status == "completed"],
            curves=pd.read_parquet(HERE / "curves.parquet"),
        )

    @property
    def budgets(self) -> list[float]:
        """FLOP, rising."""
        return sorted(self.trials.budget.unique().tolist())

    @property
    def rates(self) -> tuple[float, float]:
        """Lowest and highest learning rate."""
        return float(self.trials.learning_rate.min()), float(self.trials.learning_rate.max())

    def tuned(self, budgets) -> Tuned:
        """The runs of some budgets."""
        rows = self.trials[self.trials.budget.isin(budgets)]
        return Tuned(
            budget=rows.budget.to_numpy(),
            params=(rows.params - rows.params_embedding).to_numpy(dtype=float),
            tokens=rows.tokens.to_numpy(dtype=float),
            learning_rate=rows.learning_rate.to_numpy(),
            loss=rows.loss.to_numpy(),
        )

    def drawn(self, budgets, seed: int, folder: Path) -> None:
        """Write the runs of some budgets, at each budget and size its seeds in a random order:
        the first becomes `seed`, the next `seed + 1`, as a sweep of that seed asks for them."""
        rng = np.random.default_rng(seed)
        rows = self.trials[self.trials.budget.isin(budgets)].copy()
        for _, cell in rows.groupby(["budget", "params"]):
            seeds = sorted(cell.seed.unique())
            places = dict(zip(seeds, seed + rng.permutation(len(seeds)), strict=True))
            rows.loc[cell.index, "seed"] = cell.seed.map(places)
        rows.sort_values("seed", kind="stable").to_parquet(folder / "trials.parquet")
        curves = self.curves[self.curves.trial.isin(rows.trial)]
        curves.to_parquet(folder / "curves.parquet")


def sweep_of(record: Record, hidden: int, seed: int, folder: Path, **sections) -> Sweep:
    """The sweep that all arms share, but for how they search."""
    budgets = record.budgets[:-hidden]
    batches = dict(
        zip(record.sweep["budgets"], record.sweep["training"]["batch_size"], strict=True)
    )
    search = sections.pop("search", {})
    return parse(
        {
            "name": "recorded", "backend": "replay", "budgets": budgets, "seed": seed,
            "convention": record.sweep["convention"], "shapes": record.sweep["shapes"],
            "training": {"batch_size": [batches[budget] for budget in budgets]},
            "replay": {"table": str(folder), "match": "interpolated", "within": WITHIN},
            **sections,
            "search": {
                "trials": record.sweep["search"]["trials"], "learning_rate": record.rates, **search,
            },
            "target": {"budget": record.budgets[-1], **sections.get("target", {})},
        },
        place="recorded",
    )  # fmt: skip


# --- the truth


@dataclass(frozen=True, kw_only=True)
class Truth:
    """ln N_opt at the largest budget."""

    log_n_opt: float
    low: float
    """N, 5 % of bootstrap draws below it."""
    high: float
    """N, 5 % above it."""


def truth_of(record: Record) -> Truth:
    """By the largest budget's own runs."""
    low, middle, high = np.quantile(minima(record.tuned(record.budgets[-1:])), [0.05, 0.5, 0.95])
    return Truth(log_n_opt=math.log(middle), low=low, high=high)


def told(record: Record, truth: Truth) -> str:
    """The truth in words, beside what laws say."""
    largest = record.budgets[-1]
    lines = [
        f"truth: N_opt({largest:.0e}) = {math.exp(truth.log_n_opt):.4g} "
        f"(90 %: {truth.low:.4g} to {truth.high:.4g})"
    ]
    for hidden in range(len(record.budgets) - 1):
        seen = record.tuned(record.budgets[: len(record.budgets) - hidden])
        try:
            found = surface.fit(seen, record.rates)
            cells = by_cells(seen, largest)
        except FitError as error:
            lines.append(f"all runs without the {hidden} largest budgets: {error}")
            continue
        lines.append(
            f"all runs without the {hidden} largest budgets: surface "
            f"{float(found.law.n_opt(largest)):.4g}, 90 % within "
            f"{math.expm1(found.half_widths(largest)[0]):.1%}, noise {found.noise:.2%}; best cells "
            f"{cells:.4g}"
        )
    return "\n".join(lines)


def minima(runs: Tuned, draws: int = 1000):
    """N of lowest loss at one budget, by runs drawn with replacement."""
    x = np.log(runs.params)
    center, rate = x.mean(), np.log(runs.learning_rate)
    x, y = x - center, rate - rate.mean()
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    rng, found = np.random.default_rng(0), []
    for _ in range(draws):
        drawn = rng.integers(len(runs), size=len(runs))
        _, bx, by, xx, xy, yy = np.linalg.lstsq(terms[drawn], np.log(runs.loss[drawn]), rcond=None)[
            0
        ]
        place = np.linalg.solve([[2 * xx, xy], [xy, 2 * yy]], [-bx, -by])
        found.append(math.exp(place[0] + center))
    return found


# --- the race


def race(record, truth, arm, hidden, seed, every, within):
    """One arm on one draw, judged by each share of the truth that counts as right."""
    decider, sections = ARMS[arm]
    if decider is Grid:  # the rates that were recorded are the middles of the file's range
        whole = {**sections["search"], "learning_rate": record.sweep["search"]["learning_rate"]}
        sections = {**sections, "search": whole}
    with tempfile.TemporaryDirectory() as folder:
        record.drawn(record.budgets[:-hidden], seed, Path(folder))
        course = run(sweep_of(record, hidden, seed, Path(folder), **sections), decider)
    judged = [course.judged(truth.log_n_opt, every, math.log1p(share)) for share in within]
    return judged, honesty(course, truth), fitted(course, truth)


def fitted(course, truth):
    """What `isoflop fit` says of the completed runs: whether its 90 % interval holds the truth; ln
    of the interval's ends over each other; ln of N_opt over the truth."""
    runs, budget = course.runs, course.sweep.target_budget
    columns = dict.fromkeys((*SHAPE, "params_embedding", "params_head", "seed"), 0)
    table = pd.DataFrame(vars(runs)).assign(status="completed", **columns)
    try:
        found = fit(Runs.of(table), at=(budget,), replicates=200).best
    except RunTableError:  # too few runs for any approach
        return False, math.inf, math.inf
    low, high = np.log(found.n_opt_interval(budget))
    off = math.log(found.law.n_opt(budget)) - truth.log_n_opt
    return bool(low <= truth.log_n_opt <= high), float(high - low), off


def honesty(course, truth):
    """Whether the surface's 90 % interval holds the truth; ln of its ends over each other; runs;
    and those that repeat one: third ones of a budget and size at about one rate, for two seeds are
    on record."""
    runs, budget = course.runs, course.sweep.target_budget
    try:
        found = surface.fit(runs, course.sweep.search.learning_rate)
        off = abs(found.targets(budget)[0][0] - truth.log_n_opt)
        half = float(found.half_widths(budget)[0])
    except FitError:
        off, half = math.inf, math.inf
    places = list(zip(runs.budget, runs.params, np.log(runs.learning_rate), strict=True))
    repeats = sum(
        sum(before[:2] == place[:2] and abs(before[2] - place[2]) < 0.1 for before in places[:i])
        >= SEEDS
        for i, place in enumerate(places)
    )
    return bool(off < half), 2 * half, len(runs), repeats


@threadpool_limits.wrap(limits=1)
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two draws in place of ten")
    parser.add_argument("--seeds", type=int, default=10, help="draws and samplers' seeds")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--hidden", nargs="+", type=int, default=[1, 2], help="largest budgets")
    parser.add_argument("--within", nargs="+", type=float, default=[0.1, 0.2], help="of the truth")
    parser.add_argument("--every", type=int, default=1, help="completed runs between two looks")
    options = parser.parse_args()
    seeds, every = (2, 4) if options.quick else (options.seeds, options.every)
    began = time.perf_counter()
    record = Record.read()
    truth = truth_of(record)
    print(told(record, truth))
    found, held, said = {}, {}, {}
    for hidden in options.hidden:
        for arm in options.arms:
            for seed in range(seeds):
                place = hidden, arm, seed
                outcome = race(record, truth, arm, hidden, seed, every, options.within)
                found[place], held[place], said[place] = outcome
                print(*place, *outcome, file=sys.stderr, flush=True)
    columns = ("best cells, median", "worst", "surface, median", "worst", "spent", "right")
    print(f"| hidden | arm | within | {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|---|---|")
    for hidden in options.hidden:
        for arm in options.arms:
            races = [found[hidden, arm, seed] for seed in range(seeds)]
            for place, share in enumerate(options.within):
                print(row(hidden, arm, share, [judged[place] for judged in races]))
    for hidden in options.hidden:
        for arm in options.arms:
            ends = (held[hidden, arm, i] for i in range(seeds))
            inside, wide, runs, repeats = zip(*ends, strict=True)
            print(f"{hidden} hidden, {arm}: 90 % interval by the surface holds the truth in "
                  f"{sum(inside)} of {seeds}; its ends differ by a factor of "
                  f"{math.exp(median(wide)):.2f}, median; {min(runs)} to {max(runs)} runs, "
                  f"of which {min(repeats)} to {max(repeats)} repeat one")  # fmt: skip
            inside, wide, off = zip(*(said[hidden, arm, i] for i in range(seeds)), strict=True)
            print(f"{hidden} hidden, {arm}: that of `isoflop fit`, in {sum(inside)} of {seeds}; "
                  f"its ends differ by a factor of {math.exp(median(wide)):.2f}, its N_opt is off "
                  f"by {math.expm1(median(map(abs, off))):.0%}, medians")  # fmt: skip
    print(json.dumps(summary(found, options, seeds) | {
        "seeds": seeds, "seconds": round(time.perf_counter() - began, 1),
        "machine": platform.processor() or platform.machine(), "commit": commit(),
    }))  # fmt: skip


def row(hidden, arm, share, races):
    """One line of the table: an arm over all draws."""
    shown = []
    for way in ("cells", "surface"):
        arrived = [one.arrived[way] for one in races]
        shown += [f"{median(arrived):.2e}", f"{max(arrived):.2e}"]
    shown.append(f"{median(one.spent for one in races):.2e}")
    near = math.log1p(share)
    right = [sum(abs(one.last[way]) < near for one in races) for way in ("cells", "surface")]
    return (
        f"| {hidden} | {arm} | {share:.0%} | {' | '.join(shown)} | "
        f"{right[0]}, {right[1]} of {len(races)} |"
    )


def summary(found, options, seeds):
    """Value with the surface over each other arm, draw by draw: median and worst."""
    ratios = {}
    if "value" not in options.arms:
        return ratios
    places = product(options.hidden, set(options.arms) - {"value"}, enumerate(options.within))
    for (hidden, arm, (place, share)), way in product(places, ("cells", "surface")):
        each = [
            found[hidden, "value", seed][place].arrived["surface"]
            / found[hidden, arm, seed][place].arrived[way]
            for seed in range(seeds)
        ]
        name = f"value_vs_{arm}_{way}_hidden_{hidden}_within_{share:g}"
        ratios[name] = [round(median(each), 3), round(max(each), 3)]
    return ratios


if __name__ == "__main__":
    main()
