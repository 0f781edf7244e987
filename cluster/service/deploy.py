"""The service on Ray Serve: stateless replicas, one runner, on a laptop and a cluster alike."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import ray
import uvicorn
from filelock import FileLock, Timeout
from ray import serve
from ray.serve.api import RunTarget
from ray.serve.config import ProxyLocation
from ray.serve.schema import LoggingConfig

from cluster.service import api
from cluster.service.address import check_free, shared_socket
from cluster.service.executors import Threads
from cluster.service.runner import Runner
from cluster.service.state import State
from cluster.service.tasks import RayTasks
from tuner import nodes
from tuner.errors import ConfigError

HEAD = {"node:__internal_head__": 0.001}
"""Where the ledger's file lies: SQLite's log is shared memory of one machine."""
TRAINER = "trainer"
"""Serve's name for what holds the runner."""
LEAVING = 2
"""Seconds that requests have to end when the service does; whoever waits asks again for nothing."""


class Trainer:
    """The one runner of a service."""

    def __init__(self, state: State) -> None:
        executor = RayTasks(state) if state.settings.backend == "train" else Threads(state)
        self.runner = Runner(state, executor)
        self.runner.start()

    def folder(self) -> Path:
        """Of the service."""
        return self.runner.state.folder

    def check_health(self) -> None:
        """Let Serve start another runner where this one has stopped.

        Raises:
            RuntimeError: it has.
        """
        if self.runner.error is not None:
            raise RuntimeError("the runner stopped") from self.runner.error


class Front:
    """One of the processes that answer requests; each listens itself, all at one address.

    Through Serve's proxy a request took nine times the processor time.
    """

    def __init__(self, state: State, replicas: int, host: str, port: int) -> None:
        listening = shared_socket(host, port)
        self.server = uvicorn.Server(
            uvicorn.Config(
                api.build(state, replicas=replicas), log_level="warning", access_log=False,
                ws="none", proxy_headers=False, server_header=False,
                timeout_graceful_shutdown=LEAVING,
            )
        )  # fmt: skip
        self.thread = threading.Thread(
            target=self.server.run, args=([listening],), name="front", daemon=True
        )
        self.thread.start()
        while not self.server.started:
            self.check_health()
            time.sleep(0.01)

    def check_health(self) -> None:
        """Let Serve start another where this one has ceased to listen.

        Raises:
            RuntimeError: it has.
        """
        if not self.thread.is_alive():
            raise RuntimeError("the server stopped")

    def __del__(self) -> None:
        """Answer who still waits, and leave."""
        self.server.should_exit = True
        self.thread.join(LEAVING + 1)


def deploy(state: State, *, replicas: int, host: str, port: int) -> None:
    """Put the service on the Ray that runs; returns when it answers."""
    quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
    actor = {"num_cpus": 0, "resources": HEAD}
    answering = serve.deployment(
        name="front", num_replicas=replicas, ray_actor_options=actor, logging_config=quiet
    )(Front)
    training = serve.deployment(
        name="trainer", num_replicas=1, ray_actor_options=actor, logging_config=quiet
    )(Trainer)
    serve.run_many(
        [
            RunTarget(training.bind(state), name=TRAINER, route_prefix=None),
            RunTarget(answering.bind(state, replicas, host, port), name="front", route_prefix=None),
        ]
    )


def run(
    state: State,
    *,
    host: str,
    port: int,
    replicas: int,
    say: Callable[[str], None],
    address: str | None = None,
) -> Iterator[str]:
    """Serve until a signal comes; yields the base URL once it answers.

    Raises:
        ConfigError: another process serves this folder or from this cluster, the address is taken,
            or this machine can never start a run.
    """
    with _alone(state.folder), _ray(address):
        if state.settings.backend == "train" and address is None:
            from tuner.sweep import check_room  # noqa: PLC0415  laws and records need no optuna

            check_room(state.settings.sweep)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        if address is not None:  # a cluster outlives who used it, and Serve lives there
            end_leftover(state.folder)
        check_free(host, port, say=say)
        serve.start(proxy_location=ProxyLocation.Disabled)
        deploy(state, replicas=replicas, host=host, port=port)
        over = _signaled()
        yield f"http://{host}:{port}"
        while not over.wait(1):
            pass
        serve.shutdown()


def end_leftover(folder: Path) -> None:
    """End the service that a process which was killed left on this cluster.

    Raises:
        ConfigError: the process that started it lives, and serves another folder.
    """
    if TRAINER not in serve.status().applications:
        return
    theirs = serve.get_app_handle(TRAINER).folder.remote().result(timeout_s=60)
    with nullcontext() if theirs == folder else _alone(theirs, " on the same Ray cluster"):
        serve.shutdown()


def _signaled() -> threading.Event:
    """Set once somebody wants us to end. To be called last: Ray sets handlers of its own."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    return over


@contextmanager
def _alone(folder: Path, where: str = "") -> Iterator[None]:
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise ConfigError(
            f"{folder}: another process serves from this folder{where}; end it first"
        ) from None


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """The Ray at `address`, or one of our own on loopback."""
    if ray.is_initialized():
        yield
        return
    nodes.connect(address, include_dashboard=False, _node_ip_address="127.0.0.1")
    try:
        yield
    finally:
        ray.shutdown()
