import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.corpus import CorpusError
from data.prepare import prepare
from data.sources import find, parse_count
from data.synthetic import DOCUMENT_TOKENS, Zipf2


@given(
    vocab_size=st.integers(2, 24), exponent=st.floats(0, 3), seed=st.integers(0, 9),
)  # fmt: skip
def test_every_context_has_the_stated_entropy(vocab_size, exponent, seed):
    source = Zipf2(tokens=1, vocab_size=vocab_size, exponent=exponent, seed=seed)
    rank_of = np.argsort(source.ranking, axis=-1)
    conditional = source.law[rank_of]
    assert np.allclose(conditional.sum(-1), 1)
    assert np.allclose(-(conditional * np.log(conditional)).sum(-1), source.entropy)


def test_entropy_of_equal_probabilities():
    assert Zipf2(tokens=1, vocab_size=64, exponent=0).entropy == pytest.approx(np.log(64))


def test_the_draw_follows_the_law():
    source = Zipf2(tokens=200_000)
    surprisal = np.concatenate([source.surprisal(text) for text in source.documents()])
    standard_error = surprisal.std() / np.sqrt(surprisal.size)
    assert abs(surprisal.mean() - source.entropy) < 3 * standard_error


def test_both_tokens_of_the_context_tell_something():
    """Counting models of order 0, 1, 2 come ever closer to the entropy, and never below it."""
    source = Zipf2(tokens=1_000_000, vocab_size=16)
    text = np.concatenate(list(source.documents())).astype(np.int64)
    train, test = text[:900_000], text[900_000:]
    losses = []
    for order in range(3):
        counts = np.full((16,) * (order + 1), 0.1)
        places = (slice(i, len(train) - order + i) for i in range(order + 1))
        np.add.at(counts, tuple(train[place] for place in places), 1)
        law = counts / counts.sum(-1, keepdims=True)
        places = (slice(i, len(test) - order + i) for i in range(order + 1))
        losses.append(-np.log(law[tuple(test[place] for place in places)]).mean())
    assert losses[0] > losses[1] + 0.05 > losses[2] + 0.1
    assert source.entropy - 0.01 < losses[2] < source.entropy + 0.02


@pytest.mark.parametrize("tokens", [1, 1024, 1025, 1_050_000])
def test_the_number_of_tokens_is_exact(tokens):
    lengths = [text.size for text in Zipf2(tokens=tokens).documents()]
    assert sum(lengths) == tokens
    assert set(lengths[:-1]) <= {DOCUMENT_TOKENS}


def test_more_tokens_continue_the_same_text():
    short, long = Zipf2(tokens=2 * DOCUMENT_TOKENS), Zipf2(tokens=2_000_000)
    pairs = zip(short.documents(), itertools.islice(long.documents(), 2), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


def test_a_prepared_synthetic_corpus_knows_its_entropy(tmp_path):
    corpus = prepare("synthetic:zipf2?tokens=0.2M&vocab_size=32", tmp_path)
    assert corpus.entropy == Zipf2(tokens=1, vocab_size=32).entropy
    assert corpus.vocab_size == 32
    assert corpus.train_tokens + corpus.held_out_tokens == 200_000
    assert corpus.bytes_per_token == 1
    assert corpus.decode(corpus.encode("3 1 4")) == "3 1 4"
    with pytest.raises(CorpusError, match="a symbol is a whole number below 32"):
        corpus.encode("3 32")


@pytest.mark.parametrize(
    ("text", "count"), [("1M", 10**6), ("10k", 10_000), ("2.5G", 2_500_000_000), ("7", 7)]
)
def test_counts_with_suffix(text, count):
    assert parse_count(text) == count


def test_every_fault_of_a_synthetic_name_is_told_at_once():
    with pytest.raises(CorpusError) as caught:
        find("synthetic:zipf2?tokens=many&vocab_size=1000&colour=3")
    text = str(caught.value)
    assert "tokens = 'many' is no number" in text
    assert "no option 'colour'" in text
    assert "vocab_size = 1000, must be 2 … 256" in text


def test_an_unknown_synthetic_source_is_named():
    with pytest.raises(CorpusError, match=r"the one synthetic source is synthetic:zipf2"):
        find("synthetic:markov7")
