"""Does the best learning rate move with width? Both parametrizations on the demo's corpus.

For every width and budget, rates a factor of 2 apart are trained with the same seeds, downhill from
the best of the width before, until the lowest mean loss has a neighbor on either side; the best
rate is the vertex of the parabola in log rate through the three. Prints a Markdown table on stderr
and one line of JSON on stdout: by parametrization and budget, largest best rate / smallest, and
what one rate for all widths costs at most over each width's own, nat/byte.
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
from model.train import Training

CONTEXT, BATCH, LAYERS = 64, 4, 2
HELD_OUT_TOKENS = 131_072
FIRST = {"mup": -6, "standard": -7}
"""Exponent of two of the rate at which the search begins."""


class Trained:
    """Mean held-out losses by exponent of the rate, each trained when first asked for."""

    def __init__(self, corpus, width, budget, parametrization, seeds):
        self.corpus, self.budget, self.parametrization = corpus, budget, parametrization
        self.seeds = seeds
        self.losses = {}
        self.shape = Shape(
            d_model=width,
            num_layers=LAYERS,
            num_heads=width // 16,
            d_ff=4 * width,
            vocab_size=256,
            context_length=CONTEXT,
        )
        self.steps = self.shape.steps(budget, BATCH)

    def __call__(self, exponent):
        if exponent not in self.losses:
            self.losses[exponent] = statistics.mean(self.train(exponent, s) for s in self.seeds)
        return self.losses[exponent]

    def train(self, exponent, seed):
        """Held-out loss, nat/byte, of one training."""
        training = Training(
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
        return list(training.run())[-1].loss

    def descend(self, start):
        """The exponent whose loss is below both its neighbors'."""
        low = start
        while (better := min((low, low - 1, low + 1), key=self)) != low:
            low = better
        return low

    def vertex(self, low):
        """Exponent and loss at the vertex of the parabola through `low` and its neighbors."""
        left, middle, right = (self(low + k) for k in (-1, 0, 1))
        curvature = left - 2 * middle + right
        shift = (left - right) / (2 * curvature)
        return low + shift, middle - (left - right) ** 2 / (8 * curvature)

    def at(self, exponent):
        """Loss at any exponent, between its neighbors on a parabola through the nearest three."""
        near = [round(exponent) + k for k in (-1, 0, 1)]
        return float(np.polyval(np.polyfit(near, [self(k) for k in near], 2), exponent))


def across(corpus, widths, budget, parametrization, seeds):
    """Largest best rate / smallest, and the dearest width's cost of their geometric mean."""
    start, found = FIRST[parametrization], []
    for width in widths:
        trained = Trained(corpus, width, budget, parametrization, seeds)
        start = trained.descend(start)
        exponent, loss = trained.vertex(start)
        found.append((trained, exponent, loss))
        print(
            f"| {parametrization} | {budget:.0e} | {LAYERS}x{width} | {trained.steps} |"
            f" {2**exponent:.4f} | {loss:.3f} |",
            file=sys.stderr,
            flush=True,
        )
    exponents = [exponent for _, exponent, _ in found]
    shared = statistics.mean(exponents)
    cost = max(trained.at(shared) - loss for trained, _, loss in found)
    return 2 ** (max(exponents) - min(exponents)), cost


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--budgets", type=float, nargs="+", default=[3e10, 1e11, 3e11])
    arguments = parser.parse_args()
    widths = (16, 64) if arguments.quick else (16, 32, 64, 128)
    budgets = (1e10,) if arguments.quick else arguments.budgets
    seeds = (1,) if arguments.quick else (1, 2, 3)
    torch.set_num_threads(1)
    figures = {}
    print("| parametrization | budget | shape | steps | best rate | loss |", file=sys.stderr)
    print("|---|---|---|---|---|---|", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare("python-stdlib", Path(folder))
        for budget in budgets:
            for name in FIRST:
                factor, cost = across(corpus, widths, budget, name, seeds)
                figures[f"{name}_{budget:.0e}"] = round(factor, 2)
                figures[f"{name}_{budget:.0e}_shared_rate_costs"] = round(cost, 4)
    print(json.dumps(figures | provenance()))


if __name__ == "__main__":
    main()
