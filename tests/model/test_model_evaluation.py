"""Held-out loss and its standard error over documents."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from model.evaluation import Evaluation

CPU = torch.device("cpu")
LEVELS = (0.8, 2.0)


class ByInput(nn.Module):
    """Whatever comes next, a prediction behind token 0 costs .8 nat and one behind token 1 costs 2.

    Tokens 0 and 1 are alike to it; what they cost goes to token 2, which never comes.
    """

    def forward(self, tokens):
        wasted = torch.tensor([math.log(math.exp(level) - 2) for level in LEVELS])
        alike = torch.zeros(*tokens.shape, 2)
        return torch.cat((alike, wasted[tokens][..., None]), dim=-1)


def evaluate(batches, documents=None):
    return Evaluation(batches, documents, CPU)(ByInput())


def documents_of(rng, count, shortest, longest):
    """A stream of documents, each with its own share of ones; tokens and document numbers."""
    lengths = rng.integers(shortest, longest + 1, count)
    shares = rng.beta(2, 2, count)
    tokens = [rng.random(n) < share for n, share in zip(lengths, shares, strict=True)]
    return np.concatenate(tokens).astype(np.int64), np.repeat(np.arange(count), lengths)


def cut(tokens, documents, time=8):
    """Sequences of `time` predictions."""
    rows = (len(tokens) - 1) // time
    places = np.arange(rows)[:, None] * time + np.arange(time + 1)
    return tokens[places], documents[places[:, 1:]]


def test_the_mean_is_over_all_predictions():
    tokens = np.array([[0, 1, 1, 0], [1, 1, 0, 1]])
    assert evaluate([tokens[:1], tokens[1:]]).mean == pytest.approx((2 * 0.8 + 4 * 2.0) / 6)


def test_sequences_are_documents_where_nobody_says_more():
    tokens = np.random.default_rng(0).integers(0, 2, (50, 9))
    losses = np.where(tokens[:, :-1] == 1, 2.0, 0.8).mean(axis=1)
    found = evaluate([tokens[:20], tokens[20:]])
    assert found.se == pytest.approx(losses.std(ddof=1) / math.sqrt(50), rel=1e-6)


def test_the_error_is_how_far_means_of_other_documents_lie():
    """300 held-out sets of 40 documents each: the spread of their means is what each one states,
    and what sequences alone would state is far less, since a document fills many of them."""
    rng = np.random.default_rng(1)
    means, stated, naive = [], [], []
    for _ in range(300):
        tokens, documents = cut(*documents_of(rng, 40, 20, 200))
        found = evaluate([tokens], [documents])
        means.append(found.mean)
        stated.append(found.se)
        naive.append(evaluate([tokens]).se)
    spread = np.std(means, ddof=1)
    assert np.sqrt(np.mean(np.square(stated))) == pytest.approx(spread, rel=0.12)
    assert np.mean(naive) < 0.7 * spread


def test_batches_and_the_order_of_documents_change_nothing():
    tokens, documents = cut(*documents_of(np.random.default_rng(2), 12, 10, 60))
    whole = evaluate([tokens], [documents])
    parts = evaluate([tokens[:3], tokens[3:]], [documents[:3], documents[3:]])
    renamed = evaluate([tokens], [97 - 5 * documents])
    for other in (parts, renamed):
        assert other.mean == whole.mean
        assert other.se == pytest.approx(whole.se, rel=1e-12)


def test_what_cannot_be_evaluated_is_named():
    tokens = np.zeros((3, 5), np.int64)
    with pytest.raises(ValueError, match="two documents or more"):
        evaluate([tokens], [np.zeros((3, 4), np.int64)])
    with pytest.raises(
        ValueError, match=r"shapes of the predictions \[\(3, 4\)\], got \[\(3, 5\)\]"
    ):
        evaluate([tokens], [np.zeros((3, 5), np.int64)])
