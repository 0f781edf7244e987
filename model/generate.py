"""Text from a model: one token after the other, for a batch of prompts."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Tensor,
    max_new_tokens: int,
    *,
    context_length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    eos_token_id: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample what follows `prompts`.

    Args:
        model: tokens (batch, time) to logits (batch, time, vocab_size); left in the mode it is in,
            evaluated in eval mode.
        prompts: (batch, time), or (time,) for a batch of one; of any length from one up.
        max_new_tokens: tokens to add to each prompt.
        context_length: the model sees this many of the last tokens.
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: sample among the `top_k` likeliest only.
        eos_token_id: a sequence that has emitted it is continued with it; sampling stops early
            when every sequence has.
        generator: where randomness comes from; torch's default if None.

    Returns:
        The new tokens alone: (batch, new), new ≤ `max_new_tokens`, fewer only when all have ended.

    Raises:
        ValueError: an argument is out of range; all such are named.
    """
    _check(prompts, max_new_tokens, temperature, top_k)
    tokens = torch.atleast_2d(prompts)
    start = tokens.shape[1]
    ended = torch.zeros(len(tokens), 1, dtype=torch.bool, device=tokens.device)
    training = model.training
    model.eval()
    try:
        for _ in range(max_new_tokens):
            logits = model(tokens[:, -context_length:])[:, -1]
            token = _sample(logits, temperature, top_k, generator)
            if eos_token_id is not None:
                token = token.masked_fill(ended, eos_token_id)
                ended |= token == eos_token_id
            tokens = torch.cat((tokens, token), dim=1)
            if ended.all():
                break
    finally:
        model.train(training)
    return tokens[:, start:]


def _sample(
    logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None
) -> Tensor:
    """One token (batch, 1) for each row of `logits` (batch, vocab_size)."""
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    logits = logits / temperature
    if top_k is None:
        return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)
    # Sampled among the k themselves: a threshold would let ties with the last one in.
    likeliest, index = logits.topk(min(top_k, logits.shape[-1]))
    choice = torch.multinomial(likeliest.softmax(dim=-1), 1, generator=generator)
    return index.gather(-1, choice)


def _check(prompts: Tensor, max_new_tokens: int, temperature: float, top_k: int | None) -> None:
    faults = []
    if prompts.numel() == 0:
        faults.append("prompts must hold at least one token each")
    if max_new_tokens < 0:
        faults.append(f"max_new_tokens must be at least 0, got {max_new_tokens}")
    if temperature < 0:
        faults.append(f"temperature must be at least 0, got {temperature}")
    if top_k is not None and top_k < 1:
        faults.append(f"top_k must be at least 1 or None, got {top_k}")
    if faults:
        raise ValueError("; ".join(faults))
