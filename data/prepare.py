"""Text to tokens: reads a source once (twice for a BPE), splits it by document, writes shards.

The folder gets its name when it is complete, so a killed preparation leaves no half corpus.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from data import sources
from data.building import alone_at, building
from data.corpus import FORMAT, META, Corpus
from data.errors import CorpusError
from data.files import Document
from data.shards import SplitWriter
from data.synthetic import Zipf2
from data.tokenizer import (
    Bytes,
    Symbols,
    Tokenizer,
    Tokens,
    fingerprint,
    requested_vocab_size,
    train_byte_pairs,
)

HELD_OUT_SHARE = 0.05
"""Share of documents held out."""
BPE_SAMPLE_BYTES = 32 << 20
"""Training text from whose beginning a BPE is learned."""
BATCH_CHARACTERS = 1 << 20
"""Text encoded at once, across cores."""


@dataclass(frozen=True)
class Encoded:
    """One document on its way into a shard."""

    tokens: Tokens
    text_bytes: int
    held_out: bool
    repaired: bool


def prepare(
    source: str,
    folder: Path,
    *,
    tokenizer: str = "byte",
    held_out_share: float = HELD_OUT_SHARE,
    max_bytes: int | None = None,
    text_column: str = "text",
) -> Corpus:
    """The corpus of `source`: from the cache in `folder`, else made there.

    Args:
        source: `python-stdlib`; a file, folder or glob of text, JSONL or Parquet; a public set
            (`tinystories`, `openwebtext`, `fineweb-edu`, `slimpajama`);
            `synthetic:zipf2?tokens=1M`; or a folder that was prepared before.
        folder: where corpora are kept, each in a folder of its own.
        tokenizer: `byte` or `bpe:4096`; a synthetic source brings its own.
        held_out_share: share of documents held out, each chosen by its content alone.
        max_bytes: stop after this much text.
        text_column: the field of JSONL and Parquet rows that holds the text.

    Raises:
        CorpusError: a wrong option, a source that cannot be read, an empty split, a shard damaged.
    """
    if (Path(source) / META).is_file():
        return _reopen(Path(source))
    _check_options(tokenizer, held_out_share, max_bytes)
    found = sources.find(source, text_column)
    request = {
        "source": found.identity,
        "tokenizer": tokenizer,
        "held_out_share": held_out_share,
        "max_bytes": max_bytes,
        "format": FORMAT,
    }
    target = folder / _folder_name(source, tokenizer, request)
    with alone_at(target):
        if not target.exists():
            _build(found, target, source=source, request=request)
    return _reopen(target)


def is_held_out(content: bytes, share: float) -> bool:
    """Whether a document is held out: a function of its content, whatever stands beside it."""
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def _reopen(folder: Path) -> Corpus:
    corpus = Corpus.open(folder)
    corpus.verify()
    return corpus


def _check_options(tokenizer: str, held_out_share: float, max_bytes: int | None) -> None:
    faults = []
    try:
        requested_vocab_size(tokenizer)
    except CorpusError as error:
        faults += error.faults
    if not 0 < held_out_share < 1:
        faults.append(f"held_out_share = {held_out_share}: a share between 0 and 1, such as 0.05.")
    if max_bytes is not None and max_bytes < 1:
        faults.append(f"max_bytes = {max_bytes}: at least 1, or leave it out for all the text.")
    if faults:
        raise CorpusError(*faults)


def _folder_name(source: str, tokenizer: str, request: dict[str, Any]) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", f"{Path(source).name[-40:]} {tokenizer}".lower()).strip("-")
    return f"{slug}-{fingerprint(json.dumps(request, sort_keys=True).encode())[:8]}"


def _build(found: sources.Source, target: Path, *, source: str, request: dict[str, Any]) -> None:
    with building(target) as folder:
        tokenizer, documents = _encoding(found, request)
        with _progress(source, found.size) as advance:
            corpus = _write(documents, folder, tokenizer, advance)
        corpus = replace(
            corpus,
            source=source,
            request=request,
            notes=(*found.notes, *corpus.notes),
            entropy=found.entropy if isinstance(found, Zipf2) else None,
        )
        _check_splits(corpus)
        tokenizer.save(folder)
        corpus.write_meta()


def _encoding(
    found: sources.Source, request: dict[str, Any]
) -> tuple[Tokenizer, Iterator[Encoded]]:
    share, limit = request["held_out_share"], request["max_bytes"]
    if isinstance(found, Zipf2):
        return Symbols(found.vocab_size), _limited(_drawn(found, share), limit)
    vocab_size = requested_vocab_size(request["tokenizer"])
    tokenizer: Tokenizer = Bytes()
    if vocab_size is not None:
        sample = min(BPE_SAMPLE_BYTES, limit or BPE_SAMPLE_BYTES)
        tokenizer = train_byte_pairs(_training_texts(found, share, sample), vocab_size)
    return tokenizer, _limited(_encoded(found.documents(), tokenizer, share), limit)


def _training_texts(found: sources.TextSource, share: float, sample_bytes: int) -> Iterator[str]:
    with _progress("tokenizer", sample_bytes) as advance:
        for document in found.documents():
            content = document.text.encode()
            sample_bytes -= len(content)
            if not is_held_out(content, share):
                yield document.text
            advance(len(content))
            if sample_bytes <= 0:
                return


def _encoded(
    documents: Iterable[Document], tokenizer: Tokenizer, share: float
) -> Iterator[Encoded]:
    for batch in _batches(documents):
        tokens = tokenizer.encode_documents([document.text for document in batch])
        for document, row in zip(batch, tokens, strict=True):
            content = document.text.encode()
            yield Encoded(row, len(content), is_held_out(content, share), document.repaired)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch = []
            characters = 0
    yield batch


def _drawn(source: Zipf2, share: float) -> Iterator[Encoded]:
    for tokens in source.documents():
        yield Encoded(tokens, tokens.size, is_held_out(tokens.tobytes(), share), repaired=False)


def _limited(documents: Iterable[Encoded], max_bytes: int | None) -> Iterator[Encoded]:
    left = math.inf if max_bytes is None else max_bytes
    for document in documents:
        yield document
        left -= document.text_bytes
        if left <= 0:
            return


def _write(
    documents: Iterable[Encoded],
    folder: Path,
    tokenizer: Tokenizer,
    advance: Callable[[int], None],
) -> Corpus:
    train, held_out = (
        SplitWriter(folder, name, tokenizer.vocab_size) for name in ("train", "held_out")
    )
    repaired = 0
    for document in documents:
        writer = held_out if document.held_out else train
        writer.add(document.tokens, document.text_bytes)
        repaired += document.repaired
        advance(document.text_bytes)
    note = f"{repaired} documents held bytes that are zero or not UTF-8; each became U+FFFD."
    return Corpus(
        folder=folder,
        source="",
        tokenizer_name=tokenizer.name,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        train=train.close(),
        held_out=held_out.close(),
        notes=(note,) if repaired else (),
    )


def _check_splits(corpus: Corpus) -> None:
    documents = corpus.train.documents + corpus.held_out.documents
    share = corpus.request["held_out_share"]
    faults = [
        f"{corpus.source}: {documents} documents at held_out_share = {share} leave none {purpose}. "
        f"Use more text, or a {change} held_out_share."
        for split, purpose, change in (
            (corpus.train, "to train on", "smaller"),
            (corpus.held_out, "held out", "larger"),
        )
        if not split.documents
    ]
    if faults and not documents:
        faults = [f"{corpus.source}: there is no text in it. Put text there, or name another."]
    if faults:
        raise CorpusError(*faults)


@contextmanager
def _progress(label: str, size: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where a person watches; yields what advances it by some bytes."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=size)
        yield lambda amount: bar.advance(task, amount)
