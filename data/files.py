"""Reading documents from one local file: text, JSONL (plain, .gz, .zst) or Parquet.

Reads in pieces, so that a file may be larger than memory.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from io import TextIOWrapper
from itertools import chain, groupby
from pathlib import Path
from typing import TextIO

from data.errors import CorpusError
from data.tokenizer import END_OF_TEXT

WHOLE_CHARACTERS = 1 << 17
"""A document of text up to this length is one: no part of a held-out file is trained on."""
DOCUMENT_CHARACTERS = 1 << 14
"""A longer one is cut into documents of about this length, at line ends: a single book can then be
split into training and held-out parts. What becomes of a document depends on its own text alone,
so that none moves between the splits when its file grows."""
LINE_CHARACTERS = 1 << 16
"""A longer line is cut: a file need not have line ends."""
_PROBE_BYTES = 1 << 13
_DECODING = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True)
class Document:
    """One document's text."""

    text: str
    """Always encodable as UTF-8."""
    repaired: bool
    """It held zeros, or bytes or code units that are no UTF-8; each became U+FFFD."""


def document(text: str) -> Document:
    """A document of `text`, whose lone surrogates (undecodable bytes) and zeros become U+FFFD.

    No text holds a zero then: as a byte it separates documents.
    """
    repaired = "\0" in text
    if repaired:
        text = text.replace("\0", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        repaired = True
    return Document(text, repaired)


def is_binary(path: Path) -> bool:
    """Whether a file of no known format holds a zero byte near its beginning."""
    if path.suffix == ".parquet" or path.suffix in _COMPRESSED:
        return False
    with path.open("rb") as file:
        return b"\0" in file.read(_PROBE_BYTES)


def read(path: Path, text_column: str) -> Iterator[Document]:
    """The documents of one file, empty ones left out.

    Raises:
        CorpusError: the file is cut short, or a row has no text in `text_column`.
    """
    texts = _parquet(path, text_column) if path.suffix == ".parquet" else _lines(path, text_column)
    try:
        yield from (document(text) for text in texts if text)
    except OSError as error:
        raise CorpusError(
            f"{path}: cannot be read to its end ({error}). Fetch it again or leave it out."
        ) from error


def _lines(path: Path, text_column: str) -> Iterator[str]:
    name = path.stem if path.suffix in _COMPRESSED else path.name
    with _open(path) as file:
        if Path(name).suffix in {".jsonl", ".ndjson"}:
            yield from _json_lines(file, path, text_column)
        else:
            yield from _texts(file)


def _open(path: Path) -> TextIO:
    if path.suffix not in _COMPRESSED:
        return path.open(**_DECODING)
    from pyarrow import input_stream  # noqa: PLC0415  a third of a second

    return TextIOWrapper(input_stream(path, compression=_COMPRESSED[path.suffix]), **_DECODING)


def _texts(file: TextIO) -> Iterator[str]:
    """What stands between lines `<|endoftext|>`."""
    lines = iter(partial(file.readline, LINE_CHARACTERS), "")
    for ends, document in groupby(lines, lambda line: line.strip() == END_OF_TEXT):
        if not ends:
            yield from _pieces(document)


def _pieces(lines: Iterator[str]) -> Iterator[str]:
    """A document, whole unless it is too long for that."""
    head = list(_until(lines, WHOLE_CHARACTERS))
    rest = next(lines, None)
    if rest is None:
        yield "".join(head)
        return
    lines = chain(head, [rest], lines)
    yield from iter(lambda: "".join(_until(lines, DOCUMENT_CHARACTERS)), "")


def _until(lines: Iterator[str], length: int) -> Iterator[str]:
    """Lines up to and with the one that makes them longer than `length`."""
    for line in lines:
        yield line
        length -= len(line)
        if length < 0:
            return


def _json_lines(file: TextIO, path: Path, text_column: str) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            yield _field(json.loads(line), text_column)
        except ValueError as error:
            raise CorpusError(
                f"{path}:{number}: {error}. Mend the line, or name the column that holds text."
            ) from None


def _field(row: object, text_column: str) -> str:
    if not isinstance(row, dict):
        raise ValueError(f"a row must be an object, got {row!r:.40}")  # noqa: TRY004  one kind of fault
    text = row.get(text_column)
    if not isinstance(text, str):
        raise ValueError(f"no text in column {text_column!r}; columns are {', '.join(row)}")  # noqa: TRY004
    return text


def _parquet(path: Path, text_column: str) -> Iterator[str]:
    from pyarrow import ArrowInvalid, parquet  # noqa: PLC0415  a third of a second

    try:
        file = parquet.ParquetFile(path)
    except ArrowInvalid as error:
        raise CorpusError(f"{path}: no Parquet ({error}). Fetch it again.") from None
    if text_column not in file.schema_arrow.names:
        raise CorpusError(
            f"{path}: no column {text_column!r}; columns are {', '.join(file.schema_arrow.names)}."
        )
    for rows in file.iter_batches(batch_size=1024, columns=[text_column]):
        yield from rows.column(0).to_pylist()
