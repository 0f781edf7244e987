"""The approaches side by side: all fits of one table, and how far apart they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis import summary
from analysis.laws import LossLaw
from analysis.losspower import LossPowers
from analysis.results import Fit, Interval
from analysis.runs import Dropped
from analysis.tables import Count, FlopCount


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """How far apart the approaches are at one budget."""

    budget: float
    """FLOP."""
    ratio: float
    """Largest N_opt over smallest."""
    lowest: str
    """Approach of the smallest N_opt."""
    highest: str
    """Approach of the largest N_opt."""
    extra_flops: Mapping[str, float]
    """Share of the budget wasted by following each approach, were the chosen loss law true."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Extrapolation cross-validation: fit the smaller budgets, predict the larger ones."""

    approach: str
    error: float
    """Root mean square error of log loss on held-out runs, mean over folds."""
    folds: int


@dataclass(frozen=True, kw_only=True)
class Exponent:
    """The exponent of N_opt under one convention."""

    count: Count
    """Which weights N counts."""
    flops: FlopCount
    """How budgets are counted."""
    approach: str
    a: float | None
    """None where the approach could not be fitted; `reason` says why."""
    interval: Interval | None
    """95 %."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """The same runs under each way to count weights and FLOPs."""

    exponents: tuple[Exponent, ...] = ()
    """One a convention and approach."""
    left_out: str = "not asked for"
    """Why there is no table; empty where there is one."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"exponents": [vars(one) for one in self.exponents], "left_out": self.left_out}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Conventions":
        """A table read back."""
        rows = (dict(row) for row in record["exponents"])
        return cls(
            left_out=record["left_out"],
            exponents=tuple(
                Exponent(interval=_pair(row.pop("interval")), **row) for row in rows
            ),
        )  # fmt: skip


def _pair(record: Sequence[float] | None) -> Interval | None:
    return None if record is None else (record[0], record[1])


@dataclass(frozen=True, kw_only=True)
class Fits:
    """What `fit` gives."""

    n: int
    """Points fitted: one a (budget, shape), at its best learning rate."""
    dropped: tuple[Dropped, ...]
    approaches: tuple[Fit, ...]
    chosen: str
    """Name of the approach to follow; empty when none could be fitted."""
    chosen_because: str
    """Why, in words."""
    disagreement: tuple[Disagreement, ...] = ()
    validation: tuple[Validation, ...] = ()
    powers: LossPowers = field(default_factory=LossPowers)
    """L(N), L(D), L(C), without and with a floor."""
    conventions: Conventions = Conventions()
    """`analysis.conventions.compared` fills it in."""
    source: str = ""
    targets: tuple[float, ...] = ()
    """Budgets that were asked about, FLOP; else ten and a hundred times the largest measured."""
    unsound: tuple[str, ...] = ()
    """What no law of this table survives, in words; empty where there is no such thing."""
    warnings: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Fit:
        """The fit of one approach. Raises `KeyError` where it was not asked for."""
        for fit in self.approaches:
            if fit.name == name:
                return fit
        raise KeyError(
            f"{name!r} was not fitted; there are {[fit.name for fit in self.approaches]}"
        )

    @property
    def best(self) -> Fit:
        """The chosen approach's fit."""
        return self[self.chosen]

    def to_dict(self) -> dict[str, Any]:
        """The answer of `isoflop fit --json`; bootstrap draws are left out."""
        return {
            "source": self.source,
            "n": self.n,
            "dropped": [vars(row) for row in self.dropped],
            "approaches": [fit.to_dict() for fit in self.approaches],
            "chosen": self.chosen,
            "chosen_because": self.chosen_because,
            "disagreement": [vars(record) for record in self.disagreement],
            "validation": [vars(record) for record in self.validation],
            "powers": self.powers.to_dict(),
            "conventions": self.conventions.to_dict(),
            "targets": list(self.targets),
            "unsound": list(self.unsound),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Fits":
        """Fits read back, without draws: they answer everything but bands."""
        return cls(
            source=record["source"],
            n=record["n"],
            dropped=tuple(Dropped(**row) for row in record["dropped"]),
            approaches=tuple(Fit.from_dict(fit) for fit in record["approaches"]),
            chosen=record["chosen"],
            chosen_because=record["chosen_because"],
            disagreement=tuple(Disagreement(**row) for row in record["disagreement"]),
            validation=tuple(Validation(**row) for row in record["validation"]),
            powers=LossPowers.from_dict(record["powers"]),
            conventions=Conventions.from_dict(record["conventions"]),
            targets=tuple(record["targets"]),
            unsound=tuple(record["unsound"]),
            warnings=tuple(record["warnings"]),
        )

    def summary(self) -> str:
        """All of it for a person to read."""
        return summary.of_fits(self)


def disagreement(fits: Sequence[Fit], reference: LossLaw | None, budget: float) -> Disagreement:
    """How far apart the fits are at `budget`; what each would cost were `reference` true."""
    sizes = {fit.name: float(fit.n_opt(budget)) for fit in fits}
    lowest, highest = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    cost: dict[str, float] = {}
    if reference is not None:
        cost = {name: float(reference.extra_flops(n, budget)) for name, n in sizes.items()}
    return Disagreement(
        budget=budget, ratio=sizes[highest] / sizes[lowest], lowest=lowest, highest=highest,
        extra_flops=cost,
    )  # fmt: skip
