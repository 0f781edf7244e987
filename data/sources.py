"""Where documents come from: this Python's own library, files, public sets, synthetic sources.

Every source gives its documents in a fixed order and says, without reading them, what it is.
"""

import difflib
import glob
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl

from data.errors import CorpusError
from data.files import Document, is_binary, read
from data.names import STDLIB
from data.public import PUBLIC
from data.synthetic import Zipf2
from data.tokenizer import fingerprint

SYNTHETIC = "synthetic:zipf2"
_LEFT_OUT = re.compile(
    r"(^|/)((site-packages|dist-packages|tests?|idlelib|config-[^/]*)/|_sysconfigdata)"
)
"""Of the standard library: what is not its own, and what differs from machine to machine."""


class TextSource(Protocol):
    """A source of text documents."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the documents, as plain JSON values: the cache's key."""
        ...

    @property
    def size(self) -> int | None:
        """Bytes to read, for the progress bar; None where nobody knows."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out and why, in sentences."""
        ...

    def documents(self) -> Iterator[Document]:
        """All documents, always in the same order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Files:
    """Local files under one root, in the order of their names."""

    root: Path
    """What names are relative to."""
    paths: tuple[Path, ...]
    """Files to read."""
    text_column: str
    """Field of JSONL and Parquet that holds the text."""
    notes: tuple[str, ...] = ()
    """What was left out and why."""

    @property
    def identity(self) -> dict[str, Any]:
        """Names, sizes and times of change: enough to see an edit without reading the text."""
        states = [(path, path.stat()) for path in self.paths]
        listing = [
            f"{path.relative_to(self.root).as_posix()} {state.st_size} {state.st_mtime_ns}"
            for path, state in states
        ]
        return {
            "files": fingerprint("\n".join(listing).encode()),
            "text_column": self.text_column,
        }

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.paths)

    def documents(self) -> Iterator[Document]:
        """Every file's documents."""
        for path in self.paths:
            yield from read(path, self.text_column)


Source = TextSource | Zipf2


def find(name: str, text_column: str = "text") -> Source:
    """The source a person means by `name`.

    Raises:
        CorpusError: nothing of that name, nothing in it, or options it does not have.
    """
    if name.startswith("synthetic:"):
        return _synthetic(name)
    if name == STDLIB:
        return _standard_library()
    if name in PUBLIC:
        return PUBLIC[name]
    return _local(name, text_column)


def _standard_library() -> Files:
    root = Path(sysconfig.get_path("stdlib"))
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    paths = tuple(root / name for name in names if not _LEFT_OUT.search(name))
    if not paths:
        raise CorpusError(
            f"{STDLIB}: no .py files in {root}; this Python came without its library's source. "
            "Name a folder of text instead."
        )
    return Files(root=root, paths=paths, text_column="text")


def _local(name: str, text_column: str) -> Files:
    path = Path(name).expanduser()
    if path.is_file():
        if is_binary(path):
            raise CorpusError(f"{name}: a binary file. Give text, JSONL (.gz, .zst) or Parquet.")
        return Files(root=path.parent, paths=(path,), text_column=text_column)
    root, found = (path, path.rglob("*")) if path.is_dir() else _glob(path)
    visible = [file for file in found if file.is_file() and not _hidden(file.relative_to(root))]
    paths = sorted(visible, key=lambda file: file.relative_to(root).as_posix())
    binary = {file for file in paths if is_binary(file)}
    notes = (f"{len(binary)} of {len(paths)} files are binary and were left out.",)
    texts = tuple(file for file in paths if file not in binary)
    if not texts:
        raise CorpusError(_nothing(name, path, len(binary)))
    return Files(root=root, paths=texts, text_column=text_column, notes=notes if binary else ())


def _glob(pattern: Path) -> tuple[Path, list[Path]]:
    found = [Path(match) for match in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207  pathlib's needs a root
    plain = [part for part in pattern.parts if glob.has_magic(part)][:1]
    root = Path(*pattern.parts[: pattern.parts.index(plain[0])]) if plain else pattern.parent
    return root, found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _nothing(name: str, path: Path, binary: int) -> str:
    if binary:
        return f"{name}: all {binary} files are binary. Give text, JSONL (.gz, .zst) or Parquet."
    if path.is_dir():
        return f"{name}: a folder without files. Put text into it, or name another."
    known = [STDLIB, SYNTHETIC, *PUBLIC]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known by name: {', '.join(known)}."
    return f"{name}: no such file, folder or pattern, and no source of that name. {hint}"


def _synthetic(name: str) -> Zipf2:
    base, _, query = name.partition("?")
    if base != SYNTHETIC:
        raise CorpusError(f"{name}: the one synthetic source is {SYNTHETIC}?tokens=1M.")
    parse = {field.name: float if field.type is float else parse_count for field in fields(Zipf2)}
    options: dict[str, Any] = {"tokens": 1_000_000}
    faults: list[str] = []
    for key, text in parse_qsl(query, keep_blank_values=True):
        try:
            options[key] = parse[key](text)
        except KeyError:
            faults.append(f"{name}: no option {key!r}. There are: {', '.join(parse)}.")
        except ValueError:
            faults.append(f"{name}: {key} = {text!r} is no number. Write for example 1M or 128.")
    if not 2 <= options.get("vocab_size", 2) <= 256:
        faults.append(f"{name}: vocab_size = {options['vocab_size']}, must be 2 … 256.")
    if faults:
        raise CorpusError(*faults)
    return Zipf2(**options)


def parse_count(text: str) -> int:
    """A whole number with an optional K, M or G: `1M` is 1,000,000.

    Raises:
        ValueError: it is not one.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)", text.strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"not a count: {text!r}")
    power = {"": 0, "K": 3, "M": 6, "G": 9}[match[2].upper()]
    return round(float(match[1]) * 10**power)
