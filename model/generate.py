"""Text from a model: one token after the other, for a batch of prompts of any lengths."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from model.cache import Memory, Remembers


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen from the logits.

    Raises:
        ValueError: a value is out of range; all such are named.
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int | None = None
    """Sample among this many likeliest tokens only."""
    top_p: float | None = None
    """Sample among the fewest likeliest tokens that together have this probability, counted within
    the `top_k` (nucleus sampling, arXiv 1904.09751, section 3.1)."""

    def __post_init__(self) -> None:
        faults = []
        if not self.temperature >= 0:
            faults.append(f"temperature must be at least 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            faults.append(f"top_k must be at least 1 or None, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            faults.append(f"top_p must be above 0 and at most 1, or None, got {self.top_p}")
        if faults:
            raise ValueError("; ".join(faults))


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Tensor | Sequence[Tensor],
    max_new_tokens: int,
    *,
    context_length: int,
    sampling: Sampling = Sampling(),
    eos_token_id: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample what follows `prompts`.

    Args:
        model: tokens (batch, time) to logits (batch, time, vocab_size), causal; left in the mode
            it is in, evaluated in eval mode.
        prompts: (batch, time), or (time,) for a batch of one, or several (time,) of unlike lengths;
            each of any length from one up.
        max_new_tokens: tokens to add to each prompt.
        context_length: the model sees this many of each prompt's last tokens.
        sampling: how a token is chosen.
        eos_token_id: a sequence that has emitted it is continued with it; sampling stops early
            when every sequence has.
        generator: where randomness comes from; torch's default if None.

    Returns:
        The new tokens alone: (batch, new), new ≤ `max_new_tokens`, fewer only when all have ended.

    Raises:
        ValueError: a prompt is empty or `max_new_tokens` negative; both are named.
    """
    rows = list(torch.atleast_2d(prompts) if isinstance(prompts, Tensor) else prompts)
    _check(rows, max_new_tokens)
    device = rows[0].device
    asked = torch.tensor([len(row) for row in rows], device=device)
    batch = torch.arange(len(rows), device=device)
    # Room for what comes; a causal model does not see what stands behind a row's last token.
    room = rows[0].new_zeros(len(rows), max_new_tokens)
    tokens = torch.cat((pad_sequence(rows, batch_first=True), room), dim=1)
    ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
    logits_behind = (
        Remembering(model, context_length)
        if isinstance(model, Remembers)
        else Windows(model, context_length)
    )
    training = model.training
    model.eval()
    new = 0
    try:
        while new < max_new_tokens and not ended.all():
            token = _sample(logits_behind(tokens, asked + new), sampling, generator)
            if eos_token_id is not None:
                token = token.masked_fill(ended, eos_token_id)
                ended |= token == eos_token_id
            tokens[batch, asked + new] = token
            new += 1
    finally:
        model.train(training)
    return tokens.gather(1, asked[:, None] + torch.arange(new, device=device))


class Windows:
    """Logits behind each row of tokens, from the last of them that fit in the context."""

    def __init__(self, model: nn.Module, context_length: int) -> None:
        self.model, self.context_length = model, context_length

    def __call__(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits (batch, vocab_size) behind the first `lengths` (batch,) tokens of each row."""
        width = min(int(lengths.max()), self.context_length)
        starts = (lengths - width).clamp(min=0)
        window = tokens.gather(1, starts[:, None] + torch.arange(width, device=tokens.device))
        batch = torch.arange(len(tokens), device=tokens.device)
        return self.model(window)[batch, lengths - starts - 1]


class Remembering:
    """The same from a model that remembers: of each row, only what is new is read.

    Once a row is longer than the context every token stands elsewhere, so that nothing remembered
    of it holds: it is read in windows.
    """

    def __init__(self, model: Remembers, context_length: int) -> None:
        self.model, self.context_length = model, context_length
        self.windows = Windows(model, context_length)
        self.memory: Sequence[Memory] | None = None

    def __call__(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """See `Windows`; `lengths` grow by one with every call."""
        past = lengths > self.context_length
        if past.all():
            return self.windows(tokens, lengths)
        logits = self.model.lm_head(self._last(tokens, lengths.clamp(max=self.context_length)))
        if past.any():
            logits[past] = self.windows(tokens[past], lengths[past])
        return logits

    def _last(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """The stream (batch, d_model) at each row's last token."""
        batch = torch.arange(len(tokens), device=tokens.device)
        if self.memory is not None:
            places = lengths[:, None] - 1
            return self.model.extend(tokens.gather(1, places), places, self.memory)[:, -1]
        self.memory = self.model.memory(len(tokens))
        width = int(lengths.max())
        # Behind a short row's end stands nothing yet: it is not looked at, and overwritten later.
        places = torch.arange(width, device=tokens.device).expand(len(tokens), -1)
        return self.model.extend(tokens[:, :width], places, self.memory)[batch, lengths - 1]


def _sample(logits: Tensor, sampling: Sampling, generator: torch.Generator | None) -> Tensor:
    """One token (batch,) for each row of `logits` (batch, vocab_size)."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits / sampling.temperature
    vocab_size = logits.shape[-1]
    # Sampled among the k themselves: a threshold would let ties with the last one in.
    likeliest, index = logits.topk(min(sampling.top_k or vocab_size, vocab_size))
    chances = likeliest.softmax(dim=-1)
    if sampling.top_p is not None:
        before = chances.cumsum(dim=-1) - chances
        chances = chances.masked_fill(before >= sampling.top_p, 0.0)
    choice = torch.multinomial(chances, 1, generator=generator)
    return index.gather(-1, choice)[:, 0]


def _check(prompts: Sequence[Tensor], max_new_tokens: int) -> None:
    faults = []
    if not prompts or any(prompt.numel() == 0 for prompt in prompts):
        faults.append("prompts must hold at least one token each")
    if max_new_tokens < 0:
        faults.append(f"max_new_tokens must be at least 0, got {max_new_tokens}")
    if faults:
        raise ValueError("; ".join(faults))
