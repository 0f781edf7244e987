"""What a sweep and a single training say of corpora that are broken, empty or too short."""

import json

import pytest
from typer.testing import CliRunner

from data.errors import CorpusError
from tuner import sweep as sweeps
from tuner.cli import app
from tuner.config import parse
from tuner.errors import ConfigError

TRAIN = ("--size", "1x8", "--budget", "1e7", "--learning-rate", "0.02")


def isoflop(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def sweep(source, **data):
    return {
        "name": "s", "budgets": [1e9], "shapes": {"ladder": [[1, 8], [1, 16], [1, 24]]},
        "data": {"source": str(source), "held_out_tokens": 4096, **data},
    }  # fmt: skip


def train(tmp_path, source, *settings):
    file = tmp_path / "s.toml"
    file.write_text(f'name = "s"\nbudgets = [1e7]\n[data]\nsource = "{source}"\n')
    return isoflop("train", file, *TRAIN, *settings, "--dir", tmp_path / "m", "--json")


@pytest.fixture
def broken(text, tmp_path):
    """Text of which one file in two holds bytes that are not UTF-8."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for number, file in enumerate(sorted(text.iterdir())):
        content = file.read_bytes()
        (folder / file.name).write_bytes(content + b"\xff\xfe caf\xe9\n" * (number % 2))
    return folder


def test_broken_utf8_trains_and_is_told(broken, tmp_path):
    prepared = json.loads(isoflop("data", "prepare", broken, "--dir", tmp_path, "--json").stdout)
    assert prepared["notes"] == [
        "100 documents held bytes that are zero or not UTF-8; each became U+FFFD."
    ]
    assert json.loads(train(tmp_path, broken).stdout)["loss"] > 0


def test_an_empty_folder_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    error = train(tmp_path, tmp_path / "empty").exception
    assert isinstance(error, CorpusError)
    assert "a folder without files" in str(error)


def test_a_corpus_shorter_than_one_batch_is_told(text, tmp_path):
    """By a training, and by a sweep before Ray starts and before anything is settled."""
    batch = "training.batch_size=100000"
    error = train(tmp_path, text, "-s", batch, "--budget", "1e12").exception
    assert isinstance(error, CorpusError)
    assert "a batch takes 100000. Use more text" in str(error)
    short = sweep(text, allow_repeats=True) | {"budgets": [1e13]}
    short = parse(short | {"training": {"batch_size": 100_000}}, place="")
    folder = tmp_path / "sweep"
    with pytest.raises(CorpusError, match="a batch takes 100000"):
        sweeps.run(short, folder)
    sweeps.write(parse(sweep(text), place=""), folder)  # mended, it may begin in the same folder


def test_held_out_text_of_one_document_is_told(tmp_path):
    source = tmp_path / "text"
    source.mkdir()
    for number in range(12):
        (source / f"{number}.txt").write_text(f"{number} " * 2000)
    for share in (0.05, 0.1, 0.15, 0.2):
        error = train(tmp_path, source, "-s", f"data.held_out_share={share}").exception
        if "all of one document" in str(error):
            break
    assert isinstance(error, CorpusError)
    assert "larger held_out_share" in str(error)


def test_a_budget_that_asks_for_more_than_there_is_is_refused_by_a_sweep(text, tmp_path):
    greedy = sweep(text, max_bytes=40_000, held_out_share=0.2) | {"budgets": [1e10]}
    with pytest.raises(
        ConfigError, match=r"budget 1e\+10: .* tokens, .* data.allow_repeats = true"
    ):
        sweeps.run(parse(greedy, place=""), tmp_path / "sweep")
