"""Forked runs against linear-to-zero runs of their own, at equal budget and data order.

Every shape of a small ladder is trained at every budget on the demo's corpus, each rate and seed,
once from scratch under the linear schedule and once forked from one trunk at constant rate. A cell
is (shape, budget); its loss is the mean over seeds at the rate that is best there, of each
schedule's own or of the same for both. Prints a Markdown table on stderr and, on stdout, one line
of JSON: the mean over cells of forked / linear - 1 with its standard error over cells, and the
FLOPs that forks save here, in the demo and in gpu.toml.
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
from model.forks import Forks, steps_taken
from model.recipe import Recipe
from model.shape import Shape
from model.stack import Stack
from model.train import Training
from tuner import config, plan, space

CONTEXT, BATCH, HELD_OUT_TOKENS = 64, 4, 65_536
SIZES = ((1, 8), (1, 16), (1, 32))
BUDGETS = (1e10, 2e10, 4e10)
RATES = (2**-7.5, 2**-6.5, 2**-5.5, 2**-4.5, 2**-3.5)
SWEEPS = Path(__file__).parents[2] / "tuner" / "sweeps"


def shape_of(size):
    layers, width = size
    return Shape(
        d_model=width, num_layers=layers, num_heads=max(1, width // 16), d_ff=4 * width,
        vocab_size=256, context_length=CONTEXT,
    )  # fmt: skip


def maker(corpus, shape, seed):
    """Trainings of one shape and seed, by recipe, steps and reports."""
    evaluated = held_out(corpus, CONTEXT, 32, HELD_OUT_TOKENS).batches

    def make(recipe, steps, report_at):
        return Training(
            shape=shape, recipe=recipe, steps=steps, report_at=report_at,
            batches=Loader(corpus, CONTEXT, BATCH, seed).batch, held_out=evaluated, seed=seed,
            flops_per_step=shape.flops_per_step(BATCH),
        )  # fmt: skip

    return make


def linear(corpus, shape, steps, rates, seeds):
    """Losses (rates, seeds) of runs from scratch, trained as one stack."""
    members = [
        maker(corpus, shape, seed)(Recipe(learning_rate=rate, batch_size=BATCH), steps, [steps])
        for rate in rates
        for seed in seeds
    ]
    losses = np.full(len(members), np.nan)
    for some in Stack(members).run():
        for place, progress in some.items():
            losses[place] = progress.loss
    return losses.reshape(len(rates), len(seeds))


def forked(corpus, shape, lengths, rates, seeds):
    """Losses (lengths, rates, seeds) of runs forked from a trunk each rate and seed."""
    losses = np.full((len(lengths), len(rates), len(seeds)), np.nan)
    for i, rate in enumerate(rates):
        for j, seed in enumerate(seeds):
            recipe = Recipe(learning_rate=rate, batch_size=BATCH)
            for found in Forks(maker(corpus, shape, seed), recipe, lengths).run():
                if found.progress.step == found.steps:
                    losses[lengths.index(found.steps), i, j] = found.progress.loss
    return losses


def compare(corpus, sizes, budgets, rates, seeds):
    """Relative excess of forked over linear losses in each cell: best and best, same and same."""
    best, same = [], []
    for size in sizes:
        shape = shape_of(size)
        lengths = [shape.steps(budget, BATCH) for budget in budgets]
        forks = forked(corpus, shape, lengths, rates, seeds)
        for budget, steps, ours in zip(budgets, lengths, forks, strict=True):
            theirs = linear(corpus, shape, steps, rates, seeds)
            over, under = ours.mean(axis=1), theirs.mean(axis=1)
            mine, other = int(over.argmin()), int(under.argmin())
            best.append(over[mine] / under[other] - 1)
            same.append(over[other] / under[other] - 1)
            print(
                f"| {size[0]}x{size[1]} | {budget:.0e} | {steps} | {rates[other]:.4f} |"
                f" {under[other]:.4f} | {rates[mine]:.4f} | {over[mine]:.4f} | {best[-1]:+.2%} |"
                f" {same[-1]:+.2%} | {ours[mine].std(ddof=1) if len(seeds) > 1 else 0:.4f} |",
                file=sys.stderr,
                flush=True,
            )
    return best, same


def saved(sweep, batch_size):
    """Share of the FLOPs that a sweep's planned windows cost in full, saved by forks.

    One batch size for all budgets, because a trunk has but one; a trunk goes from the smallest
    budget that asks for its shape to the largest.
    """
    vocab_size, recipe = plan.vocabulary(sweep), Recipe(learning_rate=1, batch_size=batch_size)
    asked = {}
    for budget in sweep.budgets:
        for size in space.window(sweep, budget, vocab_size):
            asked.setdefault(size, []).append(budget)
    whole = taken = 0
    for size, budgets in asked.items():
        shape = space.shape(sweep, size, vocab_size)
        lengths = [shape.steps(budget, batch_size) for budget in budgets]
        whole += sum(lengths) * shape.flops_per_step(batch_size)
        taken += steps_taken(recipe, lengths) * shape.flops_per_step(batch_size)
    return 1 - taken / whole


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    sizes, budgets = (SIZES[:2], (5e9, 1e10)) if quick else (SIZES, BUDGETS)
    seeds = (1, 2) if quick else (1, 2, 3)
    print(
        "| shape | budget | steps | linear: best rate | loss | forked: best rate | loss |"
        " best / best | same rate | sd over seeds |\n|---|---|---|---|---|---|---|---|---|---|",
        file=sys.stderr,
    )
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare("python-stdlib", Path(folder))
        best, same = compare(corpus, sizes, budgets, RATES[2:4] if quick else RATES, seeds)
    figures = {
        "cells": len(best),
        "best_excess": round(statistics.mean(best), 5),
        "best_excess_se": round(statistics.stdev(best) / len(best) ** 0.5, 5),
        "same_excess": round(statistics.mean(same), 5),
        "same_excess_se": round(statistics.stdev(same) / len(same) ** 0.5, 5),
        "demo_saved": round(saved(config.load(SWEEPS / "demo.toml"), 4), 3),
        "gpu_saved": round(saved(config.load(SWEEPS / "gpu.toml"), 48), 3),
    }
    print(json.dumps(figures | provenance()))


if __name__ == "__main__":
    main()
