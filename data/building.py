"""Making a folder whole or not at all, once, however many processes and nodes ask for it."""

import errno
import fcntl
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
"""What file systems without locks answer."""


@contextmanager
def alone_at(target: Path) -> Iterator[None]:
    """Let one process at a time make `target`, on all nodes that share the disk; the others wait
    and then find it made.

    Where a file system has no locks all go on at once: each builds beside the others, and the first
    to finish gives the folder its name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            Console(stderr=True).print(f"{target.name}: waiting for another process that makes it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """A folder to build in, of this process alone: becomes `target` if all goes well, else goes."""
    _clear_after_the_dead(target)
    partial = _partial(target)
    partial.mkdir()
    try:
        yield partial
        _give_name(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _partial(target: Path) -> Path:
    owner = f"{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}"
    return target.with_name(f".{target.name}.{owner}.partial")


def _clear_after_the_dead(target: Path) -> None:
    """Remove what killed processes of this node left."""
    for left in target.parent.glob(f".{target.name}.{socket.gethostname()}.*.partial"):
        process = int(left.name.removesuffix(".partial").split(".")[-2])
        if not _lives(process):
            shutil.rmtree(left, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _give_name(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(partial)  # another process was first
