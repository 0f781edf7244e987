"""Signs of life: files whose time is renewed by who lives, and looked at by who waits for them."""

import math
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """One file."""

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
