"""The sections of a sweep file. Needs neither torch nor ray."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from model.devices import DEVICES

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]

NAMED_SIZES = {"small": (4, 256), "medium": (8, 512), "large": (12, 768)}
"""(num_layers, d_model) by name, as in public guides to CS336's third assignment: 8, 36 and 101
million weights with 10,000 distinct tokens."""


def _named(size: object) -> object:
    if not isinstance(size, str):
        return size
    if size not in NAMED_SIZES:
        known = ", ".join(NAMED_SIZES)
        raise ValueError(f"no such size; known are {known} and [num_layers, d_model]")
    return NAMED_SIZES[size]


LadderSize = Annotated[tuple[Count, Count], BeforeValidator(_named)]


class Section(BaseModel):
    """Frozen, and strange keys are faults."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Data(Section):
    """What is read."""

    source: str = "python-stdlib"
    """A file, folder or glob of text, a prepared corpus, or a source known by name."""
    tokenizer: str = Field(
        default="byte", pattern=r"^(byte|bpe:(25[7-9]|2[6-9]\d|[3-9]\d\d|[1-9]\d{3,}))$"
    )
    """`byte`, or `bpe:SIZE` trained on the source, SIZE from 257 up: bytes and a separator."""
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


class Shapes(Section):
    """The ladder of models."""

    ladder: tuple[LadderSize, ...] = ()
    """[num_layers, d_model] of each, or `small`, `medium`, `large`: no other size is tried. Left
    out: built around the predicted optima, and lengthened by `search.extend` where a minimum lies
    near its end; for `replay` the sizes that were recorded."""
    per_budget: Annotated[int, Field(ge=3)] | None = None
    """Sizes tried at a budget: those nearest its predicted optimum; left out: the whole ladder."""
    tokens_per_param: Positive = 20.0
    """First guess of the optimal ratio: Chinchilla, arXiv 2203.15556, table 3."""
    context_length: Count = 64
    head_size: Count = 16
    """Least width of an attention head; a narrower model has one head."""
    max_heads: Count | None = None
    """Most heads of a block; left out: as many as `head_size` allows. The course's API takes 16."""
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


class Grid(Section):
    """`design = "grid"`: every size of the ladder on every number of tokens."""

    tokens: tuple[Count, ...] = ()
    """Training tokens of a trial; it takes the most whole steps within them."""

    @field_validator("tokens")
    @classmethod
    def _rising(cls, tokens: tuple[int, ...]) -> tuple[int, ...]:
        if list(tokens) != sorted(set(tokens)):
            raise ValueError(f"tokens must rise: {sorted(set(tokens))}")
        return tokens


class Training(Section):
    """How each model is trained; the learning rate is searched."""

    batch_size: Count | tuple[Count, ...] = 4
    """Sequences a step: one number, or one a budget (in a grid, one a number of tokens)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup: Share = 0.15
    """Share of the run over which the rate rises."""
    warmup_floor: Annotated[int, Field(ge=0)] = 0
    """Steps that warm-up takes at least."""
    schedule: Literal["linear", "cosine", "constant", "wsd", "forks"] = "linear"
    """`forks`: as `wsd`, but each budget's trials go on from the smaller one's, where their
    cooldown began: one trunk a size, rate and seed, paid once (`tuner.chains`)."""
    final_fraction: Share = 0.0
    """Share of the peak rate that is left at the end."""
    cooldown: Share = 0.2
    """Share of the run over which `wsd` and `forks` come down."""
    cooldown_floor: Annotated[int, Field(ge=0)] = 100
    """Steps that this takes at least."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    parametrization: Literal["mup", "standard", "completep"] = "mup"
    """Rates of hidden matrices and head scaled by 16 / d_model; one rate for all; or, besides, what
    a block adds scaled by 2 / num_layers."""
    grad_clip: Positive = 1.0
    min_steps: Count = 50
    """Trials of fewer optimizer steps are refused: at 42 losses jumped by .15 nat/byte from rate to
    rate, and seeds differed by up to .27 (measured: model/README.md): no profile means a thing."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; `auto` takes bfloat16 where a probe before the first trial finds it a
    tenth faster and, over three seeds, no worse than .005 nat/token."""


class Search(Section):
    """Which learning rates are tried."""

    sampler: Literal["tpe", "gp", "cmaes", "qmc", "random", "grid"] = "tpe"
    trials: Count = 3
    """Learning rates at each (budget, shape)."""
    learning_rate: tuple[Positive, Positive] = (4e-3, 1.28e-1)
    """Lowest and highest rate, searched in log space."""
    limits: tuple[Positive, Positive] | None = None
    """Rates that no trial may leave, whatever is found on an edge: a service refuses others."""
    batch_size: tuple[Count, ...] = ()
    """Batch sizes to choose from at every trial; left out: `training.batch_size`."""
    weight_decay: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Weight decays to choose from; left out: `training.weight_decay`."""
    seeds: Count = 1
    """Runs of each configuration, each with its own weights and data order."""
    warm_start: bool = True
    """Begin each budget where the smaller ones point: their optimum's size and best rate."""
    extend: bool = True
    """Spend what the plan left of the cap on what makes profiles sound: more sizes of the ladder,
    rates, seeds."""
    repeats: Annotated[int, Field(ge=0)] = 1
    """Further seeds of each budget's best run, as part of the extension."""

    @field_validator("batch_size", "weight_decay")
    @classmethod
    def _rising(cls, choices: tuple[float, ...]) -> tuple[float, ...]:
        if list(choices) != sorted(set(choices)):
            raise ValueError(f"choices must rise: {sorted(set(choices))}")
        return choices

    @field_validator("learning_rate")
    @classmethod
    def _ordered(cls, rates: tuple[float, float]) -> tuple[float, float]:
        if rates[0] >= rates[1]:
            raise ValueError(f"lowest rate first: [{rates[1]:g}, {rates[0]:g}]")
        return rates


class Explore(Section):
    """Stage one: settings at one shape and one small budget, before any profile."""

    budget: Positive | None = None
    """FLOPs of each trial; left out: there is no stage one."""
    trials: Count = 8
    """Learning rates tried; a best one on the edge adds more."""
    size: LadderSize | None = None
    """Its shape; left out: the one of the ladder nearest the predicted optimum."""
    within: Annotated[float, Field(gt=1)] = 4.0
    """Profiles then search within this factor of the best rate."""


class Pruning(Section):
    """Among the learning rates of one (budget, shape): ASHA over FLOPs, and foresight."""

    enabled: bool = True
    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.25, 0.5, 0.75)
    """Shares of the budget at which a trial is evaluated and may be stopped."""
    reduction: Annotated[float, Field(gt=1)] = 2.0
    """One in `reduction` goes on."""
    min_population: Annotated[int, Field(ge=2)] = 2
    """Trials that must have reached a rung before anything is cut there."""
    chance: Share = 0.0
    """Stop a trial, too, whose chance of ending as its shape's best rate falls below this, by what
    completed runs lost from that rung on; 0: ASHA alone."""

    @field_validator("rungs")
    @classmethod
    def _rising(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if list(rungs) != sorted(set(rungs)):
            raise ValueError(f"rungs must rise: {sorted(set(rungs))}")
        return rungs


class Cap(Section):
    """What the sweep may spend at most."""

    flops: Positive | None = None
    """Left out: the plan's total."""
    seconds: Positive | None = None
    """Device time of all trials together, of a GPU their shares of it, else that of their workers;
    a trial that reports beyond it is stopped."""
    money: Positive | None = None
    """The same, in money at `price_per_hour`."""
    price_per_hour: Annotated[float, Field(ge=0)] = 0.0
    """Of one device: a GPU where trials take one, else a worker of a trial. In any currency."""

    @model_validator(mode="after")
    def _priced(self) -> "Cap":
        if self.money is not None and not self.price_per_hour:
            raise ValueError("money: needs a price_per_hour above 0")
        return self


class Resources(Section):
    """What one trial runs on; on several devices, each of them."""

    cpus_per_trial: Annotated[float, Field(ge=0)] = 1.0
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0.0
    trials_per_gpu: Literal["auto"] | Count = "auto"
    """Trials that share the GPU of `gpus_per_trial = 1`; `auto` measures before the first trial
    whether several together are faster, as far as each holds its whole batch; one, where `stack`
    fills it."""
    devices: Count | Literal["auto"] = 1
    """Workers that train one trial together, each with the cores and GPUs above and an equal share
    of every batch; `auto`: one, or where a shape does not fit as few as its weights do, split."""
    stack: Count = 1
    """Trials of one budget, shape and batch size that one process carries, at most; where real
    training can, they train as one batched model (`tuner.kernels`)."""
    loading_workers: Annotated[int, Field(ge=0)] = 0
    """Threads of a trial that read text ahead: for corpora on slow disks. They move no bit."""
    slots: Count | None = None
    """Trials at once; left out: as many as fit."""
    flops_per_second: Positive | None = None
    """Training speed of one slot that the plan reckons with; left out: a share of the peak of
    `device`, or what `isoflop doctor` measured on this machine."""
    device: str | None = None
    """The accelerator that trials will run on, for the plan's hours and memory: `H100`, …"""
    max_attempts: Count = 4
    """Times a trial is started before it counts as failed."""
    silence: Positive | None = None
    """Seconds without a report after which a trial is ended and tried again; left out: ten times
    what its next report should take, at least ten minutes."""

    def devices_a_slot(self, sharing: int = 1) -> float:
        """Devices that a slot takes: GPUs or a share of one, else the workers of its trial.

        `sharing` trials share a GPU where that is left to be measured; devices left open are one.
        """
        workers = 1 if self.devices == "auto" else self.devices
        if not self.gpus_per_trial:
            return workers
        together = sharing if self.trials_per_gpu == "auto" else self.trials_per_gpu
        return workers * self.gpus_per_trial / together

    @field_validator("device")
    @classmethod
    def _published(cls, name: str | None) -> str | None:
        if name is not None and name not in DEVICES:
            raise ValueError(f"unknown; known are {', '.join(DEVICES)}. Or give flops_per_second")
        return name


class Faults(Section):
    """What goes wrong with the `law` backend's attempts, by chance but alike in every run."""

    raises: Share = 0.0
    """Share of attempts that end in an exception."""
    hangs: Share = 0.0
    """Share of attempts that cease to report and never end."""
    exhausts: Share = 0.0
    """Share of trials that run out of memory unless the batch is computed in two halves."""


class Law(Section):
    """What the `law` backend answers: L = E + A/N^alpha + B/D^beta, penalties and noise."""

    E: Positive = 1.69
    A: Positive = 406.4
    B: Positive = 410.7
    alpha: Positive = 0.34
    beta: Positive = 0.28
    learning_rate: Positive = 2e-2
    """Rate that costs nothing, at N = D = 1 where the exponents below are not 0."""
    rate_params: float = 0.0
    """That rate goes as N to this power: -0.713 in Step Law (arXiv 2503.04715)."""
    rate_tokens: float = 0.0
    """And as D to this power: 0.307 there."""
    curvature: Annotated[float, Field(ge=0)] = 0.02
    """Loss added per squared e-fold away from that rate, nat/token."""
    batch_tokens: Positive | None = None
    """Tokens a step up to which a larger batch costs nothing (the critical batch size of McCandlish
    et al., arXiv 1812.06162); left out: no batch costs anything."""
    batch_exponent: float = 0.0
    """They go as D to this power: 0.571 in Step Law, whose `batch_tokens` is 0.58."""
    batch_curvature: Annotated[float, Field(ge=0)] = 0.02
    """Loss added per squared e-fold of tokens a step beyond that, nat/token."""
    batch_curvature_below: Annotated[float, Field(ge=0)] = 0.0
    """The same below it."""
    noise: Annotated[float, Field(ge=0)] = 0.003
    """Standard deviation over seeds, nat/token."""
    relative_noise: Annotated[float, Field(ge=0)] = 0.0
    """The same as a share of the loss, in place of `noise` where it is not 0."""
    misfit: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of what all runs of a budget and size lie off the law by, together, as a
    share of the loss: no real sizes lie on one law."""
    misfit_draw: Annotated[int, Field(ge=0)] = 0
    """Which draw of these."""
    wobble: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of each report before the last on top of that, as a multiple of it."""
    hurry: float = 0.0
    """Loss that the schedule has yet to remove goes as the rate to this power: above 0, small rates
    look better in the middle of a run than at its end."""
    diverges: Share = 0.0
    """Share of configurations whose loss ceases to be finite."""
    seconds_per_trial: Annotated[float, Field(ge=0)] = 0.0
    """Pretended duration, whatever the trial's FLOPs."""
    flops_per_second: Positive | None = None
    """Pretended speed, in place of one duration for all."""
    faults: Faults = Faults()


class Replay(Section):
    """Which recorded runs the `replay` backend answers from."""

    table: str = ""
    """A sweep's folder, or anybody's run table: CSV, JSON, Parquet."""
    curves: str = ""
    """Its training curves (columns trial, loss and flops, tokens or step), where they are not in
    the same folder."""
    columns: tuple[Annotated[str, Field(pattern=r"^[^=]+=[^=]+$")], ...] = ()
    """`THEIRS=OURS` for each column that goes by another name, as with `isoflop fit --map`."""
    match: Literal["nearest", "interpolated"] = "nearest"
    """Answer with the nearest run in log space, or between the two learning rates around the one
    asked for, at the nearest budget and size."""
    within: Annotated[float, Field(gt=1)] = 2.0
    """Largest factor between what is asked and what was recorded in budget, in N and (unless it is
    interpolated) in learning rate; beyond it the trial fails and says so."""

    @field_validator("table", "curves")
    @classmethod
    def _absolute(cls, path: str) -> str:
        # Workers have another working folder than the person who wrote the path.
        return str(Path(path).absolute()) if path else path


class Api(Section):
    """Which service the `api` backend asks: the course's, or `isoflop serve`."""

    base_url: str = Field(default="http://127.0.0.1:8000", pattern=r"^https?://[^?#]+$")
    key_file: str = ""
    """A file that holds the key and nothing else; it stays out of the sweep's folder."""
    timeout: Positive = 86_400.0
    """Seconds that an answer may take: the service trains meanwhile."""
    patience: Positive = 600.0
    """Seconds for which a lost connection is tried again."""

    @field_validator("key_file")
    @classmethod
    def _absolute(cls, path: str) -> str:
        # Workers have another working folder than the person who wrote the path.
        return str(Path(path).expanduser().absolute()) if path else path


class Target(Section):
    """What the answer is for."""

    budget: Positive | None = None
    """Compute of the run being planned, FLOP; left out: ten times the largest budget."""
    interval: Positive | None = None
    """Choose each run by what it tells of N_opt at that budget, and stop once the 90 % interval of
    N_opt lies within this share of it, e.g. 0.15; left out: the whole plan is run."""
