"""Does the best learning rate move with width? Both parametrizations on Python's own library.

Every width is trained at every rate of a ladder of factors of 2, up to each budget, with the same
seeds; the best rate is the vertex of the parabola in log rate through the lowest mean loss and its
neighbors. Prints a Markdown table on stderr and one line of JSON on stdout: by parametrization and
budget, largest best rate / smallest.
"""

import argparse
import json
import sys
import sysconfig
from pathlib import Path

import numpy as np
import torch
from throughput import provenance

from model.recipe import Recipe
from model.shape import Shape
from model.train import Training

CONTEXT, BATCH, LAYERS = 64, 4, 2
RATES = {
    "mup": [2.0**k for k in range(-8, -2)],
    "standard": [2.0**k for k in range(-11, -3)],
}


def library():
    """The bytes of the standard library's top folder, in alphabetical order."""
    folder = Path(sysconfig.get_path("stdlib"))
    return np.frombuffer(b"".join(p.read_bytes() for p in sorted(folder.glob("*.py"))), np.uint8)


def sequences(text, starts):
    return text[starts[:, None] + np.arange(CONTEXT + 1)]


def loss(text, width, budget, parametrization, learning_rate, seed):
    """Held-out loss, nat/byte, of one training."""
    shape = Shape(
        d_model=width,
        num_layers=LAYERS,
        num_heads=width // 16,
        d_ff=4 * width,
        vocab_size=256,
        context_length=CONTEXT,
    )
    cut = len(text) * 9 // 10
    held_out = cut + np.arange(0, len(text) - cut - CONTEXT - 1, 997)

    def batches(step):
        rng = np.random.default_rng([seed, step])
        return sequences(text, rng.integers(0, cut - CONTEXT - 1, BATCH))

    steps = shape.steps(budget, BATCH)
    training = Training(
        shape=shape,
        recipe=Recipe(
            learning_rate=learning_rate, batch_size=BATCH, parametrization=parametrization
        ),
        steps=steps,
        report_at=[steps],
        batches=batches,
        held_out=[sequences(text, held_out)],
        seed=seed,
        flops_per_step=shape.flops_per_step(BATCH),
    )
    return list(training.run())[-1].loss


def best(rates, losses):
    """Rate at the parabola's vertex, and whether the lowest loss has a neighbor on both sides."""
    low = int(np.argmin(losses))
    if low in (0, len(rates) - 1):
        return rates[low], False
    near = slice(low - 1, low + 2)
    a, b, _ = np.polyfit(np.log(rates[near]), losses[near], 2)
    return float(np.exp(-b / (2 * a))), True


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    quick = parser.parse_args().quick
    widths = (16, 64) if quick else (16, 32, 64, 128)
    budgets = (1e10,) if quick else (3e10, 1e11)
    seeds = (1,) if quick else (1, 2, 3)
    torch.set_num_threads(1)
    text = library()
    figures = {}
    print("| parametrization | budget | width | best rate | loss | inside |", file=sys.stderr)
    print("|---|---|---|---|---|---|", file=sys.stderr)
    for name, rates in RATES.items():
        for budget in budgets:
            found = []
            for width in widths:
                runs = [[loss(text, width, budget, name, rate, s) for s in seeds] for rate in rates]
                losses = np.mean(runs, axis=1)
                rate, inside = best(rates, losses)
                found.append(rate)
                row = f"| {name} | {budget:.0e} | {width} | {rate:.4f} | {min(losses):.3f} |"
                print(row, "yes |" if inside else "no |", file=sys.stderr, flush=True)
            figures[f"{name}_{budget:.0e}"] = round(max(found) / min(found), 2)
    print(json.dumps(figures | provenance()))


if __name__ == "__main__":
    main()
