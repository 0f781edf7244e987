"""Signs of life, given by who works and looked at by who waits for it."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Sign(Protocol):
    """Whose last one tells whether somebody lives."""

    def beat(self) -> None:
        """Give a sign."""
        ...

    @property
    def last(self) -> float | None:
        """When the last one was given, by a clock of its own; None: never."""
        ...

    def forget(self) -> None:
        """As if there had been none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """A file whose time is renewed: across processes and machines."""

    path: Path

    def beat(self) -> None:
        """Give a sign."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()

    @property
    def last(self) -> float | None:
        """When the last sign was given, by the clock of the storage; None: never."""
        try:
            return self.path.stat().st_mtime
        except FileNotFoundError:
            return None

    def silence(self) -> float:
        """Seconds since, on the machine that gives them; infinite without any."""
        last = self.last
        return math.inf if last is None else time.time() - last

    def forget(self) -> None:
        """As if there had been none."""
        self.path.unlink(missing_ok=True)


class Beat:
    """A number: between threads of a process."""

    last: float | None = None

    def beat(self) -> None:
        """Give a sign."""
        self.last = time.monotonic()

    def forget(self) -> None:
        """As if there had been none."""
        self.last = None
