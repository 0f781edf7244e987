"""A prepared corpus: token shards on disk, memory-mapped, and the record that describes them.

A folder holds `meta.json`, the shards of both splits and, for a BPE, `tokenizer.json`.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data import tokenizer
from data.errors import CorpusError
from data.names import META
from data.tokenizer import Tokenizer, Tokens

__all__ = ["Corpus", "CorpusError", "Shard", "Split"]

FORMAT = 5
"""Version of the folder's layout; another one is prepared anew."""

ENDS = np.dtype("<i8")
"""How the end of a document is stored."""

SplitName = Literal["train", "held_out"]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of tokens."""

    file: str
    """Name inside the corpus folder."""
    tokens: int
    """Tokens in it."""
    digest: str
    """BLAKE2b of its bytes, 32 hexadecimal digits."""


@dataclass(frozen=True, kw_only=True)
class Ends:
    """One file of where documents end."""

    file: str
    """Name inside the corpus folder."""
    digest: str
    """BLAKE2b of its bytes, 32 hexadecimal digits."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """The documents that train, or those held out."""

    shards: tuple[Shard, ...]
    """In reading order."""
    ends: Ends
    """Where each document ends, separator counted, in tokens from the split's beginning."""
    documents: int
    """Documents in the split."""
    bytes: int
    """UTF-8 bytes of their text, separators not counted."""

    @property
    def tokens(self) -> int:
        """Tokens in all shards, separators counted."""
        return sum(shard.tokens for shard in self.shards)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus on disk. A plain record: it travels to workers by value, the tokens do not."""

    folder: Path
    """Where it lies."""
    source: str
    """What it was made from, as the person named it."""
    tokenizer_name: str
    """`byte`, `bpe:4096`, `symbols:128`."""
    tokenizer_fingerprint: str
    """Tells tokenizers of one name apart."""
    vocab_size: int
    """Distinct tokens."""
    train: Split
    """What a model sees."""
    held_out: Split
    """What it is judged on; chosen by each document's content alone."""
    entropy: float | None = None
    """Entropy rate, nat/token, where the source is synthetic and so knows it: the loss's floor."""
    notes: tuple[str, ...] = ()
    """What was odd about the source, in sentences."""
    request: dict[str, Any] = field(default_factory=dict, repr=False)
    """Source and options it answers: the key by which `prepare` finds it again."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """The corpus in folder `path`. Reads the description and the files' sizes, no tokens.

        Raises:
            CorpusError: nothing prepared there, or shards missing or cut short.
        """
        meta = _read_meta(path)
        meta["train"], meta["held_out"] = _split(meta["train"]), _split(meta["held_out"])
        meta["notes"] = tuple(meta["notes"])
        corpus = cls(folder=path, **meta)
        corpus._check(corpus._size_fault)
        return corpus

    def verify(self) -> None:
        """Read every shard and compare it with its digest: about a second a gigabyte.

        Raises:
            CorpusError: a shard is not what was written.
        """
        self._check(self._digest_fault)

    def write_meta(self) -> None:
        """Write `meta.json`; `prepare` does so last, before the folder gets its name."""
        meta = {key: value for key, value in asdict(self).items() if key != "folder"}
        text = json.dumps({"format": FORMAT, **meta}, indent=1)
        (self.folder / META).write_text(text + "\n")

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """How a token is stored: the smallest unsigned integer that holds the vocabulary."""
        return token_dtype(self.vocab_size)

    @property
    def tokenizer(self) -> str:
        """Name and fingerprint, as the run table gives it."""
        return f"{self.tokenizer_name}@{self.tokenizer_fingerprint}"

    @property
    def fingerprint(self) -> str:
        """Of every token and the tokenizer; the same wherever and whenever it was prepared."""
        digests = [
            [*(shard.digest for shard in split.shards), split.ends.digest]
            for split in (self.train, self.held_out)
        ]
        return tokenizer.fingerprint(json.dumps([self.tokenizer, digests]).encode())

    @property
    def train_tokens(self) -> int:
        """Tokens to train on."""
        return self.train.tokens

    def tokens_per_epoch(self, context_length: int) -> int:
        """Training tokens that a run sees before it repeats: those in whole windows."""
        return context_length * sum(
            whole_windows(shard.tokens, context_length) for shard in self.train.shards
        )

    @property
    def held_out_tokens(self) -> int:
        """Tokens to evaluate on."""
        return self.held_out.tokens

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes a held-out token stands for: bit/byte = nat/token / (ln 2 · this).

        Separators count as tokens and not as bytes, so every tokenizer pays for them alike.
        """
        return self.held_out.bytes / self.held_out.tokens

    def bits_per_byte(self, loss: float) -> float:
        """A held-out loss, nat/token, per byte of text: comparable across tokenizers."""
        return loss / (math.log(2) * self.bytes_per_token)

    def arrays(self, split: SplitName) -> list[Tokens]:
        """The shards of `split`, each (tokens,), all of them memory-mapped read-only."""
        return [np.memmap(path, self.dtype, mode="r") for path, _ in self.shard_files(split)]

    def shard_files(self, split: SplitName) -> list[tuple[Path, int]]:
        """File and tokens of each shard of `split`, in reading order."""
        shards = (self.train if split == "train" else self.held_out).shards
        return [(self.folder / shard.file, shard.tokens) for shard in shards]

    def document_ends(self, split: SplitName) -> NDArray[np.int64]:
        """Where each document of `split` ends, in tokens from its beginning, separator counted.

        Shape (documents,), rising, memory-mapped read-only.
        """
        chosen = self.train if split == "train" else self.held_out
        return np.memmap(self.folder / chosen.ends.file, ENDS, mode="r")

    def encode(self, text: str) -> Tokens:
        """The tokens of `text`. Shape (tokens,)."""
        return self._tokenizer.encode(text)

    def decode(self, tokens: ArrayLike) -> str:
        """The text of `tokens`."""
        return self._tokenizer.decode(tokens)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return tokenizer.load(self.tokenizer_name, self.folder)

    @property
    def _files(self) -> list[tuple[str, int, str]]:
        """Name, bytes and digest of every file."""
        return [
            part
            for split in (self.train, self.held_out)
            for part in (
                *((s.file, s.tokens * self.dtype.itemsize, s.digest) for s in split.shards),
                (split.ends.file, split.documents * ENDS.itemsize, split.ends.digest),
            )
        ]

    def _size_fault(self, name: str, wanted: int, _: str) -> str | None:
        path = self.folder / name
        found = path.stat().st_size if path.is_file() else None
        if found == wanted:
            return None
        state = "missing" if found is None else f"{found:,} bytes long"
        return f"{path}: {state}, written with {wanted:,} bytes"

    def _digest_fault(self, name: str, _: int, digest: str) -> str | None:
        path = self.folder / name
        if digest_file(path) == digest:
            return None
        return f"{path}: its content is not what was written (digest differs)"

    def _check(self, fault_of: Callable[[str, int, str], str | None]) -> None:
        faults = [fault for fault in (fault_of(*file) for file in self._files) if fault]
        if faults:
            raise CorpusError(
                *(f"{fault}. Delete {self.folder} and prepare it again." for fault in faults)
            )


def whole_windows(tokens: int, context_length: int) -> int:
    """Windows in a shard, leaving room to shift them all by up to `context_length` tokens."""
    return max(tokens // context_length - 1, 0)


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned integer that holds tokens below `vocab_size`, little-endian."""
    for code in ("u1", "<u2"):
        if vocab_size <= np.iinfo(code).max + 1:
            return np.dtype(code)
    return np.dtype("<u4")


def digest_file(path: Path) -> str:
    """BLAKE2b of a file, 32 hexadecimal digits, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads((path / META).read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise CorpusError(
            f"{path}: no corpus here ({META} is missing). Make one: isoflop data prepare SOURCE"
        ) from None
    except ValueError as error:
        raise CorpusError(
            f"{path / META}: not readable as JSON ({error}). Delete {path} and prepare it again."
        ) from None
    if meta.pop("format", None) != FORMAT:
        raise CorpusError(
            f"{path / META}: written in another layout. Delete {path} and prepare it again."
        )
    return meta


def _split(meta: dict[str, Any]) -> Split:
    shards = tuple(Shard(**shard) for shard in meta["shards"])
    return Split(
        shards=shards,
        ends=Ends(**meta["ends"]),
        documents=meta["documents"],
        bytes=meta["bytes"],
    )
