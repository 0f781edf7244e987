"""Forks: rows are those of runs alone; a trunk is paid once; which go on; losses; the files."""

import json
import random
from collections import defaultdict
from dataclasses import replace

import pandas as pd
import pytest
from driving import bundle_of, drive, engine_in, start, table

from tuner import corpora, plan, simulate, space
from tuner.attempt import attempts, begun, checkpoint_of, kept, read, trunk_of
from tuner.backends import contract, several
from tuner.backends.contract import Job
from tuner.chains import quota
from tuner.config import parse
from tuner.engine import Nothing
from tuner.ledger import ENDED, Ledger
from tuner.meter import Meter
from tuner.storage import Place

BUDGETS = [1e13, 3e13, 1e14]
FORKS = {"schedule": "forks"}


def real(text, **training):
    table = {
        "name": "real",
        "budgets": [1e8, 2e8, 4e8],
        "data": {"source": str(text), "held_out_tokens": 4096},
        "shapes": {"ladder": [[1, 8], [1, 16]], "context_length": 32},
        "search": {
            "trials": 2, "sampler": "qmc", "warm_start": False, "extend": False,
            "learning_rate": [5e-3, 2e-2],
        },
        "training": {**FORKS, "cooldown_floor": 0, **training},
        "pruning": {"enabled": False},
        "cap": {"flops": 1e10},
    }  # fmt: skip
    return parse(table, place="real")


@pytest.fixture(scope="module")
def corpus(text, tmp_path_factory):
    return corpora.of(real(text), tmp_path_factory.mktemp("forks")).folder


def job_of(sweep, corpus, folder):
    return Job(sweep=sweep, vocab_size=256, corpus=corpus, checkpoints=Place.of(folder / "kept"))


def work(engine, job, *, before=lambda trial: None, dies=lambda trial, progress: False):
    """One slot until nothing is left, as a worker and the driver do it; the keys it started."""
    started = []
    while not isinstance(trial := engine.ask(), Nothing):
        started.append(trial.key)
        before(trial)
        saved, checkpoint = begun(job, trial), checkpoint_of(job, trial.key)
        trunks = {(key, at): trunk_of(job, key) for key, at in kept(job.sweep, [trial])}
        runs = several.start(job, bundle_of(trial))
        told = attempts(runs, {trial.key: checkpoint}, {trial.key: saved}, trunks)
        for _, progress in told:
            goes_on = engine.report(trial.key, progress, {"device": "cpu"}, began=saved.step)
            if goes_on and dies(trial, progress):
                engine.fail(trial.key, "killed by the test")
                break
    return started


@pytest.fixture(scope="module")
def calm(text, corpus, tmp_path_factory):
    """A forked sweep, really trained: its folder."""
    folder, sweep = tmp_path_factory.mktemp("calm"), real(text)
    engine = engine_in(sweep, folder)
    work(engine, job_of(sweep, corpus, folder))
    engine.ledger.close()
    return folder


def trials_of(engine):
    return {record.key: (record, engine.trial(record)) for record in engine.ledger.records()}


def test_each_row_is_that_of_the_run_it_names_bit_for_bit(text, corpus, calm, tmp_path):
    sweep = real(text)
    found = table(sweep, calm)
    assert len(found) == 3 * 2 * 2
    assert set(found["status"]) == {"completed"}
    assert (found["parent"] != "").sum() == 8
    ledger = Ledger(calm / "ledger.db")
    for row in found.itertuples():
        plain = real(text, schedule=row.schedule, warmup=row.warmup, warmup_floor=0)
        question = replace(ledger.record(row.trial).question, trunk=())
        trial = space.trial(plain, question, 256)
        *_, last = contract.start(job_of(plain, corpus, tmp_path), trial)
        assert (row.schedule, trial.fork) == ("wsd", None)
        assert (row.flops, row.tokens) == (last.flops, last.tokens)
        assert (row.loss, row.loss_se) == (last.loss, last.loss_se)
    ledger.close()


def test_a_trunk_is_charged_once_and_each_cooldown(text, calm):
    engine = engine_in(real(text), calm)
    chains = defaultdict(list)
    for record, trial in trials_of(engine).values():
        asked = record.question
        chains[asked.size, asked.number].append((record, trial))
    assert len(chains) == 4
    for chain in chains.values():
        trials = [trial for _, trial in chain]
        each = trials[0].flops_per_step
        cooldowns = sum(trial.steps - trial.fork.at for trial in trials)
        charged = sum(record.charged for record, _ in chain)
        assert charged == (trials[-1].fork.at + cooldowns) * each
        assert charged < sum(trial.flops for trial in trials)
    engine.ledger.close()


def test_lost_and_broken_trunks_and_a_death_in_a_cooldown_change_no_row(
    text, corpus, calm, tmp_path, capsys
):
    sweep = real(text)
    engine, job = engine_in(sweep, tmp_path), job_of(sweep, corpus, tmp_path)
    again, deaths = [], []

    def before(trial):
        parent = trial.question.cell.parent
        if parent and len(again) < 2 and not engine.ledger.deaths(trial.key):
            file = trunk_of(job, parent)
            assert read(file).step == trial.start
            again.append((trial.key, trial.start * trial.flops_per_step))
            if len(again) == 1:
                file.remove()
            else:
                file.write(b"broken")

    def dies(trial, progress):
        if trial.start and progress.step == trial.fork.at and len(deaths) < 1:
            deaths.append((trial.key, (trial.steps - trial.fork.at) * trial.flops_per_step))
            return True
        return False

    work(engine, job, before=before, dies=dies)
    engine.ledger.close()
    assert "broken" in capsys.readouterr().err
    assert len(again) == 2
    found, undisturbed = table(sweep, tmp_path), table(sweep, calm)
    pd.testing.assert_frame_equal(found, undisturbed)
    extra = dict.fromkeys(found["trial"], 0)
    for key, flops in again + deaths:
        extra[key] += flops  # trained again, or perhaps lost
    ledger, before_all = Ledger(tmp_path / "ledger.db"), Ledger(calm / "ledger.db")
    for key, flops in extra.items():
        assert ledger.record(key).charged - before_all.record(key).charged == flops
    ledger.close()
    before_all.close()


def test_where_the_cap_forbids_to_train_a_lost_trunk_again_the_trial_fails(text, corpus, tmp_path):
    sweep = real(text)
    engine, job = engine_in(sweep, tmp_path), job_of(sweep, corpus, tmp_path)

    def before(trial):
        if trial.start:
            trunk_of(job, trial.question.cell.parent).remove()
            engine.cap = engine.ledger.committed()  # not a FLOP more

    work(engine, job, before=before)
    failed = engine.ledger.records("failed")
    assert failed
    assert all(record.reason.startswith("cap: ") for record in failed)
    assert engine.ledger.charged() <= engine.cap
    engine.ledger.close()


def by_size(records):
    """Those of each budget and size."""
    found = defaultdict(list)
    for record in records:
        found[record.question.budget, record.question.size].append(record)
    return found


def test_the_best_rates_of_each_size_go_on_and_every_profile_is_covered(small, tmp_path):
    sweep = small(
        budgets=BUDGETS, training=FORKS, search={"trials": 6, "seeds": 2, "extend": False},
        pruning={"reduction": 3},
    )  # fmt: skip
    simulate.simulate(sweep, tmp_path, slots=3)
    ledger = Ledger(tmp_path / "ledger.db")
    families, forked = by_size(ledger.records()), 0
    for budget in BUDGETS:
        window = [tuple(size) for size in json.loads(ledger.fact(f"window {budget!r}"))]
        assert len(window) == 5
        for size in window:
            mine = families[budget, size]
            assert any(record.status == "completed" for record in mine)
            trunk = mine[0].question.trunk
            assert {record.question.trunk for record in mine} == {trunk}
            if not trunk:
                assert len(mine) == 6 * 2
                continue
            losses = defaultdict(list)
            for record in families[trunk[-1], size]:
                if record.status == "completed":
                    losses[record.question.number].append(ledger.last(record.key).loss)
            means = {number: sum(some) / len(some) for number, some in losses.items()}
            best = sorted(means, key=means.get)[:2]  # a third of six
            assert {record.question.number for record in mine} == set(best)
            assert len(mine) == 2 * len(best)
            forked += len(mine)
    assert forked
    assert ledger.charged() <= plan.plan(sweep).cap
    ledger.close()


def test_what_comes_to_nothing_leaves_its_place_to_the_next_best(small, tmp_path):
    sweep = small(
        budgets=[1e13, 2e13], training=FORKS, search={"trials": 3, "extend": False},
        pruning={"min_population": 10},  # the budget's rungs alone
    )  # fmt: skip
    engine = engine_in(sweep, tmp_path)
    doomed = []

    def dies(trial, progress):
        if trial.start and (not doomed or trial.key == doomed[0]):
            doomed[:] = [trial.key]
            return True
        return False

    work(engine, job_of(sweep, None, tmp_path), dies=dies)
    lost = engine.ledger.record(doomed[0])
    assert (lost.status, quota(sweep)) == ("failed", 1)
    siblings = by_size(engine.ledger.records())[lost.question.budget, lost.question.size]
    assert [record.status for record in siblings] == ["failed", "completed"]
    engine.ledger.close()


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_the_cap_holds_and_what_is_over_is_not_run_again(small, tmp_path, seed):
    sweep = small(
        budgets=BUDGETS, training=FORKS, pruning={"enabled": False},
        search={"sampler": "qmc", "warm_start": False, "extend": False}, cap={"flops": 1e17},
    )  # fmt: skip
    simulate.simulate(sweep, tmp_path / "calm", slots=1)
    rng, stormy = random.Random(seed), tmp_path / "stormy"
    over = {}
    for stop_after in (40, 80, 10**9):  # the driver dies, too
        engine = engine_in(sweep, stormy)
        drive(engine, stormy, rng, deaths=0.02, stop_after=stop_after)
        for key, attempts_then in over.items():
            assert engine.ledger.record(key).attempts == attempts_then
        over = {record.key: record.attempts for record in engine.ledger.records(*ENDED)}
        engine.ledger.close()
    again, undisturbed = (
        table(sweep, folder).sort_values("trial", ignore_index=True)
        for folder in (stormy, tmp_path / "calm")
    )
    pd.testing.assert_frame_equal(again, undisturbed)


@pytest.mark.parametrize("seed", range(2))
def test_a_small_cap_is_never_exceeded(small, tmp_path, seed):
    sweep = small(budgets=BUDGETS, training=FORKS)
    rng = random.Random(seed)
    drive(engine_in(sweep, tmp_path), tmp_path, rng, deaths=0.1, stop_after=60)
    engine = engine_in(sweep, tmp_path)
    drive(engine, tmp_path, rng, deaths=0.1)  # looks at the cap at every report
    assert engine.ledger.committed() == engine.ledger.charged() <= plan.plan(sweep).cap
    engine.ledger.close()


def test_the_plan_spares_what_the_sweep_spares(small, tmp_path):
    settings = {
        "budgets": BUDGETS, "pruning": {"enabled": False},
        "search": {"sampler": "qmc", "warm_start": False, "extend": False},
    }  # fmt: skip
    sweep, plain = small(**settings, training=FORKS), small(**settings)
    simulate.simulate(sweep, tmp_path)
    ledger, counted = Ledger(tmp_path / "ledger.db"), plan.plan(sweep)
    assert counted.trials == len(ledger.records()) == plan.plan(plain).trials
    assert ledger.charged() == pytest.approx(counted.flops_expected, rel=1e-9)
    assert ledger.charged() <= counted.flops < plan.plan(plain).flops
    ledger.close()


@pytest.mark.ray
def test_on_ray_the_table_is_the_simulated_one_and_no_trunk_is_left(local_ray, settled, tmp_path):
    from tuner import sweep as sweeps

    sweep = settled(budgets=BUDGETS[:2], training=FORKS, shapes={"per_budget": 3})
    sweeps.run(sweep, tmp_path / "real")
    simulate.simulate(sweep, tmp_path / "calm")
    calm, found = (
        table(sweep, tmp_path / name).sort_values("trial", ignore_index=True)
        for name in ("calm", "real")
    )
    assert (found["parent"] != "").any()
    pd.testing.assert_frame_equal(found, calm)
    real, calm = Ledger(tmp_path / "real" / "ledger.db"), Ledger(tmp_path / "calm" / "ledger.db")
    assert real.charged() == calm.charged()  # none was trained again
    assert not list((tmp_path / "real" / "checkpoints").iterdir())
    real.close()
    calm.close()


def test_a_cut_child_keeps_its_trunk_and_its_parents(small, tmp_path, monkeypatch):
    sweep = small(
        training={"schedule": "forks"}, search={"trials": 1, "extend": False, "repeats": 0},
        budgets=[1e13, 2e13], pruning={"enabled": False}, cap={"flops": 2e14},
    )  # fmt: skip
    engine, cut = engine_in(sweep, tmp_path), None
    while isinstance(trial := engine.ask(), space.Trial):
        parent = trial.question.cell.parent
        with monkeypatch.context() as patched:
            if cut is None and parent and engine.ledger.knows(parent):
                patched.setattr(Meter, "spent", True)
                cut = trial.key, parent
            for progress in start(engine, trial, tmp_path):
                if not engine.report(trial.key, progress, {}):
                    break
    assert engine.ledger.record(cut[0]).is_cut
    assert set(cut).isdisjoint(engine.agenda.unwanted(*cut))
    assert not engine.agenda.left(), "a higher cap lets it go on"
    engine.ledger.close()
    engine = engine_in(sweep, tmp_path)
    assert engine.ledger.record(cut[0]).status == "waiting"
    drive(engine, tmp_path, random.Random(0))
    assert cut[1] in engine.agenda.unwanted(*cut)
    assert set(cut) <= set(engine.agenda.left())
