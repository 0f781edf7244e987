"""The contract that every backend keeps, and what each adds to it."""

import math
import pickle
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from serving import KEY, serving

from analysis import runs
from model.memory import USABLE, training_bytes
from model.progress import DIVERGED_LOSS
from model.speed import Speed
from tuner import corpora, plan, simulate, space
from tuner.backends import contract
from tuner.backends.contract import AttemptError, Job, OutOfMemoryError
from tuner.config import parse
from tuner.errors import ConfigError
from tuner.export import export
from tuner.ledger import Ledger
from tuner.provenance import Provenance
from tuner.question import Question
from tuner.slot import Slot
from tuner.storage import Place

BUDGET = 1e8


def sweep_of(backend, **settings):
    return parse(
        {
            "name": "contract",
            "backend": backend,
            "budgets": [BUDGET, 2 * BUDGET],
            "shapes": {"ladder": [[1, 8], [1, 16], [2, 16]], "context_length": 32},
            "search": {"sampler": "grid", "trials": 3, "warm_start": False, "extend": False},
            "pruning": {"enabled": False, "rungs": [0.25, 0.5]},
            **settings,
        },
        place="contract",
    )


def job_of(sweep, folder, corpus=None):
    return Job(sweep=sweep, vocab_size=256, corpus=corpus, checkpoints=Place.of(folder))


def trial_of(job, *, seed=0, rate=0.02, size=(1, 16), budget=BUDGET):
    question = Question(budget=budget, size=size, learning_rate=rate, number=0, seed=seed)
    return space.trial(job.sweep, question, job.vocab_size)


def simulated(sweep, folder):
    """The run table of a sweep in simulated time."""
    simulate.simulate(sweep, folder)
    ledger = Ledger(folder / "ledger.db")
    found = Provenance(
        commit="c", torch="", corpus="", tokenizer="", vocab_size=plan.vocabulary(sweep),
        train_tokens=0, bytes_per_token=0.0,
    )  # fmt: skip
    table = export(folder, sweep, ledger, found)
    ledger.close()
    return table


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A finished sweep on a law: its folder is a run table with curves."""
    folder = tmp_path_factory.mktemp("recorded") / "sweep"
    simulated(sweep_of("law"), folder)
    return folder


SERVED = {
    "ranges": {
        "d_model": [8, 16], "num_layers": [1, 2], "num_heads": [1, 1], "batch_size": [4],
        "learning_rate": [1e-3, 1.0], "train_flops": [int(BUDGET), 2 * int(BUDGET)],
    },
    "shapes": {"context_length": 32}, "data": {"tokenizer": "byte"}, "law": {"learning_rate": 0.02},
}  # fmt: skip


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    """A sweep that asks a service of its own."""
    folder = tmp_path_factory.mktemp("asking")
    (folder / "key").write_text(KEY + "\n")
    with serving(folder / "service", **SERVED) as (url, _):
        yield sweep_of(
            "api",
            api={"base_url": url, "key_file": str(folder / "key")},
            search={"sampler": "grid", "warm_start": False, "extend": False, "repeats": 0},
            pruning={"enabled": False, "rungs": []},
        )


@pytest.fixture(scope="module", params=["train", "law", "replay", "api"])
def job(request, recorded, text, tmp_path_factory):
    """What the trials of a small sweep share, for each backend."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "api":
        return job_of(request.getfixturevalue("asking"), folder / "checkpoints")
    if request.param != "train":
        section = {"replay": {"table": str(recorded)}} if request.param == "replay" else {}
        return job_of(sweep_of(request.param, **section), folder)
    sweep = sweep_of("train", data={"source": str(text), "held_out_tokens": 2048})
    return job_of(sweep, folder, corpora.of(sweep, folder).folder)


def answers(job, trial):
    """What a run says that is a function of its question; seconds are not."""
    return [replace(progress, seconds=0.0) for progress in contract.start(job, trial)]


def test_it_reports_at_the_steps_asked_for_and_the_last_is_final(job):
    trial = trial_of(job)
    told = answers(job, trial)
    assert [progress.step for progress in told] == list(trial.report_steps)
    assert [progress.final for progress in told] == [False] * (len(told) - 1) + [True]
    assert not any(progress.diverged for progress in told)


def test_flops_and_tokens_are_those_of_the_steps(job):
    trial = trial_of(job)
    for progress in answers(job, trial):
        assert progress.flops == progress.step * trial.flops_per_step
        assert progress.tokens == progress.step * trial.batch_size * trial.shape.context_length
    assert trial.flops <= trial.question.budget


def test_losses_are_finite_and_fall(job):
    told = answers(job, trial_of(job))
    for progress in told:
        assert all(map(math.isfinite, (progress.loss, progress.loss_se, progress.train_loss)))
        assert progress.learning_rate >= 0
    if job.sweep.backend == "api":
        pytest.skip("a service tells the end alone")
    assert told[-1].loss < told[0].loss


@pytest.mark.parametrize("done", [1, 2])
def test_restored_in_the_middle_it_ends_as_if_undisturbed(job, done):
    trial = trial_of(job)
    undisturbed = answers(job, trial)
    begun = contract.start(job, trial)
    first = [replace(progress, seconds=0.0) for progress in islice(begun, done)]
    again = contract.start(job, trial, attempt=2)
    again.restore(begun.state())
    rest = [replace(progress, seconds=0.0) for progress in again]
    assert first + rest == undisturbed


def test_the_same_question_gets_the_same_answer(job):
    assert answers(job, trial_of(job)) == answers(job, trial_of(job))


def test_another_rate_gets_another_answer(job):
    low, high = (
        space.rates(job.sweep.search.learning_rate, 3)[0],
        space.rates(job.sweep.search.learning_rate, 3)[2],
    )
    slow, fast = (answers(job, trial_of(job, rate=rate)) for rate in (low, high))
    assert slow[-1].loss != fast[-1].loss


def test_another_seed_gets_another_answer(job):
    if job.sweep.backend in {"replay", "api"}:
        pytest.skip("a record holds one seed, a service takes none")
    one, other = (answers(job, trial_of(job, seed=seed))[-1].loss for seed in (0, 1))
    assert one != other


def test_it_says_what_it_runs_on(job):
    run = contract.start(job, trial_of(job))
    next(iter(run))
    assert {"train": "CPU", "law": "law", "replay": "replay of", "api": "api of"}[
        job.sweep.backend
    ] in run.device


# --- the law


def last_loss(sweep, tmp_path, **asked):
    job = job_of(sweep, tmp_path)
    return answers(job, trial_of(job, **asked))[-1].loss


def test_the_law_is_the_law(tmp_path):
    sweep = sweep_of("law", law={"noise": 0.0, "learning_rate": 0.02})
    trial = trial_of(job_of(sweep, tmp_path))
    law, n = sweep.law, trial.shape.params_non_embedding
    expected = law.E + law.A / n**law.alpha + law.B / trial.tokens**law.beta
    assert last_loss(sweep, tmp_path) == pytest.approx(expected, abs=1e-12)
    off = last_loss(sweep, tmp_path, rate=0.02 * math.e) - expected
    assert off == pytest.approx(law.curvature, abs=1e-12)


def test_a_batch_beyond_the_critical_one_costs(tmp_path):
    losses = {}
    for batch in (4, 8, 16, 32):
        law = {"noise": 0.0, "batch_tokens": 8 * 32, "batch_curvature": 0.1, "B": 1e-9}
        sweep = sweep_of("law", law=law, training={"batch_size": batch})
        losses[batch] = last_loss(sweep, tmp_path)
    assert losses[4] == pytest.approx(losses[8], abs=1e-9)
    assert losses[16] - losses[8] == pytest.approx(0.1 * math.log(2) ** 2, abs=1e-9)
    assert losses[32] - losses[8] == pytest.approx(0.1 * math.log(4) ** 2, abs=1e-9)


def broken_attempts(sweep, tmp_path, attempts):
    """Which attempts at one trial end in an exception."""
    job = job_of(sweep, tmp_path)
    broken = []
    for attempt in attempts:
        try:
            list(contract.start(job, trial_of(job), attempt=attempt))
        except AttemptError as error:
            broken.append((attempt, str(error)))
    return broken


def test_exceptions_come_as_often_as_asked_and_always_alike(tmp_path):
    sweep = sweep_of("law", law={"faults": {"raises": 0.3}})
    broken = broken_attempts(sweep, tmp_path, range(400))
    assert 80 < len(broken) < 160
    assert broken == broken_attempts(sweep, tmp_path, range(400))
    assert not broken_attempts(sweep_of("law"), tmp_path, range(50))


def test_some_configurations_diverge_and_do_so_again(tmp_path):
    job = job_of(sweep_of("law", law={"diverges": 0.5}), tmp_path)
    ends = [
        answers(job, trial_of(job, rate=rate))[-1]
        for rate in space.rates(job.sweep.search.learning_rate, 40)
    ]
    diverged = [end for end in ends if end.diverged]
    assert 10 < len(diverged) < 30
    assert all(end.loss == DIVERGED_LOSS and end.final for end in diverged)
    again = [
        answers(job, trial_of(job, rate=rate))[-1]
        for rate in space.rates(job.sweep.search.learning_rate, 40)
    ]
    assert again == ends


def test_pretended_speed_makes_seconds_of_flops(tmp_path, monkeypatch):
    slept = []
    # Of the backend alone: a service that another test started in this process sleeps too.
    monkeypatch.setattr("tuner.backends.instant.time", SimpleNamespace(sleep=slept.append))
    job = job_of(sweep_of("law", law={"flops_per_second": 1e9}), tmp_path)
    trial = trial_of(job)
    told = list(contract.start(job, trial))
    assert told[-1].seconds == pytest.approx(trial.flops / 1e9)
    assert sum(slept) == pytest.approx(told[-1].seconds)


def test_a_hanging_attempt_never_ends(tmp_path, monkeypatch):
    class StillError(Exception):
        """The test has seen enough."""

    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) > 1000:
            raise StillError

    monkeypatch.setattr("time.sleep", nap)
    job = job_of(sweep_of("law", law={"faults": {"hangs": 1.0}}), tmp_path)
    with pytest.raises(StillError):
        list(contract.start(job, trial_of(job)))
    with pytest.raises(ValueError, match="real time only"):
        simulate.simulate(job.sweep, tmp_path / "simulated")


def test_a_sweep_survives_its_faults(tmp_path):
    sweep = sweep_of(
        "law", law={"faults": {"raises": 0.3}, "diverges": 0.2}, cap={"flops": 1e11},
        resources={"max_attempts": 20},
    )  # fmt: skip
    simulate.simulate(sweep, tmp_path, slots=2)
    ledger = Ledger(tmp_path / "ledger.db")
    records = ledger.records()
    ledger.close()
    assert len(records) == plan.plan(sweep).trials == 18
    assert any(record.attempts > 1 for record in records)
    failed = [record for record in records if record.status == "failed"]
    assert failed
    assert all(record.reason.startswith("diverged by step ") for record in failed)


def test_exceptions_and_pretended_speed_leave_no_trace_in_the_rows(tmp_path):
    cap, often = {"flops": 1e11}, {"max_attempts": 20}
    faulty = {"faults": {"raises": 0.3}, "flops_per_second": 1e15}
    tables = [
        simulated(sweep_of("law", law=law, cap=cap, resources=often), tmp_path / name)
        for name, law in (("calm", {}), ("faulty", faulty))
    ]
    assert (tables[1]["attempts"] > 1).any()
    calm, stormy = (table.drop(columns=list(runs.VOLATILE)) for table in tables)
    pd.testing.assert_frame_equal(calm, stormy)


def law_losses(folder, *, rates=(0.02,), **law):
    job = job_of(sweep_of("law", law={"noise": 0.0, **law}), folder)
    return [[told.loss for told in contract.start(job, trial_of(job, rate=r))] for r in rates]


def test_the_law_s_best_rate_and_batch_follow_step_law(tmp_path):
    trial = trial_of(job_of(sweep_of("law"), tmp_path))
    params, tokens = trial.shape.params_non_embedding, trial.tokens
    best = 1.79 * params**-0.713 * tokens**0.307
    step_law = {"learning_rate": 1.79, "rate_params": -0.713, "rate_tokens": 0.307}
    below, at, above = law_losses(tmp_path, rates=(best / 2, best, best * 2), **step_law)
    assert below[-1] - at[-1] == pytest.approx(0.02 * math.log(2) ** 2)
    assert above[-1] == pytest.approx(below[-1])
    a_step = trial.batch_size * trial.shape.context_length
    for factor, curvature in ((2.0, 0.01), (0.5, 0.03)):
        batch = {"batch_tokens": factor * a_step / tokens**0.5, "batch_exponent": 0.5}
        ways = {"batch_curvature": 0.03, "batch_curvature_below": 0.01}
        ((*_, loss),) = law_losses(tmp_path, rates=(best,), **step_law, **batch, **ways)
        assert loss - at[-1] == pytest.approx(curvature * math.log(2) ** 2)


def test_in_the_middle_of_a_run_small_rates_may_look_better(tmp_path):
    plain = law_losses(tmp_path, rates=(0.02, 0.04))
    hurried = law_losses(tmp_path, rates=(0.02, 0.04), hurry=0.5)
    assert [run[-1] for run in hurried] == [run[-1] for run in plain]
    assert hurried[1][0] - hurried[0][0] > plain[1][0] - plain[0][0]


def test_noise_may_be_a_share_of_the_loss_and_wobble_on_the_way(tmp_path):
    ((*_, clean),) = law_losses(tmp_path)
    ends = [law_losses(tmp_path, relative_noise=share)[0][-1] for share in (0.01, 0.02)]
    assert ends[1] - clean == pytest.approx(2 * (ends[0] - clean))
    (steady,), (wobbling,) = (law_losses(tmp_path, relative_noise=0.01, wobble=w) for w in (0, 1))
    assert wobbling[-1] == steady[-1]
    assert wobbling[:-1] != steady[:-1]


def test_all_runs_of_a_size_may_lie_off_the_law_alike(tmp_path):
    law = {"noise": 0.0, "rates": (0.02, 0.04)}
    clean, off = (law_losses(tmp_path, **law, misfit=share) for share in (0.0, 0.01))
    apart = [math.log(run[-1] / exact[-1]) for run, exact in zip(off, clean, strict=True)]
    assert apart[0] == pytest.approx(apart[1], rel=1e-9)
    assert 1e-4 < abs(apart[0]) < 0.04
    twice = law_losses(tmp_path, **law, misfit=0.02)
    assert twice[0][-1] - clean[0][-1] == pytest.approx(2 * (off[0][-1] - clean[0][-1]))
    other = law_losses(tmp_path, **law, misfit=0.01, misfit_draw=1)
    assert other[0][-1] != off[0][-1]


@pytest.fixture(scope="module")
def training_job(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    sweep = sweep_of("train", data={"source": str(text), "held_out_tokens": 2048})
    return job_of(sweep, folder, corpora.of(sweep, folder).folder)


def test_a_retry_at_a_smaller_micro_batch_gives_the_same_row(training_job):
    trial = trial_of(training_job)
    whole, half = (contract.start(training_job, trial, micro_batch_size=n) for n in (None, 3))
    assert (whole.micro_batch_size, half.micro_batch_size) == (4, 2)
    for a, b in zip(whole, half, strict=True):
        assert (a.step, a.flops, a.tokens) == (b.step, b.flops, b.tokens)
        assert b.loss == pytest.approx(a.loss, rel=1e-4)


def test_a_batch_is_cut_to_the_memory_of_a_slot(training_job):
    trial = trial_of(training_job)
    cut = Slot(memory=training_bytes(trial.shape, 2, in_parts=True) / USABLE)
    assert contract.start(replace(training_job, slot=cut), trial).micro_batch_size == 2
    with pytest.raises(AttemptError, match="1x16: one sequence takes"):
        contract.start(replace(training_job, slot=Slot(memory=1e4)), trial)


def test_a_trial_computes_as_its_slot_says(training_job):
    trial = trial_of(training_job)
    speed = Speed(dtype="bfloat16", attention="explicit", threads=2)
    run = contract.start(replace(training_job, slot=Slot(speed=speed)), trial)
    assert torch.get_num_threads() == 2
    assert run.execution.attention == "explicit"
    assert run.training.recipe.dtype == "bfloat16"
    contract.start(training_job, trial)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("ffn, budget, works, compiled", [
    ("gelu", BUDGET, True, True),  # its gradient is written out: compiled in a second for all
    ("gelu", BUDGET, False, False),
    ("swiglu", BUDGET, True, False),
    ("swiglu", 1e16, False, False),
    ("swiglu", 1e16, True, True),
])  # fmt: skip
def test_on_a_cpu_of_variants_only_long_runs_are_compiled(
    training_job, ffn, budget, works, compiled, monkeypatch
):
    monkeypatch.setattr("model.compiling.BACKEND", "eager")
    shapes = training_job.sweep.shapes.model_copy(update={"ffn": ffn})
    slot = replace(training_job.slot, speed=replace(training_job.slot.speed, compiles=works))
    sweep = training_job.sweep.model_copy(update={"shapes": shapes})
    job = replace(training_job, sweep=sweep, slot=slot)
    execution = contract.start(job, trial_of(job, budget=budget)).execution
    assert (execution.compiled, execution.captured) == (compiled, False)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), MemoryError()])
def test_out_of_memory_tells_the_micro_batch_that_was_too_large(training_job, error, monkeypatch):
    run = contract.start(training_job, trial_of(training_job), micro_batch_size=2)

    def full():
        raise error
        yield

    monkeypatch.setattr(run.training, "run", full)
    with pytest.raises(OutOfMemoryError, match="out of memory at 2 sequences at once") as caught:
        list(run)
    assert pickle.loads(pickle.dumps(caught.value)).micro_batch_size == 2


OWN = """
from model.transformer import BasicsTransformerLM

def build(shape):
    return BasicsTransformerLM.from_shape(shape)

def wrong(shape):
    return None
"""


def test_a_model_of_ones_own_is_planned_and_trained(text, tmp_path, monkeypatch):
    (tmp_path / "own_decoder.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    data = {"source": str(text), "held_out_tokens": 2048}
    own, shipped = (
        sweep_of("train", data=data, model=model) for model in ("own_decoder:build", "")
    )
    planned, shipped_plan = plan.plan(own), plan.plan(shipped)
    # Its gradient is autograd's: it keeps more than the shipped one's, which is written out.
    pairs = zip(planned.budgets, shipped_plan.budgets, strict=True)
    assert all(mine.memory > theirs.memory for mine, theirs in pairs)
    alike = [replace(one, memory=(0, 0)) for one in planned.budgets]
    assert alike == [replace(one, memory=(0, 0)) for one in shipped_plan.budgets]
    assert planned.flops == shipped_plan.flops
    job = job_of(own, tmp_path, corpora.of(own, tmp_path).folder)
    told = answers(job, trial_of(job))
    assert told[-1].final
    assert told[-1].flops == trial_of(job_of(shipped, tmp_path)).flops
    assert told[-1].loss < told[0].loss
    assert told == answers(job, trial_of(job))


def test_a_model_that_cannot_be_counted_is_a_mistake(tmp_path, monkeypatch):
    (tmp_path / "own_mistake.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="model: own_mistake:wrong: gave a NoneType for 1x8"):
        plan.plan(sweep_of("train", model="own_mistake:wrong"))
    with pytest.raises(ConfigError, match="model"):
        sweep_of("train", model="no colon")


def test_a_model_changed_since_the_plan_is_not_trained(text, tmp_path, monkeypatch):
    (tmp_path / "own_changed.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    sweep = sweep_of(
        "train", model="own_changed:build", data={"source": str(text), "held_out_tokens": 2048}
    )
    job = job_of(sweep, tmp_path, corpora.of(sweep, tmp_path).folder)
    trial = trial_of(job)
    other = replace(trial.shape.counts, flops=trial.shape.counts.flops + 1)
    with pytest.raises(AttemptError, match="own_changed:build: counts other"):
        contract.start(job, replace(trial, shape=replace(trial.shape, counts=other)))
