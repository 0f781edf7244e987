import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.corpus import Corpus, CorpusError, token_dtype
from data.shards import SplitWriter


@pytest.fixture
def copy(corpus, tmp_path):
    """A corpus one may damage."""
    return shutil.copytree(corpus.folder, tmp_path / "copy")


def test_a_corpus_opens_as_it_was_written(corpus):
    assert Corpus.open(corpus.folder) == corpus


def test_a_moved_corpus_is_the_same_corpus(corpus, copy):
    moved = Corpus.open(copy)
    moved.verify()
    assert moved.fingerprint == corpus.fingerprint
    assert np.array_equal(moved.arrays("train")[0], corpus.arrays("train")[0])


def test_a_corpus_travels_by_value(corpus):
    corpus.encode("used")
    received = pickle.loads(pickle.dumps(corpus))
    assert received == corpus
    assert received.decode(received.encode("é")) == "é"


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_documents_end_at_their_separators(corpus, split):
    separators = np.flatnonzero(np.concatenate(corpus.arrays(split)) == 0)
    assert np.array_equal(corpus.document_ends(split), separators + 1)


def test_tokens_are_read_only(corpus):
    with pytest.raises(ValueError, match="read-only"):
        corpus.arrays("train")[0][0] = 1


def test_a_folder_that_is_no_corpus_says_so(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CorpusError, match=r"no corpus here .* isoflop data prepare"):
            Corpus.open(path)


def test_every_damaged_shard_is_named_at_once(copy):
    train, held_out = copy / "train-00000.bin", copy / "held_out-00000.bin"
    train.write_bytes(train.read_bytes()[:-1])
    held_out.unlink()
    with pytest.raises(CorpusError) as caught:
        Corpus.open(copy)
    short, missing = str(caught.value).splitlines()
    assert "train-00000.bin" in short
    assert "bytes long, written with" in short
    assert "held_out-00000.bin: missing" in missing
    assert f"Delete {copy} and prepare it again." in missing


@pytest.mark.parametrize("name", ["train-00000.bin", "held_out-ends.bin"])
def test_a_changed_byte_is_found(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[100] ^= 1
    (copy / name).write_bytes(content)
    corpus = Corpus.open(copy)
    with pytest.raises(CorpusError, match=rf"{name}: its content is not what was written"):
        corpus.verify()


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not readable as JSON"), ("{}", "written in another layout")]
)
def test_a_damaged_description_says_so(copy, text, message):
    (copy / "meta.json").write_text(text)
    with pytest.raises(CorpusError, match=message):
        Corpus.open(copy)


@pytest.mark.parametrize(
    ("vocab_size", "code"), [(2, "u1"), (256, "u1"), (257, "u2"), (65536, "u2"), (65537, "u4")]
)
def test_the_smallest_integer_that_holds_the_vocabulary(vocab_size, code):
    assert token_dtype(vocab_size) == np.dtype(code)


@given(
    lengths=st.lists(st.integers(0, 50), max_size=20),
    shard_tokens=st.integers(1, 60),
)
def test_shards_hold_the_stream_and_are_full_but_the_last(tmp_path_factory, lengths, shard_tokens):
    folder = tmp_path_factory.mktemp("shards")
    writer = SplitWriter(folder, "train", 1000, shard_tokens)
    stream = np.arange(sum(lengths), dtype=np.uint32) % 1000
    for document in np.split(stream, np.cumsum(lengths)[:-1]) if lengths else []:
        writer.add(document, document.size)
    split = writer.close()
    assert split.tokens == split.bytes == stream.size
    assert all(shard.tokens == shard_tokens for shard in split.shards[:-1])
    read = [np.fromfile(folder / shard.file, "<u2") for shard in split.shards]
    assert np.array_equal(np.concatenate([*read, np.empty(0)]), stream)


def test_bits_per_byte_follows_from_bytes_per_token(corpus):
    text = b"".join(array.tobytes() for array in corpus.arrays("held_out")).replace(b"\0", b"")
    assert corpus.bytes_per_token == len(text) / corpus.held_out_tokens
