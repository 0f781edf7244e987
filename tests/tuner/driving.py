"""An engine driven by hand, without Ray: trials report in any order, and die when asked to."""

from pathlib import Path

import pandas as pd

from analysis import runs
from tuner import plan
from tuner.backends import contract
from tuner.backends.contract import Job
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
