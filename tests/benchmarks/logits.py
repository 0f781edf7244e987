"""Peak memory and time of a step over a large vocabulary, by how many logits are held at once.

Each figure is of a process of its own, so that none inherits another's peak. Prints a table on
stderr and one line of JSON on stdout.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time

import torch
from throughput import provenance

from model.execution import Execution
from model.gradient import gradient
from model.optim import AdamW
from model.recipe import Recipe
from model.shape import Shape
from model.transformer import BasicsTransformerLM

BATCH, CONTEXT, VOCAB = 8, 256, 50_304
STEPS = 4


def peak():
    """Most memory that this process has had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(ffn, rows):
    """MiB beyond weights and moments, seconds of the fastest step."""
    torch.set_num_threads(1)
    shape = Shape(
        d_model=64,
        num_layers=2,
        num_heads=4,
        d_ff=256,
        vocab_size=VOCAB,
        context_length=CONTEXT,
        ffn=ffn,
    )
    recipe = Recipe(learning_rate=0.01, batch_size=BATCH)
    model = BasicsTransformerLM.from_shape(shape)
    optimizer = AdamW(model, recipe, shape)
    before = peak()
    call = gradient(model, optimizer, recipe, Execution(logit_rows=rows))
    tokens = torch.randint(0, VOCAB, (BATCH, CONTEXT + 1))
    times = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        call(tokens)
        optimizer.step(1.0)
        times.append(time.perf_counter() - begin)
    return peak() - before, min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    counts = (None, 256) if parser.parse_args().quick else (None, 1024, 256)
    figures = {}
    for ffn in ("gelu", "swiglu"):
        for rows in counts:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                mebibytes, seconds = pool.apply(measure, (ffn, rows))
            name = f"{ffn}_{rows or 'all'}"
            print(f"{name:<12} {mebibytes:>6.0f} MiB {seconds:>6.2f} s", file=sys.stderr)
            figures |= {f"{name}_mib": round(mebibytes), f"{name}_s": round(seconds, 2)}
    print(json.dumps(figures | provenance()))


if __name__ == "__main__":
    main()
