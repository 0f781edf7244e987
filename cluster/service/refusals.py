"""What a service says no to: a message for the person, a status for the program; never charged."""

from http import HTTPStatus


class Refusal(Exception):  # noqa: N818  an answer, not an error of ours
    """A request that is not done; its text is the answer's `message`."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class UnknownKey(Refusal):
    """Nobody was given this key, or it was revoked."""

    def __init__(self, key: str) -> None:
        shown = key if len(key) <= SHOWN else f"{key[:SHOWN]}…"
        super().__init__(f"Invalid API key provided: {shown}")


class OutOfRange(Refusal):
    """A configuration that may not be asked, or that buys no training."""

    status = HTTPStatus.NOT_FOUND


class NoSuchRun(Refusal):
    """Another key's run, or nobody's."""

    status = HTTPStatus.NOT_FOUND


class OverBudget(Refusal):
    """The key's budget does not hold what was asked."""


class NothingAsked(Refusal):
    """The key has no runs yet."""


class AlreadyEnded(Refusal):
    """A run that is over cannot be canceled."""

    status = HTTPStatus.CONFLICT


class TooMany(Refusal):
    """Too many runs wait, or too many requests came."""

    status = HTTPStatus.TOO_MANY_REQUESTS


class Failed(Refusal):
    """The run failed for our fault; asked again it runs again."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class Silent(Refusal):
    """Nothing is computed at present."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


SHOWN = 200
"""Characters of an unknown key that are sent back: enough to see how its encoding arrived."""
