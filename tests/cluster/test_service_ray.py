"""`isoflop serve` as a person starts it, on Ray Serve, training for real; and its keys."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock
from urllib.parse import quote

import pytest
import requests
from course_client import CourseClient
from serving import COURSE, KEY, serving, settings_of
from typer.testing import CliRunner

from cluster.service import address, work
from cluster.service.configuration import Configuration
from cluster.service.pulse import Beat
from cluster.service.settings import load
from cluster.service.state import prepare
from tuner.cli import app
from tuner.errors import ConfigError
from tuner.slot import Slot

SMALL = {
    "d_model": 16, "num_layers": 1, "num_heads": 2, "batch_size": 4, "learning_rate": 0.01,
    "train_flops": 3 * 10**9,
}  # fmt: skip
LONG = SMALL | {"d_model": 32, "train_flops": 10**11}


class Served:
    """`isoflop serve` in a process group of its own."""

    def __init__(self, folder, port, *arguments):
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder.parent / f"{time.monotonic_ns()}.log"
        # Short, since sockets lie in it; apart, so that every line Ray writes can be read.
        self.ray = Path(tempfile.mkdtemp(prefix="isoflop"))
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tuner.cli", "serve", "--dir", str(folder),
                 "--port", str(port), *arguments],
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, "RAY_TMPDIR": str(self.ray)},
            )  # fmt: skip
        deadline = time.monotonic() + 120
        while "serving http" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def kill(self):
        """What a power cut does to the server: no goodbye."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._forget()

    def end(self):
        """What a person does."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        found = [
            path for path in [self.log, *self.ray.rglob("*")]
            if path.is_file() and _tells(path.read_bytes())
        ]  # fmt: skip
        self._forget()
        return code, found

    def _forget(self):
        shutil.rmtree(self.ray, ignore_errors=True)


def _tells(content):
    """Whether a file holds a key."""
    return any(text.encode() in content for text in (KEY, quote(KEY), quote(KEY, safe="")))


@pytest.fixture
def port(tmp_path):
    with serving(tmp_path / "port") as (url, _):
        return int(url.rpartition(":")[2])


@pytest.mark.ray
@pytest.mark.slow
def test_it_trains_is_killed_goes_on_and_tells_nobody_the_key(text, tmp_path, port):
    folder, laid = tmp_path / "service", ["data.source=" + str(text), "data.held_out_tokens=2048"]
    arguments = ["--config", "cpu", "--key", KEY, *(part for s in laid for part in ("-s", s))]
    served = Served(folder, port, *arguments)
    client = CourseClient(served.url, KEY)
    answer = client.loss(**SMALL)
    assert answer.status_code == 200, answer.text
    assert 0 < answer.json()["loss"] < 5.5  # ln 256: an untrained model's
    refused = client.loss(**SMALL | {"num_heads": 3})
    assert refused.status_code == 404
    assert refused.json()["message"].startswith("d_model must be a multiple of num_heads")
    long = requests.post(f"{served.url}/runs?api_key={quote(KEY)}", json=LONG, timeout=60)
    assert long.status_code == 202
    state = prepare(load("cpu", laid), folder)
    checkpoint = state.checkpoint(Configuration(**LONG))
    deadline = time.monotonic() + 60
    while not checkpoint.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    served.kill()

    served = Served(folder, port, *arguments)
    assert client.loss(**SMALL).json() == answer.json()
    loss = client.loss(**LONG).json()
    assert loss["total_flops_used"] == SMALL["train_flops"] + LONG["train_flops"]
    run = requests.get(
        f"{served.url}/runs/{long.json()['id']}", headers={"X-API-Key": KEY}, timeout=60
    ).json()
    assert (run["loss"], run["attempts"]) == (loss["loss"], 2)
    assert served.end() == (0, [])

    alone = prepare(load("cpu", laid), tmp_path / "alone")
    slot = Slot.from_json(state.ledger().fact("slot"))
    undisturbed = work.answer(alone, slot, Configuration(**LONG), 1, Beat())
    assert undisturbed.loss == loss["loss"]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere 127.0.0.1 is loopback's only address"
)
def test_it_listens_at_127_0_0_1_alone(tmp_path, port):
    served, found = Served(tmp_path / "service", port, "--key", KEY), set()
    # All of 127/8 is this machine: a socket open to every address answers at 127.0.0.2, too.
    for place in ("127.0.0.1", "127.0.0.2"):
        with socket.socket() as client:
            if client.connect_ex((place, port)) == 0:
                found.add(place)
    assert served.end() == (0, [])
    assert found == {"127.0.0.1"}


def keys(folder, *arguments):
    return CliRunner().invoke(app, ["serve", "keys", *arguments, "--dir", str(folder)])


def test_keys_are_added_listed_and_revoked(tmp_path):
    folder = tmp_path / "service"
    key = keys(folder, "add", "ada").stdout.strip()
    assert len(key) == 43
    assert keys(folder, "add", "bob", "--key", "a b+c", "--budget", "1e16").stdout == "a b+c\n"
    with serving(folder) as (url, _):
        assert CourseClient(url, key).loss(**COURSE).status_code == 200
        assert CourseClient(url, "a b+c").loss(**COURSE).status_code == 200
        assert CourseClient(url, "a b+c").loss(**COURSE | {"d_model": 64}).status_code == 422
        listed = keys(folder, "list").stdout
        assert "ada                  1e+16 FLOP charged" in listed
        assert key not in listed
        assert keys(folder, "revoke", "ada").exit_code == 0
        refused = CourseClient(url, key).loss(**COURSE)
        assert refused.json()["message"].startswith("Invalid API key provided")


def test_a_key_that_was_revoked_is_not_let_in_again(tmp_path, port):
    keys(tmp_path, "add", "ada", "--key", "k")
    keys(tmp_path, "revoke", "ada")
    command = ["serve", "--dir", str(tmp_path), "--key", "k", "--port", str(port)]
    with pytest.raises(ConfigError, match="--key: was revoked; name another"):
        CliRunner().invoke(app, command, catch_exceptions=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of ray.serve, as it is loaded
def test_a_run_that_this_machine_can_never_start_is_told(tmp_path, monkeypatch):
    from cluster.service import deploy

    state = prepare(settings_of(), tmp_path)
    wants = settings_of(backend="train", resources={"gpus_per_trial": 1})
    monkeypatch.setattr(deploy.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(deploy.ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(deploy.serve, "start", lambda **_: pytest.fail("it was started"))
    with pytest.raises(ConfigError, match=r"gpus_per_trial = 1: this machine has 0"):
        next(
            deploy.run(
                replace(state, settings=wants), host="127.0.0.1", port=1, replicas=1, say=print
            )
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of ray.serve, as it is loaded
def test_what_a_killed_service_left_on_a_cluster_is_ended_and_a_living_one_is_not(
    tmp_path, monkeypatch
):
    from cluster.service import deploy

    ended, left, own = [], tmp_path / "left", tmp_path / "own"
    left.mkdir()
    trainer = MagicMock()
    trainer.folder.remote().result.return_value = left
    monkeypatch.setattr(deploy.serve, "get_app_handle", lambda _: trainer)
    monkeypatch.setattr(deploy.serve, "shutdown", lambda: ended.append(True))
    monkeypatch.setattr(deploy.serve, "status", lambda: MagicMock(applications={}))
    deploy.end_leftover(own)
    assert not ended
    monkeypatch.setattr(deploy.serve, "status", lambda: MagicMock(applications={"trainer": 1}))
    with deploy._alone(left), pytest.raises(ConfigError, match="left: another process serves"):
        deploy.end_leftover(own)
    assert not ended
    deploy.end_leftover(own)
    with deploy._alone(left):
        deploy.end_leftover(left)
    assert len(ended) == 2


def test_a_gpu_is_not_used_as_the_cpu_was(tmp_path):
    from cluster.service.tasks import _slot

    state = prepare(settings_of(), tmp_path)
    gpu = replace(state, settings=settings_of(resources={"gpus_per_trial": 1}))
    found = [_slot(made, lambda m=memory: Slot(memory=m)).memory
             for made, memory in ((state, 1.0), (gpu, 2.0), (state, 3.0), (gpu, 4.0))]  # fmt: skip
    assert found == [1.0, 2.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["keys", "revoke", "nobody"], "nobody: no key of that name is in use"),
        (["keys", "add", "x", "--key", ""], "--key: is empty; leave it out for a random one"),
        (["--key", ""], "--key: is empty; leave it out, or name one"),
        (["--config", "none.toml"], "none.toml: no such file. Ready ones are course and cpu"),
        (["-s", "limits.queud=3"], "course.toml: unknown key `limits.queud`. Did you mean"),
        (["-s", "resources.devices=2"], "course.toml: resources.devices: 2, but a service trains"),
        (["--backend", "replay"], "course.toml: replay.table: missing. Add it"),
        (["--dir", "/proc/nowhere"], "/proc/nowhere: cannot be written to"),
    ],
)
def test_wrong_keys_and_settings_are_told_in_a_line(tmp_path, arguments, told):
    place = [] if "--dir" in arguments else ["--dir", str(tmp_path)]
    with pytest.raises(ConfigError) as caught:
        CliRunner().invoke(app, ["serve", *arguments, *place], catch_exceptions=False)
    assert str(caught.value).startswith(told)
    assert len(str(caught.value).splitlines()) == 1


def test_a_port_that_is_taken_is_a_mistake(tmp_path, monkeypatch):
    monkeypatch.setattr(address, "PATIENCE", 0.3)
    with serving(tmp_path / "first") as (url, _):
        port = url.rpartition(":")[2]
        command = ["serve", "--port", port, "--dir", str(tmp_path / "second"), "--key", "k"]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}: cannot be listened on"):
            CliRunner().invoke(app, command, catch_exceptions=False)


def test_a_port_that_a_killed_service_still_holds_is_waited_for():
    said = []
    with socket.socket() as left:
        left.bind(("127.0.0.1", 0))
        left.listen()
        port = left.getsockname()[1]
        closing = threading.Timer(0.3, left.close)
        closing.start()
        address.check_free("127.0.0.1", port, say=said.append)
        closing.join()
    assert said == [
        f"127.0.0.1:{port} is taken; a service that was killed gives it back in seconds: "
        "waiting up to 30 s"
    ]


def test_an_address_of_another_machine_is_refused_at_once():
    with pytest.raises(
        ConfigError, match=r"192\.0\.2\.1:8000: cannot be listened on \(Cannot assign"
    ):
        address.check_free("192.0.2.1", 8000, say=pytest.fail)
