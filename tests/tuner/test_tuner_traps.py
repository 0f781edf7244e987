"""The traps of Ray Tune and Optuna: for each the tests that hold it shut, and those found nowhere
else.

    A1 state of ASHA is not in Ray's snapshots      O1 pruned trials told COMPLETE
    A2 rungs cut short by rounding                  O2 a report without the metric ends the sweep
    A3 reports that jump over a rung                O3 studies share a default name
    A4 NaN never stops                              O4 a restart forgets what was enqueued
    A5 the first at a rung always goes on           F1 snapshots are seconds apart
    A6 pruned looks like finished to Ray            F2 a restored Tuner changes nothing
    A7 the last step misses max_t                   F3 replayed reports count twice
    A8 losses in mid-schedule favor small rates     F4 spot kills use up max_failures
                                                    F5 fractional GPUs share their memory
    D1 a Ray of somebody else's is joined           F6 Tune has no cap on FLOPs
    D2 the TensorBoard folder that Ray prints
    D3 a Ray without RAY_AUTH_MODE lets everyone in
    P1 cores of a stopped trial on several devices stay taken
"""

import ast
from types import SimpleNamespace

import pytest
from driving import drive, engine_in, start
from typer.testing import CliRunner

from tuner import plan, space
from tuner.config import parse
from tuner.driver import Driver
from tuner.ledger import ENDED
from tuner.question import Question
from tuner.slot import Slot

HELD = {
    "A1": ["test_after_a_restart_a_rung_still_holds_its_losses"],
    "A2": ["test_every_rung_that_is_written_is_reported_at_every_budget"],
    "A3": ["test_reports_fall_at_the_same_shares_for_every_shape"],
    "A4": ["test_a_diverged_trial_fails_with_its_place", "test_losses_are_finite_and_fall"],
    "A5": [
        "test_nothing_is_cut_below_the_minimum_population",
        "test_an_improving_search_keeps_everything",
    ],
    "A6": ["test_the_table_and_optuna_say_what_ray_s_own_results_say"],
    "A7": ["test_a_trial_spends_its_budget_to_within_one_step"],
    "A8": [
        "test_groups_are_not_compared",
        "test_in_the_middle_of_a_run_small_rates_may_look_better",
    ],
    "O1": ["test_optuna_hears_the_truth"],
    "O2": ["test_the_searcher_needs_no_metric_from_a_trial_that_broke"],
    "O3": ["test_each_budget_has_a_study_of_its_own_name"],
    "O4": ["test_a_kill_between_optuna_and_the_ledger_leaves_no_ghost"],
    "F1": ["test_killed_and_resumed_the_table_is_the_same"],
    "F2": ["test_a_larger_cap_buys_more_trials_at_the_next_start"],
    "F3": [
        "test_a_report_told_twice_is_paid_once",
        "test_work_repeated_without_its_checkpoint_is_charged",
    ],
    "F4": ["test_interruptions_of_the_sweep_are_no_deaths_of_a_trial"],
    "F5": ["test_so_many_may_share_as_hold_their_whole_batches_beside_a_context_each"],
    "F6": ["test_a_cap_that_runs_out_in_the_middle_is_kept_to_the_flop"],
    "D1": ["test_somebody_else_s_ray_is_joined_only_when_asked"],
    "D2": ["test_the_folder_that_is_printed_is_the_one_that_is_written"],
    "D3": ["test_nothing_ray_misses", "test_a_broken_file_passes_ray_and_not_this"],
    "P1": [
        "test_what_an_actor_reserved_is_free_again_once_it_is_dead",
        "test_what_they_do_not_finish_is_pruned_and_the_cores_are_free_again",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def tests(root):
    """Names of all test functions."""
    trees = (ast.parse(path.read_text()) for path in (root / "tests").rglob("test_*.py"))
    return {
        node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("trap", HELD)
def test_every_trap_is_held_shut(tests, trap):
    assert trap in __doc__
    assert set(HELD[trap]) <= tests


def test_after_a_restart_a_rung_still_holds_its_losses(small, tmp_path):
    sweep = small(budgets=[1e13], shapes={"per_budget": 3}, search={"trials": 4})
    engine = engine_in(sweep, tmp_path)
    while (engine.ledger.counts().get("completed", 0)) < 3:
        trial = engine.ask()
        for progress in start(engine, trial, tmp_path):
            if not engine.report(trial.key, progress, {}):
                break
    again = engine_in(sweep, tmp_path)
    assert engine.asha._losses
    for rung, losses in engine.asha._losses.items():
        assert again.asha._losses[rung] == losses


@pytest.mark.parametrize("rungs", [[0.001, 0.01, 0.1], [1 / 81, 1 / 27, 1 / 9, 1 / 3]])
def test_every_rung_that_is_written_is_reported_at_every_budget(rungs):
    budgets = [1e12, 1e13, 1e14, 1e15]
    sweep = parse(
        {"name": "x", "backend": "law", "budgets": budgets, "pruning": {"rungs": rungs}}, place="x"
    )
    for budget in budgets:
        question = Question(budget=budget, size=(1, 16), learning_rate=1.0, number=0, seed=0)
        trial = space.trial(sweep, question, 256)
        assert [round(share * trial.steps) for share in (*rungs, 1)] == list(trial.report_steps)


@pytest.mark.parametrize("result", [None, {}, {"loss": float("nan")}])
def test_the_searcher_needs_no_metric_from_a_trial_that_broke(small, tmp_path, result):
    driver = Driver(engine_in(small(), tmp_path), SimpleNamespace(slot=Slot()))
    config = driver.searcher.suggest("ray's name")
    driver.searcher.on_trial_complete("ray's name", result, error=True)
    assert driver.engine.ledger.record(config["key"]).status == "running"  # the callback decides


def test_each_budget_has_a_study_of_its_own_name(small, tmp_path):
    import optuna

    sweep = small()
    engine_in(sweep, tmp_path)
    names = optuna.get_all_study_names(f"sqlite:///{tmp_path / 'study.db'}")
    assert sorted(names) == [f"{sweep.name} {budget:g}" for budget in sweep.budgets]


def test_a_larger_cap_buys_more_trials_at_the_next_start(small, tmp_path):
    import random

    from tuner.sweep import write

    poor, rich = (small(cap={"flops": flops}, search={"extend": False}) for flops in (5e13, 1e17))
    write(poor, tmp_path)
    engine = engine_in(poor, tmp_path)
    drive(engine, tmp_path, random.Random(0))
    few = len(engine.ledger.records(*ENDED))
    write(rich, tmp_path)  # refused for any other change
    again = engine_in(rich, tmp_path)
    drive(again, tmp_path, random.Random(0))
    assert few < len(again.ledger.records(*ENDED)) == plan.plan(rich).trials


def test_the_folder_that_is_printed_is_the_one_that_is_written(small, tmp_path, monkeypatch):
    import tomli_w

    from tuner import sweep as sweeps
    from tuner.cli import app
    from tuner.tensorboard import TensorBoard

    written = {}

    def run(sweep, folder, **options):
        engine = engine_in(sweep, folder)
        board = TensorBoard(engine, folder / sweeps.TENSORBOARD)
        board.on_experiment_end([])
        written["folder"] = board.folder
        raise sweeps.InterruptedSweepError

    monkeypatch.setattr(sweeps, "run", run)
    file = tmp_path / "s.toml"
    file.write_text(tomli_w.dumps(small().model_dump(mode="json", exclude_none=True)))
    told = CliRunner().invoke(app, ["run", str(file), "--yes", "--dir", str(tmp_path / "sweep")])
    (line,) = [line for line in told.output.splitlines() if "tensorboard --logdir" in line]
    assert line.split("--logdir ")[1] == str(written["folder"])
    assert list(written["folder"].glob("events*"))
