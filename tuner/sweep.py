"""Wires the engine to Ray Tune: one experiment for the whole sweep. Run it, or go on with it."""

import json
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import tomli_w
from filelock import FileLock, Timeout
from ray import tune
from ray.exceptions import RayTaskError
from ray.tune import (
    CheckpointConfig,
    FailureConfig,
    PlacementGroupFactory,
    RunConfig,
    TuneConfig,
)
from ray.tune.experiment import Trial as RayTrial
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from data.corpus import Corpus
from data.errors import CorpusError
from tuner import corpora, nodes, plan, remote, space, status, throughput, trainable
from tuner import provenance as provenances
from tuner import slot as slots
from tuner.answers import FILE as ANSWERS
from tuner.answers import Answers
from tuner.backends.contract import Job
from tuner.config import Sweep, digest, load
from tuner.driver import Driver
from tuner.engine import Engine
from tuner.errors import ConfigError
from tuner.export import export
from tuner.ledger import DONE, END, Ledger
from tuner.mirror import mirrored, place_of
from tuner.provenance import Provenance
from tuner.search import Studies
from tuner.sections import Resources
from tuner.slot import Slot
from tuner.space import Trial
from tuner.storage import Place
from tuner.tensorboard import TensorBoard
from tuner.watch import Watcher


class HopelessSweepError(Exception):
    """Nothing but failures: the cause lies outside the trials."""


class InterruptedSweepError(Exception):
    """The sweep stopped before its end; what is finished is kept."""


TENSORBOARD = "tensorboard"
"""Folder within a sweep's, for `tensorboard --logdir`."""
NOTHING = 2.0**20
"""Bytes that a trial asks for whose workers ask for the rest: Ray wants some request."""
PENDING = 8
"""Trials that wait for a slot of somebody else's Ray: what its autoscaler sees and starts machines
for. With Ray's own default of 1 a cluster grows by one machine at a time."""
SLOT = "slot"
"""Ray resource of a machine of our own: one a trial that may run at once."""
MARK = 0.001
"""Of a node's mark, which counts 1: enough to be placed there, and to leave room for others."""


def run(
    sweep: Sweep, folder: Path, *, address: str | None = None, storage: Place | None = None
) -> None:
    """Run a sweep in `folder`, or go on with the one that is there, until nothing is left to do.

    Args:
        sweep: what to run; on a folder that holds a sweep, the same.
        folder: everything is written here.
        address: of a running Ray cluster; None starts Ray on this machine.
        storage: what every node of the cluster sees, for checkpoints, corpus and a mirror of
            `folder`; None: they see `folder` itself.

    Raises:
        ConfigError: the folder cannot be written to, holds another sweep, or another process works
            in it; a node of the cluster sees neither it nor `storage`; the API's key is missing.
        CorpusError: the corpus cannot be read or made.
        HopelessSweepError: the first trials all failed.
        InterruptedSweepError: Ctrl-C was pressed; everything finished is written.
    """
    if sweep.backend == "api":
        remote.key(sweep.api)  # no trial could ask without it
    with _alone(folder):
        write(sweep, folder)
        ledger = Ledger(folder / "ledger.db")
        ledger.write_fact(END, "")
        corpus = corpora.of(sweep, folder.parent) if sweep.backend == "train" else None
        most = _most_tokens(sweep, corpus)  # refuses before anything is settled
        provenance = provenances.settle(ledger, _provenance(sweep, corpus))
        studies = Studies(sweep, folder / "study.db", provenance.vocab_size)
        counted = plan.plan(sweep, provenance.vocab_size)
        place = Place.of(folder.resolve()) if storage is None else place_of(folder, storage)
        with _ray(sweep, address), mirrored(folder, None if storage is None else place):
            nodes.check_seen(place)
            job = Job(
                sweep=sweep,
                vocab_size=provenance.vocab_size,
                corpus=None if corpus is None else corpus.folder.resolve(),
                published=corpora.publish(corpus, storage) if corpus and storage else None,
                checkpoints=place / "checkpoints",
            )
            job = replace(job, slot=_slot(job, ledger, is_cluster=address is not None))
            # What is on record depends on how trials compute, and so waits for the slot.
            name = _namer(job, provenance)
            answers = Answers(folder.parent / ANSWERS, name, folder.resolve().name)
            engine = Engine(
                sweep, ledger, studies, cap=counted.cap, max_tokens=most, answers=answers
            )
            _fit(engine, job, folder, place, provenance, is_cluster=address is not None)
        export(folder, sweep, ledger, provenance)
        hopeless = engine.hopeless
        unfinished = ledger.records("running", "waiting")
        ledger.write_fact(END, "interrupted" if unfinished else DONE)
        ledger.close()
        answers.close()
        if hopeless:
            raise HopelessSweepError(hopeless)
        if unfinished:
            raise InterruptedSweepError(f"{len(unfinished)} trials are unfinished")


def write(sweep: Sweep, folder: Path) -> None:
    """Write the sweep's file and its plan into its folder.

    Raises:
        ConfigError: another sweep began there; only its cap may be changed.
    """
    path, speed = folder / "sweep.toml", throughput.known(sweep)
    if (folder / "ledger.db").exists() and path.exists():
        ledger = Ledger(folder / "ledger.db")
        began = provenances.read(ledger) is not None
        speed = speed.corrected(status.own_rates(ledger.records()))
        ledger.close()
        stands = load(path)
        if began and stands.model_copy(update={"cap": sweep.cap}) != sweep:
            raise ConfigError(f"{path}: the folder holds another sweep; name another with --dir")
    path.write_text(tomli_w.dumps(sweep.model_dump(mode="json", exclude_none=True)))
    counted = plan.plan(sweep, throughput=speed)
    (folder / "plan.json").write_text(json.dumps(counted.to_dict(), indent=1) + "\n")


def _most_tokens(sweep: Sweep, corpus: Corpus | None) -> float:
    """Tokens that a trial may see: those of one epoch, unless it may repeat them."""
    if corpus is None:
        return math.inf
    corpora.check(sweep, corpus)
    once = corpus.tokens_per_epoch(sweep.shapes.context_length)
    plan.check_corpus(sweep, plan.plan(sweep, corpus.vocab_size), once)
    return math.inf if sweep.data.allow_repeats else once


def _namer(job: Job, provenance: Provenance) -> Callable[[Trial], str]:
    """What stands for a trial's question among all sweeps of a storage folder."""
    settled, code = provenance.determining(), provenances.code()
    return lambda trial: digest([space.config_hash(job.sweep, trial, settled, job.slot), code])


def _check_writable(folder: Path) -> None:
    """Refuse a folder that nothing can be written to, before anything else is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable"):
            pass
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be written to ({error.strerror}); name another with --dir"
        ) from None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    _check_writable(folder)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise ConfigError(f"{folder}: another process is running this sweep") from None


def _provenance(sweep: Sweep, corpus: Corpus | None) -> Provenance:
    return Provenance(
        commit=provenances.commit(),
        torch=provenances.version("torch"),
        corpus=corpus.fingerprint if corpus else "",
        tokenizer=corpus.tokenizer if corpus else "",
        vocab_size=corpus.vocab_size if corpus else plan.vocabulary(sweep),
        train_tokens=corpus.train_tokens if corpus else 0,
        bytes_per_token=corpus.bytes_per_token if corpus else 0.0,
        model=_source(sweep),
    )


def _source(sweep: Sweep) -> str:
    """Stands for the code of the sweep's own model; empty where it has none."""
    if not sweep.model:
        return ""
    from model.custom import fingerprint  # noqa: PLC0415  needs torch

    return fingerprint(sweep.model)


@contextmanager
def _ray(sweep: Sweep, address: str | None) -> Iterator[None]:
    """A Ray to run on: the one that runs already, the one at `address`, or one of our own."""
    if ray.is_initialized():
        yield
        return
    if address is not None:
        os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(PENDING))
    nodes.connect(address, **_machine(sweep.resources))
    try:
        if address is None:
            check_room(sweep)
        yield
    finally:
        ray.shutdown()


def _machine(resources: Resources) -> dict[str, Any]:
    """How a Ray of our own starts: on loopback, with as many slots as the sweep asks for."""
    slots, each = resources.slots, resources.cpus_per_trial * _devices(resources)
    return {
        "num_cpus": max(1, math.ceil(slots * each)) if slots else None,
        "resources": {SLOT: slots} if slots else None,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
    }


def check_room(sweep: Sweep) -> None:
    """Refuse a trial that this machine can never start: Ray would wait for one that can."""
    room, resources = ray.cluster_resources(), sweep.resources
    asked = {"CPU": resources.cpus_per_trial, "GPU": resources.gpus_per_trial}
    together = _devices(resources)
    times = f" on each of {together} devices" if together > 1 else ""
    short = [
        f"resources.{name.lower()}s_per_trial = {amount:g}{times}: this machine has "
        f"{room.get(name, 0):g}"
        for name, amount in asked.items()
        if amount * together > room.get(name, 0)
    ]
    if short:
        raise ConfigError("\n".join(f"{line}; lower it, or give --address" for line in short))


def _devices(resources: Resources) -> int:
    """Devices of every trial; where that depends on its shape, at least."""
    return 1 if resources.devices == "auto" else resources.devices


def _taken(resources: Resources, slot: Slot) -> dict[str, float]:
    """What a trial on one device takes of Ray, or each worker of one on several."""
    gpus = resources.gpus_per_trial / slot.trials_per_gpu
    return {"CPU": resources.cpus_per_trial, "GPU": gpus}


def _share(config: Mapping[str, Any], resources: Resources, slot: Slot) -> PlacementGroupFactory:
    """What one trial takes of Ray; on several devices its workers take theirs, and it nothing."""
    alone = config["devices"] == 1
    share = _taken(resources, slot) if alone else {"memory": NOTHING}
    return PlacementGroupFactory([share | ({SLOT: 1.0} if SLOT in ray.cluster_resources() else {})])


def _slot(job: Job, ledger: Ledger, *, is_cluster: bool) -> Slot:
    """What every trial runs on and how it computes: found once a sweep, where trials will run.

    Raises:
        ConfigError: no trial can run there, or some sizes do not fit in its memory.
    """
    if job.corpus is None:
        packed = job.sweep.resources.trials_per_gpu
        return Slot(trials_per_gpu=1 if packed == "auto" else packed)

    def find() -> Slot:
        found = slots.most_careful(_probed(job))
        if not is_cluster:  # no autoscaler brings more devices than this machine has
            found = replace(found, devices=_room(_taken(job.sweep.resources, found)))
        counted = plan.plan(job.sweep, job.vocab_size)
        plan.check_memory(job.sweep, counted, job.vocab_size, found)
        return found

    return slots.settle(ledger, find)


def _probed(job: Job) -> list[Slot]:
    """The slot of each kind of GPU that the cluster has now; without GPUs, of one node.

    Raises:
        ConfigError: as `nodes.room`, and what the probe raises.
    """
    resources = job.sweep.resources
    kinds = _kinds_of_gpu() if resources.gpus_per_trial else []
    probe = ray.remote(num_cpus=resources.cpus_per_trial, num_gpus=resources.gpus_per_trial)(
        trainable.find_slot
    )
    asked = {"CPU": resources.cpus_per_trial, "GPU": resources.gpus_per_trial}
    share = {name: amount for name, amount in asked.items() if amount}
    shares = [share | {kind: MARK} for kind in kinds] or [share]
    try:
        with nodes.room(shares) as held:
            there = [PlacementGroupSchedulingStrategy(placement_group=group) for group in held]
            return ray.get([probe.options(scheduling_strategy=one).remote(job) for one in there])
    except RayTaskError as error:
        if isinstance(error.cause, ConfigError | CorpusError):
            raise error.cause from None
        raise


def _kinds_of_gpu() -> list[str]:
    """Ray's resources that mark nodes by their accelerators' type, on one machine or many."""
    marks = ray.cluster_resources()
    return sorted(mark for mark in marks if mark.startswith("accelerator_type:"))


def _room(share: dict[str, float]) -> int:
    """Trials that this machine has room for at once, each with its share of Ray."""
    room = ray.cluster_resources()
    fits = (room.get(name, 0.0) / amount for name, amount in share.items() if amount)
    return max(1, math.floor(min(fits, default=1.0) + 1e-9))


def _fit(
    engine: Engine,
    job: Job,
    folder: Path,
    place: Place,
    provenance: Provenance,
    *,
    is_cluster: bool,
) -> None:
    # Our table, TensorBoard and status stand in for Ray's; raw results stay in result.json.
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    # Its snapshots hold every trial again each time; the ledger is what a sweep goes on from.
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "inf"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    resources, each = engine.sweep.resources, _devices(engine.sweep.resources)
    taken = {name: each * amount for name, amount in _taken(resources, job.slot).items()}
    # Trials on several devices hold nothing themselves, so their number must be bounded.
    at_most = resources.slots or (None if is_cluster and each == 1 else _room(taken))
    # Ray's default, 1, would start one worker or machine at a time; each takes seconds or minutes.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(at_most or PENDING)
    driver = Driver(engine, job, at_most=at_most, room=_room(taken))

    def write_table() -> None:
        export(folder, engine.sweep, engine.ledger, provenance)

    system, path = (place / "ray").opened
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(trainable.run_trial, job=job),
            partial(_share, resources=resources, slot=job.slot),
        ),
        tune_config=TuneConfig(
            metric="loss",
            mode="min",
            num_samples=-1,
            search_alg=driver.searcher,
            scheduler=driver.scheduler,
            reuse_actors=True,
            trial_dirname_creator=_folder_name,
        ),
        run_config=RunConfig(
            # Sweeps on one cluster share a session folder, in which names must differ.
            name=f"{engine.sweep.name}-{digest(str(folder.resolve()))}",
            storage_filesystem=system,
            storage_path=path,
            verbose=0,
            callbacks=[
                tune.logger.JsonLoggerCallback(),
                driver.lives,
                TensorBoard(engine, folder / TENSORBOARD),
                Watcher(engine, folder / "log.txt", write_table),
            ],
            failure_config=FailureConfig(max_failures=0),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    tuner.fit()


def _folder_name(trial: RayTrial) -> str:
    return f"{trial.config['key']}-{trial.trial_id}"
