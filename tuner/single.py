"""One model without Ray: trained by a sweep's recipe, with checkpoints and TensorBoard."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from data import tokenizer
from data.corpus import Corpus
from model.progress import Progress
from tuner import corpora, space
from tuner.attempt import attempt
from tuner.backends.contract import Job
from tuner.backends.train import TrainRun
from tuner.config import Sweep
from tuner.errors import ConfigError
from tuner.events import EventFile
from tuner.probing import find, peaks
from tuner.reports import affordable, report_steps
from tuner.sections import NAMED_SIZES, Explore
from tuner.slot import Slot
from tuner.space import Question, Trial
from tuner.storage import Place

CHECKPOINT = "checkpoint.pickle"
ASKED = "asked.json"
TOKENIZER = "tokenizer.txt"
SLOT = "slot.json"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One model to train, everything settled."""

    sweep: Sweep
    trial: Trial
    corpus: Corpus
    folder: Path


def task(
    sweep: Sweep,
    size: str,
    budget: float,
    learning_rate: float,
    *,
    seed: int,
    folder: Path,
    reports: int | None,
) -> Task:
    """What `train` is to do; prepares the corpus, writes nothing else.

    Args:
        sweep: whose recipe and corpus to use.
        size: layers and width, as `2x32`, or `small`, `medium`, `large`.
        budget: FLOP.
        learning_rate: peak rate.
        seed: of weights and data order.
        folder: gets the model, its tokenizer, its checkpoint and TensorBoard's log.
        reports: evaluations and checkpoints, evenly spaced; None takes 4 to 100, as evaluation's
            share of the work permits. They do not change what is trained.

    Raises:
        ConfigError: `size` is no size, the budget buys no step or more tokens than there are.
        CorpusError: the corpus cannot be read or made.
    """
    asked = _size(size)
    sweep = _alone(sweep, budget, asked)
    question = Question(budget=budget, size=asked, learning_rate=learning_rate, number=0, seed=seed)
    corpus = corpora.of(sweep, folder.parent)
    trial = space.trial(sweep, question, corpus.vocab_size)
    if trial.steps < 1:
        raise ConfigError(f"--budget {budget:g}: buys no whole step at --size {size}; raise it")
    corpora.check(sweep, corpus)
    once = corpus.tokens_per_epoch(sweep.shapes.context_length)
    if trial.tokens > once and not sweep.data.allow_repeats:
        raise ConfigError(
            f"--budget {budget:g}: {trial.tokens:,} tokens, {sweep.data.source} has "
            f"{once:,}; lower it, or -s data.allow_repeats=true"
        )
    count = reports or affordable(trial, sweep.data.held_out_tokens)
    steps = report_steps(trial, count)
    return Task(sweep=sweep, corpus=corpus, folder=folder, trial=replace(trial, report_steps=steps))


def train(task: Task, on_step: Callable[[int], None]) -> Iterator[Progress]:
    """Train, yielding every report; killed and started again, it repeats what it had reported.

    At each report model, checkpoint and TensorBoard's log are written.

    Args:
        task: what to train.
        on_step: told the number of each step, from 0, before it is taken.

    Raises:
        ConfigError: the folder holds another model, or another process trains in it.
    """
    folder = task.folder
    with _only_here(folder), _log(folder) as log:
        _claim(task)
        tokenizer.load(task.corpus.tokenizer_name, task.corpus.folder).save(folder)
        (folder / TOKENIZER).write_text(task.corpus.tokenizer_name)
        job = Job(
            sweep=task.sweep, vocab_size=task.corpus.vocab_size, corpus=task.corpus.folder,
            checkpoints=Place.of(folder), slot=_slot(task),
        )  # fmt: skip
        run = TrainRun(job, task.trial, on_step=on_step)
        for progress in attempt(run, job.checkpoints / CHECKPOINT):
            run.save(folder)
            _write(log, progress, task.corpus)
            yield progress


def _slot(task: Task) -> Slot:
    """What it is trained on and how: found the first time, kept when it is taken up elsewhere."""
    path = task.folder / SLOT
    if not path.exists():
        sweep, corpus = task.sweep, task.corpus
        found = find(sweep, corpus.vocab_size, corpus.folder)
        if sweep.resources.gpus_per_trial:  # a processor's decides nothing, and takes a second
            found = replace(found, peaks=peaks(sweep, found.speed))
        path.write_text(found.to_json())
    return Slot.from_json(path.read_text())


def _alone(sweep: Sweep, budget: float, size: space.Size) -> Sweep:
    """The sweep with this one budget and size, at the batch size of the nearest budget."""
    sizes = sweep.training.batch_size
    near = sweep.batch_size(budget) if sweep.design == "isoflop" else sizes
    batch = near if isinstance(near, int) else near[0]
    training = sweep.training.model_copy(update={"batch_size": batch})
    one = {"design": "isoflop", "budgets": (budget,), "explore": Explore()}
    shapes = sweep.shapes.model_copy(update={"ladder": (size,)})
    return sweep.model_copy(update=one | {"training": training, "shapes": shapes})


def _size(text: str) -> space.Size:
    if text in NAMED_SIZES:
        return NAMED_SIZES[text]
    layers, cross, width = text.partition("x")
    if not (cross and layers.isdecimal() and width.isdecimal() and int(layers) and int(width)):
        names = ", ".join(NAMED_SIZES)
        raise ConfigError(f"--size {text}: expected layers and width, as 2x32, or one of {names}")
    return int(layers), int(width)


@contextmanager
def _only_here(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise ConfigError(f"{folder}: another process trains here; name another --dir") from None


def _claim(task: Task) -> None:
    """Write down what is trained here, or check that it is the same."""
    asked = json.loads(task.sweep.to_json())
    del asked["resources"]["loading_workers"]  # moves no bit, so it may change
    text = json.dumps([asked, repr(task.trial.question), task.corpus.fingerprint])
    path = task.folder / ASKED
    if path.exists() and path.read_text() != text:
        raise ConfigError(
            f"{task.folder}: holds a model of another configuration; name another --dir"
        )
    path.write_text(text)


@contextmanager
def _log(folder: Path) -> Iterator[EventFile]:
    """TensorBoard's log, begun anew: a training taken up again tells its whole history."""
    shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
    with closing(EventFile(folder / TENSORBOARD)) as log:
        yield log


def _write(log: EventFile, progress: Progress, corpus: Corpus) -> None:
    scalars = {
        "loss": progress.loss,
        "bpb": corpus.bits_per_byte(progress.loss),
        "train_loss": progress.train_loss,
        "learning_rate": progress.learning_rate,
        "flops": float(progress.flops),
        "tokens_per_second": progress.tokens / progress.seconds if progress.seconds else 0.0,
    }
    log.scalars(scalars, progress.tokens, "Step: training tokens.")
