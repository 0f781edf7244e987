"""The assignment from end to end: both problems, two stages, the prediction and the write-up."""

import re
import shutil

import pytest
from serving import KEY, serving
from typer.testing import CliRunner

from tuner import answer, plan, simulate
from tuner.cli import app
from tuner.config import load
from tuner.export import export
from tuner.ledger import Ledger
from tuner.provenance import Provenance


def test_a_write_up_is_for_the_budget_that_its_sweep_is_for(root, tmp_path, monkeypatch):
    wanted = []
    monkeypatch.setattr(answer, "read", lambda *_: None)
    monkeypatch.setattr(answer.writeup, "write", lambda *_, target, **__: wanted.append(target))
    for name, budget in (("course_api", None), ("course_api_cpu", None), ("course_api_cpu", 1e13)):
        shutil.copy(root / "tuner" / "sweeps" / f"{name}.toml", tmp_path / "sweep.toml")
        answer.write_up(None, tmp_path, tmp_path, budget)
    answer.write_up(None, tmp_path / "trials.csv", tmp_path, None)
    assert wanted == [1e19, 1e12, 1e13, 1e19]


@pytest.mark.slow
def test_a_student_walks_through_it_on_a_law(root, tmp_path):
    (tmp_path / "api_key.txt").write_text(KEY)
    folder = tmp_path / "sweep"
    with serving(tmp_path / "service") as (url, state):
        sweep = load(
            root / "tuner" / "sweeps" / "course_api.toml",
            [f'api.base_url="{url}"', f'api.key_file="{tmp_path / "api_key.txt"}"'],
        )
        simulate.simulate(sweep, folder)
        service = state.ledger()
        charged, refused = service.keys()[0].charged, service.everybodys("refused", "failed")
        service.close()
    assert sweep.cap.flops * 0.8 < charged <= 2e18
    assert not refused
    ledger = Ledger(folder / "ledger.db")
    assert set(ledger.counts()) == {"completed"}
    asked = {(q.budget, q.size, q.learning_rate) for q in (r.question for r in ledger.records())}
    assert sum(int(budget) for budget, _, _ in asked) == charged  # what is repeated is free
    found = Provenance(
        commit="c", torch="", corpus="", tokenizer="", vocab_size=plan.vocabulary(sweep),
        train_tokens=0, bytes_per_token=0.0,
    )  # fmt: skip
    export(folder, sweep, ledger, found)
    ledger.close()

    curves = root / "data" / "isoflops_curves.json"
    command = ["writeup", folder / "trials.csv", "--curves", curves, "-o", tmp_path / "writeup"]
    CliRunner().invoke(app, list(map(str, command)), catch_exceptions=False)
    text = (tmp_path / "writeup" / "writeup.md").read_text()
    for wanted in ("## Problem 1", "| 1e23 |", "| 1e24 |", "**Stage one**", "**Stage two**"):
        assert wanted in text
    # The service's law: L = 1.69 + 406.4 / N^.34 + 410.7 / D^.28, cheapest where its terms balance.
    truth = (0.34 * 406.4 / (0.28 * 410.7) * (1e19 / 6) ** 0.28) ** (1 / 0.62)
    (size,) = re.findall(r"^\| size N \| (\d+)M \|", text, re.M)
    assert 1 / 1.5 < float(size) * 1e6 / truth < 1.5
    row = dict(re.findall(r"^\| (\w+) \| ([\d.e-]+) \|", text, re.M))
    assert 2 <= int(row["num_layers"]) <= 24
    assert 1e-4 <= float(row["learning_rate"]) <= 1e-3
    assert int(row["d_model"]) % int(row["num_heads"]) == 0
    assert row["batch_size"] == "128"
    figures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(figures) == 14
    assert all(caption for caption in re.findall(r"!\[(.*?)\]", text))
    assert all((tmp_path / "writeup" / figure).stat().st_size > 1000 for figure in figures)
    assert "nan" not in text.lower()
