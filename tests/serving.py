"""A service in this process, without Ray: the same application and runner, on loopback."""

import threading
import time
from contextlib import contextmanager

import uvicorn

from cluster.service import api
from cluster.service.executors import Threads
from cluster.service.runner import Runner
from cluster.service.settings import Settings, load
from cluster.service.state import prepare

KEY = "ssh-rsa AAAAB3+Nza/C1yc2E= ada@lovelace"

COURSE = {
    "d_model": 128, "num_layers": 4, "num_heads": 2, "batch_size": 128,
    "learning_rate": 1e-3, "train_flops": 10**16,
}  # fmt: skip


def settings_of(**changes):
    """The course's settings with others laid over."""
    return Settings.model_validate(load("course").model_dump() | changes)


@contextmanager
def serving(folder, *, keys=(KEY,), port=0, **changes):
    """Yield the base URL and the state of a service that knows `keys`."""
    state = prepare(settings_of(**changes), folder)
    ledger = state.ledger()
    for number, key in enumerate(keys):
        ledger.ensure_key(f"key{number}", key)
    ledger.close()
    with running(state, port) as url:
        yield url, state


@contextmanager
def running(state, port=0):
    """Yield the base URL of the service on `state`."""
    runner = Runner(state, Threads(state))
    runner.start()
    server = uvicorn.Server(
        uvicorn.Config(
            api.build(state), host="127.0.0.1", port=port, log_level="critical", access_log=False,
            ws="none", proxy_headers=False, timeout_graceful_shutdown=1,
        )
    )  # fmt: skip
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        runner.stop()
