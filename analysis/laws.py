"""Scaling laws in the papers' letters, and the published ones with their source.

A law's letters may be floats or arrays (one value a bootstrap replicate): everything broadcasts.
"""

from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Value: TypeAlias = float | Array
"""One number, or an array of them."""

FLOPS_PER_PARAM_TOKEN = 6.0
"""C = 6 N D: two FLOPs a weight and token forward, four backward (Kaplan, arXiv 2001.08361)."""


@dataclass(frozen=True, kw_only=True)
class LossLaw:
    """L(N, D) = E + (A / N^alpha + B / D^beta)^k.

    k = 1 is eq. 10 of Hoffmann et al. (arXiv 2203.15556); other k the coupled law of arXiv
    2608.07222.
    """

    E: Value
    """Irreducible loss, nat/token."""
    A: Value
    """Scale of the part that more weights remove."""
    B: Value
    """Scale of the part that more tokens remove."""
    alpha: Value
    """Exponent of N."""
    beta: Value
    """Exponent of D."""
    k: Value = 1.0
    """Coupling of the two parts; 1 is Chinchilla's law."""
    flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN
    """What budgets count: C = this · N · D. 6 unless a table's own budgets say otherwise."""
    cost_exponent: float = 1.0
    """Of N in C; below 1 where attention and head weigh more in small models."""

    @property
    def _slope(self) -> Value:
        return self.alpha + self.cost_exponent * self.beta

    @property
    def a(self) -> Value:
        """Exponent of N_opt in C."""
        return self.beta / self._slope

    @property
    def b(self) -> Value:
        """Exponent of D_opt in C."""
        return self.alpha / self._slope

    def flops(self, params: Value, tokens: Value) -> Value:
        """What training `params` weights on `tokens` tokens costs, FLOP."""
        return self.flops_per_param_token * params**self.cost_exponent * tokens

    def tokens(self, budget: Value, params: Value) -> Value:
        """Tokens that `budget` FLOP buy for `params` weights."""
        with np.errstate(divide="ignore"):  # as in `n_opt`
            return budget / (self.flops_per_param_token * params**self.cost_exponent)

    def loss(self, params: Value, tokens: Value) -> Value:
        """Loss of `params` weights after `tokens` tokens, nat/token."""
        return self.E + self.reducible(params, tokens)

    def reducible(self, params: Value, tokens: Value) -> Value:
        """The part of the loss above `E`, nat/token."""
        log_terms = np.logaddexp(
            np.log(self.A) - self.alpha * np.log(params),
            np.log(self.B) - self.beta * np.log(tokens),
        )
        return np.exp(self.k * log_terms)

    def n_opt(self, budget: Value) -> Value:
        """Weights that give the lowest loss at `budget` FLOPs: eq. 4 of arXiv 2203.15556."""
        ratio = self.alpha * self.A / (self.cost_exponent * self.beta * self.B)
        with np.errstate(over="ignore"):  # a draw may have its optimum beyond all numbers
            return ratio ** (1 / self._slope) * (budget / self.flops_per_param_token) ** self.a

    def d_opt(self, budget: Value) -> Value:
        """Tokens that give the lowest loss at `budget` FLOPs."""
        return self.tokens(budget, self.n_opt(budget))

    def loss_opt(self, budget: Value) -> Value:
        """Lowest loss at `budget` FLOPs."""
        return self.loss(self.n_opt(budget), self.d_opt(budget))

    def extra_flops(self, params: Value, budget: Value) -> Value:
        """Share of `budget` wasted by training `params` weights on it rather than `n_opt`.

        The optimum reaches the same loss with budget / (1 + share): loss_opt - E falls as
        C^(-k · alpha · a).
        """
        tokens = self.tokens(budget, params)
        lowest = self.reducible(self.n_opt(budget), self.d_opt(budget))
        excess = self.reducible(params, tokens) / lowest
        return excess ** (1 / (self.k * self.alpha * self.a)) - 1


@dataclass(frozen=True, kw_only=True)
class AllocationLaw:
    """N_opt = n_coef · C^a and D_opt = d_coef · C^b; says nothing of loss."""

    n_coef: Value
    """Weights at 1 FLOP."""
    a: Value
    """Exponent of N_opt in C."""
    d_coef: Value
    """Tokens at 1 FLOP."""
    b: Value
    """Exponent of D_opt in C."""

    def n_opt(self, budget: Value) -> Value:
        """Weights that give the lowest loss at `budget` FLOPs."""
        return self.n_coef * budget**self.a

    def d_opt(self, budget: Value) -> Value:
        """Tokens that give the lowest loss at `budget` FLOPs."""
        return self.d_coef * budget**self.b


Law: TypeAlias = LossLaw | AllocationLaw


def letters(law: Law) -> dict[str, Value]:
    """The law's letters and their values; a Chinchilla law (k exactly 1) does not name k."""
    found = {field.name: getattr(law, field.name) for field in fields(law)}
    for cost in ("flops_per_param_token", "cost_exponent"):
        found.pop(cost, None)
    if isinstance(law, LossLaw) and np.all(np.asarray(law.k) == 1.0):
        del found["k"]
    return found


@dataclass(frozen=True, kw_only=True)
class Published:
    """A law somebody printed."""

    law: Law
    name: str
    source: str
    counts: str
    """What their N counts."""


PUBLISHED: tuple[Published, ...] = (
    Published(
        name="Chinchilla",
        law=LossLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28),
        source="Hoffmann et al. 2022, arXiv 2203.15556, eq. 10",
        counts="total",
    ),
    Published(
        name="Epoch",
        law=LossLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658),
        source="Besiroglu et al. 2024, arXiv 2404.10102, a refit of Chinchilla's figure 4",
        counts="total",
    ),
    Published(
        name="Kaplan",
        # N_opt = 1.3e9 · C^.73 with C in PF-days (8.64e19 FLOP); D_opt from C = 6 N D.
        law=AllocationLaw(
            n_coef=1.3e9 / 8.64e19**0.73,
            a=0.73,
            d_coef=8.64e19**0.73 / (6 * 1.3e9),
            b=0.27,
        ),
        source="Kaplan et al. 2020, arXiv 2001.08361, table 6 and section 6.1",
        counts="non_embedding",
    ),
    Published(
        name="Llama 3",
        # D_opt = .299 · C^.537; N_opt from C = 6 N D.
        law=AllocationLaw(n_coef=1 / (6 * 0.299), a=1 - 0.537, d_coef=0.299, b=0.537),
        source="Llama team 2024, arXiv 2407.21783, section 3.2.1",
        counts="total",
    ),
)
