"""Answers from recorded runs: which run, how far away, and what is refused."""

import json
import math

import pandas as pd
import pytest

from analysis.runs import RunTableError
from tuner import plan, recording, simulate, space
from tuner.config import parse
from tuner.errors import ConfigError
from tuner.ledger import Ledger
from tuner.question import Question
from tuner.recording import NothingNearError
from tuner.slot import Slot

SIZES = {(1, 16): 8_000, (1, 32): 20_000, (2, 32): 33_000}
RATES = (0.01, 0.04)


def rows():
    """Two budgets, three sizes, two rates, two seeds, in somebody else's words."""
    return [
        {
            "run": f"{budget:g}-{params}-{rate}-{seed}", "C": budget, "N": params,
            "D": budget / 6 / params, "final": 3 - budget / 1e12 + params / 1e5 + rate + seed / 1e3,
            "eta": rate, "seed": seed, "num_layers": layers, "d_model": width,
        }
        for budget in (1e11, 3e11)
        for (layers, width), params in SIZES.items()
        for rate in RATES
        for seed in (0, 1)
    ]  # fmt: skip


def curves(table):
    """Half a nat more at a quarter of each run, a quarter more in the middle."""
    return [
        {"run": row["run"], "tokens": share * row["D"], "final": row["final"] + above}
        for row in table
        for share, above in ((0.25, 0.5), (0.5, 0.25), (1.0, 0.0))
    ]


@pytest.fixture
def record(tmp_path):
    """A function from settings to a sweep that replays the table."""
    table = rows()
    pd.DataFrame(table).to_csv(tmp_path / "table.csv", index=False)
    pd.DataFrame(curves(table)).to_csv(tmp_path / "curves.csv", index=False)

    def make(**settings):
        section = {
            "table": str(tmp_path / "table.csv"),
            "curves": str(tmp_path / "curves.csv"),
            "columns": ["final=loss", "eta=learning_rate", "run=trial"],
            **settings.pop("replay", {}),
        }
        return parse(
            {
                "name": "replayed", "backend": "replay", "budgets": [1e11, 3e11],
                "search": {"trials": 2, "learning_rate": [8e-3, 5e-2], "extend": False},
                "replay": section, **settings,
            },
            place="replayed",
        )  # fmt: skip

    return make


def test_the_run_asked_for_answers_exactly(record):
    found = recording.of(record())
    answer = found.nearest(3e11, 20_000, 0.04, 1)
    assert answer.told == "3e+11-20000-0.04-1"
    assert answer.loss(1.0) == 3 - 0.3 + 0.2 + 0.04 + 0.001
    assert answer.loss(0.25) == answer.loss(1.0) + 0.5
    assert answer.loss(0.75) == pytest.approx(answer.loss(1.0) + 0.125)
    assert answer.loss(0.1) == answer.loss(0.25)


def test_nearest_is_nearest_in_log_space(record):
    found = recording.of(record())
    assert found.nearest(1.6e11, 26_000, 0.019, 0).told == "1e+11-33000-0.01-0"
    assert found.nearest(1.9e11, 25_000, 0.021, 1).told == "3e+11-20000-0.04-1"


def test_a_seed_that_was_not_recorded_gets_the_first_that_was(record):
    assert recording.of(record()).nearest(1e11, 8_000, 0.01, 7).told == "1e+11-8000-0.01-0"


def test_between_two_rates_it_interpolates_in_log_space(record):
    found = recording.of(record(replay={"match": "interpolated"}))
    answer = found.interpolated(1e11, 8_000, 0.02, 1)
    assert answer.told == "1e+11-8000-0.01-1 and 1e+11-8000-0.04-1"
    assert answer.loss(1.0) == pytest.approx(3 - 0.1 + 0.08 + 0.025 + 0.001)
    far = recording.of(record(replay={"match": "interpolated", "within": 1.1}))
    assert far.interpolated(1e11, 8_000, 0.02, 1).told == answer.told
    with pytest.raises(NothingNearError):
        far.interpolated(2e11, 8_000, 0.02, 1)
    with pytest.raises(NothingNearError):
        far.interpolated(1e11, 8_000, 0.06, 1)
    assert found.interpolated(1e11, 8_000, 0.01, 1).told == "1e+11-8000-0.01-1"
    assert found.interpolated(1e11, 8_000, 0.06, 1).told == "1e+11-8000-0.04-1"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((1e13, 8_000, 0.01), "budget 1e+13"),
        ((1e11, 300, 0.01), "N 300"),
        ((1e11, 8_000, 0.5), "learning rate 0.5"),
    ],
)
def test_too_far_is_refused_with_the_nearest_named(record, asked, said):
    found = recording.of(record())
    with pytest.raises(NothingNearError, match="nothing recorded within a factor of 2") as caught:
        found.nearest(*asked, 0)
    assert said in str(caught.value)
    assert "nearest is " in str(caught.value)


def test_the_ladder_is_the_record_s(record):
    sweep = record()
    assert space.ladder(sweep, 256) == tuple(SIZES)
    assert [b.shapes for b in plan.plan(sweep).budgets] == [tuple(SIZES)] * 2


def test_a_whole_sweep_is_answered_and_each_row_says_by_what(record, tmp_path):
    sweep = record(search={"trials": 2, "sampler": "grid", "learning_rate": [7e-3, 5.7e-2],
                           "extend": False, "warm_start": False})  # fmt: skip
    simulate.simulate(sweep, tmp_path / "sweep", slots=2)
    ledger = Ledger(tmp_path / "sweep" / "ledger.db")
    records = ledger.records()
    assert len(records) == 12
    assert {r.status for r in records} <= {"completed", "pruned"}
    by_run = {row["run"]: row["final"] for row in rows()}
    for done in ledger.records("completed"):
        run = done.device["device"].removeprefix("replay of ")
        assert ledger.last(done.key).loss == by_run[run]
    ledger.close()


def test_what_is_not_on_record_fails_and_says_so(record, tmp_path):
    sweep = record(
        search={"trials": 1, "learning_rate": [1.0, 4.0], "extend": False},
    )
    simulate.simulate(sweep, tmp_path / "sweep")
    ledger = Ledger(tmp_path / "sweep" / "ledger.db")
    records = ledger.records()
    ledger.close()
    assert {r.status for r in records} == {"failed"}
    assert {r.attempts for r in records} == {1}  # a second look would find no more
    assert all("nothing recorded within a factor of 2" in r.reason for r in records)


def test_a_budget_without_any_size_on_record_is_refused_at_once(record):
    with pytest.raises(ConfigError, match=r"budget 1e\+14: .* holds no size within a factor of 2; "
                       r"drop the budget, or widen replay.within or shapes.ladder"):  # fmt: skip
        plan.plan(record(budgets=[1e11, 1e14]))


def test_without_curves_nothing_is_said_of_the_middle(record):
    with pytest.raises(ConfigError, match=r"has no curves.*pruning.rungs = \[\]"):
        plan.plan(record(replay={"curves": ""}))
    assert plan.plan(record(replay={"curves": ""}, pruning={"rungs": []})).trials == 12


def test_without_rates_only_one_can_be_tried(record, tmp_path):
    table = pd.DataFrame(rows()).drop(columns="eta").drop_duplicates("N")
    table.to_csv(tmp_path / "table.csv", index=False)
    section = {"columns": ["final=loss", "run=trial"]}
    with pytest.raises(ConfigError, match="names no learning rates; set 1"):
        plan.plan(record(replay=section))
    found = recording.of(record(replay=section, search={"trials": 1}))
    assert found.nearest(1e11, 8_000, 123.0, 0).told == "1e+11-8000-0.01-0"


def test_curves_that_cannot_be_read_are_refused(record, tmp_path):
    pd.DataFrame({"trial": ["a"], "time": [1]}).to_csv(tmp_path / "wrong.csv", index=False)
    with pytest.raises(RunTableError) as caught:
        recording.of(record(replay={"curves": str(tmp_path / "wrong.csv")}))
    assert len(caught.value.faults) == 2
    with pytest.raises(RunTableError, match="no such file"):
        recording.of(record(replay={"table": str(tmp_path / "absent.csv")}))


def test_rows_depend_on_what_the_table_holds(record, tmp_path):
    question = Question(budget=1e11, size=(1, 16), learning_rate=0.01, number=0, seed=0)
    sweep = record()
    before = space.config_hash(sweep, space.trial(sweep, question, 256), {}, Slot())
    text = (tmp_path / "table.csv").read_text()
    (tmp_path / "other.csv").write_text(text.replace("0.04", "0.05"))
    other = record(replay={"table": str(tmp_path / "other.csv")})
    assert space.config_hash(other, space.trial(other, question, 256), {}, Slot()) != before


def test_published_profiles_replay(root, tmp_path):
    path = root.parent / "shared" / "published" / "isoflops_curves.json"
    if not path.exists():
        pytest.skip("the published tables are not beside this checkout")
    published = json.loads(path.read_text())
    sweep = parse(
        {
            "name": "published", "backend": "replay", "budgets": [6e18, 1e19],
            "data": {"tokenizer": "bpe:32000"},
            "shapes": {"head_size": 64, "context_length": 512, "per_budget": 5},
            "training": {"batch_size": 128}, "pruning": {"rungs": []},
            "search": {"trials": 1, "extend": False}, "replay": {"table": str(path)},
        },
        place="published",
    )  # fmt: skip
    simulate.simulate(sweep, tmp_path / "sweep")
    ledger = Ledger(tmp_path / "sweep" / "ledger.db")
    records = ledger.records("completed")
    assert len(records) == 10
    losses = {(row["compute_budget"], row["final_loss"]) for row in published}
    for done in records:
        assert (done.question.budget, ledger.last(done.key).loss) in losses
        trial = space.trial(sweep, done.question, 32_000)
        run = int(done.device["device"].removeprefix("replay of row "))
        off = trial.shape.params_non_embedding / published[run - 1]["parameters"]
        assert abs(math.log(off)) <= math.log(2)
    ledger.close()
