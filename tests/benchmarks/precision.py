"""What products in bfloat16 cost on this CPU: held-out loss against float32's, and seconds.

Shapes of the demo's corpus and recipe, paired by seed: same first weights, same batches. One row a
shape with its mean difference and that one's standard error. Prints a table on stderr, one line of
JSON on stdout. `model.probe` asks the same of a short run before it lets a sweep take bfloat16.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from throughput import provenance

from data.loader import Loader, held_out
from data.prepare import prepare
from model.precision import onednn_keeps_float32
from model.recipe import Recipe
from model.shape import Shape
from model.train import Training

CONTEXT, HELD_OUT_TOKENS = 64, 131_072
ROWS = [(2, 64, 4, 1e11), (3, 96, 8, 3e11), (2, 128, 8, 3e11), (2, 256, 8, 1e12)]
"""Layers, width, sequences a step, FLOP."""


def train(corpus, row, dtype, seed):
    """Held-out loss at the end, and seconds."""
    num_layers, width, sequences, budget = row
    shape = Shape(
        d_model=width,
        num_layers=num_layers,
        num_heads=width // 16,
        d_ff=4 * width,
        vocab_size=256,
        context_length=CONTEXT,
    )
    steps = shape.steps(budget, sequences)
    training = Training(
        shape=shape,
        recipe=Recipe(learning_rate=0.016, batch_size=sequences, dtype=dtype),
        steps=steps,
        report_at=[steps],
        batches=Loader(corpus, CONTEXT, sequences, seed).batch,
        held_out=held_out(corpus, CONTEXT, 32, HELD_OUT_TOKENS).batches,
        seed=seed,
        flops_per_step=shape.flops_per_step(sequences),
    )
    (last,) = training.run()
    return last.loss, last.seconds


def measure(corpus, row, seeds):
    """Mean difference of losses, nat/byte, its standard error, and how many times as fast."""
    pairs = [[train(corpus, row, dtype, s) for dtype in ("float32", "bfloat16")] for s in seeds]
    differences = [low[0] - full[0] for full, low in pairs]
    spread = statistics.stdev(differences) / len(differences) ** 0.5
    faster = statistics.median(full[1] / low[1] for full, low in pairs)
    return statistics.mean(differences), spread, faster


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--seeds", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if onednn_keeps_float32():
        print("no units for bfloat16 here: it would be float32", file=sys.stderr)
        print(json.dumps(provenance()))
        return
    seeds, rows = (range(2), ROWS[:2]) if arguments.quick else (range(arguments.seeds), ROWS)
    figures = {}
    print("shape      FLOP  bfloat16 - float32, nat/byte  times as fast", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare("python-stdlib", Path(folder))
        for row in rows:
            cost, spread, faster = measure(corpus, row, seeds)
            print(
                f"{row[0]}x{row[1]:<6} {row[3]:>6.0e} {cost:>18.4f} ± {spread:.4f} {faster:>16.2f}",
                file=sys.stderr,
                flush=True,
            )
            figures[f"cost_d{row[1]}"] = round(cost, 4)
            figures[f"faster_d{row[1]}"] = round(faster, 3)
    print(json.dumps(figures | provenance()))


if __name__ == "__main__":
    main()
