"""How many tokens a source can hold at most, told without reading it."""

import glob
import math
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from data.names import META, STDLIB

PACKED = {".parquet", ".gz", ".zst"}
"""Files that hold more text than bytes."""
FILES = 20_000
"""Looked at, at most: a plan is shown at once."""
SEPARATORS = 1.001
"""Tokens a byte, at most: each document ends with one more, and none is as short as one byte."""


def most_tokens(source: str, max_bytes: int | None = None, *, enough: float = math.inf) -> float:
    """Tokens in a source, at most; infinite where nobody can say without reading.

    Args:
        source: as a person names it.
        max_bytes: read no more than this.
        enough: so many need no further looking.

    Raises:
        CorpusError: a synthetic source has faults, or a prepared corpus is damaged.
    """
    if (Path(source) / META).is_file():
        from data.corpus import Corpus  # noqa: PLC0415  most sources are told of without NumPy

        return float(Corpus.open(Path(source)).train_tokens)
    if source.startswith("synthetic:"):
        from data.sources import find  # noqa: PLC0415  likewise

        return float(find(source).size or math.inf)
    limit = math.inf if max_bytes is None else SEPARATORS * max_bytes
    return min(limit, SEPARATORS * _bytes(source, enough))


def _bytes(source: str, enough: float) -> float:
    """Bytes of a source's text, at most."""
    total, count = 0.0, 0
    for path in _paths(source):
        count += 1
        if path.suffix in PACKED or total > enough or count > FILES:
            return math.inf
        total += path.stat().st_size + 1
    return total if count else math.inf  # public sets, and what does not exist, are no files


def _paths(source: str) -> Iterator[Path]:
    if source == STDLIB:
        yield from Path(sysconfig.get_path("stdlib")).rglob("*.py")
        return
    path = Path(source).expanduser()
    found = path.rglob("*") if path.is_dir() else map(Path, glob.iglob(str(path), recursive=True))  # noqa: PTH207
    yield from (file for file in found if file.is_file())
