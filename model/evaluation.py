"""Held-out loss and its standard error over documents."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model.transformer import BasicsTransformerLM

Tokens = NDArray[np.integer]

LOGITS = 2**25
"""Logits held at once, at most: 128 MiB, and their log-softmax."""


@dataclass(frozen=True, kw_only=True)
class HeldOutLoss:
    """What a model scores, nat/token."""

    mean: float
    """Over all predictions."""
    se: float
    """Its standard error over documents."""


class Evaluation:
    """The same predictions for every model.

    Args:
        batches: each (n, time + 1): inputs and, one to the right, targets.
        documents: of each prediction, the document its target belongs to: arrays (n, time), one a
            batch. None takes every sequence for a document of its own.
        device: where to evaluate.

    Raises:
        ValueError: fewer than two documents, or shapes that do not match.
    """

    def __init__(
        self, batches: Sequence[Tokens], documents: Sequence[Tokens] | None, device: torch.device
    ) -> None:
        self._batches = [_tensor(tokens, device) for tokens in batches]
        if documents is None:
            documents = _each_alone(batches)
        _check(batches, documents)
        flat = np.concatenate([part.ravel() for part in documents])
        numbers, place = np.unique(flat, return_inverse=True)
        self._document_of = _tensor(place, device)
        self.documents = len(numbers)
        """How many documents there are."""
        self.sequences = sum(len(tokens) for tokens in batches)
        """How many sequences are read."""

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> HeldOutLoss:
        """The loss of `model` in eval mode, in float32; the model stays in eval mode.

        Tokens of one document are not independent, so the error is that of a ratio of sums over
        documents (Cochran, Sampling Techniques, 3rd ed., section 2.11).
        """
        model.eval()
        losses = torch.cat([_losses(model, tokens) for tokens in self._batches])
        mean = losses.mean(dim=1).double().mean()
        sums = torch.zeros(self.documents, dtype=torch.float64, device=losses.device)
        sums.index_add_(0, self._document_of, losses.double().flatten() - mean)
        count = self.documents
        spread = math.sqrt((sums**2).sum().item() * count / (count - 1))
        return HeldOutLoss(mean=mean.item(), se=spread / losses.numel())


def _each_alone(batches: Sequence[Tokens]) -> list[Tokens]:
    """Every sequence a document of its own."""
    ends = np.cumsum([len(tokens) for tokens in batches])
    return [
        np.repeat(np.arange(end - len(tokens), end)[:, None], tokens.shape[1] - 1, axis=1)
        for tokens, end in zip(batches, ends, strict=True)
    ]


def _losses(model: nn.Module, tokens: Tensor) -> Tensor:
    """Loss of each prediction (n, time); of the shipped decoder, with a part of the logits."""
    targets = tokens[:, 1:].flatten()
    if type(model) is BasicsTransformerLM:  # a split one's weights are there in `forward` alone
        rows = max(1, LOGITS // model.shape.vocab_size)
        h = model.trunk(tokens[:, :-1]).flatten(0, 1)
        pieces = zip(h.split(rows), targets.split(rows), strict=True)
        losses = torch.cat([_scored(model.lm_head(part), wanted) for part, wanted in pieces])
    else:
        losses = _scored(model(tokens[:, :-1]).flatten(0, 1), targets)
    return losses.view(len(tokens), -1)


def _scored(logits: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(logits.float(), targets, reduction="none")


def _tensor(values: Tokens, device: torch.device) -> Tensor:
    # Copied: tokens may lie in a read-only memory map.
    return torch.from_numpy(np.array(values, dtype=np.int64)).to(device)


def _check(batches: Sequence[Tokens], documents: Sequence[Tokens]) -> None:
    wanted = [(tokens.shape[0], tokens.shape[1] - 1) for tokens in batches]
    found = [part.shape for part in documents]
    if found != wanted:
        raise ValueError(f"documents must have the shapes of the predictions {wanted}, got {found}")
    if len({int(number) for part in documents for number in np.unique(part)}) < 2:
        raise ValueError("held_out must be of two documents or more, for a standard error")
