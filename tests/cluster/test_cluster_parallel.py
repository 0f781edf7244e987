"""A trial on two workers of Ray Train, inside a sweep."""

import time

import pandas as pd
import pytest
import ray
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.util.placement_group import placement_group

from model.memory import training_bytes
from tuner import nodes, parallel, plan, space, sweep
from tuner.backends.contract import Job, OutOfMemoryError, WorkerLostError
from tuner.config import parse
from tuner.errors import ConfigError
from tuner.ledger import Ledger
from tuner.sections import Resources
from tuner.slot import Slot
from tuner.storage import Place

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def two_cores(tmp_path_factory):
    """Room for two workers and for nothing beside them."""
    ray.init(
        "local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=100_000_000, _node_ip_address="127.0.0.1",
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(100):
        words = (f"{(number * 7919 + n * n) % 977} is a number, {n} counts." for n in range(60))
        (folder / f"{number}.txt").write_text("\n".join(words))
    return folder


def run(folder, text, devices, trials=1, **settings):
    table = {
        "name": "pair", "budgets": [3e9],
        "data": {"source": str(text), "held_out_tokens": 4096},
        "shapes": {"ladder": [[1, 16]]},
        "search": {"trials": trials, "sampler": "qmc", "warm_start": False, "extend": False},
        "resources": {"devices": devices}, **settings,
    }  # fmt: skip
    sweep.run(parse(table, place=""), folder)
    return pd.read_parquet(folder / "trials.parquet"), pd.read_parquet(folder / "curves.parquet")


def test_two_workers_give_the_trial_of_one(two_cores, text, tmp_path):
    # Both workers take a core, of two: the trial around them holds none, or this would never end.
    table, curves = run(tmp_path / "two", text, 2)
    alone, alone_curves = run(tmp_path / "one", text, 1)
    (pair,), (one,) = table.to_dict("records"), alone.to_dict("records")
    for name in ("flops", "tokens", "steps", "learning_rate", "status"):
        assert pair[name] == one[name]
    assert pair["status"] == "completed"
    assert pair["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert list(curves["step"]) == list(alone_curves["step"])
    assert list(curves["loss"]) == pytest.approx(list(alone_curves["loss"]), rel=1e-5)


def test_what_they_do_not_finish_is_pruned_and_the_cores_are_free_again(two_cores, text, tmp_path):
    table, _ = run(
        tmp_path / "pruned", text, 2, trials=3,
        pruning={"min_population": 2, "rungs": [0.25]}, cap={"flops": 1e12},
    )  # fmt: skip
    assert set(table["status"]) <= {"completed", "pruned"}
    assert (table["status"] == "completed").any()
    assert ray.available_resources().get("CPU") == 2


def test_a_batch_that_cannot_be_shared_is_told():
    with pytest.raises(ConfigError, match=r"resources.devices: 3 cannot share a batch of 4"):
        parse({"name": "s", "budgets": [1e9], "resources": {"devices": 3}}, place="s.toml")


def test_sizes_that_fit_on_no_number_of_devices_are_told():
    asked = parse({"name": "s", "budgets": [1e15], "resources": {"devices": "auto"}}, place="")
    with pytest.raises(ConfigError, match="take it off the ladder"):
        plan.check_memory(asked, plan.plan(asked), 256, Slot(memory=1e6))


def test_a_batch_that_no_number_of_devices_shares_out_is_checked_as_it_is():
    """Three sequences can only be one device's, or three's, which no number offered is."""
    asked = parse(
        {"name": "s", "budgets": [1e12], "resources": {"devices": "auto"},
         "training": {"batch_size": 3}, "shapes": {"ladder": [[2, 256]]}}, place="",
    )  # fmt: skip
    shape = space.shape(asked, (2, 256), 256)
    memory = 0.7 * training_bytes(shape, 1, recompute=True)
    Slot(memory=memory).split(shape, 64, asked.resources)  # 64 sequences fit, when split
    with pytest.raises(ConfigError, match="2x256: one sequence takes"):
        plan.check_memory(asked, plan.plan(asked), 256, Slot(memory=memory))


def test_more_devices_than_this_machine_has_are_not_waited_for(monkeypatch, tmp_path):
    asked = parse(
        {"name": "s", "budgets": [1e12], "resources": {"devices": "auto"},
         "shapes": {"ladder": [[2, 256]]}}, place="",
    )  # fmt: skip
    shape = space.shape(asked, (2, 256), 256)
    memory = training_bytes(shape, 1, recompute=True)
    job = Job(sweep=asked, vocab_size=256, corpus=tmp_path, checkpoints=Place.of(tmp_path))
    monkeypatch.setattr(sweep, "_probed", lambda job: [Slot(memory=memory)])
    monkeypatch.setattr(sweep.ray, "cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(ConfigError, match="on each of 2 devices"):
        sweep._slot(job, Ledger(tmp_path / "here.db"), is_cluster=False)
    slot = sweep._slot(job, Ledger(tmp_path / "there.db"), is_cluster=True)
    assert slot.split(shape, 64, asked.resources).devices == 4


def test_a_trial_on_several_devices_asks_for_nothing_itself(monkeypatch):
    resources = Resources(devices=2, gpus_per_trial=1.0)
    monkeypatch.setattr(sweep.ray, "cluster_resources", lambda: {"slot": 2.0})
    share = sweep._share({"devices": 2}, resources, Slot())
    assert set(share.required_resources) == {"memory", "slot"}
    share = sweep._share({"devices": 1}, resources, Slot())
    assert share.required_resources == {"CPU": 1.0, "GPU": 1.0, "slot": 1.0}


def test_what_an_actor_reserved_is_free_again_once_it_is_dead(two_cores):
    """Ray's own cleaner asks a dashboard that a machine of our own does without."""

    @ray.remote(num_cpus=0)
    class Maker:
        def reserve(self):
            return placement_group([{"CPU": 1}, {"CPU": 1}]).wait(60)

    maker = Maker.remote()
    assert ray.get(maker.reserve.remote())
    assert nodes.reclaim() == 1  # and takes nothing from the living
    assert "CPU" not in ray.available_resources()
    ray.kill(maker)
    patience = time.monotonic() + 30
    while nodes.reclaim() and time.monotonic() < patience:
        time.sleep(0.1)
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < patience:
        time.sleep(0.1)
    assert ray.available_resources().get("CPU") == 2


def failed(failures):
    return WorkerGroupError("two workers failed", failures)


def test_why_a_trial_on_several_devices_died():
    """One worker's own word counts most; of what may be another's end the driver judges."""
    peer = RuntimeError("Connection closed by peer\nat gloo")
    memory = OutOfMemoryError(4)
    assert parallel._cause(failed({0: peer, 1: memory})) is memory
    lost = parallel._cause(failed({0: peer}))
    assert isinstance(lost, WorkerLostError)
    assert str(lost) == "RuntimeError: Connection closed by peer"
    assert isinstance(parallel._cause(ValueError("no workers")), WorkerLostError)
