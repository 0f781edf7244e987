"""Writing token shards: append documents, get a `Split` back. Memory stays at one document."""

import hashlib
from io import BufferedWriter
from pathlib import Path

import numpy as np

from data.corpus import ENDS, Ends, Shard, Split, token_dtype
from data.tokenizer import Tokens

SHARD_TOKENS = 1 << 26
"""Tokens a shard: 64 MiB of bytes, 128 MiB of BPE. A window never crosses two shards."""


class SplitWriter:
    """Writes one split's tokens into numbered files, in the order they come, and where each of its
    documents ends into another."""

    def __init__(
        self, folder: Path, name: str, vocab_size: int, shard_tokens: int = SHARD_TOKENS
    ) -> None:
        self.documents = 0
        self.bytes = 0
        self._tokens = 0
        self._ends = (folder / f"{name}-ends.bin").open("wb")
        self._ends_hash = hashlib.blake2b(digest_size=16)
        self._folder, self._name, self._shard_tokens = folder, name, shard_tokens
        self._dtype = token_dtype(vocab_size)
        self._shards: list[Shard] = []
        self._file: BufferedWriter | None = None
        self._length = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, tokens: Tokens, text_bytes: int) -> None:
        """Append a document of shape (tokens,) whose text has `text_bytes` bytes."""
        self.documents += 1
        self.bytes += text_bytes
        self._tokens += tokens.size
        end = np.array(self._tokens, ENDS).tobytes()
        self._ends.write(end)
        self._ends_hash.update(end)
        while tokens.size:
            room = self._shard_tokens - self._length
            self._write(tokens[:room].astype(self._dtype, copy=False).tobytes())
            self._length += min(room, tokens.size)
            tokens = tokens[room:]
            if self._length == self._shard_tokens:
                self._finish_shard()

    def close(self) -> Split:
        """Finish the last shard and describe what was written."""
        self._finish_shard()
        self._ends.close()
        ends = Ends(file=f"{self._name}-ends.bin", digest=self._ends_hash.hexdigest())
        return Split(
            shards=tuple(self._shards), ends=ends, documents=self.documents, bytes=self.bytes
        )

    def _write(self, content: bytes) -> None:
        if self._file is None:
            self._file = (self._folder / self._next_name).open("wb")
        self._file.write(content)
        self._hash.update(content)

    def _finish_shard(self) -> None:
        if self._file is None:
            return
        self._file.close()
        digest = self._hash.hexdigest()
        self._shards.append(Shard(file=self._next_name, tokens=self._length, digest=digest))
        self._file, self._length = None, 0
        self._hash = hashlib.blake2b(digest_size=16)

    @property
    def _next_name(self) -> str:
        return f"{self._name}-{len(self._shards):05}.bin"
