"""The corpus a sweep names, prepared once beside the sweeps that read it. Needs no torch."""

from pathlib import Path

from data.corpus import Corpus
from data.loader import Loader, held_out
from data.prepare import prepare
from tuner.config import Sweep

FOLDER = "corpora"


def of(sweep: Sweep, folder: Path) -> Corpus:
    """The corpus of `sweep`, prepared in `folder`/corpora unless it is there.

    Raises:
        CorpusError: it cannot be read or made.
    """
    data = sweep.data
    return prepare(
        data.source,
        folder / FOLDER,
        tokenizer=data.tokenizer,
        held_out_share=data.held_out_share,
        max_bytes=data.max_bytes,
        text_column=data.text_column,
    )


def check(sweep: Sweep, corpus: Corpus) -> None:
    """Make sure that every trial of `sweep` gets a batch to train on and text to be judged on.

    Raises:
        CorpusError: the corpus is shorter than one batch, or held-out text leaves no error.
    """
    context, sizes = sweep.shapes.context_length, sweep.training.batch_size
    largest = sizes if isinstance(sizes, int) else max(sizes)
    Loader(corpus, context, largest, seed=0)
    held_out(corpus, context, largest, sweep.data.held_out_tokens)
