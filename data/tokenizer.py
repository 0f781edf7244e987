"""Text to tokens and back: bytes, byte-level BPE trained locally, and bare symbols.

`tokenizers` is imported only where a BPE is trained or loaded.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.errors import CorpusError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Model

Tokens = NDArray[np.unsignedinteger]

FILE = "tokenizer.json"
END_OF_TEXT = "<|endoftext|>"
"""What a BPE calls the separator."""
SEPARATOR = 0
"""The token after every document of text: the zero byte, or `<|endoftext|>`."""


def fingerprint(content: bytes) -> str:
    """Sixteen hexadecimal digits that tell one content from another."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


class Tokenizer(Protocol):
    """What a corpus needs of a tokenizer."""

    @property
    def name(self) -> str:
        """As a person asks for it: `byte`, `bpe:4096`."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for two tokenizers if and only if they give the same tokens."""
        ...

    @property
    def vocab_size(self) -> int:
        """Distinct tokens, the separator among them."""
        ...

    @property
    def separator(self) -> int | None:
        """The token after every document; None where documents stand side by side."""
        ...

    def encode(self, text: str) -> Tokens:
        """The tokens of `text`, without a separator. Shape (tokens,)."""
        ...

    def encode_documents(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each document, its separator at the end."""
        ...

    def decode(self, tokens: ArrayLike) -> str:
        """The text of `tokens`; bytes that are no UTF-8 become U+FFFD."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `load` needs into `folder`, if anything."""
        ...


@dataclass(frozen=True)
class Bytes:
    """The 256 bytes of UTF-8. Byte 0, which no text holds, separates documents."""

    name: str = "byte"
    vocab_size: int = 256
    separator: int = SEPARATOR
    fingerprint: str = fingerprint(b"utf-8, separator 0")

    def encode(self, text: str) -> Tokens:
        """The UTF-8 bytes of `text`."""
        return np.frombuffer(text.encode(), np.uint8)

    def encode_documents(self, texts: Sequence[str]) -> list[Tokens]:
        """The bytes of each document and a zero."""
        return [self.encode(text + "\0") for text in texts]

    def decode(self, tokens: ArrayLike) -> str:
        """The text of the bytes."""
        return np.asarray(tokens, np.uint8).tobytes().decode(errors="replace")

    def save(self, folder: Path) -> None:
        """Nothing to write."""


@dataclass(frozen=True)
class Symbols:
    """Tokens that stand for nothing but themselves, for synthetic corpora."""

    vocab_size: int
    separator: None = None

    @property
    def name(self) -> str:
        """`symbols:` and how many there are."""
        return f"symbols:{self.vocab_size}"

    @property
    def fingerprint(self) -> str:
        """Of the name."""
        return fingerprint(self.name.encode())

    def encode(self, text: str) -> Tokens:
        """Whole numbers parted by blanks."""
        symbols = np.array([int(word) for word in text.split()], np.int64)
        if symbols.size and not (symbols.min() >= 0 and symbols.max() < self.vocab_size):
            raise CorpusError(f"{text[:40]!r}: a symbol is a whole number below {self.vocab_size}")
        return symbols.astype(np.uint32)

    def encode_documents(self, texts: Sequence[str]) -> list[Tokens]:
        """The symbols of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, tokens: ArrayLike) -> str:
        """The numbers, parted by blanks."""
        return " ".join(str(token) for token in np.asarray(tokens).tolist())

    def save(self, folder: Path) -> None:
        """Nothing to write."""


@dataclass(frozen=True)
class BytePairs:
    """Byte-level BPE. Encodes many documents at once on every core."""

    name: str
    serialized: str = field(repr=False)
    """The tokenizer as the `tokenizers` package writes it."""
    model: "Model" = field(repr=False, compare=False)

    @classmethod
    def parse(cls, serialized: str) -> "BytePairs":
        """A tokenizer from its serialized form."""
        from tokenizers import Tokenizer as Model  # noqa: PLC0415  only BPE needs the package

        model = Model.from_str(serialized)
        # A document that spells the separator out does not end there.
        model.encode_special_tokens = True
        name = f"bpe:{model.get_vocab_size()}"
        return cls(name=name, serialized=serialized, model=model)

    @property
    def separator(self) -> int | None:
        """`<|endoftext|>`: 0 in a BPE trained here; another one's may have none."""
        return self.model.token_to_id(END_OF_TEXT)

    @property
    def fingerprint(self) -> str:
        """Of the serialized form."""
        return fingerprint(self.serialized.encode())

    @property
    def vocab_size(self) -> int:
        """Merges, bytes and the separator."""
        return self.model.get_vocab_size()

    def encode(self, text: str) -> Tokens:
        """The tokens of `text`."""
        return np.array(self.model.encode(text).ids, np.uint32)

    def encode_documents(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of each document, `<|endoftext|>` at the end."""
        encodings = self.model.encode_batch_fast(list(texts))
        return [np.array([*encoding.ids, SEPARATOR], np.uint32) for encoding in encodings]

    def decode(self, tokens: ArrayLike) -> str:
        """The text of `tokens`, separators shown."""
        return self.model.decode(np.asarray(tokens).tolist(), skip_special_tokens=False)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`."""
        (folder / FILE).write_text(self.serialized)


def train_byte_pairs(texts: Iterable[str], vocab_size: int) -> BytePairs:
    """A byte-level BPE of at most `vocab_size` tokens, learned from `texts`.

    Fewer come out where the text is too short to give so many merges.
    """
    from tokenizers import Tokenizer as Model  # noqa: PLC0415  only BPE needs the package
    from tokenizers import decoders, models, pre_tokenizers, trainers  # noqa: PLC0415

    model = Model(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    return BytePairs.parse(model.to_str())


def requested_vocab_size(name: str) -> int | None:
    """The vocabulary a person asks for: None for `byte`, V for `bpe:V`.

    Raises:
        CorpusError: `name` is neither, or V cannot hold the 256 bytes and the separator.
    """
    if name == "byte":
        return None
    kind, _, size = name.partition(":")
    if kind != "bpe" or not size.isdecimal() or int(size) < 257:
        raise CorpusError(
            f"tokenizer = {name!r}: no such tokenizer. Use 'byte', or 'bpe:4096' "
            "(any vocabulary from 257 up)."
        )
    return int(size)


def load(name: str, folder: Path) -> Tokenizer:
    """The tokenizer called `name` that `save` wrote into `folder`."""
    kind, _, size = name.partition(":")
    if kind == "byte":
        return Bytes()
    if kind == "symbols":
        return Symbols(int(size))
    return BytePairs.parse((folder / FILE).read_text())
