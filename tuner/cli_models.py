"""Verbs for corpora and single models: `data prepare`, `train`, `generate`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.mistakes import INCOMPLETE, INTERRUPTED
from tuner.terminal import AsJson, Settings, SweepFile, busy, out, positive, print_json, talk

if TYPE_CHECKING:
    from data.corpus import Corpus
    from model.progress import Progress
    from tuner.single import Task

data_app = typer.Typer(
    help="Prepare a corpus.\n\nExample: isoflop data prepare texts/", no_args_is_help=True
)


@data_app.command()
def prepare(
    source: Annotated[
        str, typer.Argument(help="A file, folder or glob of text, or a source known by name.")
    ],
    tokenizer: Annotated[
        str, typer.Option(help="byte, or bpe:SIZE trained on the source.")
    ] = "byte",
    folder: Annotated[Path, typer.Option("--dir", help="Where corpora lie.")] = Path(
        "runs/corpora"
    ),
    held_out_share: Annotated[float, typer.Option(help="Share of documents held out.")] = 0.05,
    max_bytes: Annotated[int | None, typer.Option(help="Read no more text than this.")] = None,
    text_column: Annotated[
        str, typer.Option(help="Field of JSONL and Parquet rows that holds the text.")
    ] = "text",
    as_json: AsJson = False,
) -> None:
    """Turn text into token shards that sweeps read.

    Example: isoflop data prepare python-stdlib
    """
    from data.prepare import prepare as make

    with busy(f"reading {source}"):
        corpus = make(
            source,
            folder,
            tokenizer=tokenizer,
            held_out_share=held_out_share,
            max_bytes=max_bytes,
            text_column=text_column,
        )
    _print_facts(_corpus_facts(corpus), as_json)


def train(
    sweep_file: SweepFile,
    size: Annotated[str, typer.Option(help="Layers and width, e.g. 2x32.")],
    budget: Annotated[float, typer.Option(help="FLOP.", callback=positive)],
    learning_rate: Annotated[float, typer.Option(help="Peak rate.", callback=positive)],
    settings: Settings = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    folder: Annotated[Path, typer.Option("--dir", help="The model's folder.")] = Path("runs/model"),
    reports: Annotated[
        int | None,
        typer.Option(min=1, help="Evaluations and checkpoints; default 4 to 100, by cost."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train one model by a sweep's recipe; stopped or killed, the same command goes on.

    Example: isoflop train tuner/sweeps/smoke.toml --size 1x32 --budget 1e10 --learning-rate 0.02
    """
    from tuner import single
    from tuner.backends.contract import AttemptError
    from tuner.config import load

    sweep = load(sweep_file, settings or ())
    task = single.task(
        sweep, size, budget, learning_rate, seed=seed, folder=folder, reports=reports
    )
    talk.print(f"watch it with: tensorboard --logdir {folder / single.TENSORBOARD}", markup=False)
    last = None
    try:
        with _bar(task) as on_step:
            for last in single.train(task, on_step):
                talk.print(_line(last, task), markup=False)
    except KeyboardInterrupt:
        done = f"step {last.step:,}" if last else "the beginning"
        talk.print(f"interrupted; the same command goes on from {done}", markup=False)
        raise typer.Exit(INTERRUPTED) from None
    except AttemptError as error:
        talk.print(f"isoflop: {error}. Take a smaller --size or training.batch_size", markup=False)
        raise typer.Exit(INCOMPLETE) from None
    assert last is not None
    _print_facts(_model_facts(last, task), as_json)
    if last.diverged:
        talk.print("the loss ceased to be a number: lower --learning-rate", markup=False)
        raise typer.Exit(INCOMPLETE)
    talk.print(f"next: isoflop generate {folder} --prompt 'def '", markup=False)


def generate(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A model's folder, ours or the course's.")
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Text to go on from; several are one batch; - reads standard input."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to add at most.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Among so many likeliest.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Among the likeliest that have this probability.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="byte or a tokenizer.json, where the folder holds none."),
    ] = None,
    past_end: Annotated[bool, typer.Option(help="Write on where a document ends.")] = False,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Write text with a trained model.

    Example: isoflop generate runs/model --prompt 'import ' --prompt 'def ' --top-p 0.9
    """
    from model.generate import Sampling
    from tuner import writing

    if top_p is not None and not 0 < top_p <= 1:
        raise typer.BadParameter(f"--top-p {top_p}: above 0 and at most 1")
    prompts = [_stdin() if text == "-" else text for text in prompt or ["\n"]]
    with busy("writing"):
        written = writing.generate(
            folder,
            prompts,
            tokens=tokens,
            sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p),
            seed=seed,
            coder_name=tokenizer,
            past_end=past_end,
        )
    pairs = list(zip(prompts, written, strict=True))
    if as_json:
        print_json([{"prompt": asked, "text": text} for asked, text in pairs])
    else:
        for asked, text in pairs:
            out.print(asked + text, markup=False, highlight=False, soft_wrap=True)


def _stdin() -> str:
    return typer.get_text_stream("stdin").read()


@contextmanager
def _bar(task: "Task") -> Iterator[Callable[[int], None]]:
    """A bar of steps on stderr where a person watches; yields what a step is told to."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = BarColumn(), MofNCompleteColumn(), "steps", TimeRemainingColumn()
    with Progress(*columns, console=talk, disable=not talk.is_terminal) as bar:
        row = bar.add_task("", total=task.trial.steps)
        yield lambda step: bar.update(row, completed=step + 1)


def _line(progress: "Progress", task: "Task") -> str:
    speed = progress.tokens / progress.seconds if progress.seconds else 0.0
    return (
        f"step {progress.step:,}/{task.trial.steps:,}  {progress.tokens:,} tokens  "
        f"{progress.flops:.3g} FLOP  loss {progress.loss:.4f} ± {progress.loss_se:.4f} nat/token  "
        f"{task.corpus.bits_per_byte(progress.loss):.4f} bit/byte  {speed:,.0f} tokens/s"
    )


def _model_facts(last: "Progress", task: "Task") -> dict[str, object]:
    shape = task.trial.shape
    return {
        "folder": str(task.folder),
        "params": shape.params,
        "params_non_embedding": shape.params_non_embedding,
        "tokens": last.tokens,
        "epochs": last.tokens / task.corpus.train_tokens,
        "steps": last.step,
        "flops": last.flops,
        "loss": None if last.diverged else last.loss,
        "loss_se": None if last.diverged else last.loss_se,
        "bpb": None if last.diverged else task.corpus.bits_per_byte(last.loss),
        "seconds": last.seconds,
    }


def _corpus_facts(corpus: "Corpus") -> dict[str, object]:
    return {
        "folder": str(corpus.folder),
        "fingerprint": corpus.fingerprint,
        "tokenizer": corpus.tokenizer,
        "vocab_size": corpus.vocab_size,
        "train_tokens": corpus.train_tokens,
        "held_out_tokens": corpus.held_out_tokens,
        "train_documents": corpus.train.documents,
        "held_out_documents": corpus.held_out.documents,
        "bytes_per_token": corpus.bytes_per_token,
        "entropy": corpus.entropy,
        "notes": list(corpus.notes),
    }


def _print_facts(facts: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        out.print(f"{name:20} {value}", markup=False, highlight=False, soft_wrap=True)
