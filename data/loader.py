"""Batches in an order fixed by (seed, step): to resume, a run needs its step number and no more.

An epoch visits every window of `context_length` tokens once, in an order drawn by a keyed
bijection rather than a stored permutation, so that memory does not grow with the corpus.
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.corpus import Corpus, SplitName, whole_windows
from data.errors import CorpusError

Batch = NDArray[np.int64]
"""Tokens, shape (sequences, context_length + 1): inputs and, one to the right, targets."""

BLOCK_TOKENS = 1 << 16
"""Tokens gathered at once: spreads NumPy's overhead over many small batches."""

ROUNDS = 4
"""Of mixing; three already pass the tests of randomness in tests/data."""


class Windows:
    """The non-overlapping windows of a split, numbered from 0. None crosses two shards.

    Read from the files, not mapped: windows in random order over many shards cost a page fault
    each, and a corpus may be larger than the address space that a process is given.
    """

    def __init__(self, corpus: Corpus, split: SplitName, context_length: int) -> None:
        self.context_length = context_length
        self._files = corpus.shard_files(split)
        self._dtype = corpus.dtype
        sizes = [tokens for _, tokens in self._files]
        self.sizes = np.array(sizes, np.int64)
        """Tokens in each shard."""
        self.counts = np.array([whole_windows(size, context_length) for size in sizes], np.int64)
        """Windows in each."""

    def places(self, windows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of windows by number: the shard of each and the token in it at which it starts."""
        ends = np.cumsum(self.counts)
        shard_of = np.searchsorted(ends, windows, side="right")
        first = windows - (ends - self.counts)[shard_of]
        return shard_of, first * self.context_length

    def read(self, windows: NDArray[np.int64], offset: NDArray[np.int64] | int = 0) -> Batch:
        """Windows by number, each moved right by `offset` < context_length tokens.

        Shape (windows, context_length + 1).
        """
        shard_of, starts = self.places(windows)
        places = ((starts + offset) * self._dtype.itemsize).tolist()
        out = np.empty((windows.size, self.context_length + 1), self._dtype)
        for index in np.unique(shard_of).tolist():
            with self._files[index][0].open("rb", buffering=0) as file:
                for row in np.flatnonzero(shard_of == index).tolist():
                    if os.preadv(file.fileno(), [out[row]], places[row]) != out[row].nbytes:
                        raise CorpusError(f"{file.name}: was cut short. Prepare the corpus again.")
        return out.astype(np.int64)


class Loader:
    """Training batches of a corpus. `batch(step)` depends on (seed, step) and nothing else.

    Args:
        corpus: what to read.
        context_length: tokens a sequence.
        batch_size: sequences a batch.
        seed: of the order; another seed visits the same text in another order.
        workers: threads that read ahead; they change when text is read, never which.

    Raises:
        CorpusError: the training split is shorter than one batch.
    """

    def __init__(
        self, corpus: Corpus, context_length: int, batch_size: int, seed: int, workers: int = 0
    ) -> None:
        self.batch_size = batch_size
        self.context_length = context_length
        self._windows = Windows(corpus, "train", context_length)
        self._count = int(self._windows.counts.sum())
        if self._count < batch_size:
            raise CorpusError(
                f"{corpus.folder}: {corpus.train_tokens:,} training tokens give {self._count:,} "
                f"windows of {context_length} tokens, a batch takes {batch_size}. "
                "Use more text, a shorter context_length or a smaller batch_size."
            )
        self._seed = seed
        self._steps_per_block = max(1, BLOCK_TOKENS // (batch_size * (context_length + 1)))
        self._block_number = -1
        self._block: Batch = np.empty((0, context_length + 1), np.int64)
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self._ahead: dict[int, Future[Batch]] = {}

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens after which the text repeats."""
        return self._count * self.context_length

    def batch(self, step: int) -> Batch:
        """The batch of optimizer step `step`, from 0. Shape (batch_size, context_length + 1)."""
        number, place = divmod(step, self._steps_per_block)
        if number != self._block_number:
            self._block = self._fetch(number)
            self._block_number = number
        first = place * self.batch_size
        return self._block[first : first + self.batch_size].copy()

    def _fetch(self, number: int) -> Batch:
        """A block, read now or ahead of time; those after it are begun."""
        if self._pool is None:
            return self._read_block(number)
        wanted = range(number, number + 1 + self._workers)
        self._ahead = {
            n: self._ahead.get(n) or self._pool.submit(self._read_block, n) for n in wanted
        }
        return self._ahead[number].result()

    def _read_block(self, number: int) -> Batch:
        sequences = self._steps_per_block * self.batch_size
        epochs, places = np.divmod(np.arange(sequences) + number * sequences, self._count)
        windows, offsets = np.empty_like(places), np.empty_like(places)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            rows = epochs == epoch
            stream = np.random.SeedSequence([self._seed, epoch])
            keys = stream.generate_state(2 * ROUNDS + 1, np.uint64).astype(np.uint64)
            windows[rows] = permute(places[rows], self._count, keys[1:])
            offsets[rows] = int(keys[0]) % self.context_length  # NumPy 1 would divide floats
        return self._windows.read(windows, offsets)


def permute(places: NDArray[np.int64], count: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where a keyed permutation of 0 … count - 1 sends `places`, without storing it.

    Each round adds, multiplies by an odd number and folds the high bits onto the low ones:
    three bijections of the next power of two. What lands outside is sent round again (cycle
    walking; Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002).
    """
    bits = max(count - 1, 1).bit_length()
    mask, fold = np.uint64((1 << bits) - 1), np.uint64((bits + 1) // 2)
    out = places.astype(np.uint64)
    outside = np.ones(out.shape, bool)
    while outside.any():
        x = out[outside]
        for add, factor in keys.reshape(-1, 2):
            x = ((x + add) * (factor | np.uint64(1))) & mask
            x ^= x >> fold
        out[outside] = x
        outside = out >= count
    return out.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What every model of a corpus is evaluated on."""

    batches: list[Batch]
    """Tokens, each (sequences, context_length + 1)."""
    documents: list[NDArray[np.int64]]
    """Which document each predicted token belongs to, each (sequences, context_length)."""


def held_out(corpus: Corpus, context_length: int, batch_size: int, max_tokens: int) -> HeldOut:
    """The evaluation set: windows spread evenly over the held-out split, always the same.

    It depends on corpus, `context_length` and `max_tokens` alone; `batch_size` only cuts it into
    batches, of which the last may be shorter. Together at most `max_tokens` predictions.

    Raises:
        CorpusError: the held-out split, or `max_tokens`, is shorter than one window, or they are
            of one document, which leaves no standard error.
    """
    windows = Windows(corpus, "held_out", context_length)
    available = int(windows.counts.sum())
    count = min(available, max_tokens // context_length)
    if not count:
        raise CorpusError(
            f"{corpus.folder}: {corpus.held_out_tokens:,} held-out tokens, at most {max_tokens:,} "
            f"to be used, give no window of {context_length} tokens. "
            "Use more text, a shorter context_length or a larger held_out_share."
        )
    chosen = np.arange(count, dtype=np.int64) * available // count
    documents = _documents(corpus, windows, chosen)
    if documents.min() == documents.max():
        raise CorpusError(
            f"{corpus.folder}: {count:,} held-out windows of {context_length} tokens are all of "
            "one document, which leaves the loss without a standard error. "
            "Use more text or a larger held_out_share."
        )
    sequences = windows.read(chosen)
    cuts = range(batch_size, count, batch_size)
    return HeldOut(batches=np.split(sequences, cuts), documents=np.split(documents, cuts))


def _documents(corpus: Corpus, windows: Windows, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """The document of each token that the `chosen` windows predict. Shape (windows, context)."""
    shard_of, starts = windows.places(chosen)
    first = (np.cumsum(windows.sizes) - windows.sizes)[shard_of] + starts
    targets = first[:, None] + np.arange(1, windows.context_length + 1)
    return np.searchsorted(corpus.document_ends("held_out"), targets, side="right")
