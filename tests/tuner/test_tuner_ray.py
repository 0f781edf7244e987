"""Real Ray on this machine: the table it leaves, and what a death does to it."""

import json
import os
import signal
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import optuna
import pandas as pd
import pytest
import tomli_w
from running import Running

from analysis import runs
from tuner import plan, simulate, slot, space, status
from tuner.attempt import attempt
from tuner.backends import contract
from tuner.backends.contract import Job
from tuner.driver import _Scheduler
from tuner.export import export
from tuner.status import open_folder
from tuner.storage import Place

pytestmark = pytest.mark.ray


def table(folder: Path) -> pd.DataFrame:
    """The run table without what no configuration decides, nor the commit, which may move."""
    found = pd.read_parquet(folder / "trials.parquet")
    return found.drop(columns=[*runs.VOLATILE, "commit"])


def write(sweep, path: Path) -> Path:
    path.write_text(tomli_w.dumps(sweep.model_dump(mode="json", exclude_none=True)))
    return path


@pytest.fixture(scope="module")
def trained(local_ray, text, tmp_path_factory):
    """The folder of a sweep of real training, and the sweep."""
    from tuner import sweep as sweeps
    from tuner.config import parse

    folder = tmp_path_factory.mktemp("sweeps") / "real"
    sweep = parse(
        {
            "name": "real",
            "budgets": [3e8, 1e9],
            "data": {"source": str(text), "held_out_tokens": 4096},
            "shapes": {"ladder": [[1, 8], [1, 16], [1, 24]]},
            "search": {"trials": 2, "extend": False},
        },
        place="real",
    )
    sweeps.run(sweep, folder)
    return sweep, folder


def test_a_real_sweep_leaves_a_valid_table(trained):
    sweep, folder = trained
    found = pd.read_parquet(folder / "trials.parquet")
    assert [column.name for column in runs.COLUMNS] == list(found.columns)
    assert len(found) == plan.plan(sweep).trials == 12
    done = found[found["status"] == "completed"]
    assert set(zip(done["budget"], done["d_model"], strict=True)) == {
        (budget, width) for budget in sweep.budgets for width in (8, 16, 24)
    }
    step = done["batch_size"] * done["context_length"] * done["flops_per_token"]
    assert ((done["budget"] - step < done["flops"]) & (done["flops"] <= done["budget"])).all()
    assert (done["flops"] == done["steps"] * step).all()
    assert done["loss"].between(0.5, 5.5).all()
    assert (done["loss_se"] > 0).all()
    assert (found["status"] == "pruned").any()
    assert found["flops_charged"].sum() <= plan.plan(sweep).cap
    text_table = pd.read_csv(folder / "trials.csv")
    assert list(text_table["trial"]) == list(found["trial"])
    assert list(text_table["loss"]) == list(found["loss"])


def test_curves_end_where_the_table_does(trained):
    _, folder = trained
    curves = pd.read_parquet(folder / "curves.parquet")
    last = curves.sort_values("step").groupby("trial").last()
    found = pd.read_parquet(folder / "trials.parquet").set_index("trial")
    assert (last["loss"] == found["loss"].loc[last.index]).all()
    assert (last["step"] == found["steps"].loc[last.index]).all()


def test_a_trial_run_again_alone_gives_the_same_bits(trained, tmp_path):
    sweep, folder = trained
    saved, ledger, provenance = open_folder(folder)
    assert saved == sweep
    (corpus,) = (path.parent for path in (folder.parent / "corpora").glob("*/meta.json"))
    job = Job(
        sweep=sweep, vocab_size=provenance.vocab_size, corpus=corpus,
        checkpoints=Place.of(tmp_path), slot=slot.read(ledger),
    )  # fmt: skip
    for record in ledger.records("completed")[:3]:
        trial = space.trial(sweep, record.question, provenance.vocab_size)
        alone = list(attempt(contract.start(job, trial), Place.of(tmp_path / "alone")))
        (tmp_path / "alone").unlink()
        losses = [(p.step, p.loss, p.loss_se, p.train_loss) for p in alone]
        told = [(p.step, p.loss, p.loss_se, p.train_loss) for p in ledger.reports(record.key)]
        assert losses == told
    ledger.close()


def test_what_a_sweep_leaves_behind(trained):
    sweep, folder = trained
    assert not list((folder / "checkpoints").iterdir())
    events = list((folder / "tensorboard").glob("*/events*"))
    assert len(events) == plan.plan(sweep).trials
    assert list((folder / "ray").glob("*/*/result.json"))
    standing = status.of_folder(folder)
    assert (standing.ended, standing.planned, standing.reserved) == (12, 12, 0)


def test_the_table_is_rebuilt_from_the_ledger(trained):
    _, folder = trained
    before = table(folder)
    for name in ("trials.parquet", "trials.csv", "curves.parquet"):
        (folder / name).unlink()
    sweep, ledger, provenance = open_folder(folder)
    export(folder, sweep, ledger, provenance)
    ledger.close()
    pd.testing.assert_frame_equal(table(folder), before)


def test_a_finished_sweep_resumes_to_nothing(trained):
    from tuner import sweep as sweeps

    sweep, folder = trained
    before = table(folder)
    sweeps.run(sweep, folder)
    pd.testing.assert_frame_equal(table(folder), before)
    assert (pd.read_parquet(folder / "trials.parquet")["attempts"] == 1).all()


def test_another_sweep_is_refused(trained, small):
    from tuner import sweep as sweeps
    from tuner.errors import ConfigError

    _, folder = trained
    with pytest.raises(ConfigError, match="holds another sweep"):
        sweeps.run(small(), folder)


def test_ray_decides_as_simulated_time_does(local_ray, settled, tmp_path):
    from tuner import sweep as sweeps

    sweep = settled()
    sweeps.run(sweep, tmp_path / "ray")
    simulate.simulate(sweep, tmp_path / "simulated", slots=2)
    _, ledger, provenance = open_folder(tmp_path / "ray")
    simulated = open_ledger(tmp_path / "simulated")
    export(tmp_path / "simulated", sweep, simulated, provenance)
    pd.testing.assert_frame_equal(table(tmp_path / "ray"), table(tmp_path / "simulated"))
    ledger.close()
    simulated.close()
    sweeps.run(sweep, tmp_path / "again")  # beside the first: every question is on record
    pd.testing.assert_frame_equal(table(tmp_path / "again"), table(tmp_path / "ray"))
    again = open_ledger(tmp_path / "again")
    assert again.charged() == 0
    assert {record.attempts for record in again.records()} == {0}
    again.close()


def open_ledger(folder):
    from tuner.ledger import Ledger

    return Ledger(folder / "ledger.db")


@pytest.fixture(scope="module")
def calm(local_ray, tmp_path_factory):
    """A settled sweep of slow law trials, undisturbed."""
    from tuner import sweep as sweeps
    from tuner.config import parse

    base = tmp_path_factory.mktemp("calm")
    sweep = parse(
        {
            "name": "slow",
            "backend": "law",
            "budgets": [1e13, 1e14],
            "shapes": {"per_budget": 3},
            "search": {
                "trials": 2, "sampler": "qmc", "warm_start": False, "extend": False,
                "learning_rate": [2e-3, 2e-1],
            },
            "pruning": {"enabled": False},
            "law": {"seconds_per_trial": 1.0},
            "cap": {"flops": 1e16},
            "resources": {"slots": 2},
        },
        place="slow",
    )  # fmt: skip
    sweeps.run(sweep, base / "calm")
    return write(sweep, base / "slow.toml"), table(base / "calm")


def test_both_slots_train_though_trials_are_shorter_than_a_worker_s_start(calm):
    file, _ = calm
    last = [reports[max(reports)] for reports in raw_results(file.parent / "calm").values()]
    trials = Counter(result["pid"] for result in last)
    assert len(trials) == 2
    assert min(trials.values()) >= 3  # of twelve


def test_a_free_worker_goes_to_the_trial_that_has_none_starting():
    scheduler = _Scheduler(None)
    first, second, third = (SimpleNamespace(status="PENDING") for _ in range(3))
    assert scheduler.choose_trial_to_run(None) is None
    for trial in (first, second):
        scheduler.on_trial_add(None, trial)
    assert scheduler.choose_trial_to_run(None) is second
    second.status = "RUNNING"  # the first's worker starts meanwhile
    assert scheduler.choose_trial_to_run(None) is first
    second.status = "TERMINATED"
    scheduler.on_trial_add(None, third)
    assert scheduler.choose_trial_to_run(None) is third


def test_killed_and_resumed_the_table_is_the_same(calm, tmp_path):
    file, undisturbed = calm
    folder = tmp_path / "killed"
    running = Running(tmp_path / "log", "run", str(file), "--yes", "--dir", str(folder))
    running.wait_for(folder, 4)
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait()
    before = open_ledger(folder)
    ended = {record.key: record for record in before.records("completed", "pruned")}
    assert before.records("running")
    before.close()

    resumed = Running(tmp_path / "log", "resume", str(folder))
    said = resumed.output()
    assert resumed.process.returncode == 0, said
    pd.testing.assert_frame_equal(table(folder), undisturbed)
    after = open_ledger(folder)
    assert {key: after.record(key) for key in ended} == ended  # none was touched, none ran again
    assert after.committed() <= 1e16
    after.close()


def test_a_killed_worker_costs_an_attempt_and_no_row(calm, tmp_path):
    file, undisturbed = calm
    folder = tmp_path / "worker"
    running = Running(tmp_path / "log", "run", str(file), "--yes", "--dir", str(folder))
    running.wait_for(folder, 3)
    time.sleep(0.5)  # between two trials an actor holds none
    victims = running.workers()
    assert victims
    os.kill(victims[0], signal.SIGKILL)
    said = running.output()
    assert running.process.returncode == 0, said
    pd.testing.assert_frame_equal(table(folder), undisturbed)
    assert (pd.read_parquet(folder / "trials.parquet")["attempts"] > 1).any()


def test_what_hangs_or_runs_out_of_memory_is_tried_again(local_ray, settled, tmp_path):
    from tuner import sweep as sweeps

    shape = {"budgets": [1e13], "shapes": {"per_budget": 3}, "search": {"trials": 2}}
    faults = {"faults": {"hangs": 0.25, "exhausts": 0.5}}
    sweep = settled(
        **shape, law=faults, cap={"flops": 1e17}, resources={"silence": 3.0, "max_attempts": 9}
    )
    sweeps.run(sweep, tmp_path / "faulty")
    simulate.simulate(settled(**shape), tmp_path / "calm")
    _, ledger, provenance = open_folder(tmp_path / "faulty")
    simulated = open_ledger(tmp_path / "calm")
    export(tmp_path / "calm", sweep, simulated, provenance)
    pd.testing.assert_frame_equal(table(tmp_path / "faulty"), table(tmp_path / "calm"))
    halved = [record for record in ledger.records() if record.micro_batch_size]
    assert halved
    assert any(record.attempts > 1 + (record in halved) for record in ledger.records())
    ledger.close()
    simulated.close()


def raw_results(folder):
    """What Ray itself wrote down of each trial: its reports by step, over all attempts."""
    found = {}
    for path in (folder / "ray").glob("*/*/result.json"):
        for line in path.read_text().splitlines():
            result = json.loads(line)
            found.setdefault(result["key"], {})[result["step"]] = result
    return found


def test_the_table_and_optuna_say_what_ray_s_own_results_say(local_ray, small, tmp_path):
    from tuner import sweep as sweeps

    sweep = small(
        budgets=[1e13], shapes={"per_budget": 4}, search={"trials": 4},
        law={"diverges": 0.2, "faults": {"raises": 0.2}},
        cap={"flops": 1e17}, resources={"max_attempts": 20},
    )  # fmt: skip
    folder = tmp_path / "sweep"
    sweeps.run(sweep, folder)
    raw = raw_results(folder)
    found = pd.read_parquet(folder / "trials.parquet").set_index("trial")
    assert set(found.index) == set(raw)
    assert set(found["status"]) == {"completed", "pruned", "failed"}
    (study,) = optuna.get_all_study_names(f"sqlite:///{folder / 'study.db'}")
    told = {
        trial.user_attrs["trial"]: trial
        for trial in optuna.load_study(
            study_name=study, storage=f"sqlite:///{folder / 'study.db'}"
        ).get_trials()
    }
    assert set(told) == set(raw)
    for key, row in found.iterrows():
        reports = [raw[key][step] for step in sorted(raw[key])]
        last, step = reports[-1], row["batch_size"] * row["context_length"] * row["flops_per_token"]
        whole = 1e13 - step < last["flops"] <= 1e13
        status = "failed" if last["diverged"] else "completed" if whole else "pruned"
        assert row["status"] == status
        assert (row["flops"], row["tokens"]) == (last["flops"], last["tokens"])
        states = {"failed": "FAIL", "completed": "COMPLETE", "pruned": "PRUNED"}
        assert told[key].state.name == states[status]
        seen = {round(1000 * r["flops"] / (1e13 // step * step)): r["loss"]
                for r in reports if not r["diverged"]}  # fmt: skip
        assert told[key].intermediate_values == seen
        if status == "failed":
            assert pd.isna(row["loss"])
            continue
        assert row["loss"] == last["loss"]
        if status == "completed":
            assert told[key].value == last["loss"]


def test_interrupted_it_says_how_to_go_on(calm, tmp_path):
    file, _ = calm
    folder = tmp_path / "interrupted"
    running = Running(tmp_path / "log", "run", str(file), "--yes", "--dir", str(folder))
    running.wait_for(folder, 2)
    running.process.send_signal(signal.SIGINT)
    said = running.output()
    assert running.process.returncode == 130, said
    assert f"isoflop resume {folder}" in said


def test_on_somebody_else_s_ray_slots_are_kept_too(local_ray, settled, tmp_path):
    from tuner import sweep as sweeps

    sweep = settled(
        budgets=[1e13], shapes={"per_budget": 3}, search={"trials": 1},
        law={"seconds_per_trial": 0.5}, resources={"slots": 1, "cpus_per_trial": 0.5},
    )  # fmt: skip
    sweeps.run(sweep, tmp_path / "sweep")  # four would fit
    _, ledger, _ = open_folder(tmp_path / "sweep")
    started = sorted(pd.Timestamp(record.started) for record in ledger.records())
    ledger.close()
    gaps = [(b - a).total_seconds() for a, b in pairwise(started)]
    assert min(gaps) >= 0.5


@pytest.mark.parametrize(("asked", "given"), [(None, "local"), ("auto", "auto")])
def test_somebody_else_s_ray_is_joined_only_when_asked(monkeypatch, small, asked, given):
    from tuner import sweep as sweeps

    seen = {}
    monkeypatch.setattr(sweeps.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(sweeps.ray, "init", lambda **options: seen.update(options))
    monkeypatch.setattr(sweeps.ray, "shutdown", lambda: None)
    monkeypatch.setattr(sweeps.ray, "cluster_resources", lambda: {"CPU": 8.0})
    with sweeps._ray(small(resources={"slots": 3}), asked):
        assert seen["address"] == given
    assert seen.get("resources") == ({"slot": 3} if asked is None else None)
    assert seen.get("_node_ip_address") == ("127.0.0.1" if asked is None else None)


def test_a_ray_that_does_not_start_says_what_to_do(monkeypatch, small):
    from tuner import sweep as sweeps
    from tuner.errors import ConfigError

    def slow(**options):
        raise RuntimeError("The current node timed out during startup.")

    monkeypatch.setattr(sweeps.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(sweeps.ray, "init", slow)
    with (
        pytest.raises(ConfigError, match="this machine is busy or short of memory"),
        sweeps._ray(small(), None),
    ):
        pass
