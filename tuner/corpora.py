"""The corpus a sweep names: prepared once beside the sweeps that read it, and, where nodes share no
disk, copied once to each. Needs no torch.
"""

from dataclasses import replace
from pathlib import Path

from data.building import alone_at, building
from data.corpus import META, Corpus
from data.errors import CorpusError
from data.loader import Loader, held_out
from data.prepare import prepare
from tuner.backends.contract import Job, Published
from tuner.config import Sweep
from tuner.storage import Place, own_folder

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


def publish(corpus: Corpus, storage: Place) -> Published:
    """Put `corpus` where every node can fetch it, unless it is there.

    Its description is written last: a folder without one is no corpus yet.
    """
    fingerprint = corpus.fingerprint
    place = storage / FOLDER / f"{corpus.folder.name}-{fingerprint[:8]}"
    if (place / META).read() is None:
        for file in _files(corpus.folder):
            (place / file.name).upload(file)
        (place / LISTED).write("\n".join(file.name for file in _files(corpus.folder)).encode())
        (place / META).upload(corpus.folder / META)
    return Published(place=place, fingerprint=fingerprint)


def on_this_node(job: Job) -> Job:
    """The job with the node's own copy of its corpus, fetched by whichever trial is first.

    Raises:
        CorpusError: what arrived is not what was published.
    """
    if job.published is None:
        return job
    place = job.published.place
    target = own_folder() / FOLDER / str(place).rpartition("/")[2]
    with alone_at(target):
        if not target.exists():
            with building(target) as folder:
                _fetch(place, folder)
                _verify(folder, job.published)
    return replace(job, corpus=target)


LISTED = "files.txt"
"""Names of a published corpus's files, its description aside."""


def _files(folder: Path) -> list[Path]:
    """A corpus's files but its description."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name != META)


def _fetch(place: Place, folder: Path) -> None:
    listed = (place / LISTED).read()
    names = [META, *(listed or b"").decode().split()]
    missing = [name for name in names if not (place / name).download(folder / name)]
    if missing:
        raise CorpusError(f"{place}: {', '.join(missing)} missing; remove it and resume the sweep.")


def _verify(folder: Path, published: Published) -> None:
    """Read every token and hold it against its digest, and the digests against the sweep's."""
    corpus = Corpus.open(folder)
    corpus.verify()
    if corpus.fingerprint != published.fingerprint:
        raise CorpusError(
            f"{published.place}: holds {corpus.fingerprint}, the sweep reads "
            f"{published.fingerprint}; remove it and resume the sweep."
        )
