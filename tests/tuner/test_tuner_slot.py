"""How trials compute is chosen once a sweep, and everything after it keeps to the choice."""

import time
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

import model.gradient
import model.probe
from data.errors import CorpusError
from model.memory import USABLE, training_bytes
from model.speed import Speed
from tuner import corpora, driver, nodes, plan, probing, slot, space
from tuner import sweep as sweeps
from tuner.backends import contract
from tuner.config import parse
from tuner.engine import Engine
from tuner.errors import ConfigError
from tuner.kernels import kernels
from tuner.ledger import Ledger
from tuner.question import Question
from tuner.search import Studies
from tuner.slot import Slot


def sweep_of(text, **settings):
    return parse(
        {
            "name": "chosen", "budgets": [1e8],
            "data": {"source": str(text), "held_out_tokens": 2048},
            "shapes": {"ladder": [[1, 8], [1, 12], [1, 16]], "context_length": 32},
            "search": {"trials": 1, "sampler": "qmc", "warm_start": False, "extend": False},
            "pruning": {"enabled": False},
            **settings,
        },
        place="chosen",
    )  # fmt: skip


@pytest.fixture(scope="module")
def corpus(text, tmp_path_factory):
    return corpora.of(sweep_of(text), tmp_path_factory.mktemp("probed")).folder


@pytest.fixture
def units(monkeypatch):
    """A function that pretends a CPU with bfloat16 units, and what a step takes by dtype.

    They round nothing: what bfloat16 costs on the machine at hand is no matter of these tests.
    """

    def pretend(**seconds):
        monkeypatch.setattr(model.probe, "onednn_keeps_float32", lambda: False)
        monkeypatch.setattr(model.gradient, "onednn_keeps_float32", lambda: True)
        time = lambda build, shape, batch, device, memory, way, each: seconds[way[0]]  # noqa: E731
        monkeypatch.setattr(model.probe, "_time", time)

    return pretend


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    """There is one, whatever this machine has."""
    monkeypatch.setattr(probing, "complaint_between", lambda dtype: "")


def test_where_nothing_is_faster_nothing_is_trained(text, corpus, monkeypatch):
    monkeypatch.setattr(model.probe, "onednn_keeps_float32", lambda: True)
    monkeypatch.setattr(probing, "TrainRun", None)
    found = probing.find(sweep_of(text), 256, corpus)
    assert (found.speed.dtype, found.speed.why) == ("float32", "nothing to choose")
    assert 0 < found.memory < 1e15


def test_kernels_are_chosen_by_the_sweep_s_peaks_not_the_worker_s(text):
    resources = {"gpus_per_trial": 1}
    sweep = sweep_of(text, resources=resources)
    asked = Question(budget=1e8, size=(1, 16), learning_rate=0.01, number=0, seed=0)
    trial = replace(space.trial(sweep, asked, 256), steps=10**9)

    def chosen(compiles=True, **peaks):
        slot = Slot(speed=Speed(compiles=compiles), peaks=peaks)
        found = kernels(sweep, trial, slot)
        hashes.add((found, space.config_hash(sweep, trial, {}, slot)))
        return found.compiled, found.captured

    hashes = set()
    assert chosen() == (False, False)  # while the slot is being found: no device is asked
    assert chosen(H100=989e12) == (True, True)
    assert chosen(slow=1e7, H100=989e12) == chosen(slow=1e7) == (True, False)
    assert chosen(compiles=False, H100=989e12) == (False, True)
    assert len(hashes) == 4  # each way a hash, and none by how it was found


@pytest.mark.parametrize(
    "threads, stack, compiles, expected",
    [
        (1, 1, True, (True, False)),
        (1, 1, False, (False, False)),
        (2, 1, True, (False, False)),  # its kernels take one
        (1, 8, True, (False, True)),
    ],
)
def test_a_plain_decoder_is_compiled_for_one_thread_where_it_is_not_stacked(
    text, threads, stack, compiles, expected
):
    sweep = sweep_of(text, resources={"stack": stack})
    asked = Question(budget=1e8, size=(1, 16), learning_rate=0.01, number=0, seed=0)
    speed = Speed(threads=threads, compiles=compiles)
    found = kernels(sweep, space.trial(sweep, asked, 256), Slot(speed=speed))
    assert (found.compiled, found.stacked) == expected


@pytest.mark.parametrize("told", ["", "no C++ compiler"])
def test_a_plain_decoder_needs_no_other_compiler(text, corpus, monkeypatch, told):
    monkeypatch.setattr(probing, "complaint", None)
    monkeypatch.setattr(probing, "complaint_between", lambda dtype: told)
    monkeypatch.setattr(model.probe, "onednn_keeps_float32", lambda: True)
    found = probing.find(sweep_of(text), 256, corpus)
    assert found.speed.compiles == (not told)
    assert told in found.speed.why


@pytest.mark.parametrize("told", ["", "no Python.h"])
def test_a_compiler_is_tried_once_and_for_planned_trials_that_it_pays_for(
    text, corpus, monkeypatch, told
):
    tried = []
    monkeypatch.setattr(probing, "complaint", lambda place: tried.append(place) or told)
    monkeypatch.setattr(model.probe, "onednn_keeps_float32", lambda: True)
    monkeypatch.setattr(model.probe, "_time", lambda *way: 1.0)
    assert not probing.find(sweep_of(text, shapes={"ffn": "swiglu"}), 256, corpus).speed.compiles
    assert not tried
    long = sweep_of(text, budgets=[1e15], shapes={"ffn": "swiglu"})
    with nullcontext() if not told else pytest.warns(UserWarning, match="no trial uses it"):
        found = probing.find(long, 256, corpus)
    assert tried == ["cpu"]
    assert found.speed.compiles == (not told)
    assert told in found.speed.why
    without = replace(found, speed=replace(found.speed, compiles=False))
    assert not slot.most_careful([found, without]).speed.compiles
    assert slot.Slot.from_json(found.to_json()) == found


def test_a_size_too_large_for_its_slot_fails_in_its_worker_not_in_the_driver(
    text, tmp_path, monkeypatch
):
    """A warm start may go beyond the sizes that were checked; an error here would end the sweep."""
    asked = sweep_of(text)
    job = contract.Job(
        sweep=asked, vocab_size=256, corpus=None, checkpoints=None, slot=Slot(memory=1e4)
    )
    monkeypatch.setattr(driver, "Losses", lambda: None)  # asks Ray
    ledger, studies = Ledger(tmp_path / "ledger.db"), Studies(asked, None, 256)
    engine = Engine(asked, ledger, studies, cap=1e12)
    assert driver.Driver(engine, job).searcher.suggest("ray's")["devices"] == 1
    ledger.close()


@pytest.mark.parametrize("cause", [ConfigError("no GPU here"), CorpusError("half a corpus")])
def test_what_the_probe_meets_is_told_without_its_traceback(text, monkeypatch, cause):
    probe = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda job: job))

    def get(asked):
        raise RayTaskError("find_slot", "Traceback of another machine", cause).as_instanceof_cause()

    monkeypatch.setattr(sweeps.ray, "remote", lambda **_: lambda function: probe)
    monkeypatch.setattr(sweeps.ray, "get", get)
    monkeypatch.setattr(sweeps.nodes, "room", lambda shares: nullcontext([]))
    with pytest.raises(type(cause)) as raised:
        sweeps._probed(SimpleNamespace(sweep=sweep_of(text)))
    assert str(raised.value) == str(cause)


class Full:
    """A placement group that no node has room for."""

    def wait(self, seconds):
        time.sleep(0.05)
        return False


def test_a_probe_that_no_node_has_room_for_says_so_and_ends(monkeypatch, capsys):
    freed = []
    monkeypatch.setattr(nodes, "placement_group", lambda bundles: Full())
    monkeypatch.setattr(nodes, "remove_placement_group", freed.append)
    monkeypatch.setattr(nodes.ray, "available_resources", lambda: {"CPU": 1.0, "memory": 5.0})
    monkeypatch.setattr(nodes, "ROOM_PATIENCE", 0.2)
    with (
        pytest.raises(ConfigError, match=r"room for one trial, CPU 4, GPU 1, within 0.2 s; free in "
                      r"all are CPU 1: start a node"),
        nodes.room([{"CPU": 4.0, "GPU": 1.0}]),
    ):  # fmt: skip
        pytest.fail("there is no room")
    assert len(freed) == 1
    said = capsys.readouterr().err
    assert said == "isoflop: waiting for a node with CPU 4, GPU 1; free in all: CPU 1\n"


@pytest.mark.ray
def test_the_probe_runs_in_the_room_that_was_held_for_it(local_ray):
    with nodes.room([{"CPU": 2.0, "GPU": 1.0}]) as (group,):
        held = PlacementGroupSchedulingStrategy(placement_group=group)
        probe = ray.remote(num_cpus=2, num_gpus=1)(ray.get_gpu_ids)
        assert ray.get(probe.options(scheduling_strategy=held).remote(), timeout=120) == [0]


def test_a_faster_dtype_is_tried_on_the_sweep_s_own_corpus(text, corpus, units, monkeypatch):
    units(float32=1.0, bfloat16=0.5)
    told = []

    class Watched(probing.TrainRun):
        def __init__(self, job, trial):
            told.append((job.slot.speed.dtype, trial.question.seed, trial.steps, job.corpus))
            super().__init__(job, trial)

    monkeypatch.setattr(probing, "TrainRun", Watched)
    found = probing.find(sweep_of(text), 256, corpus)
    assert found.speed.dtype == "bfloat16"
    assert "2.00 times as fast" in found.speed.why
    steps = {told_steps for _, _, told_steps, _ in told}
    assert {(d, s) for d, s, _, _ in told} == {
        (dtype, seed) for dtype in ("float32", "bfloat16") for seed in range(3)
    }
    assert steps == {probing.STEPS[0]}  # all of them are a thousandth of so small a sweep
    assert {folder for *_, folder in told} == {corpus}


def test_what_costs_loss_is_not_taken(text, corpus, units, monkeypatch):
    units(float32=1.0, bfloat16=0.5)
    ends = {"float32": [], "bfloat16": []}

    class Worse(probing.TrainRun):
        def __iter__(self):
            dtype = self.training.recipe.dtype
            for progress in super().__iter__():
                told = replace(progress, loss=progress.loss + 0.006 * (dtype == "bfloat16"))
                yield told
            ends[dtype].append(told.loss)

    monkeypatch.setattr(probing, "TrainRun", Worse)
    found = probing.find(sweep_of(text), 256, corpus)
    assert found.speed.dtype == "float32"
    cost = np.mean(ends["bfloat16"]) - np.mean(ends["float32"])
    assert cost == pytest.approx(0.006)
    assert f"costs {cost:.4f} nat/token" in found.speed.why


def test_a_dtype_that_is_written_is_taken_as_it_is(text, corpus, units):
    units(float32=0.1, bfloat16=0.5)
    asked = sweep_of(text, training={"dtype": "bfloat16"})
    assert probing.find(asked, 256, corpus).speed.dtype == "bfloat16"


def test_the_first_choice_stands(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    first = Slot(speed=Speed(dtype="bfloat16", threads=2, why="2.10 times"), peaks={"cpu": 3e11})
    assert slot.read(ledger) == Slot()
    assert slot.settle(ledger, lambda: first) == first
    assert slot.settle(ledger, lambda: Slot(memory=1e9)) == first
    assert slot.read(ledger) == first
    ledger.close()


def test_sizes_that_no_slot_holds_are_all_refused(text):
    sweep = sweep_of(text)
    counted = plan.plan(sweep)
    one = training_bytes(space.shape(sweep, (1, 8), 256), 1, recompute=True) / USABLE
    plan.check_memory(sweep, counted, 256, Slot(memory=2 * one))
    with pytest.raises(ConfigError) as refused:
        plan.check_memory(sweep, counted, 256, Slot(memory=one))
    lines = str(refused.value).splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["1x12", "1x16"]
    assert all("take it off the ladder" in line for line in lines)


@pytest.mark.ray
def test_a_sweep_goes_on_elsewhere_as_it_began(local_ray, text, tmp_path, monkeypatch):
    def machine(dtype):
        """Pretend that trials of this dtype are fastest here."""
        found = Slot(speed=Speed(dtype=dtype), memory=1e10, peaks={})
        monkeypatch.setattr(sweeps.trainable, "find_slot", lambda *told: found)

    def rows(folder):
        sweeps.run(sweep_of(text, cap={"flops": cap}), tmp_path / folder)
        return pd.read_parquet(tmp_path / folder / "trials.parquet")

    machine("bfloat16")
    cap = 1e8
    assert list(rows("first")["dtype"]) == ["bfloat16"]  # the cap buys one of three trials
    machine("float32")
    cap = 1e9
    first = rows("first")
    assert list(first["dtype"]) == ["bfloat16"] * 3
    other = rows("other")
    assert list(other["dtype"]) == ["float32"] * 3
    assert not set(first["config_hash"]) & set(other["config_hash"])
    assert list(other["attempts"]) == [1] * 3  # none was answered from the first one's record
    again = rows("again")
    assert list(again["attempts"]) == [0] * 3
    assert list(again["config_hash"]) == list(other["config_hash"])
