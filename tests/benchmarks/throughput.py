"""A training step of ours against two plain loops in float32, paired in one process.

One is nanoGPT's way, one the course's architecture from torch's own modules. All train the same
shape on the same tokens with one thread; blocks of steps alternate, and a ratio is the median
over blocks of theirs / ours in seconds, so that neighbors on the machine weigh on all. Where the
processor has units for bfloat16, ours is timed in that, too, and the faster counts, as in a sweep
of that one width; `precision.py` has what it costs. Ours alone has what lies between products
compiled, as in a sweep: once a process and dtype, in seconds that are told and in no step. The
same then for a member of a stack of eight rates, in float32, not compiled. `--device cuda` takes
GPU sizes instead: see `on_device.py`. Prints tables on stderr, one line of JSON on stdout.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import on_device
import torch
from plain import Plain
from torch import nn
from torch.nn.functional import cross_entropy, gelu

from model.compiling import complaint_between
from model.execution import Execution
from model.peak import peak_flops
from model.precision import onednn_keeps_float32
from model.recipe import Recipe
from model.shape import Shape
from model.stack import Stack
from model.train import Training

VOCAB, CONTEXT = 256, 64
BATCHES = 4096
"""Different ones: a model that knows its batch by heart has gradients too small to be normal
floats, which take a processor many times as long."""
MEMBERS = 8
"""Rates of one shape that are trained as a stack."""
ROWS = [  # layers, width, sequences a step
    (1, 8, 4),
    (1, 16, 4),
    (2, 32, 4),
    (2, 64, 4),
    (3, 96, 8),
    (2, 128, 8),
    (2, 256, 8),
]


class CourseBlock(nn.Module):
    """A block of the course's decoder: attention by `nn.MultiheadAttention` under a mask."""

    def __init__(self, d, heads, d_ff):
        super().__init__()
        self.attn = nn.MultiheadAttention(d, heads, bias=False, batch_first=True)
        self.ln1, self.ln2 = nn.LayerNorm(d, bias=False), nn.LayerNorm(d, bias=False)
        self.w1, self.w2 = nn.Linear(d, d_ff), nn.Linear(d_ff, d)

    def forward(self, x, mask):
        h = self.ln1(x)
        x = x + self.attn(h, h, h, attn_mask=mask, need_weights=False, is_causal=True)[0]
        return x + self.w2(gelu(self.w1(self.ln2(x))))


class Course(nn.Module):
    """The course's decoder, without dropout."""

    def __init__(self, shape):
        super().__init__()
        d = shape.d_model
        self.tokens, self.positions = nn.Embedding(VOCAB, d), nn.Embedding(CONTEXT, d)
        self.layers = nn.ModuleList(
            CourseBlock(d, shape.num_heads, shape.d_ff) for _ in range(shape.num_layers)
        )
        self.norm, self.head = nn.LayerNorm(d, bias=False), nn.Linear(d, VOCAB, bias=False)
        self.register_buffer("mask", torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).triu(1))

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for layer in self.layers:
            x = layer(x, self.mask)
        return self.head(self.norm(x))


class PlainLoop:
    """A decoder's plain training: AdamW in two groups, gradient clipping, no set-up shared."""

    def __init__(self, model, batches):
        self.model = model
        self.batches = cycle(torch.from_numpy(batches))
        decayed = [w for w in self.model.parameters() if w.ndim >= 2]
        others = [w for w in self.model.parameters() if w.ndim < 2]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))

    def seconds(self, steps):
        begin = time.perf_counter()
        for batch in islice(self.batches, steps):
            logits = self.model(batch[:, :-1])
            loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        return time.perf_counter() - begin


def training(shape, batches, block, blocks, rate=1e-3, dtype="float32", compiled=False):
    """A training of ours that reports after every block of steps."""
    return Training(
        shape=shape,
        recipe=Recipe(learning_rate=rate, batch_size=batches.shape[1], dtype=dtype),
        steps=block * blocks,
        report_at=range(block, block * blocks + 1, block),
        batches=lambda step: batches[step % BATCHES],
        held_out=[batches[0, :2]],
        seed=1,
        flops_per_step=shape.flops_per_step(batches.shape[1]),
        execution=Execution(compiled=compiled),
    )


class OurLoop:
    """`Training` by itself, compiled where that works."""

    def __init__(self, *arguments, dtype):
        self.reports = training(*arguments, dtype=dtype, compiled=True).run()
        self.spent = 0.0

    def seconds(self):
        before, self.spent = self.spent, next(self.reports).seconds
        return self.spent - before


class StackedLoop:
    """`MEMBERS` rates as one `Stack`: seconds of one member."""

    def __init__(self, *arguments):
        rates = [1e-3 * 2**k for k in range(MEMBERS)]
        members = [training(*arguments, rate=rate) for rate in rates]
        self.reports, self.spent = Stack(members).run(), 0.0

    def seconds(self):
        before, self.spent = self.spent, next(self.reports)[0].seconds
        return self.spent - before


def measure_stacked(num_layers, d_model, sequences, seconds, dtypes):
    """Milliseconds a step of nanoGPT's, our fastest alone and one stacked member; its ratio to
    both."""
    shape, batches = problem(num_layers, d_model, sequences)
    plain, blocks = PlainLoop(Plain(shape), batches), 8
    plain.seconds(3)
    block = max(2, round(seconds / (1 + MEMBERS / 2) / blocks / (plain.seconds(5) / 5)))
    ours = [OurLoop(shape, batches, block, blocks, dtype=dtype) for dtype in dtypes]
    loops = [*ours, StackedLoop(shape, batches, block, blocks)]
    rounds = [[plain.seconds(block), *(one.seconds() for one in loops)] for _ in range(blocks)]
    rounds = np.array(rounds[1:]) / block
    fastest = 1 + int(np.median(rounds[:, 1:-1], 0).argmin())
    compared = rounds[:, [0, fastest, -1]]
    return *1e3 * np.median(compared, 0), *np.median(compared[:, :2] / compared[:, 2:], 0)


def problem(num_layers, d_model, sequences):
    """A shape, and batches of random tokens (batches, sequences, CONTEXT + 1)."""
    shape = Shape(
        d_model=d_model,
        num_layers=num_layers,
        num_heads=max(1, d_model // 16),
        d_ff=4 * d_model,
        vocab_size=VOCAB,
        context_length=CONTEXT,
    )
    size = (BATCHES, sequences, CONTEXT + 1)
    return shape, np.random.default_rng(1).integers(0, VOCAB, size)


def measure(num_layers, d_model, sequences, seconds, dtypes):
    """FLOPs a step, and by block the seconds a step of nanoGPT's, the course's, ours by dtype."""
    shape, batches = problem(num_layers, d_model, sequences)
    plain, course = (PlainLoop(kind(shape), batches) for kind in (Plain, Course))
    plain.seconds(3)
    course.seconds(3)
    blocks = 12
    block = max(2, round(seconds / (2 + len(dtypes)) / blocks / (plain.seconds(5) / 5)))
    ours = [OurLoop(shape, batches, block, blocks, dtype=dtype) for dtype in dtypes]
    rounds = [
        [plain.seconds(block), course.seconds(block), *(loop.seconds() for loop in ours)]
        for _ in range(blocks)
    ]
    return shape.flops_per_step(sequences), np.array(rounds[1:]) / block


def single(seconds, peak, dtypes):
    """How many times as fast our step is as both plain loops', and its share of `peak`, FLOP/s."""
    found = {}
    print(
        "shape    batch  plain ms  ours ms  bf16 ms  ratio  course  GFLOP/s    mfu", file=sys.stderr
    )
    for num_layers, d_model, sequences in ROWS:
        flops, rounds = measure(num_layers, d_model, sequences, seconds, dtypes)
        times = np.median(rounds, 0)
        fastest = 2 + int(times[2:].argmin())
        over_plain, over_course = np.median(rounds[:, :2] / rounds[:, [fastest]], 0)
        speed = flops / times[2]
        print(
            f"{f'{num_layers}x{d_model}':<8} {sequences:>5} {times[0] * 1e3:>9.2f}"
            f" {times[2] * 1e3:>8.2f} {times[3] * 1e3 if len(dtypes) > 1 else math.nan:>8.2f}"
            f" {over_plain:>6.2f} {over_course:>7.2f} {speed / 1e9:>8.1f} {speed / peak:>6.1%}",
            file=sys.stderr,
        )
        found[f"ratio_d{d_model}"] = round(float(over_plain), 3)
        found[f"dtype_d{d_model}"] = dtypes[fastest - 2]
        found[f"course_d{d_model}"] = round(float(over_course), 3)
        found[f"mfu_d{d_model}"] = round(speed / peak, 4)
    return found


def stacked(seconds, dtypes):
    """How many times as fast a member of a stack is as the plain loop, and as ours alone."""
    found = {}
    print(f"\n{MEMBERS} stacked    plain ms  ours ms  stacked  ratio  to ours", file=sys.stderr)
    for num_layers, d_model, sequences in [row for row in ROWS if row[1] in (16, 32, 64)]:
        *times, over_plain, over_ours = measure_stacked(
            num_layers, d_model, sequences, seconds, dtypes
        )
        print(
            f"{f'{num_layers}x{d_model}':<12}"
            + "".join(f"{ms:>9.2f}" for ms in times)
            + f" {over_plain:>6.2f} {over_ours:>8.2f}",
            file=sys.stderr,
        )
        found[f"stacked_d{d_model}"] = round(float(over_plain), 3)
        found[f"stacked_d{d_model}_to_ours"] = round(float(over_ours), 3)
    return found


def compiling(dtypes):
    """Seconds that compiling takes by dtype; why it fails, where it does, on stderr."""
    found = {}
    for dtype in dtypes:
        begin = time.perf_counter()
        told = complaint_between(dtype)
        found[f"compile_seconds_{dtype}"] = seconds = round(time.perf_counter() - begin, 2)
        print(told or f"compiled for {dtype} in {seconds} s", file=sys.stderr)
    return found


def provenance():
    """What was measured where; the commit is marked if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    folder = Path(__file__).parent
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    machine = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {"machine": machine, "torch": torch.__version__, "commit": run.stdout.strip()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--device", help="GPU sizes on this device, e.g. cuda; small without one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.device:
        figures = on_device.figures(arguments.device, quick=arguments.quick)
        print(json.dumps(figures | provenance()))
        return
    seconds = 5.0 if arguments.quick else 40.0
    peak = peak_flops("float32")
    figures = {"peak_gflops": round(peak / 1e9, 1)}
    dtypes = ["float32"] if onednn_keeps_float32() else ["float32", "bfloat16"]
    figures |= compiling(dtypes)
    figures |= single(seconds, peak, dtypes)
    figures |= stacked(seconds, dtypes)
    print(json.dumps(figures | provenance()))


if __name__ == "__main__":
    main()
