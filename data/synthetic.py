"""Synthetic text whose entropy rate is known exactly, so that no loss can honestly be below it.

Every token is drawn from one Zipf law over ranks; which token holds which rank depends on the
two tokens before it. The conditional entropy is then that of the Zipf law in every context, and
so is the entropy rate. The ranking is a common order disturbed once by the last token and once by
the last two: small models learn the common order, larger ones the disturbances.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

DOCUMENT_TOKENS = 1024
"""Tokens a document; each starts anew from the context (0, 0)."""
BLOCK_DOCUMENTS = 1024
"""Documents drawn side by side."""


@dataclass(frozen=True, kw_only=True)
class Zipf2:
    """An order-2 Markov source with Zipf conditionals."""

    tokens: int
    """Tokens to draw, both splits together."""
    vocab_size: int = 128
    """Distinct tokens, at most 256."""
    exponent: float = 1.5
    """The token of rank r has probability ∝ r^-exponent."""
    seed: int = 0
    """Of the ranking and of the draw."""

    @property
    def identity(self) -> dict[str, Any]:
        """Its own parameters."""
        return {"synthetic": "zipf2", **asdict(self)}

    @property
    def size(self) -> int:
        """A token counts as a byte."""
        return self.tokens

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing is left out."""
        return ()

    @property
    def entropy(self) -> float:
        """Entropy rate, nat/token: exact, since every context has this entropy."""
        return float(-(self.law * np.log(self.law)).sum())

    @property
    def law(self) -> NDArray[np.float64]:
        """Probability of each rank. Shape (vocab_size,)."""
        weights = np.arange(1, self.vocab_size + 1) ** -self.exponent
        return weights / weights.sum()

    @cached_property
    def ranking(self) -> NDArray[np.uint8]:
        """The token of each rank after each two tokens. Shape (before last, last, rank)."""
        size = self.vocab_size
        rng = np.random.default_rng([self.seed, 0])
        common = np.log(np.arange(1, size + 1, dtype=np.float32))
        after_one = rng.standard_normal((size, size), np.float32)
        after_two = rng.standard_normal((size, size, size), np.float32)
        return np.argsort(common + after_one + after_two, axis=-1).astype(np.uint8)

    @cached_property
    def _rank(self) -> NDArray[np.int64]:
        """The rank of each token after each two tokens: the inverse of `ranking`."""
        return np.argsort(self.ranking, axis=-1)

    def documents(self) -> Iterator[NDArray[np.uint8]]:
        """Documents of shape (DOCUMENT_TOKENS,), the last perhaps shorter.

        More tokens of the same seed continue the same sequence of documents.
        """
        left, block = self.tokens, 0
        while left > 0:
            for document in self._draw(block):
                yield document[:left]
                left -= document.size
                if left <= 0:
                    return
            block += 1

    def surprisal(self, document: NDArray[np.uint8]) -> NDArray[np.float64]:
        """What the source itself gives each token of a document, nat. Shape (tokens,)."""
        padded = np.concatenate([[0, 0], document])
        return -np.log(self.law[self._rank[padded[:-2], padded[1:-1], padded[2:]]])

    def _draw(self, block: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng([self.seed, 1, block])
        uniform = rng.random((DOCUMENT_TOKENS, BLOCK_DOCUMENTS))
        ranks = np.searchsorted(np.cumsum(self.law)[:-1], uniform, side="right")
        drawn = np.empty(ranks.shape, np.uint8)
        before, last = np.zeros((2, BLOCK_DOCUMENTS), np.uint8)
        for time, rank in enumerate(ranks):
            before, last = last, self.ranking[before, last, rank]
            drawn[time] = last
        return np.ascontiguousarray(drawn.T)
