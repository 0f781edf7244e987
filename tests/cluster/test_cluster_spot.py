"""Machines that come and go: a wave that takes all of them, a head that is lost with its disk."""

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pandas as pd
import pytest
import tomli_w
from pyarrow import fs
from ray.cluster_utils import Cluster
from running import Running, counts

from tuner import space
from tuner.attempt import attempt
from tuner.backends import contract
from tuner.backends.contract import Job
from tuner.config import parse
from tuner.ledger import Ledger
from tuner.slot import read
from tuner.status import open_folder
from tuner.storage import Place

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SETTLED = {
    "search": {"trials": 2, "sampler": "qmc", "warm_start": False, "extend": False},
    "pruning": {"enabled": False},
}


def written(table, path):
    sweep = parse(table, place="")
    path.write_text(tomli_w.dumps(sweep.model_dump(mode="json", exclude_none=True)))
    return sweep


@pytest.fixture
def machines(monkeypatch):
    """A head that trains nothing and two workers, which Ray calls dead within seconds."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    quick = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": quick},
    )
    workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield cluster, workers
    cluster.shutdown()


def test_a_wave_that_takes_every_worker_ends_in_waiting(machines, tmp_path):
    cluster, workers = machines
    table = {
        **SETTLED, "name": "wave", "backend": "law", "budgets": [1e13, 1e14],
        "shapes": {"per_budget": 3}, "law": {"seconds_per_trial": 2.0}, "cap": {"flops": 1e16},
        "resources": {"max_attempts": 1},
    }  # fmt: skip
    written(table, tmp_path / "wave.toml")
    folder = tmp_path / "wave"
    running = Running(
        tmp_path / "log", "run", str(tmp_path / "wave.toml"), "--yes", "--dir", str(folder),
        "--address", cluster.address,
    )  # fmt: skip
    running.wait_for(folder, 2)
    for worker in workers:
        cluster.remove_node(worker, allow_graceful=False)
    time.sleep(8)
    assert running.process.poll() is None  # it waits
    before = counts(folder)
    time.sleep(2)
    assert counts(folder) == before
    assert "failed" not in before
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    said = running.output()
    assert running.process.returncode == 0, said
    found = pd.read_parquet(folder / "trials.parquet")
    assert set(found["status"]) == {"completed"}  # though an attempt of one's own may not fail
    assert found["attempts"].max() > 1
    lost = found[found["attempts"] > 1]
    assert (lost["flops_charged"] > lost["flops"]).all()  # what a loss may have cost is charged
    assert found["flops_charged"].sum() <= 1e16


def test_a_folder_that_other_machines_do_not_see_is_refused(machines, tmp_path):
    cluster, _ = machines
    table = {**SETTLED, "name": "blind", "backend": "law", "budgets": [1e13]}
    written(table, tmp_path / "blind.toml")
    running = Running(
        tmp_path / "log", "run", str(tmp_path / "blind.toml"), "--yes", "--dir",
        str(tmp_path / "blind"), "--address", cluster.address, "--storage", "memory://mine",
    )  # fmt: skip
    said = running.output()
    assert running.process.returncode == 2
    assert "not seen by" in said
    assert "--storage s3://BUCKET/PREFIX" in said


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(200):
        words = (f"{(number * 7919 + n * n) % 977} is a number, {n} counts." for n in range(60))
        (folder / f"{number}.txt").write_text("\n".join(words))
    return folder


def test_a_head_lost_with_its_disk_is_resumed_from_a_bucket(text, bucket, disk, tmp_path):
    table = {
        **SETTLED, "name": "lost", "budgets": [3e9],
        "data": {"source": str(text), "held_out_tokens": 4096},
        "shapes": {"ladder": [[1, 8], [1, 16], [1, 24]]}, "resources": {"slots": 2},
        "cap": {"flops": 1e12},
    }  # fmt: skip
    sweep = written(table, tmp_path / "lost.toml")
    folder = tmp_path / "runs" / "lost"
    first = Running(
        tmp_path / "log", "run", str(tmp_path / "lost.toml"), "--yes", "--dir", str(folder),
        "--storage", bucket,
    )  # fmt: skip
    kept = Place.of(bucket) / "lost"
    wait_for_a_mirrored_trial(first, kept, tmp_path / "seen.db")
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    shutil.rmtree(folder.parent)

    again = Running(tmp_path / "log2", "resume", str(folder), "--storage", bucket)
    said = again.output()
    assert again.process.returncode == 1, said  # one budget makes no law; the runs are there
    assert f"brought back from {kept}" in said.replace("\n", "")
    found = pd.read_parquet(folder / "trials.parquet")
    assert len(found) == 6
    assert set(found["status"]) == {"completed"}
    rows_are_what_each_gives_alone(sweep, folder, tmp_path)
    assert (kept / "trials.csv").read() == (folder / "trials.csv").read_bytes()
    system, path = (kept / "checkpoints").opened
    assert not system.get_file_info(fs.FileSelector(path, allow_not_found=True))  # none is left
    (copy,) = disk.glob("isoflop-*/corpora/*/meta.json")  # one a node
    assert copy.parent.name.startswith("text-")


@pytest.fixture
def disk(monkeypatch):
    """A machine's own disk; its path is short, for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="iso") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def wait_for_a_mirrored_trial(running, kept, copy):
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and running.process.poll() is None:
        if (kept / "ledger.db").download(copy):
            ledger = Ledger(copy)
            ended = ledger.has("completed")
            ledger.close()
            if ended:
                return
        time.sleep(0.5)
    raise AssertionError(running.log.read_text())


def rows_are_what_each_gives_alone(sweep, folder, tmp_path):
    _, ledger, provenance = open_folder(folder)
    (meta,) = (folder.parent / "corpora").glob("*/meta.json")
    job = Job(
        sweep=sweep, vocab_size=provenance.vocab_size, corpus=meta.parent,
        checkpoints=Place.of(tmp_path), slot=read(ledger),
    )  # fmt: skip
    for record in ledger.records("completed"):
        trial = space.trial(sweep, record.question, provenance.vocab_size)
        file = Place.of(tmp_path / "alone")
        alone = [(p.step, p.loss) for p in attempt(contract.start(job, trial), file)]
        file.remove()
        assert alone == [(p.step, p.loss) for p in ledger.reports(record.key)]
    ledger.close()
