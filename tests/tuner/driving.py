"""An engine driven by hand, without Ray: trials report in any order, and die when asked to."""

from pathlib import Path

import pandas as pd

from analysis import runs
from tuner import bundling, plan
from tuner.backends import contract, several
from tuner.backends.contract import Job
from tuner.bundle import Bundle, Member
from tuner.engine import Engine, Nothing
from tuner.export import export
from tuner.ledger import Ledger
from tuner.provenance import Provenance
from tuner.search import Studies
from tuner.storage import Place


def provenance(sweep):
    return Provenance(
        commit="c", torch="", corpus="", tokenizer="", vocab_size=plan.vocabulary(sweep),
        train_tokens=0, bytes_per_token=0.0,
    )  # fmt: skip


def table(sweep, folder: Path) -> pd.DataFrame:
    ledger = Ledger(folder / "ledger.db")
    found = export(folder, sweep, ledger, provenance(sweep))
    ledger.close()
    return found.drop(columns=list(runs.VOLATILE))


def engine_in(sweep, folder, **options):
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder / "ledger.db")
    studies = Studies(sweep, folder / "study.db", plan.vocabulary(sweep))
    return Engine(sweep, ledger, studies, cap=plan.plan(sweep).cap, **options)


def start(engine, trial, folder):
    job = Job(
        sweep=engine.sweep, vocab_size=engine.vocab_size, corpus=None,
        checkpoints=Place.of(folder),
    )  # fmt: skip
    run = contract.start(job, trial)
    last = engine.ledger.last(trial.key)
    if last is not None:
        run.restore({"step": last.step})
    return iter(run)


def bundle_of(*trials):
    return Bundle(
        members=tuple(Member(question=t.question, attempt=1, micro_batch_size=None) for t in trials)
    )


def drive(engine, folder, rng, *, deaths=0.0, stop_after=10**9):
    """Run to the end, or to `stop_after` reports; trials die with probability `deaths` a report."""
    running, reports = {}, 0
    while reports < stop_after:
        while len(running) < 3:
            trial = engine.ask()
            if isinstance(trial, Nothing):
                break
            running[trial.key] = start(engine, trial, folder)
        if not running:
            return
        key = rng.choice(sorted(running))
        assert engine.ledger.committed() <= engine.cap
        if rng.random() < deaths:
            del running[key]
            engine.fail(key, "killed by the test")
            continue
        reports += 1
        if not engine.report(key, next(running[key]), {"device": "law"}):
            del running[key]


def drive_bundles(engine, rng, folder, *, deaths=0.0, stop_after=10**9):
    """As `drive`, with three processes, each of which carries a bundle; the last step that each
    trial computed."""
    job = Job(
        sweep=engine.sweep, vocab_size=engine.vocab_size, corpus=None,
        checkpoints=Place.of(folder),
    )  # fmt: skip
    running, steps, reports = {}, {}, 0
    while reports < stop_after:
        while len(running) < 3:
            bundle = bundling.ask(engine, job.slot, 3 - len(running))
            if isinstance(bundle, Nothing):
                break
            runs = several.start(job, bundle)
            for key in bundle.keys:
                last = engine.ledger.last(key)
                if last is not None:
                    runs.restore(key, {"step": last.step})
            running[bundle.keys] = (runs, iter(runs))
        if not running:
            break
        keys = rng.choice(sorted(running))
        runs, left = running[keys]
        assert engine.ledger.committed() <= engine.cap
        if rng.random() < deaths:
            del running[keys]
            for key in keys:
                engine.fail(key, "killed by the test")
            continue
        key, progress = next(left, (None, None))
        if key is None:
            del running[keys]
            continue
        reports += 1
        steps[key] = progress.step
        if not engine.report(key, progress, {"device": "law"}):
            runs.drop(key)
    return steps
