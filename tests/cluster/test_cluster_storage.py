"""What all machines see: files on a disk or in a bucket, a corpus a node, a mirror of a folder."""

import pickle
import shutil
import sqlite3
import tempfile
import time

import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from pyarrow import ArrowInvalid, fs

from data.corpus import Corpus
from data.errors import CorpusError
from data.prepare import prepare
from tuner import corpora, mirror
from tuner.backends.contract import Job
from tuner.config import parse
from tuner.errors import ConfigError
from tuner.ledger import Ledger
from tuner.mirror import Mirror
from tuner.storage import Place


def test_a_file_is_written_read_and_removed(place):
    file = place / "deep" / "down.bin"
    assert file.read() is None
    file.remove()  # of nothing
    file.write(b"one")
    file.write(b"two")
    assert file.read() == b"two"
    assert pickle.loads(pickle.dumps(file)).read() == b"two"
    file.remove()
    assert file.read() is None


def test_a_file_travels_both_ways(place, tmp_path):
    (tmp_path / "here").write_bytes(b"content")
    (place / "folder" / "there").upload(tmp_path / "here")
    assert (place / "folder" / "there").download(tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"
    assert not (place / "folder" / "nothing").download(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_options_stay_behind_the_path():
    place = Place("s3://bucket/prefix?scheme=http") / "a" / "b"
    assert place.uri == "s3://bucket/prefix/a/b?scheme=http"
    assert str(place) == "s3://bucket/prefix/a/b"


def test_what_pyarrow_lacks_fsspec_has():
    (Place.of("memory://shelf") / "file").write(b"kept")
    assert (Place.of("memory://shelf") / "file").read() == b"kept"


def test_an_unknown_kind_of_place_is_told():
    with pytest.raises(ConfigError, match="--storage ftpx://"):
        Place.of("ftpx://host/folder")


@pytest.fixture
def published(place, tmp_path, monkeypatch):
    """A corpus in storage, and a job of a node that has no copy yet."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    (tmp_path / "text").mkdir()
    for number in range(60):
        (tmp_path / "text" / f"{number}.txt").write_text(f"{number} is a number. " * 40)
    corpus = prepare(str(tmp_path / "text"), tmp_path / "head")
    sweep = parse({"name": "s", "budgets": [1e9]}, place="")
    job = Job(
        sweep=sweep, vocab_size=corpus.vocab_size, corpus=corpus.folder,
        published=corpora.publish(corpus, place), checkpoints=place,
    )  # fmt: skip
    return corpus, job


def test_a_node_copies_the_corpus_once(published):
    corpus, job = published
    copy = corpora.on_this_node(job).corpus
    assert copy != corpus.folder
    assert Corpus.open(copy).fingerprint == corpus.fingerprint
    system, path = job.published.place.opened
    system.delete_dir(path)
    assert corpora.on_this_node(job).corpus == copy  # storage is not asked again
    assert corpora.publish(corpus, job.checkpoints) == job.published


def test_it_is_published_once(published, monkeypatch):
    corpus, job = published
    monkeypatch.setattr(Place, "upload", lambda *_: pytest.fail("uploaded twice"))
    assert corpora.publish(corpus, job.checkpoints) == job.published


def test_a_corpus_that_changed_on_the_way_is_refused(published):
    corpus, job = published
    (shard, _), *_ = corpus.shard_files("train")
    file = job.published.place / shard.name
    content = bytearray(file.read())
    content[7] ^= 1
    file.write(bytes(content))
    with pytest.raises(CorpusError, match="digest differs"):
        corpora.on_this_node(job)
    file.write(shard.read_bytes())
    corpora.on_this_node(job)  # nothing half stays behind


def test_another_corpus_in_its_place_is_refused(published, tmp_path):
    _, job = published
    other = prepare(str(tmp_path / "text"), tmp_path / "other", held_out_share=0.3)
    for file in other.folder.iterdir():
        if file.is_file():
            (job.published.place / file.name).upload(file)
    with pytest.raises(CorpusError, match="the sweep reads"):
        corpora.on_this_node(job)


def test_a_half_published_corpus_names_what_is_missing(published):
    corpus, job = published
    (shard, _), *_ = corpus.shard_files("train")
    (job.published.place / shard.name).remove()
    with pytest.raises(CorpusError, match=shard.name):
        corpora.on_this_node(job)


def test_a_lost_folder_comes_back(place, tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "sweep.toml").write_text('name = "s"')
    ledger = Ledger(folder / "ledger.db")
    ledger.write_fact("cap", "1")
    Mirror(folder, place).copy()  # beside a writer: SQLite's log is not in the file yet
    ledger.write_fact("cap", "2")
    Mirror(folder, place).copy()
    ledger.write_fact("cap", "3")
    ledger.close()
    shutil.rmtree(folder)
    assert Mirror(folder, place).restore()
    back = Ledger(folder / "ledger.db")
    assert back.fact("cap") == "2"
    back.close()
    assert (folder / "sweep.toml").read_text() == 'name = "s"'
    assert not Mirror(folder, place).restore()  # what is here is newer


def test_where_nothing_was_mirrored_nothing_comes_back(place, tmp_path):
    assert not Mirror(tmp_path / "sweep", place).restore()


def test_only_what_changed_is_copied(place, tmp_path, monkeypatch):
    (tmp_path / "log.txt").write_text("one")
    Ledger(tmp_path / "ledger.db").close()
    kept = Mirror(tmp_path, place)
    kept.copy()
    monkeypatch.setattr(Place, "upload", lambda *_: pytest.fail("nothing changed"))
    kept.copy()


@pytest.mark.parametrize("trouble", [OSError("no route"), sqlite3.OperationalError("no route")])
def test_storage_that_is_away_for_a_while_ends_no_sweep(tmp_path, monkeypatch, capsys, trouble):
    monkeypatch.setattr(mirror, "EVERY", 0.01)
    place = Place.of(tmp_path / "storage")
    away = [True]
    upload = Place.upload

    def sometimes(self, file):
        if away[0]:
            away[0] = False
            raise trouble
        upload(self, file)

    monkeypatch.setattr(Place, "upload", sometimes)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "log.txt").write_text("line")
    with mirror.mirrored(tmp_path / "folder", place):
        end = time.monotonic() + 10
        while (place / "log.txt").read() is None and time.monotonic() < end:
            time.sleep(0.01)
        assert (place / "log.txt").read() == b"line"
    assert "no route; trying again" in capsys.readouterr().err


def test_a_last_copy_that_fails_hides_nothing(tmp_path, monkeypatch, capsys):
    def away(*_, **__):
        raise ArrowInvalid("no route")  # a ValueError: pyarrow's, as of a client of storage

    monkeypatch.setattr(fs, "copy_files", away)
    (tmp_path / "log.txt").write_text("line")
    place = Place.of("memory://away")
    with pytest.raises(KeyError, match="the cause"), mirror.mirrored(tmp_path, place):
        raise KeyError("the cause")
    told = capsys.readouterr().err
    assert "memory://away" in told
    assert f"no route; what it lacks is in {tmp_path} alone" in told


class ClientError(Exception):
    """As botocore has it: no OSError."""


@pytest.mark.parametrize(
    ("method", "refuses"), [("read", "_open"), ("write", "_open"), ("remove", "rm")]
)
def test_whatever_a_client_of_storage_raises_is_an_oserror_with_its_place(
    monkeypatch, method, refuses
):
    def refused(*_, **__):
        raise ClientError("SlowDown")

    file = Place.of("memory://busy") / "file"
    file.write(b"kept")
    monkeypatch.setattr(MemoryFileSystem, refuses, refused)
    with pytest.raises(OSError, match="memory://busy/file: ClientError: SlowDown"):
        getattr(file, method)(*([b"new"] if method == "write" else []))


def test_an_object_whose_writing_breaks_off_is_not_published(monkeypatch):
    file = Place.of("memory://broken") / "file"
    file.write(b"kept")
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "_open", lambda *_, **__: 1 / 0)
        with pytest.raises(OSError, match="division by zero"):
            file.write(b"never begun")
    assert file.read() == b"kept"

    whole = MemoryFile.write

    def half(self, content):
        whole(self, content[: len(content) // 2])
        raise OSError("connection reset")

    monkeypatch.setattr(MemoryFile, "write", half)
    with pytest.raises(OSError, match="connection reset"):
        file.write(b"a checkpoint of many bytes")
    assert file.read() is None


def test_a_mirror_holds_a_whole_database(place, tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    Mirror(tmp_path, place).copy()
    ledger.close()
    (place / "ledger.db").download(tmp_path / "copy.db")
    with sqlite3.connect(tmp_path / "copy.db") as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    copy.close()


def test_s3_is_reached_through_pyarrow(bucket):
    assert isinstance(Place.of(bucket).opened[0], fs.S3FileSystem)
