"""Keys and sessions: stored as digests, compared in constant time.

A key is a long random string, so one keyed hash is enough; a slow one would be paid every request.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass

SESSION_SECONDS = 7 * 24 * 3600
"""How long a browser stays logged in."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """Somebody who may ask."""

    number: int
    name: str
    digest: str
    budget: float | None
    """FLOP; None: the service's own."""
    added: str
    """ISO 8601, UTC."""
    revoked: str
    """The same; empty while the key is good."""
    reserved: int
    """FLOP of runs that wait or train."""
    charged: int
    """FLOP of runs that ended."""


def fresh() -> str:
    """A new key."""
    return secrets.token_urlsafe(32)


def digest(secret: bytes, key: str) -> str:
    """What is stored of a key."""
    return hmac.digest(secret, key.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()


def matching(secret: bytes, key: str, known: Iterable[Key]) -> Key | None:
    """The good key among `known` that `key` is; every one of them is compared."""
    presented, found = digest(secret, key), None
    for candidate in known:
        if hmac.compare_digest(presented, candidate.digest) and not candidate.revoked:
            found = candidate
    return found


def session(secret: bytes, key: Key) -> str:
    """A browser's token for `key`; it does not tell the key."""
    text = f"{key.number}.{int(time.time()) + SESSION_SECONDS}"
    return f"{text}.{_signature(secret, text)}"


def session_key(secret: bytes, token: str) -> int | None:
    """Number of the key whose session this is; None if it is nobody's or over."""
    text, _, signature = token.rpartition(".")
    if not hmac.compare_digest(_signature(secret, text).encode(), signature.encode()):
        return None
    number, _, until = text.partition(".")
    return int(number) if time.time() < int(until) else None


def _signature(secret: bytes, text: str) -> str:
    return digest(secret, f"session {text}")
