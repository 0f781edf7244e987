"""One model without Ray: train it by a sweep's recipe, and let it write."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from data import tokenizer
from model.progress import Progress
from model.transformer import BasicsTransformerLM
from tuner import corpora, space
from tuner.attempt import attempt
from tuner.backends.contract import Job
from tuner.backends.train import TrainRun
from tuner.config import ConfigError, Sweep
from tuner.sections import NAMED_SIZES
from tuner.space import Question

CHECKPOINT = "checkpoint.pickle"
ASKED = "asked.json"
TOKENIZER = "tokenizer.txt"


def train(
    sweep: Sweep, size: str, budget: float, learning_rate: float, seed: int, folder: Path
) -> Iterator[Progress]:
    """Train the model of one question, yielding its reports; a killed training goes on.

    Args:
        sweep: whose recipe, corpus and report fractions to use.
        size: layers and width, as `2x32`, or `small`, `medium`, `large`.
        budget: FLOP.
        learning_rate: peak rate.
        seed: of weights and data order.
        folder: gets the model, its tokenizer and, until the end, the checkpoint.

    Raises:
        ConfigError: `size` is no size, the budget buys no step, or `folder` holds another model.
        CorpusError: the corpus cannot be read or made.
    """
    sweep = _alone(sweep, budget)
    question = Question(
        budget=budget, size=_size(size), learning_rate=learning_rate, number=0, seed=seed
    )
    folder.mkdir(parents=True, exist_ok=True)
    corpus = corpora.of(sweep, folder.parent)
    trial = space.trial(sweep, question, corpus.vocab_size)
    if trial.steps < 1:
        raise ConfigError(f"--budget {budget:g}: buys no whole step at --size {size}; raise it")
    if trial.tokens > corpus.train_tokens and not sweep.data.allow_repeats:
        raise ConfigError(
            f"--budget {budget:g}: {trial.tokens:,} tokens, {sweep.data.source} has "
            f"{corpus.train_tokens:,}; lower it, or -s data.allow_repeats=true"
        )
    _claim(folder, sweep, question)
    job = Job(
        sweep=sweep, vocab_size=corpus.vocab_size, corpus=corpus.folder,
        checkpoints=folder, peak_flops=0.0,
    )  # fmt: skip
    run = TrainRun(job, trial)
    yield from attempt(run, folder / CHECKPOINT)
    run.model.save_pretrained(folder)
    tokenizer.load(corpus.tokenizer_name, corpus.folder).save(folder)
    (folder / TOKENIZER).write_text(corpus.tokenizer_name)


def generate(
    folder: Path, prompt: str, *, tokens: int, temperature: float, top_k: int | None, seed: int
) -> str:
    """`prompt` and what the model in `folder` writes after it.

    Raises:
        ConfigError: there is no model, or the prompt is empty.
    """
    if not (folder / TOKENIZER).is_file():
        raise ConfigError(f"{folder}: no trained model here; make one with: isoflop train")
    coder = tokenizer.load((folder / TOKENIZER).read_text(), folder)
    asked = torch.from_numpy(coder.encode(prompt).astype("int64"))[None]
    if not asked.numel():
        raise ConfigError("--prompt: is empty; give at least one character")
    model = BasicsTransformerLM.from_pretrained(folder)
    torch.manual_seed(seed)
    written = model.generate(asked, tokens, temperature=temperature, top_k=top_k)
    return prompt + coder.decode(written[0].tolist())


def _alone(sweep: Sweep, budget: float) -> Sweep:
    """The sweep with this one budget, at the batch size of its nearest."""
    sizes = sweep.training.batch_size
    near = sweep.batch_size(budget) if sweep.design == "isoflop" else sizes
    batch = near if isinstance(near, int) else near[0]
    training = sweep.training.model_copy(update={"batch_size": batch})
    return sweep.model_copy(
        update={"design": "isoflop", "budgets": (budget,), "training": training}
    )


def _size(text: str) -> space.Size:
    if text in NAMED_SIZES:
        return NAMED_SIZES[text]
    layers, cross, width = text.partition("x")
    if not (cross and layers.isdecimal() and width.isdecimal() and int(layers) and int(width)):
        names = ", ".join(NAMED_SIZES)
        raise ConfigError(f"--size {text}: expected layers and width, as 2x32, or one of {names}")
    return int(layers), int(width)


def _claim(folder: Path, sweep: Sweep, question: Question) -> None:
    """Write down what is trained here, or check that it is the same."""
    text = json.dumps([json.loads(sweep.to_json()), repr(question)])
    path = folder / ASKED
    if path.exists() and path.read_text() != text:
        raise ConfigError(f"{folder}: holds a model of another configuration; name another --dir")
    path.write_text(text)
