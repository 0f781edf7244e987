"""`throughput.py --device cuda`: sizes from 10M to 1B against a plain compiled nanoGPT-style loop.

bfloat16, context 1024, GPT-2's vocabulary; both in one process, blocks of steps alternating, each
read once the device has done it. The plain loop is nanoGPT's: `torch.compile`, autocast, fused
AdamW, pinned batches. Ours is what a trial of 20 tokens a weight would do: `model.memory` and
`model.payoff` decide. Compilation is in neither's time. Where there is no GPU the very same code
runs on the CPU in sizes that it can bear, and says so.

On a GPU then small sizes, in tokens/s of all trials together: nanoGPT's loop in float32 without
compiling, ours alone, eight rates as one stack, and processes that share the GPU.
"""

import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from plain import Plain
from torch import nn
from torch.nn.functional import cross_entropy

from model import memory, payoff
from model.compiling import complaint
from model.device import device_name, memory_bytes
from model.execution import Execution
from model.peak import peak_flops
from model.recipe import Recipe
from model.shape import Shape
from model.speed import Speed
from model.stack import Stack
from model.train import Training
from model.transformer import BasicsTransformerLM
from tuner import together
from tuner.together import Load

STACKED = {128: (4, 16, 256), 256: (4, 16, 256), 512: (4, 16, 256)}
"""Layers, sequences a step, vocabulary by width, at a context of 256."""
MEMBERS = 8
SHARING = (2, 4, 8)
"""Processes on one GPU."""
TOKENS_A_WEIGHT = 20  # Hoffmann et al., arXiv 2203.15556
BLOCKS = 6


@dataclass(frozen=True, kw_only=True)
class Mode:
    """What is compared on a device."""

    name: str
    sizes: dict[str, tuple[int, int, int]]
    """Layers, width, sequences a step, by weights that are not embeddings or head."""
    head_size: int
    vocab_size: int
    context_length: int
    dtype: str


FULL = Mode(
    name="full",
    sizes={
        "10M": (6, 384, 32),
        "30M": (10, 512, 32),
        "125M": (12, 768, 16),
        "350M": (24, 1024, 16),
        "1B": (16, 2048, 8),
    },
    head_size=64,
    vocab_size=50304,
    context_length=1024,
    dtype="bfloat16",
)
SMALL = Mode(
    name="small, on a CPU",
    sizes={"100k": (2, 64, 4), "400k": (2, 128, 4)},
    head_size=16,
    vocab_size=2048,
    context_length=64,
    dtype="float32",
)


class PlainLoop:
    """nanoGPT's training loop."""

    def __init__(self, shape, batches, device, dtype, *, compiled=True):
        self.batches, self.device = batches, device
        self.model = Plain(shape).to(device)
        self.compiled = compiled and not complaint(device.type)
        if self.compiled:
            self.model.compile()
        half = dtype != "float32"
        kind = getattr(torch, dtype)
        self.precision = torch.autocast(device.type, kind) if half else nullcontext()
        decayed = [w for w in self.model.parameters() if w.ndim >= 2]
        others = [w for w in self.model.parameters() if w.ndim < 2]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.99), fused=True)
        self.step = 0
        begin = time.perf_counter()
        self.seconds(2)
        self.preparing = time.perf_counter() - begin

    def seconds(self, steps):
        begin = clock(self.device)
        for _ in range(steps):
            batch = torch.from_numpy(self.batches(self.step))
            if self.device.type == "cuda":
                batch = batch.pin_memory().to(self.device, non_blocking=True)
            with self.precision:
                logits = self.model(batch[:, :-1])
                loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
        return clock(self.device) - begin


def training(shape, batches, sequences, dtype, block, execution, rate=1e-4):
    """A trial of ours that reports after every block of steps."""
    steps = 1 + block * BLOCKS
    return Training(
        shape=shape,
        recipe=Recipe(learning_rate=rate, batch_size=sequences, dtype=dtype),
        steps=steps,
        report_at=range(1, steps + 1, block),
        batches=batches,
        held_out=[batches(0)[:2]],
        seed=1,
        flops_per_step=shape.flops_per_step(sequences),
        execution=execution,
    )


class OurLoop:
    """`Training` as a trial would run it, reporting after every block of steps."""

    def __init__(self, shape, batches, sequences, device, dtype, block):
        self.execution = chosen(shape, sequences, device, dtype)
        self.training = training(shape, batches, sequences, dtype, block, self.execution)
        self.reports, self.spent = self.training.run(), 0.0
        self.seconds()

    def seconds(self):
        before, self.spent = self.spent, next(self.reports).seconds
        return self.spent - before


class StackedLoop:
    """`MEMBERS` rates as one `Stack`, each as it would be computed alone: seconds of one."""

    def __init__(self, shape, batches, sequences, device, dtype, block):
        way = chosen(shape, sequences, device, dtype)
        members = [
            training(shape, batches, sequences, dtype, block, way, rate=1e-4 * 2**k)
            for k in range(MEMBERS)
        ]
        self.reports, self.spent = Stack(members).run(), 0.0
        self.seconds()

    def seconds(self):
        before, self.spent = self.spent, next(self.reports)[0].seconds
        return self.spent - before


def chosen(shape, sequences, device, dtype):
    """How a trial of 20 tokens a weight would be computed."""
    gpu = device.type == "cuda"
    split = memory.fit(shape, sequences, memory_bytes(str(device)), dtype, fused=gpu)
    execution = Execution(
        device=str(device),
        micro_batch_size=split.micro_batch_size,
        recompute=split.recompute,
        logit_rows=split.logit_rows,
    )
    if not gpu:
        return execution
    parts = execution.parts(sequences)
    known = payoff.gpu(peak_flops(dtype, str(device)))
    tokens = TOKENS_A_WEIGHT * shape.params_non_embedding
    steps = tokens // (sequences * shape.context_length)
    return Execution(
        **vars(execution)
        | {
            "compiled": payoff.compiling_pays(shape, sequences, parts, steps, known),
            "captured": payoff.capturing_pays(shape, sequences, parts, known),
        }
    )


def clock(device):
    """Seconds, once the device has done all it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def taken(device):
    """GiB that were in use at most since the last call; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    most = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return round(most, 2)


def random_batches(shape, sequences):
    """Step to tokens (sequences, context_length + 1), drawn from a corpus of noise."""
    corpus = np.random.default_rng(1).integers(0, shape.vocab_size, 2**20)

    def batches(step):
        starts = np.random.default_rng([1, step]).integers(
            0, 2**20 - shape.context_length, sequences
        )
        return corpus[starts[:, None] + np.arange(shape.context_length + 1)]

    return batches


def measure(mode, size, device, seconds):
    """Figures of one size."""
    num_layers, d_model, sequences = mode.sizes[size]
    shape = Shape(
        d_model=d_model,
        num_layers=num_layers,
        num_heads=d_model // mode.head_size,
        d_ff=4 * d_model,
        vocab_size=mode.vocab_size,
        context_length=mode.context_length,
    )
    batches = random_batches(shape, sequences)
    taken(device)
    plain = PlainLoop(shape, batches, device, mode.dtype)
    block = max(1, round(seconds / 2 / BLOCKS / (plain.seconds(2) / 2)))
    plain_memory = taken(device)
    ours = OurLoop(shape, batches, sequences, device, mode.dtype, block)
    rounds = [(plain.seconds(block), ours.seconds()) for _ in range(BLOCKS)]
    theirs, mine = (statistics.median(times) / block for times in zip(*rounds, strict=True))
    tokens = sequences * mode.context_length
    speed = shape.flops_per_step(sequences) / mine
    return {
        "tokens_per_second": round(tokens / mine),
        "plain_tokens_per_second": round(tokens / theirs),
        "ratio": round(statistics.median(a / b for a, b in rounds), 3),
        "mfu": round(speed / peak_flops(mode.dtype, str(device)), 4),
        "preparing_s": round(ours.training.preparing_seconds, 1),
        "plain_preparing_s": round(plain.preparing, 1),
        "plain_gib": plain_memory,
        "both_gib": taken(device),
        "compiled": ours.execution.compiled,
        "captured": ours.execution.captured,
        "logit_rows": ours.execution.logit_rows,
        "params": shape.params,
    }


def measure_stacked(d_model, device, seconds):
    """Tokens/s of all trials together at one width, by how they are trained."""
    num_layers, sequences, vocab_size = STACKED[d_model]
    shape = Shape(
        d_model=d_model,
        num_layers=num_layers,
        num_heads=d_model // FULL.head_size,
        d_ff=4 * d_model,
        vocab_size=vocab_size,
        context_length=256,
    )
    batches = random_batches(shape, sequences)
    plain = PlainLoop(shape, batches, device, "float32", compiled=False)
    block = max(1, round(seconds / 3 / BLOCKS / (plain.seconds(10) / 10)))
    asked = shape, batches, sequences, device, "bfloat16"
    alone, stack = OurLoop(*asked, block), StackedLoop(*asked, block)
    rounds = [(plain.seconds(block), alone.seconds(), stack.seconds()) for _ in range(BLOCKS)]
    tokens = sequences * shape.context_length
    found = [tokens * block / statistics.median(times) for times in zip(*rounds, strict=True)]
    del plain, alone, stack
    torch.cuda.empty_cache()
    load = Load(
        build=BasicsTransformerLM.from_shape,
        shapes=[shape],
        batch_size=sequences,
        device=str(device),
        speed=Speed(dtype="bfloat16"),
        memory=memory_bytes(str(device)) / max(SHARING),
    )
    for count in SHARING:
        (rate,) = together.rates(load, count, seconds / 3)
        found.append(rate / shape.flops_per_token())
    names = ("plain", "alone", "stacked", *(f"shared_{count}" for count in SHARING))
    return dict(zip(names, map(round, found), strict=True))


def stacked(device, seconds):
    """Figures of every width as a stack and as processes that share the GPU."""
    found = {}
    print(f"\n{MEMBERS} rates, tokens/s together", file=sys.stderr)
    for d_model in STACKED:
        row = measure_stacked(d_model, device, seconds)
        shared = max(row[f"shared_{count}"] for count in SHARING)
        row |= {
            "to_plain": round(row["stacked"] / row["plain"], 3),
            "to_alone": round(row["stacked"] / row["alone"], 3),
            "to_shared": round(row["stacked"] / shared, 3),
        }
        print(f"{d_model:>4} " + " ".join(f"{k} {v}" for k, v in row.items()), file=sys.stderr)
        found |= {f"stacked_d{d_model}_{key}": value for key, value in row.items()}
    return found


def figures(name, *, quick):
    """Figures of every size by name; those of a CPU where there is no such device."""
    mode = FULL
    if name.startswith("cuda") and not torch.cuda.is_available():
        print(f"{name}: no GPU here; the same code in small sizes on the CPU", file=sys.stderr)
        name = "cpu"
    if name == "cpu":
        mode = SMALL
    device = torch.device(name)
    torch.backends.cuda.matmul.allow_tf32 = True  # as nanoGPT has it, for both
    found = {"mode": mode.name, "device": device_name(name)}
    print("size   tokens/s    plain  ratio    mfu  preparing  plain's", file=sys.stderr)
    for size in list(mode.sizes)[: 1 if quick and mode is SMALL else None]:  # compiling takes long
        row = measure(mode, size, device, 2.0 if quick else 30.0)
        print(
            f"{size:<5} {row['tokens_per_second']:>9} {row['plain_tokens_per_second']:>8}"
            f" {row['ratio']:>6.2f} {row['mfu']:>6.1%} {row['preparing_s']:>8.1f} s"
            f" {row['plain_preparing_s']:>6.1f} s",
            file=sys.stderr,
        )
        found |= {f"{size}_{key}": value for key, value in row.items()}
    if mode is FULL:
        found |= stacked(device, 3.0 if quick else 12.0)
    return found
