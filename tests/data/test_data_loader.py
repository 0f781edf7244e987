import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.corpus import Corpus, CorpusError
from data.loader import Loader, Windows, held_out, permute
from data.shards import SplitWriter


def counting_corpus(folder, train=10_000, held_out_tokens=2_000, shard_tokens=1 << 20):
    """Token i of each split is i: a window shows where it was read. Documents have 250 tokens."""
    splits = {}
    for name, length in (("train", train), ("held_out", held_out_tokens)):
        writer = SplitWriter(folder, name, vocab_size=1 << 20, shard_tokens=shard_tokens)
        for document in np.split(np.arange(length, dtype=np.uint32), range(250, length, 250)):
            writer.add(document, document.size)
        splits[name] = writer.close()
    return Corpus(
        folder=folder, source="counting", tokenizer_name="byte", tokenizer_fingerprint="0",
        vocab_size=1 << 20, **splits,
    )  # fmt: skip


@given(count=st.integers(1, 5000), seed=st.integers(0, 2**32))
def test_permute_is_a_bijection(count, seed):
    keys = np.random.SeedSequence(seed).generate_state(8, np.uint64)
    assert np.array_equal(np.sort(permute(np.arange(count), count, keys)), np.arange(count))


def test_permute_looks_random():
    """Neighbours are sent independently of each other and of where they stood."""
    count = 10_000
    keys = np.random.SeedSequence(7).generate_state(8, np.uint64)
    sent = permute(np.arange(count), count, keys)
    bound = 4 / np.sqrt(count)
    assert abs(np.corrcoef(sent, np.arange(count))[0, 1]) < bound
    assert abs(np.corrcoef(sent[1:], sent[:-1])[0, 1]) < bound
    cells, _, _ = np.histogram2d(np.arange(count), sent, bins=10)
    assert abs(((cells - 100) ** 2 / 100).sum() - 81) < 4 * np.sqrt(2 * 81)


def test_permute_needs_no_memory_for_a_huge_corpus():
    keys = np.random.SeedSequence(1).generate_state(8, np.uint64)
    sent = permute(np.arange(10**12, 10**12 + 1000), 10**13, keys)
    assert len(set(sent.tolist())) == 1000
    assert sent.min() >= 0
    assert sent.max() < 10**13


@pytest.mark.parametrize("batch_size", [1, 4, 7])
@pytest.mark.parametrize("shard_tokens", [1 << 20, 1000])
def test_an_epoch_reads_every_window_once(tmp_path, batch_size, shard_tokens):
    corpus = counting_corpus(tmp_path, shard_tokens=shard_tokens)
    loader = Loader(corpus, 16, batch_size, seed=3)
    windows = loader.tokens_per_epoch // 16
    steps = -(-3 * windows // batch_size)
    starts = np.concatenate([loader.batch(step)[:, 0] for step in range(steps)])
    for epoch in range(3):
        assert len(set(starts[epoch * windows : (epoch + 1) * windows].tolist())) == windows
    assert loader.tokens_per_epoch == corpus.tokens_per_epoch(16) <= 10_000
    assert loader.tokens_per_epoch > 10_000 - 2 * 16 * (10_000 // shard_tokens + 1)


def test_a_batch_is_consecutive_tokens_within_one_shard(tmp_path):
    loader = Loader(counting_corpus(tmp_path, shard_tokens=1000), 16, 8, seed=3)
    for step in range(50):
        batch = loader.batch(step)
        assert batch.shape == (8, 17)
        assert batch.dtype == np.int64
        assert (np.diff(batch, axis=1) == 1).all()
        assert (batch[:, 0] // 1000 == batch[:, -1] // 1000).all()


def test_windows_move_from_epoch_to_epoch(tmp_path):
    loader = Loader(counting_corpus(tmp_path), 16, 8, seed=3)
    steps = loader.tokens_per_epoch // 16 // 8
    offsets = {int(loader.batch(epoch * (steps + 1))[0, 0] % 16) for epoch in range(12)}
    assert len(offsets) > 3


@given(order=st.permutations([0, 1, 2, 17, 400, 401, 5000]), seed=st.integers(0, 99))
def test_a_batch_is_a_function_of_seed_and_step(corpus, order, seed):
    used, fresh = Loader(corpus, 32, 4, seed), {}
    for step in sorted(order):
        fresh[step] = Loader(corpus, 32, 4, seed).batch(step)
    for step in order:
        assert np.array_equal(used.batch(step), fresh[step])


def test_changing_a_batch_changes_no_later_answer(corpus):
    loader = Loader(corpus, 32, 4, 0)
    kept = loader.batch(0).copy()
    loader.batch(0)[:] = 0
    assert np.array_equal(loader.batch(0), kept)


def test_seeds_give_different_orders(corpus):
    one, other = (Loader(corpus, 32, 4, seed).batch(0) for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_a_corpus_shorter_than_one_batch_is_refused(tmp_path):
    corpus = counting_corpus(tmp_path, train=100)
    with pytest.raises(CorpusError, match=r"100 training tokens give 5 windows of 16 .* takes 8"):
        Loader(corpus, 16, 8, 0)


def test_held_out_windows_do_not_depend_on_the_batch_size(corpus):
    by_four, by_seven = (
        np.concatenate(held_out(corpus, 32, size, 5000).batches) for size in (4, 7)
    )
    assert np.array_equal(by_four, by_seven)
    assert by_four.shape == (5000 // 32, 33)


def test_held_out_windows_are_spread_over_the_whole_split(tmp_path):
    batches = held_out(counting_corpus(tmp_path), 16, 8, 320).batches
    starts = np.concatenate(batches)[:, 0]
    assert len(starts) == 20
    assert starts[0] == 0
    assert starts[-1] > 1800
    assert len(set(np.diff(starts).tolist())) <= 2


def test_held_out_batches_use_what_there_is(tmp_path):
    batches = held_out(counting_corpus(tmp_path), 16, 8, 10**9).batches
    assert sum(len(batch) for batch in batches) == 2000 // 16 - 1


@pytest.mark.parametrize(("tokens", "max_tokens"), [(20, 1000), (2000, 10)])
def test_held_out_text_shorter_than_a_window_is_refused(tmp_path, tokens, max_tokens):
    corpus = counting_corpus(tmp_path, held_out_tokens=tokens)
    with pytest.raises(CorpusError, match="give no window of 16 tokens"):
        held_out(corpus, 16, 4, max_tokens)


def test_held_out_text_of_one_document_is_refused(tmp_path):
    corpus = counting_corpus(tmp_path, held_out_tokens=250)
    with pytest.raises(CorpusError, match="all of one document, which leaves the loss without"):
        held_out(corpus, 16, 4, 1000)


@pytest.mark.parametrize("shard_tokens", [1 << 20, 300])
def test_every_prediction_knows_its_document(tmp_path, shard_tokens):
    """Token i is i and documents have 250 tokens: a target's document is what it says itself."""
    corpus = counting_corpus(tmp_path, shard_tokens=shard_tokens)
    found = held_out(corpus, 16, 7, 1500)
    assert len(found.batches) == len(found.documents) > 1
    for tokens, documents in zip(found.batches, found.documents, strict=True):
        assert np.array_equal(documents, tokens[:, 1:] // 250)
    assert len(np.unique(np.concatenate(found.documents))) == 8


def test_a_separator_belongs_to_the_document_it_ends(corpus):
    found = held_out(corpus, 32, 8, 10**9)
    tokens = np.concatenate(found.batches)[:, 1:].ravel()
    documents = np.concatenate(found.documents).ravel()
    places = np.flatnonzero(tokens[:-1] == 0)
    assert len(places) > 5
    assert (documents[places + 1] == documents[places] + 1).all()
    inside = np.setdiff1d(np.arange(len(tokens) - 1), places)
    assert (documents[inside + 1] == documents[inside]).all()


def test_a_shard_without_a_window_is_passed_over(tmp_path):
    """Shards of 100 tokens; the last one holds 20."""
    windows = Windows(counting_corpus(tmp_path, train=120, shard_tokens=100), "train", 16)
    assert windows.counts.tolist() == [5, 0]
    assert windows.read(np.arange(5))[:, 0].tolist() == [0, 16, 32, 48, 64]


def test_a_shard_cut_short_while_it_is_read_is_told(tmp_path):
    loader = Loader(counting_corpus(tmp_path), 64, 100, 3)
    os.truncate(tmp_path / "train-00000.bin", 1000)
    with pytest.raises(CorpusError, match=r"train-00000\.bin: was cut short"):
        loader.batch(0)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_batch(tmp_path, workers):
    """In order, backwards, and taken up again in the middle; blocks are of ten steps."""
    corpus = counting_corpus(tmp_path, shard_tokens=1000)
    steps = [*range(300), *range(300, 0, -37), *range(144, 200)]
    alone, helped = (Loader(corpus, 64, 100, 3, workers=n) for n in (0, workers))
    for step in steps:
        assert np.array_equal(alone.batch(step), helped.batch(step))


def test_workers_read_ahead(tmp_path):
    """While a block is used, those after it are read by other threads."""
    loader = Loader(counting_corpus(tmp_path), 64, 100, 3, workers=2)
    read, here = [], threading.get_ident()
    read_block = loader._read_block

    def noted(number):
        read.append((number, threading.get_ident()))
        return read_block(number)

    loader._read_block = noted
    loader.batch(0)
    for future in loader._ahead.values():
        future.result()
    assert sorted(number for number, _ in read) == [0, 1, 2]
    assert here not in {thread for _, thread in read}


def test_what_a_worker_meets_is_raised(tmp_path):
    loader = Loader(counting_corpus(tmp_path), 64, 100, 3, workers=1)
    (tmp_path / "train-00000.bin").unlink()
    with pytest.raises(FileNotFoundError):
        loader.batch(0)
