"""The predicted optimum, trained beyond the runs, is held against what was predicted of it."""

import json

import pytest
from driving import provenance
from small import SMALL
from typer.testing import CliRunner

from analysis.confirm import Confirmation
from tuner import confirm, simulate, space
from tuner import provenance as provenances
from tuner import sweep as sweeps
from tuner.cli import app
from tuner.errors import ConfigError
from tuner.export import export
from tuner.ledger import Ledger

LAW = {"noise": 0.0, "relative_noise": 0.002}


def finish(sweep, folder):
    """A sweep in simulated time, with all that a real one leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    sweeps.write(sweep, folder)
    simulate.simulate(sweep, folder)
    ledger = Ledger(folder / "ledger.db")
    export(folder, sweep, ledger, provenances.settle(ledger, provenance(sweep)))
    ledger.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep on a law, finished; nobody writes to it."""
    from tuner.config import parse

    sweep = parse(
        {**SMALL, "budgets": [1e14, 1e15, 1e16], "law": LAW,
         "search": {"trials": 4, "learning_rate": [5e-3, 8e-2]}},
        place="small.toml",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("confirm") / "small"
    finish(sweep, folder)
    return folder


def test_one_trial_is_prepared_beyond_the_runs(finished):
    asked = confirm.prepare(finished, None)
    assert asked.sweep.budgets == (3e16,)
    (cell,) = space.cells(asked.sweep, 3e16, space.window(asked.sweep, 3e16, 256))
    found = simulate.in_memory(asked.sweep)
    (key,) = list(found)
    trial = found.engine.trial(found.engine.ledger.record(key))
    assert cell.key == key
    low, high = asked.sweep.search.learning_rate
    assert trial.question.learning_rate == pytest.approx((low * high) ** 0.5)
    assert 0.5 * 3e16 < trial.flops <= 3e16
    again = confirm.prepare(finished, None)
    assert again.sweep == asked.sweep  # an interrupted confirmation goes on


def test_what_was_measured_is_not_confirmed(finished):
    with pytest.raises(ConfigError, match="not beyond the largest measured"):
        confirm.prepare(finished, 1e16)


@pytest.mark.parametrize(("worse", "word"), [(0.0, "inside"), (0.5, "above")])
def test_the_command_says_whether_the_prediction_stands(finished, monkeypatch, worse, word):
    def run(sweep, folder, *, address=None):
        law = sweep.law.model_copy(update={"E": sweep.law.E + worse})
        finish(sweep.model_copy(update={"law": law}), folder)

    monkeypatch.setattr(sweeps, "run", run)
    budget = "3e16" if not worse else "2.5e16"
    result = CliRunner().invoke(
        app, ["confirm", str(finished), "--budget", budget, "--yes", "--json"],
        catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = Confirmation.from_dict(json.loads((finished / "confirm.json").read_text()))
    assert found.inside == (not worse)
    assert word in found.verdict
    assert found.measured == pytest.approx(found.predicted.value + worse, rel=0.02)
    page = (finished / "report.md").read_text()
    assert ("Confirmed beyond the runs" in page) == (not worse)
    assert ("Not confirmed beyond the runs" in page) == bool(worse)
