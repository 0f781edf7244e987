"""Which setting next: one Optuna study per budget, told the truth. Needs no ray.

The shape of a trial is given, so that every size of a profile is covered; Optuna proposes its
learning rate, and its batch size and weight decay where they are searched. Each proposal is a pure
function of the sweep's seed and of what the study knows, so a resumed sweep proposes what an
undisturbed one would have.
"""

import math
import sqlite3
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from model.progress import Progress
from tuner import space
from tuner.config import Sweep
from tuner.ledger import Record, Status
from tuner.question import Cell, Question, Setting

RATE = "learning_rate"
BATCH = "batch_size"
DECAY = "weight_decay"
SIZE = "params"
Choice = TypeVar("Choice", int, float)
DESIGNED = ("grid", "qmc")
"""Samplers whose settings are settled beforehand."""


class Studies:
    """The sweep's Optuna studies, one a budget, in one SQLite file that optuna-dashboard reads."""

    def __init__(self, sweep: Sweep, path: Path | None, vocab_size: int) -> None:
        """Open the studies in the file `path`; None keeps them in memory alone."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep = sweep
        self.vocab_size = vocab_size
        self._storage = optuna.storages.InMemoryStorage() if path is None else _stored(path)
        self._budgets = space.studied(sweep, vocab_size)
        self._profiled = space.budgets(sweep, vocab_size)
        self._studies = {budget: self._study(budget) for budget in self._budgets}

    def propose(
        self, cell: Cell, given: Setting | None, rates: tuple[float, float]
    ) -> tuple[Setting, int]:
        """The setting of a question where it is open, and its number in the Optuna study.

        Args:
            cell: the question.
            given: to be tried as it is (a warm start, another seed); None leaves it to the sampler.
            rates: lowest and highest learning rate to try.
        """
        study, search = self._studies[cell.budget], self.sweep.search
        fixed: dict[str, float] = {SIZE: float(self._params(cell.size))}
        given = self._designed(cell, rates) if given is None else given
        if given is not None:
            named = {RATE: given.learning_rate, BATCH: given.batch_size, DECAY: given.weight_decay}
            fixed |= {name: value for name, value in named.items() if value is not None}
        study.sampler = self._sampler(cell.budget, len(self.trials(cell.budget)))
        study.enqueue_trial(fixed, user_attrs={"trial": cell.key})
        trial = study.ask()
        trial.suggest_float(SIZE, *self._range(cell.size), log=True)
        low, high = rates
        if given is not None:  # an extension may go beyond the range
            low, high = min(low, given.learning_rate), max(high, given.learning_rate)
        setting = Setting(
            learning_rate=trial.suggest_float(RATE, low, high, log=True),
            batch_size=_chosen(trial, BATCH, search.batch_size),
            weight_decay=_chosen(trial, DECAY, search.weight_decay),
        )
        return setting, trial.number

    def tell(
        self, budget: float, optuna_number: int, status: Status,
        reports: Sequence[Progress], flops: int,
    ) -> None:  # fmt: skip
        """Tell a study how a trial ended: COMPLETE, PRUNED or FAIL; twice does no harm.

        Args:
            budget: FLOP.
            optuna_number: of the trial in its study.
            status: completed, pruned or failed.
            reports: what it reported; the step Optuna sees is the per-mille of its FLOPs.
            flops: of the whole trial.
        """
        study = self._studies[budget]
        frozen = self.trials(budget)[optuna_number]
        if frozen.state.is_finished():
            return
        trial = optuna.trial.Trial(study, frozen._trial_id)
        for progress in reports:
            if progress.diverged:
                break
            trial.report(progress.loss, step=round(1000 * progress.flops / flops))
        if status == "completed":
            study.tell(optuna_number, reports[-1].loss, state=TrialState.COMPLETE)
        elif status == "pruned":
            study.tell(optuna_number, state=TrialState.PRUNED)
        else:
            study.tell(optuna_number, state=TrialState.FAIL)

    def trials(self, budget: float) -> list[FrozenTrial]:
        """What a study knows, by Optuna number."""
        return self._studies[budget].get_trials(deepcopy=False)

    def restore(self, records: Sequence[Record]) -> None:
        """Bring back what a power cut took from the studies' end; the ledger knows it."""
        known = {(record.question.budget, record.optuna): record.question for record in records}
        for budget, study in self._studies.items():
            numbers = [number for at, number in known if at == budget]
            for number in range(len(self.trials(budget)), max(numbers, default=-1) + 1):
                study.add_trial(self._entered(known.get((budget, number))))

    def again(self, budget: float, optuna_number: int) -> int:
        """Enter a trial once more whose first entry was told its end, which Optuna never takes
        back; its number."""
        first = self.trials(budget)[optuna_number]
        entered = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=first.params, distributions=first.distributions,
            user_attrs=first.user_attrs,
        )  # fmt: skip
        self._studies[budget].add_trial(entered)
        return len(self.trials(budget)) - 1

    def _entered(self, question: Question | None) -> FrozenTrial:
        """A trial as a study had it before it was told of its end; failed if nobody knows it."""
        if question is None:
            return optuna.trial.create_trial(state=TrialState.FAIL)
        search, rate = self.sweep.search, question.learning_rate
        low, high = self._rates(question.budget)
        params: dict[str, float] = {SIZE: float(self._params(question.size)), RATE: rate}
        distributions: dict[str, BaseDistribution] = {
            SIZE: FloatDistribution(*self._range(question.size), log=True),
            RATE: FloatDistribution(min(low, rate), max(high, rate), log=True),
        }
        for name, among in ((BATCH, search.batch_size), (DECAY, search.weight_decay)):
            value = getattr(question, name)
            if among and value is not None:
                params[name], distributions[name] = value, CategoricalDistribution(among)
        return optuna.trial.create_trial(
            state=TrialState.RUNNING, params=params, distributions=distributions,
            user_attrs={"trial": question.key},
        )  # fmt: skip

    def _rates(self, budget: float) -> tuple[float, float]:
        """The range of rates of a study's latest entry: an exploration may have narrowed it, and
        what has another range than its neighbors, samplers no longer model."""
        for entry in reversed(self.trials(budget)):
            if isinstance(range_ := entry.distributions.get(RATE), FloatDistribution):
                return range_.low, range_.high
        return self.sweep.search.learning_rate

    def forget_unknown(self, known: set[tuple[float, int]]) -> None:
        """End the trials that a kill left in a study before the ledger knew of them."""
        for budget, study in self._studies.items():
            for _ in study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
                study.ask()  # takes up what was enqueued; a waiting trial cannot be told
            for trial in study.get_trials(deepcopy=False):
                if not trial.state.is_finished() and (budget, trial.number) not in known:
                    study.tell(trial.number, state=TrialState.FAIL)

    def _study(self, budget: float) -> optuna.Study:
        return optuna.create_study(
            study_name=f"{self.sweep.name} {budget:g}", storage=self._storage, load_if_exists=True
        )

    def _range(self, asked: space.Size) -> tuple[float, float]:
        """Weights of the ladder's sizes; an extension may go beyond them."""
        explored = [cell.size for cell in space.exploration(self.sweep, self.vocab_size)[:1]]
        ladder = space.ladder(self.sweep, self.vocab_size)
        sizes = [self._params(size) for size in (*ladder, *explored, asked)]
        return float(min(sizes)), float(max(sizes))

    def _params(self, size: space.Size) -> int:
        return space.shape(self.sweep, size, self.vocab_size).params_non_embedding

    def _designed(self, cell: Cell, rates: tuple[float, float]) -> Setting | None:
        """The setting of a sampler whose points do not depend on what was learned; else None."""
        search, choices = self.sweep.search, space.choices(self.sweep)
        count = search.trials if cell.budget in self._profiled else self.sweep.explore.trials
        if search.sampler == "grid":
            rate, choice = divmod(cell.number, len(choices))
            share, which = space.rates(rates, max(1, count // len(choices))), choices[choice]
            return _setting(share[rate % len(share)], which)
        if search.sampler == "qmc":
            stream = self._stream(cell.budget, 0, *cell.size)
            axes = 1 if len(choices) == 1 else 2
            points = qmc.Halton(d=axes, rng=np.random.default_rng(stream)).random(cell.number + 1)
            low, high = (math.log(rate) for rate in rates)
            which = choices[int(points[-1, -1] * len(choices))]
            return _setting(math.exp(low + (high - low) * float(points[-1, 0])), which)
        return None

    def _sampler(self, budget: float, number: int) -> optuna.samplers.BaseSampler:
        """A sampler seeded by the trial's place, so that a resumed sweep proposes the same."""
        seed = int(self._stream(budget, 1, number).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            match self.sweep.search.sampler:
                case "tpe":
                    startup = 2 * self._sizes(budget)
                    return optuna.samplers.TPESampler(
                        seed=seed, multivariate=True, n_startup_trials=startup
                    )
                case "gp":
                    return optuna.samplers.GPSampler(seed=seed)
                case "cmaes":
                    return optuna.samplers.CmaEsSampler(seed=seed)
                case _:
                    return optuna.samplers.RandomSampler(seed=seed)

    def _sizes(self, budget: float) -> int:
        """Sizes tried at a budget: one where rates are explored."""
        if budget not in self._profiled:
            return 1
        return len(space.window(self.sweep, budget, self.vocab_size))

    def _stream(self, budget: float, *place: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(
            self.sweep.seed, spawn_key=(self._budgets.index(budget), *place)
        )


def _stored(path: Path) -> optuna.storages.RDBStorage:
    """A file that waits for no disk: Optuna commits some twenty times a trial.

    A power cut may take the last commits; `Studies.restore` brings them back from the ledger.
    """

    def connect() -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout=60, check_same_thread=False)
        db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;")
        return db

    return optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"creator": connect})


def _setting(rate: float, choice: tuple[int | None, float | None]) -> Setting:
    return Setting(learning_rate=rate, batch_size=choice[0], weight_decay=choice[1])


def _chosen(trial: optuna.Trial, name: str, among: Sequence[Choice]) -> Choice | None:
    """One of the choices; None where there are none."""
    return cast("Choice", trial.suggest_categorical(name, list(among))) if among else None
