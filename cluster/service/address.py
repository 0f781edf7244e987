"""Where a service listens. Needs no ray: a mistake is told before that takes seconds to load."""

import errno
import socket
import time
from collections.abc import Callable

from tuner.errors import ConfigError

PATIENCE = 30.0
"""Seconds that a taken port is waited for: the Ray of a service that was killed listens on for
some 3 (measured on two cores, 24 Nov 2026; more under load)."""
LOOK_EVERY = 0.2
"""Seconds between two tries."""


def check_free(host: str, port: int, *, say: Callable[[str], None]) -> None:
    """Refuse an address that nothing could listen on.

    Args:
        host: of this machine.
        port: there.
        say: told once that a port is waited for.

    Raises:
        ConfigError: something listens there for as long as `PATIENCE`, or it is not this machine's.
    """
    until, told = time.monotonic() + PATIENCE, False
    while (error := _refused(host, port)) is not None:
        if error.errno != errno.EADDRINUSE or time.monotonic() >= until:
            raise ConfigError(
                f"{host}:{port}: cannot be listened on ({error.strerror}); name another with --port"
            )
        if not told:
            say(f"{host}:{port} is taken; a service that was killed gives it back in seconds: "
                f"waiting up to {PATIENCE:.0f} s")  # fmt: skip
            told = True
        time.sleep(LOOK_EVERY)


def shared_socket(host: str, port: int) -> socket.socket:
    """A socket that listens beside others of the same address: the kernel shares connections out.

    Only for processes of one service: what `check_free` found.
    """
    made = socket.socket(_family(host))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((host, port))
    return made


def _refused(host: str, port: int) -> OSError | None:
    """Why nothing could listen there; None if something could."""
    try:
        with socket.socket(_family(host)) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, port))
    except OSError as error:
        return error
    return None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
