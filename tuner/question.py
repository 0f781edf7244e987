"""What a trial is asked: a cell of the plan, and the settings that the search fills in."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from tuner.ladder import Size


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is searched at one budget and size."""

    learning_rate: float
    """Peak rate."""
    batch_size: int | None = None
    """Sequences a step; None where the sweep's own is not searched."""
    weight_decay: float | None = None
    """Decoupled decay; None likewise."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a trial is asked: with the sweep, all that its row is a function of."""

    budget: float
    """FLOP."""
    size: Size
    """(num_layers, d_model)."""
    learning_rate: float
    number: int
    """Counts the settings tried at this (budget, size) from 0."""
    seed: int
    """Of weights and data order."""
    batch_size: int | None = None
    """Sequences a step; None: the sweep's own."""
    weight_decay: float | None = None
    """None: the sweep's own."""
    trunk: tuple[float, ...] = ()
    """Budgets of the shorter trials that its trunk serves, too, FLOP, rising; empty where trials
    are not forked, or none came before."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """A question from its fields, `size` as any pair."""
        return cls(**_sized(fields))

    @property
    def setting(self) -> Setting:
        """What the search chose."""
        return Setting(
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
        )

    @property
    def cell(self) -> "Cell":
        """The cell it fills."""
        return Cell(
            budget=self.budget, size=self.size, number=self.number, seed=self.seed,
            setting=self.setting, trunk=self.trunk,
        )  # fmt: skip

    @property
    def key(self) -> str:
        """Its trial's name within the sweep."""
        layers, width = self.size
        return f"{self.budget:g}-{layers}x{width}-r{self.number}-s{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A question whose setting may still be open."""

    budget: float
    """FLOP."""
    size: Size
    """(num_layers, d_model)."""
    number: int
    """Counts the settings tried at this (budget, size) from 0."""
    seed: int
    """Of weights and data order."""
    setting: Setting | None = None
    """None leaves it to the search."""
    trunk: tuple[float, ...] = ()
    """As the question's."""

    def asked(self, setting: Setting) -> Question:
        """The question, its setting chosen."""
        return Question(
            budget=self.budget, size=self.size, number=self.number, seed=self.seed,
            learning_rate=setting.learning_rate, batch_size=setting.batch_size,
            weight_decay=setting.weight_decay, trunk=self.trunk,
        )  # fmt: skip

    @property
    def key(self) -> str:
        """Its trial's name within the sweep."""
        return self.asked(Setting(learning_rate=0.0)).key

    @property
    def parent(self) -> str:
        """Name of the trial from whose trunk it goes on, if there was one; empty without a trunk
        before it."""
        return replace(self, budget=self.trunk[-1]).key if self.trunk else ""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """A cell from its fields, `size` as any pair, the setting as a mapping or None."""
        setting = fields["setting"] and Setting(**fields["setting"])
        return cls(**(_sized(fields) | {"setting": setting}))


def _sized(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that went through JSON, where tuples are lists."""
    layers, width = fields["size"]
    return {**fields, "size": (layers, width), "trunk": tuple(fields["trunk"])}
