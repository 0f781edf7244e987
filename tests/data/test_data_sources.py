import json
import sys
import types

import pandas as pd
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import sources
from data.corpus import CorpusError
from data.files import DOCUMENT_CHARACTERS, LINE_CHARACTERS, document
from data.prepare import prepare
from data.public import PUBLIC


def texts(source, **options):
    return [row.text for row in sources.find(str(source), **options).documents()]


def test_the_standard_library_is_this_pythons_own():
    source = sources.find("python-stdlib")
    names = {path.relative_to(source.root).as_posix() for path in source.paths}
    assert {"argparse.py", "json/decoder.py", "unittest/mock.py", "_pydecimal.py"} <= names
    assert not [name for name in names if "site-packages" in name or "/test/" in name]
    assert not [name for name in names if name.startswith(("test/", "idlelib/", "_sysconfigdata"))]
    assert 8e6 < source.size < 20e6


def test_a_file_of_several_documents_is_cut_at_line_ends(tmp_path):
    lines = [f"line {number} " + "x" * 80 + "\n" for number in range(2000)]
    (tmp_path / "book.txt").write_text("".join(lines))
    found = texts(tmp_path / "book.txt")
    assert "".join(found) == "".join(lines)
    assert all(text.endswith("\n") for text in found)
    assert all(len(text) < DOCUMENT_CHARACTERS + 100 for text in found)
    assert len(found) == pytest.approx(sum(map(len, lines)) / DOCUMENT_CHARACTERS, abs=1)


def test_a_line_longer_than_a_document_is_cut_between_characters(tmp_path):
    text = "漢" * (3 * LINE_CHARACTERS + 5)
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    rows = list(sources.find(str(tmp_path / "long.txt")).documents())
    assert "".join(row.text for row in rows) == text
    assert len(rows) == 4
    assert not any(row.repaired for row in rows)


def test_an_end_of_text_line_ends_a_document(tmp_path):
    (tmp_path / "stories.txt").write_text("one\n<|endoftext|>\ntwo\nmore\n<|endoftext|>\nthree")
    assert texts(tmp_path / "stories.txt") == ["one\n", "two\nmore\n", "three"]


def test_windows_line_ends_stay(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\r\nb\r\n")
    assert texts(tmp_path / "a.txt") == ["a\r\nb\r\n"]


def test_a_folder_is_read_in_the_order_of_names_without_hidden_and_binary_files(tmp_path):
    for name, content in {
        "b.txt": b"second", "a/z.txt": b"first", ".git/config": b"hidden", "c.bin": b"\0\1",
        "c.txt": b"", "d.txt": b"third",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert texts(tmp_path) == ["first", "second", "third"]
    assert sources.find(str(tmp_path)).notes == ("1 of 5 files are binary and were left out.",)


def test_a_glob_takes_what_matches(tmp_path):
    for name in ("a.md", "b.txt", "deep/c.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(tmp_path / "*.md") == ["a.md"]
    assert texts(tmp_path / "**" / "*.md") == ["a.md", "deep/c.md"]


def packed(path, content):
    """Write `content` through the codec that the file's name asks for."""
    codec = {".gz": "gzip", ".zst": "zstd"}[path.suffix]
    path.write_bytes(pyarrow.compress(content, codec, asbytes=True))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson.zst"])
def test_json_lines_plain_and_packed(tmp_path, name):
    rows = "".join(json.dumps({"id": n, "text": f"störy {n}\nend"}) + "\n" for n in range(3))
    if name == "a.jsonl":
        (tmp_path / name).write_text(rows + "\n")
    else:
        packed(tmp_path / name, rows.encode())
    assert texts(tmp_path / name) == [f"störy {n}\nend" for n in range(3)]


def test_packed_text_is_text(tmp_path):
    packed(tmp_path / "a.txt.zst", "漢字\n".encode())
    assert texts(tmp_path / "a.txt.zst") == ["漢字\n"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "good"', r"a\.jsonl:2: Expecting"),
        ('{"body": "x", "id": 1}', r"a\.jsonl:2: no text in column 'text'; columns are body, id"),
        ('{"text": 3}', r"a\.jsonl:2: no text in column 'text'"),
        ("[1]", r"a\.jsonl:2: a row must be an object, got \[1\]"),
    ],
)
def test_a_wrong_json_line_is_named(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n' + line + "\n")
    with pytest.raises(CorpusError, match=message):
        texts(tmp_path / "a.jsonl")


def test_parquet_with_a_column_of_text(tmp_path):
    frame = pd.DataFrame({"content": ["one", None, "", "two"], "id": range(4)})
    frame.to_parquet(tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", text_column="content") == ["one", "two"]
    with pytest.raises(CorpusError, match="no column 'text'; columns are content, id"):
        texts(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("damage", [lambda whole: whole[:-20], lambda whole: b"no " + whole])
def test_damaged_packed_files_are_named(tmp_path, name, damage):
    packed(tmp_path / name, b'{"text": "long enough to be cut"}\n' * 10_000)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(CorpusError, match=rf"{name}: cannot be read to its end"):
        texts(tmp_path / name)


def test_damaged_parquet_is_named(tmp_path):
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(CorpusError, match=r"b\.parquet: no Parquet"):
        texts(tmp_path / "b.parquet")


def test_lone_surrogates_are_replaced():
    assert document("a\ud800b\udc00") == type(document(""))("a\ufffdb\ufffd", repaired=True)
    assert not document("a\ufffdb").repaired


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("python-stlib", "Did you mean 'python-stdlib'"),
        ("no/such/file.txt", "no such file, folder or pattern.*Known by name: python-stdlib"),
        ("no/such/*.txt", "no such file, folder or pattern"),
    ],
)
def test_an_unknown_source_is_told_what_there_is(name, message):
    with pytest.raises(CorpusError, match=message):
        sources.find(name)


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(CorpusError, match=r"a folder without files. Put text into it"):
        sources.find(str(tmp_path))


def test_binary_files_are_told(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\0" * 10)
    with pytest.raises(CorpusError, match=r"a binary file. Give text"):
        sources.find(str(tmp_path / "a.bin"))
    with pytest.raises(CorpusError, match="all 1 files are binary"):
        sources.find(str(tmp_path))


def stub_datasets(monkeypatch, load_dataset):
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))


def test_a_public_set_is_streamed(tmp_path, monkeypatch):
    asked = []

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        return ({"text": f"story number {number}", "meta": {}} for number in range(10**9))

    stub_datasets(monkeypatch, load_dataset)
    corpus = prepare("fineweb-edu", tmp_path, max_bytes=50_000)
    how = {"split": "train", "streaming": True, "revision": None}
    assert asked == [(("HuggingFaceFW/fineweb-edu", "sample-10BT"), how)]
    assert corpus.train.bytes + corpus.held_out.bytes < 50_030


def test_a_public_set_without_the_package_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match=r"tinystories: .* pip install 'isoflop\[data\]'"):
        texts("tinystories")


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach\n the hub"),  # what `datasets` 5.2 raises without a network
        RuntimeError("Dataset scripts are no longer supported"),
        KeyError("text"),
    ],
)
def test_a_public_set_that_cannot_be_read_is_told(monkeypatch, error):
    def load_dataset(*arguments, **options):
        yield {"text": "one"}
        raise error

    stub_datasets(monkeypatch, load_dataset)
    with pytest.raises(CorpusError, match="Skylion007/openwebtext cannot be read") as caught:
        texts("openwebtext")
    assert len(str(caught.value).splitlines()) == 1


def test_the_four_public_sets_are_known():
    assert set(PUBLIC) == {"tinystories", "openwebtext", "fineweb-edu", "slimpajama"}
    assert len({source.repository for source in PUBLIC.values()}) == 4


DOCUMENTS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from([5, 400, 2_000, 12_000])), max_size=4
)


@given(before=DOCUMENTS, more=DOCUMENTS, after=DOCUMENTS)
@settings(max_examples=30)
def test_a_growing_file_moves_no_document(tmp_path_factory, before, more, after):
    """Documents from a line to 200 KB, in one file between end-of-text lines: those that were there
    are cut as they were, wherever others are put."""
    folder = tmp_path_factory.mktemp("grow")

    def pieces(rows):
        whole = ["".join(f"{name}, line {n}\n" for n in range(lines)) for name, lines in rows]
        (folder / "a.txt").write_text("<|endoftext|>\n".join(whole))
        return set(texts(folder / "a.txt"))

    assert pieces([*before, *after]) <= pieces([*before, *more, *after])
