"""Does the best learning rate move with width? Both parametrizations on the demo's corpus.

For every width and budget, rates a factor of √2 apart are trained with the same seeds, around the
best of the width before and onward until the lowest mean loss has two on either side; the best rate
is the vertex of the least-squares parabola in log rate through these five, with a standard error by
leaving out one seed at a time. Three points a factor of 2 apart, as this once
had it, put the vertex where one loss fell by chance.

A best rate is well defined only where runs are long enough to show it: a budget counts where every
width takes `ENOUGH` steps. Prints a Markdown table on stderr and one line of JSON on stdout: by
parametrization and budget, largest best rate / smallest, and what one rate for all widths costs at
most over each width's own, nat/byte.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from throughput import provenance

from data.loader import Loader, held_out
from data.prepare import prepare
from model.recipe import Recipe
from model.shape import Shape
from model.stack import Stack
from model.train import Training

CONTEXT, BATCH, LAYERS = 64, 4, 2
HELD_OUT_TOKENS = 131_072
ENOUGH = 100
"""Steps below which a budget's loss hardly depends on the rate and a best one is chance."""
FIRST = {"mup": -6, "standard": -6}
"""Exponent of two of the rate at which the search begins."""


class Trained:
    """Mean held-out losses by exponent of the rate, each trained when first asked for."""

    def __init__(self, corpus, width, budget, parametrization, seeds, record):
        self.corpus, self.budget, self.parametrization = corpus, budget, parametrization
        self.width, self.seeds, self.record = width, seeds, record
        self.shape = Shape(
            d_model=width,
            num_layers=LAYERS,
            num_heads=width // 16,
            d_ff=4 * width,
            vocab_size=256,
            context_length=CONTEXT,
        )
        self.steps = self.shape.steps(budget, BATCH)
        if self.steps < ENOUGH:
            print(f"{budget:.0e} at {LAYERS}x{width}: {self.steps} steps are few", file=sys.stderr)

    def key(self, exponent, seed):
        """Under which a loss is recorded."""
        return self.parametrization, self.budget, self.width, exponent, seed

    def __call__(self, exponent, seeds=None):
        """Mean loss at rate 2^exponent."""
        keys = [self.key(exponent, seed) for seed in seeds or self.seeds]
        return statistics.mean(self.record.losses[key] for key in keys)

    def fill(self, exponents):
        """Train what is not recorded of these rates and all seeds, as one stack."""
        asked = [(exponent, seed) for exponent in exponents for seed in self.seeds]
        missing = [pair for pair in asked if self.key(*pair) not in self.record.losses]
        for some in Stack([self.training(*pair) for pair in missing]).run() if missing else ():
            for place, progress in some.items():
                self.record.add(self.key(*missing[place]), progress.loss)

    def training(self, exponent, seed):
        """One training, evaluated at its end."""
        return Training(
            shape=self.shape,
            recipe=Recipe(
                learning_rate=2.0**exponent,
                batch_size=BATCH,
                parametrization=self.parametrization,
            ),
            steps=self.steps,
            report_at=[self.steps],
            batches=Loader(self.corpus, CONTEXT, BATCH, seed).batch,
            held_out=held_out(self.corpus, CONTEXT, 32, HELD_OUT_TOKENS).batches,
            seed=seed,
            flops_per_step=self.shape.flops_per_step(BATCH),
        )

    def descend(self, start):
        """The exponent whose loss is the lowest of the five within a factor of 2."""
        middle, lowest = None, start
        while lowest != middle:
            middle = lowest
            self.fill(five(middle))
            lowest = min(five(middle), key=self)
        return middle

    def vertex(self, middle, seeds=None):
        """Exponent and loss at the vertex of the parabola through the five."""
        losses = [self(exponent, seeds) for exponent in five(middle)]
        curve = np.polynomial.Polynomial.fit(five(middle), losses, 2).convert()
        at = -curve.coef[1] / (2 * curve.coef[2])
        return float(at), float(curve(at)), curve

    def error(self, middle):
        """Standard error of that exponent, leaving out one seed at a time (Efron, 1982)."""
        n = len(self.seeds)
        if n < 2:
            return float("nan")
        left = [self.vertex(middle, [s for s in self.seeds if s != out])[0] for out in self.seeds]
        return float(np.std(left) * (n - 1) ** 0.5)


def five(middle):
    """Exponents a factor of √2 apart around `middle`."""
    return [middle + 0.5 * k for k in range(-2, 3)]


def across(corpus, widths, budget, parametrization, seeds, record):
    """Largest best rate / smallest, and the dearest width's cost of their geometric mean."""
    start, found = FIRST[parametrization], []
    for width in widths:
        trained = Trained(corpus, width, budget, parametrization, seeds, record)
        start = trained.descend(start)
        exponent, loss, curve = trained.vertex(start)
        found.append((exponent, loss, curve))
        print(
            f"| {parametrization} | {budget:.0e} | {LAYERS}x{width} | {trained.steps} |"
            f" {2**exponent:.4f} | {2 ** trained.error(start):.2f} | {loss:.3f} |",
            file=sys.stderr,
            flush=True,
        )
        start = round(2 * exponent) / 2
    exponents = [exponent for exponent, _, _ in found]
    shared = statistics.mean(exponents)
    cost = max(float(curve(shared)) - loss for _, loss, curve in found)
    return 2 ** (max(exponents) - min(exponents)), cost


class Record:
    """Losses by what was trained, in a file where one is named: an interrupted run goes on."""

    def __init__(self, file):
        self.file = file
        lines = file.read_text().splitlines() if file and file.exists() else []
        self.losses = {tuple(key): loss for key, loss in map(json.loads, lines)}

    def add(self, key, loss):
        """Keep a loss."""
        self.losses[key] = loss
        if self.file:
            with self.file.open("a") as file:
                file.write(json.dumps([key, loss]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--budgets", type=float, nargs="+", default=[1e11, 3e11])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--record", type=Path, help="file of losses, to go on from")
    arguments = parser.parse_args()
    widths = (16, 32) if arguments.quick else (16, 32, 64, 128)
    budgets = (3e9,) if arguments.quick else arguments.budgets
    seeds = (1,) if arguments.quick else range(1, arguments.seeds + 1)
    torch.set_num_threads(1)
    figures, record = {}, Record(arguments.record)
    print(
        "| parametrization | budget | shape | steps | best rate | error, a factor | loss |\n"
        "|---|---|---|---|---|---|---|",
        file=sys.stderr,
    )
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare("python-stdlib", Path(folder))
        for budget in budgets:
            for name in FIRST:
                factor, cost = across(corpus, widths, budget, name, seeds, record)
                figures[f"{name}_{budget:.0e}"] = round(factor, 2)
                figures[f"{name}_{budget:.0e}_shared_rate_costs"] = round(cost, 4)
    print(json.dumps(figures | provenance()))


if __name__ == "__main__":
    main()
