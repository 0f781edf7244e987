"""Settings: what the person who starts a service writes in TOML. Needs neither torch nor ray."""

import math
import tomllib
from collections.abc import Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from tuner import faults
from tuner.config import Sweep, lay_over
from tuner.errors import ConfigError
from tuner.sections import (
    Count,
    Data,
    Law,
    Positive,
    Pruning,
    Replay,
    Resources,
    Search,
    Section,
    Shapes,
    Training,
)  # fmt: skip

READY = ("course", "cpu")
"""Settings that are shipped, by name."""

Sizes = tuple[Count, Count]


class Ranges(Section):
    """What may be asked; the course's by default (its handout of 2024 and 2025)."""

    d_model: Sizes = (64, 1024)
    num_layers: Sizes = (2, 24)
    num_heads: Sizes = (2, 16)
    batch_size: tuple[Count, ...] = (128, 256)
    learning_rate: tuple[Positive, Positive] = (1e-4, 1e-3)
    train_flops: tuple[Count, ...] = (
        *(digit * 10**power for power in range(13, 18) for digit in (1, 3, 6)),
        10**18,
    )  # fmt: skip

    @field_validator("batch_size", "train_flops")
    @classmethod
    def _rising(cls, choices: tuple[int, ...]) -> tuple[int, ...]:
        if not choices or list(choices) != sorted(set(choices)):
            raise ValueError(f"at least one, and they must rise: {sorted(set(choices))}")
        return choices

    @field_validator("d_model", "num_layers", "num_heads", "learning_rate")
    @classmethod
    def _ordered(cls, limits: tuple[float, float]) -> tuple[float, float]:
        if limits[0] > limits[1]:
            raise ValueError(f"lowest first: [{limits[1]:g}, {limits[0]:g}]")
        return limits

    @property
    def middle(self) -> tuple[int, int]:
        """(num_layers, d_model) in the middle of what may be asked, a power of two wide."""
        layers, width = (math.sqrt(low * high) for low, high in (self.num_layers, self.d_model))
        return max(1, round(layers)), 2 ** round(math.log2(width))


class Limits(Section):
    """What keeps one person from taking everything."""

    queued: Count = 1000
    """Runs of one key that may wait or train at once."""
    waiting: Count = 1000
    """Requests of one key that may wait at `/loss` at once."""
    requests_per_second: Positive | None = None
    """Of one key, in bursts of up to as many; left out: no limit."""
    body: Count = 65_536
    """Bytes of a request's body."""
    attempts: Count = 4
    """Times a run is started before it counts as failed, and is refunded."""


class Settings(Section):
    """A service: who may ask what, and what answers."""

    name: str = Field(default="service", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    backend: Literal["train", "law", "replay"] = "law"
    budget: Positive = 2e18
    """FLOP that the distinct configurations of one key may cost."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of weights, data order and the law's noise."""
    convention: Literal["exact", "6ND"] = "exact"
    """How a step's FLOPs are counted."""
    trusts_proxy: bool = False
    """Only a proxy reaches the service: what it says in X-Forwarded-Proto is believed."""
    ranges: Ranges = Ranges()
    limits: Limits = Limits()
    data: Data = Data()
    shapes: Shapes = Shapes()
    training: Training = Training()
    resources: Resources = Resources()
    law: Law = Law()
    replay: Replay = Replay()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.backend == "replay" and not self.replay.table:
            raise ValueError('replay.table: missing. Add it, e.g. table = "runs/demo"')
        if self.resources.devices != 1:
            raise ValueError(
                f"resources.devices: {self.resources.devices!r}, but a service trains each run on "
                "one device; leave it out"
            )
        return self

    @cached_property
    def sweep(self) -> Sweep:
        """The sweep whose trials answer: nothing is searched, cut or added.

        Its ladder is for the probe of speed alone: the smallest size allowed, and the middle one.
        """
        shared = ("name", "backend", "seed", "convention", "data", "resources")
        ranges = self.ranges
        sizes = {(ranges.num_layers[0], ranges.d_model[0]), ranges.middle}
        return Sweep(
            **{name: getattr(self, name) for name in (*shared, "law", "replay")},
            budgets=tuple(map(float, self.ranges.train_flops)),
            shapes=self.shapes.model_copy(update={"ladder": tuple(sorted(sizes))}),
            training=self.training.model_copy(update={"batch_size": ranges.batch_size[0]}),
            search=Search(trials=1, learning_rate=ranges.learning_rate),
            pruning=Pruning(enabled=False, rungs=()),
        )

    @property
    def determining(self) -> str:
        """What answers are a function of, as JSON: a state folder belongs to it."""
        free = {"name", "budget", "ranges", "limits", "resources", "trusts_proxy"}
        return self.model_dump_json(exclude=free)


def load(name: str, settings: Sequence[str] = ()) -> Settings:
    """Read settings by a ready name or a path, with `key=value` laid over them.

    Raises:
        ConfigError: there is no such file, it is no TOML, or it has faults; all are named.
    """
    try:
        table = tomllib.loads(_text(name))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: not TOML: {error}") from None
    for setting in settings:
        lay_over(table, setting)
    try:
        return Settings.model_validate(table)
    except ValidationError as error:
        place = f"{name}.toml" if name in READY else name
        raise ConfigError("\n".join(faults.told(Settings, place, error))) from None


def _text(name: str) -> str:
    if name in READY:
        return (resources.files("cluster.service") / "ready" / f"{name}.toml").read_text()
    try:
        return Path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        ready = " and ".join(READY)
        raise ConfigError(f"{name}: no such file. Ready ones are {ready}") from None
    except IsADirectoryError:
        raise ConfigError(f"{name}: is a folder; settings are a TOML file") from None
