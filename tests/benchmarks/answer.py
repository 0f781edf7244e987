"""FLOPs to the answer: what each way of searching spends until its N_opt stays right.

A known law answers in place of training (backend `law`): a surface of learning rate and batch by
Step Law's published exponents, seed noise of .3 %, three true laws. N_opt is asked for at ten times
the largest budget. An arm has arrived once its estimate stays within 10 % of the truth to its end;
one that never arrives counts at all it spent. Every arm has the same budgets, ladder, range of
learning rates and count of trials, and runs through `tuner.simulate`.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median

import numpy as np
import optuna
from threadpoolctl import threadpool_limits

from analysis import surface
from analysis.laws import LossLaw
from analysis.lossfit import LOSS_APPROACHES
from analysis.parametric import solve
from analysis.problem import Problem
from analysis.results import FitError
from analysis.surface import Tuned
from tuner import simulate, space
from tuner.config import Sweep, parse
from tuner.engine import Engine
from tuner.question import Cell, Setting

LAWS = {
    "Hoffmann": {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},  # 2203.15556
    "Besiroglu": {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
    "shipped": {"E": 1.9, "A": 350.0, "B": 900.0, "alpha": 0.33, "beta": 0.31},
}
"""The true laws: arXiv 2203.15556, arXiv 2404.10102, and the one of data/isoflops_curves.json."""
STEP_LAW = {
    # arXiv 2503.04715, eq. 1: lr = 1.79 N^-.713 D^.307, batch (tokens) = .58 D^.571.
    "learning_rate": 1.79, "rate_params": -0.713, "rate_tokens": 0.307,
    "batch_tokens": 0.58, "batch_exponent": 0.571,
    # Chosen to be as flat as its figures look: .25 % at twice the rate or 2.5 times the batch.
    "curvature": 0.0125, "batch_curvature": 0.007, "batch_curvature_below": 0.007,
    # Chosen, not measured: reports on the way are half as noisy again and favor small rates.
    "relative_noise": 0.003, "wobble": 0.5, "hurry": 0.1,
}  # fmt: skip
BUDGETS = (1e17, 3e17, 1e18, 3e18)
BEYOND = 10.0
"""The answer is asked for at this many times the largest budget."""
NEAR = math.log(1.1)
"""Within 10 % of the truth."""
CONTEXT = 512


def sweep_of(law: dict, seed: int, **sections) -> Sweep:
    """The sweep that all arms share, but for how they search."""
    return parse(
        {
            "name": "answer", "backend": "law", "budgets": list(BUDGETS), "seed": seed,
            "convention": "6ND",
            "shapes": {"per_budget": 7, "context_length": CONTEXT, "head_size": 64},
            "training": {"batch_size": [batch(budget) for budget in BUDGETS]},
            "law": {**STEP_LAW, **law}, **sections,
            "target": {"budget": BEYOND * BUDGETS[-1], **sections.get("target", {})},
            "search": {
                "trials": 6, "learning_rate": [3e-4, 1e-1], **sections.get("search", {}),
            },
        },
        place="answer",
    )  # fmt: skip


def batch(budget: float) -> int:
    """Sequences a step by Step Law, at 20 tokens a weight."""
    return round(0.58 * math.sqrt(20 * budget / 6) ** 0.571 / CONTEXT)


# --- arms


class Blind(Engine):
    """Settings at random: every trial a random size and rate of its budget, none pruned."""

    def _propose(self):
        cell = next(self.agenda.cells(), None)
        if cell is None:
            return None
        question = self._drawn(cell)
        if self.ledger.committed() + cell.budget > self.cap:
            return None
        self.ledger.add(question, len(self.ledger.records()))
        self.agenda.strike(cell)
        return self.trial(self.ledger.record(question.key))

    def _drawn(self, cell):
        place = len(self.ledger.records())
        rng = np.random.default_rng(np.random.SeedSequence(self.sweep.seed, spawn_key=(place,)))
        sizes = space.window(self.sweep, cell.budget, self.vocab_size)
        low, high = np.log(self.sweep.search.learning_rate)
        rate = float(np.exp(rng.uniform(low, high)))
        return self._asked(cell, sizes[rng.integers(len(sizes))], rate)

    def _asked(self, cell, size, rate):
        # The plan's cell is struck; the question has its own size, under a number of its own.
        number = len(self.ledger.records())
        asked = Cell(budget=cell.budget, size=size, number=number, seed=cell.seed)
        return asked.asked(Setting(learning_rate=rate))

    def _conclude(self, record, status):
        pass


class Grid(Blind):
    """Every size at every rate of the plan, smallest budgets first."""

    def _drawn(self, cell):
        search = self.sweep.search
        rate = space.rates(search.learning_rate, search.trials)[cell.number]
        return cell.asked(Setting(learning_rate=rate))


class PlainAsha(Blind):
    """Ray's ASHA beside OptunaSearch as people run them: one experiment a budget, TPE over size and
    rate together, rungs that compare sizes with each other."""

    def __init__(self, sweep, ledger, studies, **options):
        super().__init__(sweep, ledger, studies, **options)
        self.searches = {}

    def _drawn(self, cell):
        if cell.budget not in self.searches:
            place = space.budgets(self.sweep, self.vocab_size).index(cell.budget)
            sampler = optuna.samplers.TPESampler(seed=100 * self.sweep.seed + place)
            self.searches[cell.budget] = optuna.create_study(sampler=sampler), {}
        study, asked = self.searches[cell.budget]
        trial = study.ask()
        sizes = space.window(self.sweep, cell.budget, self.vocab_size)
        size = trial.suggest_int("size", 0, len(sizes) - 1)
        rate = trial.suggest_float("rate", *self.sweep.search.learning_rate, log=True)
        question = self._asked(cell, sizes[size], rate)
        asked[question.key] = trial
        return question

    def _cut(self, trial, progress):
        rung = sum(at <= progress.step for at in trial.report_steps)
        if self.asha.goes_on((trial.question.budget, rung), trial.key, progress.loss):
            return None
        return "pruned", "ASHA"

    def _conclude(self, record, status):
        study, asked = self.searches[record.question.budget]
        pruned = optuna.trial.TrialState.PRUNED
        loss = self.ledger.last(record.key).loss
        if status == "completed":
            study.tell(asked[record.key], loss)
        else:
            asked[record.key].report(loss, 1)
            study.tell(asked[record.key], state=pruned)


ALL = 1000
"""More trials than any rung sees: ASHA waits for them."""
FIXED = {"warm_start": False, "extend": False}
ARMS = {
    "grid": (Grid, {"search": FIXED, "pruning": {"enabled": False}}),
    # Ray's own reduction of 4, and its rungs at powers of it.
    "asha_optuna": (
        PlainAsha,
        {"search": FIXED, "pruning": {"rungs": [0.0625, 0.25], "reduction": 4}},
    ),
    "random": (Blind, {"search": FIXED, "pruning": {"enabled": False}}),
    # Ours: the covered plan with TPE and ASHA; foresight beside ASHA, in its place, and neither.
    "plan": (Engine, {}),
    "foresight": (Engine, {"pruning": {"chance": 0.05}}),
    "foresight_alone": (Engine, {"pruning": {"chance": 0.2, "min_population": ALL}}),
    "unpruned": (Engine, {"pruning": {"enabled": False}}),
    # By value.
    "value": (Engine, {"target": {"interval": 0.1}}),
    # What every sweep by value has before it may choose freely, and nothing more.
    "floor": (Engine, {"target": {"interval": 1e3}}),
}


# --- answers


@dataclass(frozen=True, kw_only=True)
class Race:
    """One arm on one law with one seed."""

    arrived: dict
    """FLOP until N_opt stays near the truth, by the way it is estimated."""
    spent: float
    """FLOP."""
    last: dict
    """ln of the last estimate over the truth."""


def by_cells(runs: Tuned, budget: float) -> float:
    """N_opt at a budget from the best run of each (budget, size): Chinchilla, approach 3."""
    order = np.argsort(runs.loss, kind="stable")
    places = np.round(np.log([runs.budget[order], runs.params[order]]), 3)
    best = order[np.unique(places, axis=1, return_index=True)[1]]
    if len(best) < 6 or len(np.unique(runs.budget[best])) < 2:
        return math.nan
    problem = Problem.of(runs.params[best], runs.tokens[best], runs.loss[best])
    law = solve(problem, LOSS_APPROACHES["chinchilla"].objective).law
    return float(law.n_opt(budget))


def by_surface(runs: Tuned, budget: float, rates: tuple[float, float]) -> float:
    """N_opt at a budget from every completed run: law and learning rate in one."""
    return float(surface.fit(runs, rates).law.n_opt(budget))


def completed(engine: Engine, keys: list[str]) -> Tuned:
    """The completed runs of a sweep, in the order of `keys`."""
    trials = [engine.trial(engine.ledger.record(key)) for key in keys]
    return Tuned(
        budget=np.array([trial.question.budget for trial in trials]),
        params=np.array([float(trial.shape.params_non_embedding) for trial in trials]),
        tokens=np.array([float(trial.tokens) for trial in trials]),
        learning_rate=np.array([trial.question.learning_rate for trial in trials]),
        loss=np.array([engine.ledger.last(key).loss for key in keys]),
    )


def race(arm: str, law: dict, seed: int, every: int) -> Race:
    """Run an arm on a law to its end and see when it had arrived."""
    decider, sections = ARMS[arm]
    sweep = sweep_of(law, seed, **sections)
    truth = math.log(LossLaw(**law).n_opt(sweep.target_budget))
    return run(sweep, decider).judged(truth, every)


@dataclass(frozen=True, kw_only=True)
class Course:
    """What an arm ran, before anybody knows whether it was right."""

    sweep: Sweep
    runs: Tuned
    """Completed ones, in the order in which they ended."""
    spent: list[float]
    """FLOP when each had ended."""
    total: float
    """FLOP at the end."""

    def judged(self, truth: float, every: int, near: float = NEAR) -> Race:
        """When its estimates came `near` to the `truth`, both ln N_opt, looking `every` runs."""
        budget, rates = self.sweep.target_budget, self.sweep.search.learning_rate
        estimates = {
            "cells": lambda seen: by_cells(seen, budget),
            "surface": lambda seen: by_surface(seen, budget, rates),
        }
        found = {
            name: arrival(self, estimate, truth, every, near)
            for name, estimate in estimates.items()
        }
        return Race(
            arrived={name: at for name, (at, _) in found.items()}, spent=self.total,
            last={name: last for name, (_, last) in found.items()},
        )  # fmt: skip


def run(sweep: Sweep, decider: simulate.Decider) -> Course:
    """Run a sweep to its end in simulated time."""
    simulation = simulate.in_memory(sweep, decider)
    ledger = simulation.engine.ledger
    keys, spent = [], []
    for key in simulation:
        if ledger.record(key).status == "completed":
            keys.append(key)
            spent.append(float(ledger.charged()))
    runs = completed(simulation.engine, keys)
    return Course(sweep=sweep, runs=runs, spent=spent, total=float(ledger.charged()))


def arrival(course, estimate, truth, every, near):
    """What was spent when the estimates began to stay near the truth, all of it if they never did;
    and how far off the last one is. From the end back to the last wrong one, `every` runs."""
    at, last = course.total, math.nan
    for seen in range(len(course.runs), 0, -every):
        off = error(estimate, first(course.runs, seen), truth)
        last = off if seen == len(course.runs) else last
        if not abs(off) < near:
            break
        at = course.spent[seen - 1]
    return at, last


def error(estimate, runs, truth):
    """ln of an estimate over the truth; NaN where the runs allow none."""
    try:
        return math.log(estimate(runs)) - truth if len(runs) >= 5 else math.nan
    except FitError:
        return math.nan


def first(runs, count):
    """The runs that completed first."""
    return Tuned(**{name: values[:count] for name, values in vars(runs).items()})


@threadpool_limits.wrap(limits=1)
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed in place of ten")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--every", type=int, default=1, help="completed runs between two looks")
    options = parser.parse_args()
    seeds, every = (1, 4) if options.quick else (options.seeds, options.every)
    began = time.perf_counter()
    races = {}
    for seed in range(seeds):
        for name, law in LAWS.items():
            for arm in options.arms:
                races[arm, name, seed] = found = race(arm, law, seed, every)
                print(arm, name, seed, found, file=sys.stderr, flush=True)
    print(f"{seeds} seeds; FLOP until N_opt({BEYOND * BUDGETS[-1]:.0e}) stays within 10 %")
    print("| law | arm | median, best cells | worst | median, surface | worst | spent | arrived |")
    print("|---|---|---|---|---|---|---|---|")
    for name in LAWS:
        for arm in options.arms:
            print(row(name, arm, [races[arm, name, seed] for seed in range(seeds)]))
    print(json.dumps(summary(races, seeds) | {
        "seeds": seeds, "seconds": round(time.perf_counter() - began, 1),
        "machine": platform.processor() or platform.machine(), "commit": commit(),
    }))  # fmt: skip


def row(name, arm, found):
    """One line of the table: an arm on a law over all seeds."""
    cells, curved = ([one.arrived[way] for one in found] for way in ("cells", "surface"))
    near = [sum(abs(one.last[way]) < NEAR for one in found) for way in ("cells", "surface")]
    figures = [
        median(cells), max(cells), median(curved), max(curved), median(o.spent for o in found),
    ]  # fmt: skip
    shown = " | ".join(f"{value:.2e}" for value in figures)
    return f"| {name} | {arm} | {shown} | {near[0]}, {near[1]} of {len(found)} |"


OURS = ("value", "surface")


def summary(races, seeds):
    """Ratios to each reference, run by run: both as people fit them and with our own fit."""
    found = {}
    pairs = [(name, seed) for name in LAWS for seed in range(seeds)]
    others = {arm for arm, _, _ in races} & {"grid", "asha_optuna", "random"}
    for arm in sorted(others):
        for way, ending in (("cells", ""), ("surface", "_same_fit")):
            ratios = [
                races[OURS[0], *pair].arrived[OURS[1]] / races[arm, *pair].arrived[way]
                for pair in pairs
            ]
            found[f"flops_vs_{arm}{ending}"] = round(median(ratios), 4)
            found[f"worst_seed_vs_{arm}{ending}"] = round(max(ratios), 4)
    return found


def commit():
    """The commit measured."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


if __name__ == "__main__":
    main()
