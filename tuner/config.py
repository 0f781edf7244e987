"""Sweep: what a person writes in TOML, checked whole. Needs neither torch nor ray."""

import hashlib
import json
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from tuner import faults
from tuner.errors import ConfigError
from tuner.sections import (
    Api,
    Cap,
    Count,
    Data,
    Explore,
    Grid,
    Law,
    Positive,
    Pruning,
    Replay,
    Resources,
    Search,
    Section,
    Shapes,
    Target,
    Training,
)  # fmt: skip


class Sweep(Section):
    """All budgets of one question, and everything a row of its table is a function of."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    design: Literal["isoflop", "grid"] = "isoflop"
    """Loss against size at equal FLOPs, or sizes crossed with numbers of tokens."""
    budgets: tuple[Positive, ...] = Field(default=(), validate_default=True)
    """FLOPs given to a trial; one isoFLOP profile each. A grid has none: they follow."""
    seed: Annotated[int, Field(ge=0)] = 0
    backend: Literal["train", "law", "replay", "api"] = "train"
    model: str = Field(default="", pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_][\w.]*)?$")
    """A model of your own, `package.module:build`: a function from a `Shape` to any `nn.Module`
    from tokens to logits. Left out: the decoder of `[shapes]`."""
    convention: Literal["exact", "6ND"] = "exact"
    """FLOPs of a trial: every matrix product, or 6 · N · D with N non-embedding."""
    sound_steps: Count = 200
    """Fewer optimizer steps than this are warned of, and a best run of fewer makes its profile
    unsound; `training.min_steps` says below how many nothing runs."""
    data: Data = Data()
    shapes: Shapes = Shapes()
    grid: Grid = Grid()
    training: Training = Training()
    explore: Explore = Explore()
    search: Search = Search()
    pruning: Pruning = Pruning()
    cap: Cap = Cap()
    resources: Resources = Resources()
    law: Law = Law()
    replay: Replay = Replay()
    api: Api = Api()
    target: Target = Target()

    @field_validator("budgets")
    @classmethod
    def _rising(cls, budgets: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if info.data.get("design") == "grid" and budgets:
            raise ValueError("a grid's budgets follow from its sizes and tokens; remove them")
        if info.data.get("design") == "isoflop" and not budgets:
            raise PydanticCustomError("missing", "at least one is wanted")
        if list(budgets) != sorted(set(budgets)):
            raise ValueError(f"budgets must rise: {sorted(set(budgets))}")
        return budgets

    @model_validator(mode="after")
    def _whole(self) -> "Sweep":
        """Check what no section can check alone."""
        grid, sizes = self.design == "grid", self.training.batch_size
        found = []
        if isinstance(sizes, tuple) and len(sizes) != len(self.levels):
            name = "numbers of tokens" if grid else "budgets"
            found.append(
                f"training.batch_size: {len(sizes)} sizes for {len(self.levels)} {name}; "
                f"give one number, or one for each"
            )
        if grid and not self.grid.tokens:
            found.append("grid.tokens: missing in a grid. Add it, e.g. tokens = [1e6, 1e7, 1e8]")
        if grid and not self.shapes.ladder:
            found.append("shapes.ladder: missing in a grid. Add it, e.g. [[4, 256], [8, 512]]")
        if grid and self.shapes.per_budget:
            found.append("shapes.per_budget: a grid runs the whole ladder; remove it")
        if not grid and self.grid.tokens:
            found.append('grid.tokens: only a grid reads it; write design = "grid" or remove it')
        if self.model and self.training.parametrization == "completep":
            found.append(
                "training.parametrization: completep knows the shipped decoder's blocks alone; "
                'write "mup" or "standard" beside a model of your own'
            )
        found += self._search_faults() + self._sharing_faults()
        found += self._api_faults() if self.backend == "api" else []
        found += self._value_faults() if self.target.interval is not None else []
        found += self._fork_faults() if self.training.schedule == "forks" else []
        packed, whole = self.resources.trials_per_gpu, self.resources.gpus_per_trial == 1
        if packed not in ("auto", 1) and not whole:
            found.append(
                f"resources.trials_per_gpu: {packed} trials cannot share "
                f"{self.resources.gpus_per_trial:g} GPUs; set gpus_per_trial = 1"
            )
        if self.backend == "replay" and not self.replay.table:
            found.append('replay.table: missing. Add it, e.g. table = "runs/demo"')
        if found:
            raise ValueError("\n".join(found))
        return self

    def _sharing_faults(self) -> list[str]:
        """Batches that several devices cannot share."""
        devices, training = self.resources.devices, self.training.batch_size
        packed = self.resources.trials_per_gpu
        if devices != 1 and packed not in {"auto", 1}:
            return [
                f"resources.trials_per_gpu: {packed} trials share a GPU or a trial takes several; "
                "remove it, or set devices = 1"
            ]
        if devices == "auto":
            return []
        sizes = training if isinstance(training, tuple) else (training,)
        odd = sorted({size for size in (*sizes, *self.search.batch_size) if size % devices})
        return [
            f"resources.devices: {devices} cannot share a batch of {size} evenly; change either"
            for size in odd
        ]

    def _search_faults(self) -> list[str]:
        search, explored = self.search, self.explore.budget
        choices = max(1, len(search.batch_size)) * max(1, len(search.weight_decay))
        found = []
        if self.design == "grid" and search.batch_size:
            found.append("search.batch_size: a grid's crossings share one; remove it")
        if self.design == "grid" and explored is not None:
            found.append("explore.budget: a grid has one stage; remove it")
        if explored is not None and self.budgets and explored >= self.budgets[0]:
            found.append(
                f"explore.budget: {explored:g} is not below the smallest budget, "
                f"{self.budgets[0]:g}; lower it"
            )
        low, high = search.limits or (0.0, math.inf)
        if not low <= search.learning_rate[0] < search.learning_rate[1] <= high:
            found.append(
                f"search.limits: [{low:g}, {high:g}] does not hold the learning rates, "
                f"[{search.learning_rate[0]:g}, {search.learning_rate[1]:g}]; widen it"
            )
        counts = {"search": search.trials}
        if explored is not None:
            counts["explore"] = self.explore.trials
        found += [
            f"{name}.trials: {count} is no multiple of the {choices} choices of batch size and "
            "weight decay that a grid sampler crosses with the rates"
            for name, count in counts.items()
            if search.sampler == "grid" and count % choices
        ]
        return found

    def _value_faults(self) -> list[str]:
        """What does not go with runs chosen by their value."""
        search, key = self.search, "target.interval"
        found = []
        if self.design == "grid":
            found.append(f"{key}: a grid is run whole; remove it")
        if len(self.budgets) == 1:
            found.append(f"{key}: one budget shows no trend; name two or more")
        found += [
            f"search.{name}: runs chosen by value differ in budget, size and rate alone; remove "
            f"it, or {key}"
            for name, searched in (
                ("batch_size", bool(search.batch_size)),
                ("weight_decay", bool(search.weight_decay)),
                ("seeds", search.seeds > 1),
            )
            if searched
        ]
        unused = (
            ("pruning.chance", self.pruning.chance > 0, "are not pruned"),
            ("resources.stack", self.resources.stack > 1, "are chosen one at a time"),
        )
        found += [
            f"{name}: runs chosen by value {why}; remove it, or {key}"
            for name, is_set, why in unused
            if is_set
        ]
        return found

    def _fork_faults(self) -> list[str]:
        """What does not go with trunks that go on from budget to budget."""
        sizes, alone = self.training.batch_size, "a trunk has one for all budgets, not"
        varied = isinstance(sizes, tuple) and len(set(sizes)) > 1
        search, target, resources = self.search, self.target, self.resources
        faults = (
            ("training.batch_size", varied, f"{alone} {sizes}; give one number"),
            ("search.batch_size", search.batch_size, f"{alone} {search.batch_size}; remove it"),
            (
                "target.interval", target.interval is not None,
                f"{target.interval} is reached run by run, not by trunks; remove it",
            ),
            (
                "resources.stack", resources.stack > 1,
                f"forks are trained one a process, not {resources.stack}; remove it",
            ),
            (
                "resources.devices", resources.devices != 1,
                f"forks are trained on one device, not {resources.devices}; remove it",
            ),
        )  # fmt: skip
        found = [
            f'{key}: {fault}, or write training.schedule = "wsd"'
            for key, is_set, fault in faults
            if is_set
        ]
        if self.design == "grid":
            found.append(
                'training.schedule: "forks" go from budget to budget, which a grid has not; write '
                '"wsd"'
            )
        if self.backend == "api":
            found.append('training.schedule: a service keeps no trunk for "forks"; write "linear"')
        return found

    def _api_faults(self) -> list[str]:
        """What a service that tells one loss for six numbers cannot do."""
        found = []
        if not self.api.key_file:
            found.append('api.key_file: missing. Add it, e.g. key_file = "api_key.txt"')
        if self.pruning.rungs:
            found.append("pruning.rungs: a service tells the end alone; write rungs = []")
        if self.search.seeds > 1:
            found.append("search.seeds: a service takes no seed; write 1")
        if self.search.repeats:
            found.append("search.repeats: a service takes no seed; write 0")
        if self.search.weight_decay:
            found.append("search.weight_decay: a service takes none; remove it")
        if self.design == "grid":
            found.append('design: a service sells FLOPs, not tokens; write "isoflop"')
        return found

    @property
    def levels(self) -> tuple[float, ...]:
        """What a trial is given: the budgets, FLOP; in a grid, the numbers of tokens."""
        return self.grid.tokens if self.design == "grid" else self.budgets

    def batch_size(self, level: float) -> int:
        """Sequences a step at `level`: of the nearest of the `levels`."""
        sizes = self.training.batch_size
        if isinstance(sizes, int):
            return sizes
        ratios = [abs(math.log(level / known)) for known in self.levels]
        return sizes[ratios.index(min(ratios))]

    @property
    def target_budget(self) -> float | None:
        """Compute the answer is for, FLOP; None in a grid that names none."""
        return self.target.budget or (10 * self.budgets[-1] if self.budgets else None)

    @property
    def report_fractions(self) -> tuple[float, ...]:
        """Shares of a run at which every trial is evaluated, the end last."""
        return (*self.pruning.rungs, 1.0)

    def to_json(self) -> str:
        """The sweep as canonical JSON."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)


def digest(value: object) -> str:
    """Twelve hexadecimal digits that stand for a JSON-like value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


READY = Path(__file__).with_name("sweeps")
"""Sweeps that come with the package."""


def _found(path: Path) -> Path:
    """`path`; where there is none, `demo.toml` and `tuner/sweeps/demo.toml` mean the ready one."""
    ready = path.parent in {Path(), Path("tuner/sweeps")} and not path.exists()
    return READY / path.name if ready else path


def load(path: Path, settings: Sequence[str] = ()) -> Sweep:
    """Read a sweep file, or a ready one by its name, with `key=value` settings laid over it.

    Raises:
        ConfigError: the file is missing, is not TOML, or has faults; all of them are named.
    """
    try:
        table = tomllib.loads(_found(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        ready = ", ".join(sorted(file.name for file in READY.glob("*.toml")))
        raise ConfigError(f"{path}: no such file. Ready ones: {ready}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; a sweep is a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    for setting in settings:
        lay_over(table, setting)
    return parse(table, place=path.name)


def parse(table: dict[str, Any], *, place: str) -> Sweep:
    """Check a table read from TOML.

    Raises:
        ConfigError: one line a fault, each with place, value and remedy.
    """
    try:
        return Sweep.model_validate(table)
    except ValidationError as error:
        raise ConfigError("\n".join(faults.told(Sweep, place, error))) from None


def lay_over(table: dict[str, Any], setting: str) -> None:
    """Put a `key=value` setting into a table read from TOML.

    Raises:
        ConfigError: it is no setting, or its section is a value.
    """
    key, separator, text = setting.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"-s {setting}: expected key=value, e.g. -s search.trials=5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = key.strip().split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"-s {setting}: `{section}` is not a section")
    table[last] = value
