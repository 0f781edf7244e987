"""What goes over the wire: requests as pydantic reads them, answers as JSON."""

import json
import math
from typing import Annotated, Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict
from typing_extensions import override

from cluster.service.configuration import Configuration
from cluster.service.records import Run, Status


def _whole(value: object) -> object:
    """A whole number written as a float: clients send `1e16`."""
    try:
        number = float(value) if isinstance(value, str | float) else math.nan
    except ValueError:
        return value
    exact = number.is_integer() and abs(number) < 2**63
    digits = isinstance(value, str) and value.strip().lstrip("+-").isdecimal()
    return int(number) if exact and not digits else value


Whole = Annotated[int, BeforeValidator(_whole)]


class Asked(BaseModel):
    """A configuration as a client sends it; ranges are checked later, for their own messages."""

    model_config = ConfigDict(extra="ignore")

    d_model: Whole
    num_layers: Whole
    num_heads: Whole
    batch_size: Whole
    learning_rate: float
    train_flops: Whole

    @property
    def configuration(self) -> Configuration:
        """The same as our own record."""
        return Configuration(**self.model_dump())


class Message(BaseModel):
    """Why a request was refused."""

    message: str


class Loss(BaseModel):
    """What a configuration reaches."""

    loss: float
    total_flops_used: int


class PreviousRun(BaseModel):
    """An answered configuration."""

    d_model: int
    num_layers: int
    num_heads: int
    batch_size: int
    learning_rate: float
    train_flops: int
    loss: float


class PreviousRuns(BaseModel):
    """All of a key's, in the order they were asked."""

    previous_runs: list[PreviousRun]


class RunState(BaseModel):
    """A run, wherever it stands."""

    id: str
    status: Status
    d_model: int
    num_layers: int
    num_heads: int
    batch_size: int
    learning_rate: float
    train_flops: int
    loss: float | None
    charged: int
    reason: str
    answered_by: str
    attempts: int
    asked: str
    started: str
    ended: str

    @classmethod
    def of(cls, run: Run) -> "RunState":
        """A run as its owner sees it."""
        own = {name: getattr(run, name) for name in cls.model_fields if hasattr(run, name)}
        return cls(**vars(run.configuration) | own)


class Runs(BaseModel):
    """All of a key's runs, in the order they were asked."""

    runs: list[RunState]


class Budget(BaseModel):
    """Where a key stands, FLOP."""

    budget: float
    charged: int
    reserved: int
    left: float


class Health(BaseModel):
    """The service answers."""

    status: str
    backend: str


class Json(JSONResponse):
    """JSON in ASCII: what a client sent may hold halves of characters, which UTF-8 does not."""

    @override
    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()
