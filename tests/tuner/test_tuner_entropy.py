"""A trained model against a source whose entropy is known: it comes near, and never below."""

import pytest
import torch

from data.loader import Loader, held_out
from data.prepare import prepare
from model.recipe import Recipe
from model.shape import Shape
from model.train import Training

SHAPE = Shape(d_model=32, num_layers=2, num_heads=2, d_ff=128, vocab_size=8, context_length=32)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return prepare("synthetic:zipf2?tokens=2M&vocab_size=8", tmp_path_factory.mktemp("zipf"))


def trained(corpus, batches, steps, evaluated, learning_rate=0.02):
    training = Training(
        shape=SHAPE,
        recipe=Recipe(learning_rate=learning_rate, batch_size=16),
        steps=steps,
        report_at=[steps],
        batches=batches,
        held_out=evaluated.batches,
        held_out_documents=evaluated.documents,
        seed=0,
        flops_per_step=1,
    )
    (last,) = training.run()
    return last


def test_a_model_comes_near_the_entropy_and_does_not_beat_it(corpus):
    evaluated = held_out(corpus, 32, 64, 65_536)
    last = trained(corpus, Loader(corpus, 32, 16, seed=0).batch, 800, evaluated)
    assert last.loss > corpus.entropy - 3 * last.loss_se
    assert last.loss < corpus.entropy + 0.05
    assert last.loss_se < 0.01  # else the first line could not fail


def test_a_model_that_has_seen_what_it_is_judged_on_is_found_out(corpus):
    """The same comparison catches a leak: trained on the held-out windows, it beats the entropy."""
    evaluated = held_out(corpus, 32, 16, 2 * 1024)
    batches = [tokens for tokens in evaluated.batches if len(tokens) == 16]
    last = trained(corpus, lambda step: batches[step % len(batches)], 300, evaluated)
    assert last.loss < corpus.entropy - 3 * last.loss_se
