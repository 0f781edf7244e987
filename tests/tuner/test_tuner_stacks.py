"""Real training in stacks: the same rows alone and one by one; deaths; what cannot stack."""

import os
import signal
import time
from dataclasses import replace

import pandas as pd
import pytest
import tomli_w
from driving import table
from running import Running

from model.speed import Speed
from tuner import corpora, plan, simulate, space
from tuner.attempt import attempt, attempts, checkpoint_of, read
from tuner.backends import contract, several
from tuner.backends.contract import Job
from tuner.backends.stacked import StackedRuns
from tuner.bundle import Bundle, Member
from tuner.config import parse
from tuner.kernels import kernels
from tuner.ledger import Ledger
from tuner.question import Question
from tuner.slot import Slot
from tuner.status import open_folder
from tuner.storage import Place


def sweep_of(text, **settings):
    table = {
        "name": "real",
        "budgets": [1e9],
        "data": {"source": str(text), "held_out_tokens": 4096},
        "shapes": {"ladder": [[1, 8], [1, 16], [1, 24]]},
        "search": {"trials": 4, "sampler": "qmc", "warm_start": False, "extend": False},
        "pruning": {"enabled": False},
        "resources": {"stack": 4},
    }
    return parse({**table, **settings}, place="real")


def losses(reports):
    return [(p.step, p.flops, p.loss, p.loss_se, p.train_loss) for p in reports]


@pytest.fixture(scope="module")
def corpus(text, tmp_path_factory):
    return corpora.of(sweep_of(text), tmp_path_factory.mktemp("stacks")).folder


@pytest.fixture
def job(text, corpus, tmp_path):
    return Job(
        sweep=sweep_of(text), vocab_size=256, corpus=corpus, checkpoints=Place.of(tmp_path / "kept")
    )


def unstacked(job):
    one = job.sweep.resources.model_copy(update={"stack": 1})
    return replace(job, sweep=job.sweep.model_copy(update={"resources": one}))


def bundle(sweep, *seeds, width=16):
    question = Question(
        budget=1e9, size=(1, width), learning_rate=0.01, number=0, seed=0, batch_size=None
    )
    asked = [
        replace(question, learning_rate=0.005 * (i + 1), number=i, seed=seed)
        for i, seed in enumerate(seeds)
    ]
    members = (Member(question=one, attempt=1, micro_batch_size=None) for one in asked)
    return Bundle(members=tuple(members))


def told(runs, job, keys, stop=10**9):
    """What each of `keys` reports until `stop` reports of all; those that begin again first."""
    files = {key: checkpoint_of(job, key) for key in keys}
    found = {key: [] for key in keys}
    every = attempts(runs, files, {key: read(file) for key, file in files.items()})
    for _, (key, progress) in zip(range(stop), every, strict=False):
        found[key].append(progress)
    return found


def test_a_member_s_numbers_do_not_depend_on_who_trains_beside_it(job):
    whole = bundle(job.sweep, 0, 0, 1, 0)
    runs = several.start(job, whole)
    assert isinstance(runs, StackedRuns)
    found = told(runs, job, whole.keys)
    plain = unstacked(job)
    for member in whole.members:
        trial = space.trial(job.sweep, member.question, 256)
        assert kernels(job.sweep, trial, job.slot).stacked
        assert losses(contract.start(job, trial)) == losses(found[member.key])  # bit for bit
        apart = list(contract.start(plain, trial))
        for one, other in zip(found[member.key], apart, strict=True):
            assert (one.step, one.flops) == (other.step, other.flops)
            assert one.loss == pytest.approx(other.loss, rel=1e-3)


def test_one_without_its_checkpoint_leaves_and_the_others_go_on(job):
    pair = bundle(job.sweep, 0, 1)
    first, second = pair.keys
    runs = several.start(job, pair)
    files = {key: checkpoint_of(job, key) for key in pair.keys}
    steps = {key: [] for key in pair.keys}
    for key, progress in attempts(runs, files, {key: read(file) for key, file in files.items()}):
        steps[key].append(progress.step)
        if key == first:
            files[first].remove()  # as the driver does with what is cut
    trial = space.trial(job.sweep, pair.members[1].question, 256)
    assert steps == {first: list(trial.report_steps[:1]), second: list(trial.report_steps)}
    assert runs.runs[first].training.step == trial.report_steps[0]  # nothing more was computed


def test_it_goes_on_from_its_own_checkpoint_in_another_stack_or_alone(job):
    whole = bundle(job.sweep, 0, 1, 2)
    undisturbed = {
        member.key: losses(contract.start(job, space.trial(job.sweep, member.question, 256)))
        for member in whole.members
    }
    told(several.start(job, whole), job, whole.keys, stop=4)  # killed with one report more of one
    pair = Bundle(members=whole.members[:2])
    for key, reports in told(several.start(job, pair), job, pair.keys).items():
        assert losses(reports) == undisturbed[key]
    member = whole.members[2]
    alone = contract.start(job, space.trial(job.sweep, member.question, 256))
    assert losses(attempt(alone, checkpoint_of(job, member.key))) == undisturbed[member.key]


@pytest.mark.parametrize(
    ("settings", "slot"),
    [
        ({"resources": {"stack": 1}}, Slot()),
        ({"training": {"dropout": 0.1}}, Slot()),
        ({"shapes": {"ladder": [[1, 16]], "ffn": "swiglu"}}, Slot()),
        ({"resources": {"stack": 4, "gpus_per_trial": 1}}, Slot()),
        ({"resources": {"stack": 4, "devices": 2}}, Slot()),
        ({}, Slot(speed=Speed(dtype="bfloat16"))),
        ({}, Slot(speed=Speed(threads=2))),
        ({}, Slot(memory=400_000)),
    ],
    ids=str,
)
def test_what_is_no_stack_stays_one_trial_a_process(text, settings, slot):
    sweep = sweep_of(text, **settings)
    trial = space.trial(sweep, bundle(sweep, 0).members[0].question, 256)
    assert not kernels(sweep, trial, slot).stacked
    wide = space.trial(sweep_of(text), bundle(sweep, 0, width=96).members[0].question, 256)
    assert not kernels(sweep_of(text), wide, Slot()).stacked


def on_gpu(text, **settings):
    """A sweep whose trials take a GPU, and a slot of one."""
    resources = {"stack": 4, "gpus_per_trial": 1, "device": "H100"}
    fast = Slot(speed=Speed(dtype="bfloat16"), peaks={"H100": 989e12}, memory=80e9)
    return sweep_of(text, **{"resources": resources, **settings}), fast


@pytest.mark.parametrize("ffn", ["gelu", "swiglu"])
def test_on_a_gpu_small_steps_are_stacked(text, ffn):
    sweep, slot = on_gpu(text, shapes={"ladder": [[1, 96]], "ffn": ffn})
    trial = space.trial(sweep, bundle(sweep, 0, width=96).members[0].question, 256)
    assert kernels(sweep, trial, slot).stacked


@pytest.mark.parametrize(
    "settings",
    [
        {"shapes": {"ladder": [[1, 96]], "qk_norm": True}},
        {"training": {"dropout": 0.1}},
        {"training": {"batch_size": 16384}},  # fills it alone
        {"resources": {"stack": 4, "gpus_per_trial": 1, "devices": 2}},
    ],
    ids=str,
)
def test_on_a_gpu_what_is_no_stack_trains_alone(text, settings):
    sweep, slot = on_gpu(text, **settings)
    trial = space.trial(sweep, bundle(sweep, 0, width=96).members[0].question, 256)
    assert not kernels(sweep, trial, slot).stacked


@pytest.mark.ray
def test_stacked_on_ray_the_table_is_the_one_of_trials_one_by_one(local_ray, text, tmp_path):
    from tuner import sweep as sweeps

    # At rates near the edge of divergence a last bit becomes half a percent; not at these.
    search = {
        "trials": 4, "sampler": "qmc", "warm_start": False, "extend": False,
        "learning_rate": [1e-3, 1e-2],
    }  # fmt: skip
    ladder = {"ladder": [[1, 8], [1, 16]]}
    sweep = sweep_of(text, pruning={"enabled": True}, search=search, shapes=ladder)
    sweeps.run(sweep, tmp_path / "a" / "stacked")
    _, ledger, provenance = open_folder(tmp_path / "a" / "stacked")
    (corpus,) = (path.parent for path in (tmp_path / "a" / "corpora").glob("*/meta.json"))
    stacked = Job(
        sweep=sweep, vocab_size=provenance.vocab_size, corpus=corpus,
        checkpoints=Place.of(tmp_path),
    )  # fmt: skip
    plain = unstacked(stacked)
    assert {record.status for record in ledger.records()} == {"completed", "pruned"}
    actors = list((tmp_path / "a" / "stacked" / "ray").glob("*/*/result.json"))
    assert (len(actors), len(ledger.records())) == (2, 8)
    for record in ledger.records():
        reports = ledger.reports(record.key)
        trial = space.trial(sweep, record.question, provenance.vocab_size)
        alone = losses(contract.start(stacked, trial))
        assert losses(reports) == alone[: len(reports)]  # bit for bit
        for one, other in zip(reports, contract.start(plain, trial), strict=False):
            assert (one.step, one.flops, one.tokens) == (other.step, other.flops, other.tokens)
            assert one.loss == pytest.approx(other.loss, rel=1e-3)
        assert record.charged == reports[-1].flops
    assert ledger.charged() == sum(record.charged for record in ledger.records())
    assert {path.name for path in (tmp_path / "a" / "stacked" / "tensorboard").iterdir()} >= {
        record.key for record in ledger.records()
    }
    assert not list((tmp_path / "a" / "stacked" / "checkpoints").iterdir())
    ledger.close()


def charged(folder):
    """FLOPs that a sweep was charged so far."""
    if not (folder / "ledger.db").exists():
        return 0
    ledger = Ledger(folder / "ledger.db")
    found = ledger.charged()
    ledger.close()
    return found


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_actor_hands_all_its_members_back_and_a_killed_sweep_goes_on(settled, tmp_path):
    sweep = settled(
        budgets=[1e13, 1e14], shapes={"per_budget": 3}, search={"trials": 3},
        law={"seconds_per_trial": 0.7}, cap={"flops": 1e16}, resources={"stack": 3, "slots": 2},
    )  # fmt: skip
    file, folder = tmp_path / "slow.toml", tmp_path / "killed"
    file.write_text(tomli_w.dumps(sweep.model_dump(mode="json", exclude_none=True)))
    running = Running(tmp_path / "log", "run", str(file), "--yes", "--dir", str(folder))
    while not charged(folder) and running.process.poll() is None:
        time.sleep(0.05)
    for victim in running.workers():
        os.kill(victim, signal.SIGKILL)
    running.wait_for(folder, 4)
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait()
    resumed = Running(tmp_path / "log", "resume", str(folder))
    said = resumed.output()
    assert resumed.process.returncode == 0, said
    found = pd.read_parquet(folder / "trials.parquet")
    assert (found["attempts"] > 1).sum() >= 3  # a whole bundle
    assert found["flops"].sum() < found["flops_charged"].sum() <= 1e16
    simulate.simulate(sweep, tmp_path / "calm")
    calm = table(sweep, tmp_path / "calm").sort_values("trial", ignore_index=True)
    again = table(sweep, folder).sort_values("trial", ignore_index=True)
    pd.testing.assert_frame_equal(again, calm)


def test_the_plan_tells_which_sizes_are_not_stacked(text):
    sizes = {"ladder": [[1, 8], [1, 16], [1, 96]]}
    (told,) = (w for w in plan.plan(sweep_of(text, shapes=sizes)).warnings if "stack" in w)
    assert told.startswith("resources.stack: 1x96 train one a process")
    alone = sweep_of(text, shapes=sizes, resources={"stack": 1})
    assert not any("stack" in warning for warning in plan.plan(alone).warnings)
    normed, _ = on_gpu(text, shapes={"ladder": [[1, 96]], "qk_norm": True})
    (told,) = (w for w in plan.plan(normed).warnings if "stack" in w)
    assert told.startswith("resources.stack: 1x96 train one a process") and "qk_norm" in told
    small, _ = on_gpu(text, shapes={"ladder": [[1, 96]]})
    assert not any("stack" in warning for warning in plan.plan(small).warnings)
