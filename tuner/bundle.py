"""Logical trials that one Ray trial carries: one process, one slot. A plain record.

Each stays the engine's trial in all that is decided, paid and written: a key, a reservation, a row,
a checkpoint. The process alone is shared: `bundling.ask` gathers the trials that share one, a
worker is handed their `Bundle`, `backends.several` runs them side by side, and each report names
its trial. One that is over has lost its checkpoint to the driver: so the worker knows that it
leaves. When the process dies, all that still run wait for another attempt, together or apart.

To let trials share a process that are no stack, say in `bundling` which they are, and in
`backends.several` how they run; nothing else of the sweep asks what kind of bundle it is.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from tuner.question import Question


@dataclass(frozen=True, kw_only=True)
class Member:
    """A trial as a worker is handed it."""

    question: Question
    attempt: int
    """Which of its starts this is, counted from 1."""
    micro_batch_size: int | None
    """Sequences computed at once, at most; None leaves it to the memory model."""

    @property
    def key(self) -> str:
        """Of the trial."""
        return self.question.key


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The trials of one process: one, or several of a budget, shape and batch size."""

    members: tuple[Member, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Of its trials; it goes by the first."""
        return tuple(member.key for member in self.members)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as Ray's config may hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        members = (
            Member(**(told | {"question": Question.from_dict(told["question"])}))
            for told in fields["members"]
        )
        return cls(members=tuple(members))
