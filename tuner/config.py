"""Sweep: what a person writes in TOML, checked whole. Needs neither torch nor ray."""

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class ConfigError(Exception):
    """A person's mistake in a sweep file: every fault, each with place, value and remedy."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Data(_Section):
    """What is read."""

    source: str = "python-stdlib"
    """A file, folder or glob of text, a prepared corpus, or a source known by name."""
    tokenizer: str = Field(default="byte", pattern=r"^(byte|bpe:\d+)$")
    """`byte`, or `bpe:SIZE` trained on the source."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of documents held out, each chosen by its content."""
    max_bytes: Count | None = None
    """Read no more text than this; the public sets are terabytes."""
    text_column: str = "text"
    """Field of JSONL and Parquet rows that holds the text."""
    held_out_tokens: Count = 131_072
    """Tokens that every trial is evaluated on."""
    allow_repeats: bool = False
    """Let a trial see the corpus more than once; the table says how often (`epochs`)."""


class Shapes(_Section):
    """The ladder of models."""

    ladder: tuple[tuple[Count, Count], ...] = ()
    """[num_layers, d_model] of each; left out: built around the predicted optima."""
    per_budget: Annotated[int, Field(ge=3)] | None = None
    """Sizes tried at a budget: those nearest its predicted optimum; left out: the whole ladder."""
    tokens_per_param: Positive = 20.0
    """First guess of the optimal ratio: Chinchilla, arXiv 2203.15556, table 3."""
    context_length: Count = 64
    head_size: Count = 16
    """Least width of an attention head; a narrower model has one head."""
    ffn: Literal["gelu", "swiglu"] = "gelu"
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    positions: Literal["learned", "rotary"] = "learned"
    qk_norm: bool = False
    tied_head: bool = False

    @field_validator("ladder")
    @classmethod
    def _distinct(cls, ladder: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        if len(set(ladder)) < len(ladder):
            raise ValueError("names a shape twice; name each once")
        return ladder


class Training(_Section):
    """How each model is trained; the learning rate is searched."""

    batch_size: Count | tuple[Count, ...] = 4
    """Sequences a step: one number, or one a budget."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup: Share = 0.15
    """Share of the run over which the rate rises."""
    schedule: Literal["linear", "cosine", "constant", "wsd"] = "linear"
    final_fraction: Share = 0.0
    """Share of the peak rate that is left at the end."""
    cooldown: Share = 0.2
    """Share of the run over which `wsd` comes down."""
    optimizer: Literal["adamw"] = "adamw"
    parametrization: Literal["mup", "standard"] = "mup"
    """Rates of hidden matrices and head scaled by 16 / d_model, or one rate for all."""
    grad_clip: Positive = 1.0
    dtype: Literal["float32", "bfloat16"] = "float32"


class Search(_Section):
    """Which learning rates are tried."""

    sampler: Literal["tpe", "gp", "cmaes", "qmc", "random", "grid"] = "tpe"
    trials: Count = 3
    """Learning rates at each (budget, shape)."""
    learning_rate: tuple[Positive, Positive] = (4e-3, 1.28e-1)
    """Lowest and highest rate, searched in log space."""
    seeds: Count = 1
    """Runs of each configuration, each with its own weights and data order."""
    warm_start: bool = True
    """Begin each budget where the smaller ones point: their optimum's size and best rate."""
    extend: bool = True
    """Spend what pruning saved on more sizes where a minimum is not bracketed."""

    @field_validator("learning_rate")
    @classmethod
    def _ordered(cls, rates: tuple[float, float]) -> tuple[float, float]:
        if rates[0] >= rates[1]:
            raise ValueError(f"lowest rate first: [{rates[1]:g}, {rates[0]:g}]")
        return rates


class Pruning(_Section):
    """ASHA over FLOPs, among the learning rates of one (budget, shape)."""

    enabled: bool = True
    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.25, 0.5, 0.75)
    """Shares of the budget at which a trial is evaluated and may be stopped."""
    reduction: Annotated[float, Field(gt=1)] = 2.0
    """One in `reduction` goes on."""
    min_population: Annotated[int, Field(ge=2)] = 2
    """Trials that must have reached a rung before anything is cut there."""

    @field_validator("rungs")
    @classmethod
    def _rising(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if list(rungs) != sorted(set(rungs)):
            raise ValueError(f"rungs must rise: {sorted(set(rungs))}")
        return rungs


class Cap(_Section):
    """What the sweep may spend at most."""

    flops: Positive | None = None
    """Left out: the plan's total."""
    price_per_hour: Annotated[float, Field(ge=0)] = 0.0
    """Of one trial slot, in any currency: the plan shows it."""


class Resources(_Section):
    """What one trial runs on."""

    cpus_per_trial: Annotated[float, Field(ge=0)] = 1.0
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0.0
    slots: Count | None = None
    """Trials at once; left out: as many as fit."""
    flops_per_second: Positive = 1e10
    """Training speed of one slot that the plan reckons with: `isoflop doctor` measures it."""
    max_attempts: Count = 4
    """Times a trial is started before it counts as failed."""


class Law(_Section):
    """What the `law` backend answers: L = E + A/N^alpha + B/D^beta, a rate penalty and noise."""

    E: Positive = 1.69
    A: Positive = 406.4
    B: Positive = 410.7
    alpha: Positive = 0.34
    beta: Positive = 0.28
    learning_rate: Positive = 2e-2
    """Rate that costs nothing."""
    curvature: Annotated[float, Field(ge=0)] = 0.02
    """Loss added per squared e-fold away from that rate, nat/token."""
    noise: Annotated[float, Field(ge=0)] = 0.003
    """Standard deviation over seeds, nat/token."""
    seconds_per_trial: Annotated[float, Field(ge=0)] = 0.0
    """Pretended duration."""


class Target(_Section):
    """What the answer is for."""

    budget: Positive | None = None
    """Compute of the run being planned, FLOP; left out: ten times the largest budget."""


class Sweep(_Section):
    """All budgets of one question, and everything a row of its table is a function of."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    budgets: tuple[Positive, ...] = Field(min_length=1)
    """FLOPs given to a trial; one isoFLOP profile each."""
    seed: Annotated[int, Field(ge=0)] = 0
    backend: Literal["train", "law"] = "train"
    convention: Literal["exact", "6ND"] = "exact"
    """FLOPs of a trial: every matrix product, or 6 · N · D with N non-embedding."""
    min_steps: Count = 200
    """Fewer optimizer steps than this are warned of."""
    data: Data = Data()
    shapes: Shapes = Shapes()
    training: Training = Training()
    search: Search = Search()
    pruning: Pruning = Pruning()
    cap: Cap = Cap()
    resources: Resources = Resources()
    law: Law = Law()
    target: Target = Target()

    @field_validator("budgets")
    @classmethod
    def _rising(cls, budgets: tuple[float, ...]) -> tuple[float, ...]:
        if list(budgets) != sorted(set(budgets)):
            raise ValueError(f"budgets must rise: {sorted(set(budgets))}")
        return budgets

    @model_validator(mode="after")
    def _batch_per_budget(self) -> "Sweep":
        sizes = self.training.batch_size
        if isinstance(sizes, tuple) and len(sizes) != len(self.budgets):
            raise ValueError(
                f"training.batch_size: {len(sizes)} sizes for {len(self.budgets)} budgets; "
                "give one number, or one a budget"
            )
        return self

    def batch_size(self, budget: float) -> int:
        """Sequences a step at `budget`."""
        sizes = self.training.batch_size
        return sizes if isinstance(sizes, int) else sizes[self.budgets.index(budget)]

    @property
    def target_budget(self) -> float:
        """Compute the answer is for, FLOP."""
        return self.target.budget or 10 * self.budgets[-1]

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


def load(path: Path, settings: Sequence[str] = ()) -> Sweep:
    """Read a sweep file, with `key=value` settings laid over it.

    Raises:
        ConfigError: the file is missing, is not TOML, or has faults; all of them are named.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. Ready ones are in tuner/sweeps/") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; a sweep is a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    for setting in settings:
        _lay_over(table, setting)
    return parse(table, place=path.name)


def parse(table: dict[str, Any], *, place: str) -> Sweep:
    """Check a table read from TOML.

    Raises:
        ConfigError: one line a fault, each with place, value and remedy.
    """
    try:
        return Sweep.model_validate(table)
    except ValidationError as error:
        raise ConfigError("\n".join(_faults(place, error))) from None


def _lay_over(table: dict[str, Any], setting: str) -> None:
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


def _keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, field in section.model_fields.items():
        names.append(prefix + name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += _keys(inner, f"{prefix}{name}.")
    return names


def _faults(place: str, error: ValidationError) -> list[str]:
    """One line a fault; of a value wrong in several ways the most precise one."""
    by_key: dict[str, str] = {}
    for fault in error.errors():
        key = _key(fault["loc"])
        by_key.setdefault(key, f"{place}: {_told(key, dict(fault))}")
    deeper = {key.rpartition(".")[0] for key in by_key if key.rpartition(".")[2].isdigit()}
    return [line for key, line in by_key.items() if key not in deeper]


def _key(location: tuple[int | str, ...]) -> str:
    """The key a person wrote: pydantic's location also names members of unions and types."""
    parts = [str(part) for part in location]
    return ".".join(part for part in parts if not _TYPE.match(part))


_TYPE = re.compile(r"(constrained-)?(int|float|tuple)(\[.*)?$")


def _told(key: str, fault: dict[str, Any]) -> str:
    if fault["type"] == "extra_forbidden":
        return f"unknown key `{key}`.{_near(key)}"
    if fault["type"] == "missing":
        return f"`{key}` is missing. Add it{_EXAMPLES.get(key, '')}"
    message = fault["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if fault["type"] == "value_error" and isinstance(fault["input"], dict):
        return f"{f'`{key}` ' if key else ''}{message}"
    return f"`{key}` = {json.dumps(fault['input'], default=str)}: {message}"


def _near(key: str) -> str:
    known = _keys(Sweep)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    near = near or [
        name for name in known if name.split(".")[-1] == key.rsplit(".", maxsplit=1)[-1]
    ]
    return f" Did you mean `{near[0]}`?" if near else " Remove it."


_EXAMPLES = {"name": ', e.g. name = "mine"', "budgets": ", e.g. budgets = [3e10, 1e11, 3e11]"}
