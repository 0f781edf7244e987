"""A client of a training API: the course's, or `isoflop serve`. Needs neither torch nor ray.

Each question is asked once: its answer is a file, and a lost connection repeats a question that the
service, too, answers once.
"""

import json
import math
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests

from tuner.config import digest
from tuner.errors import ConfigError
from tuner.sections import Api

CONNECT_SECONDS = 10.0
"""For a connection to be made."""
PAUSES = (1.0, 60.0)
"""First and longest pause before a lost connection is tried again, s; each is twice the last."""


LOST = (
    requests.ConnectionError, requests.Timeout,
    requests.exceptions.ChunkedEncodingError,  # lost in the middle of an answer
)  # fmt: skip
UNKNOWN_KEY = "Invalid API key"


class UnreachableError(Exception):
    """The service could not be reached for as long as it was tried."""


class RefusedError(Exception):
    """The service will not answer, and would not if asked again."""


class BrokenError(Exception):
    """The service failed, or is too busy; asked again it may answer."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What the API takes, by its own names."""

    d_model: int
    num_layers: int
    num_heads: int
    batch_size: int
    learning_rate: float
    train_flops: int


class Client:
    """Asks one service by one key.

    Args:
        api: where it is, and where the key lies.
        cache: folder of the answers; one file each, so that any number of workers share it.
    """

    def __init__(self, api: Api, cache: Path) -> None:
        self.api = api
        self.cache = cache

    def loss(self, query: Query) -> float:
        """The loss that a configuration reaches, nat/token.

        Raises:
            RefusedError: out of range, over budget, or no such key.
            BrokenError: the service failed.
            UnreachableError: there is none.
        """
        path = self.cache / f"{digest([self.api.base_url, asdict(query)])}.json"
        if path.exists():
            return float(json.loads(path.read_text())["loss"])
        loss = _loss(self._get("loss", asdict(query)))
        self.cache.mkdir(parents=True, exist_ok=True)
        # A name of its own: two processes may ask the same at the same moment.
        temporary = path.with_suffix(f".{secrets.token_hex(8)}")
        temporary.write_text(
            json.dumps({"base_url": self.api.base_url} | asdict(query) | {"loss": loss})
        )
        temporary.replace(path)
        return loss

    def _get(self, address: str, parameters: dict[str, Any]) -> requests.Response:
        """The response of a service that was reached.

        What is lost on the way is repeated, and what was asked too soon (429): both cost nothing.
        """
        # Pauses alone count: a connection that held while the service trained was no loss.
        waited, pause = 0.0, PAUSES[0]
        while True:
            late = waited + pause > self.api.patience
            try:
                response = requests.get(
                    f"{self.api.base_url.rstrip('/')}/{address}",
                    params={**parameters, "api_key": key(self.api)},
                    timeout=(CONNECT_SECONDS, self.api.timeout),
                )
                if late or response.status_code != requests.codes.too_many:
                    return response
            except LOST as error:
                # Not the error's own text: it holds the address, and that the key.
                if late:
                    raise UnreachableError(
                        f"{self.api.base_url}: no answer in {self.api.patience:g} s "
                        f"({type(error).__name__})"
                    ) from None
            time.sleep(pause)
            waited += pause
            pause = min(2 * pause, PAUSES[1])


def key(api: Api) -> str:
    """The key, as its file holds it, without the line's end.

    Raises:
        ConfigError: there is no such file, or it is empty.
    """
    try:
        found = Path(api.key_file).expanduser().read_text(encoding="utf-8").strip("\r\n")
    except OSError as error:
        raise ConfigError(
            f"api.key_file: {api.key_file}: {error.strerror}; write the key there"
        ) from None
    if not found:
        raise ConfigError(f"api.key_file: {api.key_file} is empty; write the key there")
    return found


def _loss(response: requests.Response) -> float:
    """What a response says.

    Raises:
        RefusedError: it is a refusal.
        BrokenError: it is a failure, or no loss.
    """
    try:
        told = response.json()
    except requests.JSONDecodeError:
        told = None
    said = told if isinstance(told, dict) else {}
    message = said.get("message") or said.get("detail") or response.reason
    if UNKNOWN_KEY in str(message):  # what follows is the key, and messages are kept
        message = f"{UNKNOWN_KEY}; look at api.key_file"
    if response.status_code >= 500 or response.status_code == 429:
        raise BrokenError(f"the service answered {response.status_code}: {message}")
    # The course's service sent some refusals with status 200.
    loss = said.get("loss")
    if response.status_code != 200 or (loss is None and "message" in said):
        raise RefusedError(f"the service refused ({response.status_code}): {message}")
    if not isinstance(loss, int | float) or not math.isfinite(loss):
        raise BrokenError(f"the service answered no loss: {response.text[:200]}")
    return float(loss)
