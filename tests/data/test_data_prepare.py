import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from data.building import building
from data.corpus import META, Corpus, CorpusError
from data.prepare import is_held_out, prepare


def documents(corpus, split):
    """The texts of a byte corpus, parted at its zero bytes."""
    return np.concatenate(corpus.arrays(split)).tobytes().split(b"\0")[:-1]


def test_every_document_is_there_once_with_a_separator(corpus, text_folder):
    found = documents(corpus, "train") + documents(corpus, "held_out")
    assert sorted(found) == sorted(path.read_bytes() for path in text_folder.iterdir())
    assert (corpus.train.documents, corpus.held_out.documents) == (
        len(documents(corpus, "train")),
        len(documents(corpus, "held_out")),
    )
    assert corpus.train.bytes + corpus.train.documents == corpus.train_tokens


def test_the_share_held_out_is_about_what_was_asked():
    held_out = sum(is_held_out(str(number).encode(), 0.1) for number in range(20_000))
    assert abs(held_out - 2000) < 4 * np.sqrt(2000 * 0.9)


def test_a_larger_share_keeps_what_was_held_out():
    contents = [str(number).encode() for number in range(1000)]
    small, large = ({c for c in contents if is_held_out(c, share)} for share in (0.1, 0.3))
    assert small < large


def test_adding_documents_moves_none_between_splits(tmp_path, corpus, text_folder, write_documents):
    grown = tmp_path / "grown"
    shutil.copytree(text_folder, grown)
    write_documents(grown, 80, seed=1)
    larger = prepare(str(grown), tmp_path / "corpora", held_out_share=0.2)
    for split in ("train", "held_out"):
        assert set(documents(corpus, split)) < set(documents(larger, split))
    assert not set(documents(larger, "train")) & set(documents(larger, "held_out"))


def test_the_fingerprint_knows_neither_place_nor_time(tmp_path, corpus, text_folder):
    copy = tmp_path / "elsewhere"
    shutil.copytree(text_folder, copy, copy_function=shutil.copyfile)
    other = prepare(str(copy), tmp_path / "corpora", held_out_share=0.2)
    assert other.folder != corpus.folder
    assert other.fingerprint == corpus.fingerprint


def test_the_fingerprint_sees_one_changed_letter(tmp_path, corpus, text_folder):
    copy = tmp_path / "elsewhere"
    shutil.copytree(text_folder, copy)
    file = next(copy.iterdir())
    file.write_bytes(file.read_bytes().replace(b"document", b"Document"))
    other = prepare(str(copy), tmp_path / "corpora", held_out_share=0.2)
    assert other.fingerprint != corpus.fingerprint


def test_the_same_question_is_answered_from_the_folder(tmp_path, text_folder):
    first = prepare(str(text_folder), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    assert prepare(str(text_folder), tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before


def test_another_question_gets_another_folder(tmp_path, text_folder):
    corpora = [
        prepare(str(text_folder), tmp_path),
        prepare(str(text_folder), tmp_path, held_out_share=0.3),
        prepare(str(text_folder), tmp_path, max_bytes=100_000),
        prepare(str(text_folder), tmp_path, tokenizer="bpe:300"),
    ]
    assert len({corpus.folder for corpus in corpora}) == 4
    assert len({corpus.fingerprint for corpus in corpora}) == 4


def test_an_edited_source_is_read_again(tmp_path, write_documents):
    folder = write_documents(tmp_path / "text", 60)
    before = prepare(str(folder), tmp_path / "corpora")
    write_documents(folder, 1, seed=5)
    assert prepare(str(folder), tmp_path / "corpora").fingerprint != before.fingerprint


def test_a_prepared_folder_is_a_source(tmp_path, corpus):
    assert prepare(str(corpus.folder), tmp_path) == corpus


def test_max_bytes_ends_with_the_document_that_reaches_it(tmp_path, text_folder):
    corpus = prepare(str(text_folder), tmp_path, max_bytes=100_000)
    total = corpus.train.bytes + corpus.held_out.bytes
    longest = max(path.stat().st_size for path in text_folder.iterdir())
    assert 100_000 <= total < 100_000 + longest


TOGETHER = """
import fcntl, sys
from pathlib import Path
from data import prepare
source, folder, locks = sys.argv[1:]
def without(lock, how): raise OSError(95, "Operation not supported")
if locks == "without":
    fcntl.flock = without
build = prepare._build
def counted(*arguments, **options):
    print("builds", flush=True)
    build(*arguments, **options)
prepare._build = counted
sys.stdin.readline()
print(prepare.prepare(source, Path(folder)).fingerprint)
"""


@pytest.mark.parametrize("locks", ["with", "without"])
def test_processes_that_ask_at_the_same_time_get_one_corpus(tmp_path, text_folder, locks):
    """As nodes on one disk do. With locks one builds; without, all may, and the first is kept."""
    command = [sys.executable, "-c", TOGETHER, str(text_folder), str(tmp_path), locks]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, stderr=subprocess.DEVNULL, **pipes) for _ in range(4)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    builds = sum(words.count("builds") for words in said)
    assert builds == 1 if locks == "with" else builds >= 1
    assert len({words[-1] for words in said}) == 1
    (corpus,) = (Corpus.open(path) for path in tmp_path.iterdir() if path.is_dir())
    corpus.verify()
    assert corpus.fingerprint == said[0][-1]


def test_the_second_to_finish_leaves_the_first_ones_folder(tmp_path):
    target = tmp_path / "corpus"
    with building(target) as ours:
        with building_elsewhere(target) as theirs:
            (theirs / "meta.json").write_text("theirs")
        (ours / "meta.json").write_text("ours")
    assert (target / "meta.json").read_text() == "theirs"
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [target]


@contextmanager
def building_elsewhere(target):
    """The same on another node."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: "elsewhere")
        with building(target) as folder:
            yield folder


def test_what_goes_wrong_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError), building(tmp_path / "corpus") as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_killed_preparation_leaves_no_corpus_and_the_next_one_succeeds(tmp_path):
    """The child dies while it writes: what it left has no name, and is cleared away; what processes
    of other nodes may still be writing is not."""
    code = f"""
import os, signal
from pathlib import Path
from data import prepare
def die(tokenizer_file): os.kill(os.getpid(), signal.SIGKILL)
prepare.Corpus.write_meta = die
prepare.prepare("synthetic:zipf2?tokens=100K", Path({str(tmp_path)!r}))
"""
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert died.returncode == -9, died.stderr
    (left,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert left.name.startswith(".")
    foreign = left.with_name(left.name.replace(socket.gethostname(), "elsewhere"))
    foreign.mkdir()
    corpus = prepare("synthetic:zipf2?tokens=100K", tmp_path)
    corpus.verify()
    assert {path for path in tmp_path.iterdir() if path.is_dir()} == {corpus.folder, foreign}


def test_every_wrong_option_is_told_at_once(tmp_path, text_folder):
    with pytest.raises(CorpusError) as caught:
        prepare(str(text_folder), tmp_path, tokenizer="bpe:10", held_out_share=5.0, max_bytes=0)
    text = str(caught.value)
    assert "tokenizer = 'bpe:10': no such tokenizer. Use 'byte', or 'bpe:4096'" in text
    assert "held_out_share = 5.0: a share between 0 and 1" in text
    assert "max_bytes = 0: at least 1" in text


def test_too_few_documents_for_a_split_are_refused_and_nothing_is_left(tmp_path):
    (tmp_path / "a.txt").write_text("one short text")
    with pytest.raises(CorpusError, match=r"1 documents at held_out_share = 0\.\d+ leave none"):
        prepare(str(tmp_path / "a.txt"), tmp_path / "corpora")
    assert not [path for path in (tmp_path / "corpora").iterdir() if path.is_dir()]


def test_files_without_text_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(CorpusError, match="there is no text in it"):
        prepare(str(tmp_path / "a.txt"), tmp_path / "corpora")


def test_broken_utf8_is_replaced_and_told(tmp_path, write_documents):
    folder = write_documents(tmp_path / "text", 60)
    (folder / "latin1.txt").write_bytes("naïve café".encode("latin-1") * 50)
    corpus = prepare(str(folder), tmp_path / "corpora")
    assert corpus.notes == (
        "1 documents held bytes that are zero or not UTF-8; each became U+FFFD.",
    )
    texts = documents(corpus, "train") + documents(corpus, "held_out")
    assert "na\ufffdve caf\ufffd".encode() * 50 in texts
    assert Corpus.open(corpus.folder).notes == corpus.notes


def test_bpe_tokens_decode_to_the_documents(tmp_path, text_folder, corpus):
    pairs = prepare(str(text_folder), tmp_path, tokenizer="bpe:350", held_out_share=0.2)
    assert pairs.tokenizer_name == "bpe:350"
    assert pairs.dtype == np.uint16
    text = pairs.decode(np.concatenate(pairs.arrays("held_out")))
    assert sorted(text.split("<|endoftext|>")[:-1]) == sorted(
        content.decode() for content in documents(corpus, "held_out")
    )
    assert pairs.held_out.bytes == corpus.held_out.bytes
    assert pairs.bytes_per_token > 1.5 * corpus.bytes_per_token


def test_bpe_is_trained_on_the_training_documents_alone(tmp_path, write_documents):
    """A word that only held-out documents hold is not merged."""
    rare = "zyzzyva"
    folder = write_documents(tmp_path / "text", 200)
    for number in range(200):
        content = f"{number} " + f"{rare} " * 200
        if is_held_out(content.encode(), 0.1):
            (folder / f"rare-{number}.txt").write_text(content)
    corpus = prepare(str(folder), tmp_path / "c", tokenizer="bpe:400", held_out_share=0.1)
    assert rare in corpus.decode(np.concatenate(corpus.arrays("held_out")))
    assert len(corpus.encode(rare)) == len(rare)


@pytest.mark.parametrize("tokenizer", ["byte", "bpe:400"])
def test_no_document_holds_a_separator(tmp_path, tokenizer):
    """Neither a zero in a text nor `<|endoftext|>` within a line ends a document."""
    lines = [{"text": f"{n} says \0 and <|endoftext|> in passing " * 3} for n in range(80)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    corpus = prepare(str(tmp_path / "a.jsonl"), tmp_path, tokenizer=tokenizer, held_out_share=0.2)
    for split in ("train", "held_out"):
        separators = np.flatnonzero(np.concatenate(corpus.arrays(split)) == 0)
        assert np.array_equal(corpus.document_ends(split), separators + 1)
    text = corpus.decode(corpus.arrays("train")[0][: corpus.document_ends("train")[0] - 1])
    assert text in {line["text"].replace("\0", "\ufffd") for line in lines}


def test_bpe_is_the_same_every_time(tmp_path, text_folder):
    one, other = (prepare(str(text_folder), tmp_path / name, tokenizer="bpe:400") for name in "ab")
    assert one.fingerprint == other.fingerprint


def test_a_file_larger_than_memory_is_prepared_and_read(tmp_path):
    """128 MB in one file without a line end, in a process that may map 64 MiB more than NumPy."""
    (tmp_path / "long.txt").write_bytes(b"all work and no play " * 6_000_000)
    code = f"""
import resource
from pathlib import Path
from data import prepare, shards
from data.loader import Loader, held_out
shards.SplitWriter.__init__.__defaults__ = (1 << 23,)  # small shards, as small as the memory
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20),) * 2)
corpus = prepare.prepare({str(tmp_path / "long.txt")!r}, Path({str(tmp_path / "corpora")!r}))
loader = Loader(corpus, 64, 64, seed=0)
for step in range(100):
    loader.batch(step)
held_out(corpus, 64, 64, 100_000)
assert len(corpus.train.shards) > 12
Path({str(tmp_path / "long.txt")!r}).read_bytes()  # what the limit is there for
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stderr.strip().splitlines()[-1] == "MemoryError", done.stderr
    assert "read_bytes" in done.stderr


def test_a_bpe_s_memory_does_not_grow_with_the_file(tmp_path):
    """10 MB of words that are all different, 8 MiB for all that a twentieth of it did not need."""
    for name, size in (("short", 1 << 16), ("long", 20 << 16)):
        words = (f"{number * 7919 % 10**7:07}\n" for number in range(size))
        (tmp_path / f"{name}.txt").write_text("".join(words))
    code = f"""
import resource
from pathlib import Path
from data import prepare
prepare.BPE_SAMPLE_BYTES, prepare.BATCH_CHARACTERS = 1 << 16, 1 << 14  # as small as the memory
folder = Path({str(tmp_path)!r})
def prepared(name):
    return prepare.prepare(str(folder / name), folder / "corpora", tokenizer="bpe:300")
prepared("short.txt")
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (8 << 20),) * 2)
assert prepared("long.txt").train.bytes > 9_000_000
print("prepared", flush=True)
(folder / "long.txt").read_bytes() * 2  # what the limit is there for
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )  # fmt: skip
    assert done.stderr.strip().splitlines()[-1] == "MemoryError", done.stderr
    assert done.stdout.endswith("prepared\n")


def test_a_watched_preparation_leaves_standard_output_alone(tmp_path, capsys, text_folder):
    prepare(str(text_folder), tmp_path)
    assert capsys.readouterr().out == ""


def test_import_is_light():
    code = (
        "import data, data.prepare, data.loader, sys; "
        "print([m for m in ('torch', 'tokenizers', 'datasets', 'pandas', 'pyarrow', 'ray')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_meta_is_plain_json(corpus):
    meta = json.loads((corpus.folder / META).read_text())
    assert meta["vocab_size"] == 256
    assert meta["train"]["documents"] == corpus.train.documents


def test_no_part_of_a_held_out_file_is_trained_on(tmp_path):
    source = tmp_path / "files"
    source.mkdir()
    for number in range(60):
        lines = (f"file {number}, line {line}" for line in range(3000))  # about 60 KB
        (source / f"{number}.txt").write_text("\n".join(lines))
    corpus = prepare(str(source), tmp_path / "corpora", held_out_share=0.3)
    files = {
        split: {
            line.split(",")[0]
            for shard in corpus.arrays(split)
            for line in corpus.decode(shard).replace("\0", "\n").splitlines()
            if line.startswith("file ") and ", line" in line
        }
        for split in ("train", "held_out")
    }
    assert files["train"]
    assert files["held_out"]
    assert not files["train"] & files["held_out"]
