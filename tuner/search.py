"""Which learning rate next: one Optuna study per budget, told the truth. Needs no ray.

The shape of a trial is given, so that every size of a profile is covered; Optuna proposes its
learning rate. Each proposal is a pure function of the sweep's seed and of what the study knows,
so a resumed sweep proposes what an undisturbed one would have.
"""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from model.progress import Progress
from tuner import space
from tuner.config import Sweep
from tuner.ledger import Status
from tuner.space import Cell

RATE = "learning_rate"
SIZE = "params"
DESIGNED = ("grid", "qmc")
"""Samplers whose rates are settled beforehand."""


class Studies:
    """The sweep's Optuna studies, one a budget, in one SQLite file that optuna-dashboard reads."""

    def __init__(self, sweep: Sweep, path: Path, vocab_size: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep = sweep
        self.vocab_size = vocab_size
        self._storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        self._budgets = space.budgets(sweep, vocab_size)
        self._studies = {budget: self._study(budget) for budget in self._budgets}

    def propose(self, cell: Cell, rate: float | None) -> tuple[float, int]:
        """The learning rate of a question whose rate is open, and its number in the Optuna study.

        Args:
            cell: the question.
            rate: to be tried as it is (a warm start, another seed); None leaves it to the sampler.
        """
        study = self._studies[cell.budget]
        fixed: dict[str, float] = {SIZE: float(self._params(cell.size))}
        rate = self._designed(cell) if rate is None else rate
        if rate is not None:
            fixed[RATE] = rate
        study.sampler = self._sampler(cell.budget, len(self.trials(cell.budget)))
        study.enqueue_trial(fixed, user_attrs={"trial": cell.key})
        trial = study.ask()
        trial.suggest_float(SIZE, *self._range, log=True)
        low, high = self.sweep.search.learning_rate
        if rate is not None:  # an extension may go beyond the range
            low, high = min(low, rate), max(high, rate)
        return trial.suggest_float(RATE, low, high, log=True), trial.number

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

    @property
    def _range(self) -> tuple[float, float]:
        sizes = [self._params(size) for size in space.ladder(self.sweep, self.vocab_size)]
        return float(min(sizes)), float(max(sizes))

    def _params(self, size: space.Size) -> int:
        return space.shape(self.sweep, size, self.vocab_size).params_non_embedding

    def _designed(self, cell: Cell) -> float | None:
        """The rate of a sampler whose points do not depend on what was learned; else None."""
        search = self.sweep.search
        if search.sampler == "grid":
            return space.rates(self.sweep, search.trials)[cell.number]
        if search.sampler == "qmc":
            stream = self._stream(cell.budget, 0, *cell.size)
            points = qmc.Halton(d=1, rng=np.random.default_rng(stream)).random(cell.number + 1)
            low, high = (math.log(rate) for rate in search.learning_rate)
            return math.exp(low + (high - low) * float(points[-1, 0]))
        return None

    def _sampler(self, budget: float, number: int) -> optuna.samplers.BaseSampler:
        """A sampler seeded by the trial's place, so that a resumed sweep proposes the same."""
        seed = int(self._stream(budget, 1, number).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            match self.sweep.search.sampler:
                case "tpe":
                    startup = 2 * len(space.window(self.sweep, budget, self.vocab_size))
                    return optuna.samplers.TPESampler(
                        seed=seed, multivariate=True, n_startup_trials=startup
                    )
                case "gp":
                    return optuna.samplers.GPSampler(seed=seed)
                case "cmaes":
                    return optuna.samplers.CmaEsSampler(seed=seed)
                case _:
                    return optuna.samplers.RandomSampler(seed=seed)

    def _stream(self, budget: float, *place: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(
            self.sweep.seed, spawn_key=(self._budgets.index(budget), *place)
        )
