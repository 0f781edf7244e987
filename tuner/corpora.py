"""The corpus a sweep names, prepared once beside the sweeps that read it. Needs no torch."""

from pathlib import Path

from data.corpus import Corpus
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
