"""The ready sweeps: each loads, is planned without refusal, and costs what its comment says."""

import re

import pytest

from tuner import plan, refusals, simulate
from tuner.config import load
from tuner.ledger import Ledger

GRIDS = {"grid3": 9, "grid3_cpu": 9, "grid5": 75, "grid5_cpu": 75}
COSTED = (*GRIDS, "gpu", "course", "paper")


def file(root, name):
    return root / "tuner" / "sweeps" / f"{name}.toml"


def test_every_ready_sweep_is_planned_and_told_of(root):
    readme = (root / "tuner" / "sweeps" / "README.md").read_text()
    files = sorted((root / "tuner" / "sweeps").glob("*.toml"))
    assert {path.stem for path in files} >= {*COSTED, "demo", "law", "smoke"}
    for path in files:
        sweep = load(path)
        counted = plan.plan(sweep)
        assert counted.trials > 0
        refusals.check(sweep, counted)
        assert path.read_text().startswith("# ")
        assert f"`{path.name}`" in readme


@pytest.mark.parametrize("name", COSTED)
def test_it_costs_what_its_comment_says(root, name):
    sweep = load(file(root, name))
    counted = plan.plan(sweep)
    told = re.search(r"^# (?:At most )?([\d.]+e\d+) FLOP", file(root, name).read_text(), re.M)
    assert float(told[1]) == pytest.approx(sweep.cap.flops or counted.flops, rel=0.02)
    # Small models may read a corpus that loads in reasonable time about twice.
    # What this machine lacks is not the sweep's.
    warnings = [w for w in counted.warnings if not w.startswith("data.source: ")]
    repeats = [float(re.search("about (.*) times all", w)[1]) for w in warnings]
    assert all(times < 2.5 for times in repeats)


@pytest.mark.parametrize(("name", "trials"), GRIDS.items())
def test_the_grids_are_the_assignment_s(root, name, trials):
    sweep = load(file(root, name))
    assert sweep.design == "grid"
    assert len(sweep.shapes.ladder) * len(sweep.grid.tokens) * sweep.search.seeds == trials
    assert plan.plan(sweep).trials == trials
    assert plan.plan(sweep).flops_6nd < plan.plan(sweep).flops_exact


@pytest.mark.parametrize("name", ["gpu", "course", "paper"])
def test_profiles_lie_around_twenty_tokens_a_weight(root, name):
    sweep = load(file(root, name))
    for budget in plan.plan(sweep).budgets:
        assert len(budget.shapes) >= 6
        ratios = (budget.tokens[0] / budget.params[1], budget.tokens[1] / budget.params[0])
        assert ratios[0] < 20 / 3
        assert ratios[1] > 20 * 3


def test_the_course_stays_below_its_cap_and_answers_for_1e19(root):
    sweep = load(file(root, "course"))
    assert sweep.target_budget == 1e19
    assert plan.plan(sweep).flops < plan.plan(sweep).cap == 2e18
    low, high = sweep.shapes.ladder[0], sweep.shapes.ladder[-1]
    assert 2 <= low[0] < high[0] <= 24
    assert 64 <= low[1] < high[1] <= 1024


@pytest.mark.parametrize("name", ["course", "grid3"])
def test_on_a_law_it_runs_to_its_end_within_the_cap(root, name, tmp_path):
    sweep = load(file(root, name), ["backend=law", "law.learning_rate=1e-3"])
    simulate.simulate(sweep, tmp_path, slots=4)
    ledger = Ledger(tmp_path / "ledger.db")
    counts, spent = ledger.counts(), ledger.committed()
    ledger.close()
    assert set(counts) <= {"completed", "pruned"}
    assert sum(counts.values()) >= plan.plan(sweep).trials
    assert spent <= plan.plan(sweep).cap
