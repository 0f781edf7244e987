"""What a parametric fit works on: replicates of one table in centered logarithms, and the box."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.laws import Array
from analysis.newton import Index

LETTERS = ("A", "B", "E", "alpha", "beta", "k")
"""Order of coordinates; A, B, E enter as logarithms."""
EXPONENT_BOUNDS = (1e-3, 3.0)
K_BOUNDS = (0.05, 20.0)
E_FLOOR = 1e-4  # of the lowest loss: an E held here is none


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The tables to fit: r replicates of n runs. A row vector (1, n) serves all replicates."""

    log_params: Array
    """ln N, centered: (n,)."""
    log_tokens: Array
    """ln D, centered: (n,)."""
    centers: tuple[float, float]
    """Means that were taken from ln N and ln D."""
    log_loss: Array
    """(r, n) or (1, n)."""
    weights: Array
    """Bootstrap counts: (r, n) or (1, n)."""

    @classmethod
    def of(cls, params: Array, tokens: Array, loss: Array) -> "Problem":
        """One table."""
        n, d = np.log(params), np.log(tokens)
        centers = float(n.mean()), float(d.mean())
        return cls(
            log_params=n - centers[0], log_tokens=d - centers[1], centers=centers,
            log_loss=np.log(loss)[None], weights=np.ones((1, len(n))),
        )  # fmt: skip

    @cached_property
    def features(self) -> Array:
        """1, -ln N, -ln D and their products, whose moments make derivatives: (n, 6)."""
        n, d = -self.log_params, -self.log_tokens
        return np.stack([np.ones_like(n), n, d, n * n, n * d, d * d], axis=1)

    def single(self, stride: int = 1) -> "Problem":
        """Every `stride`-th run in single precision: enough on the way, and twice as fast."""
        return self._with(lambda values: values[..., ::stride].astype(np.float32))

    def parts(self, size: int) -> tuple["Problem", ...]:
        """The same runs, at most `size` at a time; cut once."""
        if size not in self._parts:
            firsts = range(0, len(self.log_params), size)
            self._parts[size] = tuple(
                self._with(lambda values, at=at: values[..., at : at + size]) for at in firsts
            )
        return self._parts[size]

    @cached_property
    def _parts(self) -> dict[int, tuple["Problem", ...]]:
        return {}

    def _with(self, change: Callable[[Array], NDArray[Any]]) -> "Problem":
        """Every array changed alike."""
        names = ("log_params", "log_tokens", "log_loss", "weights")
        return replace(self, **{name: change(getattr(self, name)) for name in names})

    def replicates(self, which: Index) -> "Problem":
        """Only these replicates."""
        loss, weights = self.rows(which)
        return replace(self, log_loss=loss, weights=weights)

    def rows(self, which: Index) -> tuple[Array, Array]:
        """log loss and weights of these replicates."""
        loss = self.log_loss if len(self.log_loss) == 1 else self.log_loss[which]
        weights = self.weights if len(self.weights) == 1 else self.weights[which]
        return loss, weights


@dataclass(frozen=True, kw_only=True)
class Box:
    """What may vary, and how far."""

    coupled: bool = False
    """k is fitted; else it is 1."""
    tied: bool = False
    """alpha and beta are one: Gadre et al. (arXiv 2403.08540), for tables of few runs."""
    E: float | None = None
    """An irreducible loss known beforehand; None fits it."""

    @property
    def given(self) -> tuple[str, ...]:
        """Letters that are not fitted."""
        fixed = {"k": not self.coupled, "E": self.E is not None, "beta": self.tied}
        return tuple(letter for letter, yes in fixed.items() if yes)

    @property
    def spread(self) -> Array:
        """From fitted coordinates to all: (6, 6), the identity unless alpha stands for beta."""
        matrix = np.eye(len(LETTERS))
        if self.tied:
            matrix[:, 4] = matrix[:, 3]
        return matrix

    def bounds(self, lowest_loss: Array) -> tuple[Array, Array]:
        """Lower and upper bounds of the coordinates (r, 6), of tables of lowest loss (r,)."""
        k = K_BOUNDS if self.coupled else (1.0, 1.0)
        low, high = EXPONENT_BOUNDS
        lower = np.tile([-50.0, -50.0, 0.0, low, low, k[0]], (len(lowest_loss), 1))
        upper = np.tile([50.0, 50.0, 0.0, high, high, k[1]], (len(lowest_loss), 1))
        if self.E is None:
            lower[:, 2], upper[:, 2] = np.log(E_FLOOR * lowest_loss), np.log(lowest_loss)
        else:
            lower[:, 2] = upper[:, 2] = np.log(self.E)
        if self.tied:
            lower[:, 4] = upper[:, 4] = 1.0  # held: alpha speaks for it
        return lower, upper


FREE = Box()
