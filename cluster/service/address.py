"""Where a service listens. Needs no ray: a mistake is told before that takes seconds to load."""

import socket

from tuner.config import ConfigError


def check_free(host: str, port: int) -> None:
    """Refuse an address that nothing could listen on.

    Raises:
        ConfigError: something listens there, or it is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, port))
    except OSError as error:
        raise ConfigError(
            f"{host}:{port}: cannot be listened on ({error.strerror}); name another with --port"
        ) from None
