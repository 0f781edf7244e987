"""Many at once, and killed in between: what is accepted is exact, and nothing is lost."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from course_client import CourseClient
from serving import COURSE, KEY, serving


def together(count, ask):
    """The responses of `count` callers that begin at the same moment."""
    barrier = threading.Barrier(count)

    def one(number):
        barrier.wait()
        return ask(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_a_hundred_clients_share_a_budget_for_37_runs(tmp_path):
    with serving(tmp_path, budget=37e16) as (url, _):
        client = CourseClient(url, KEY)
        responses = together(100, lambda i: client.loss(**COURSE | {"d_model": 64 + i}))
        assert Counter(r.status_code for r in responses) == {200: 37, 422: 63}
        assert client.total_flops_used().json() == 37 * 10**16
        answered = [r.json()["loss"] for r in responses if r.ok]
        assert sorted(run["loss"] for run in client.previous_runs()) == sorted(answered)


def test_twenty_identical_requests_are_one_run(tmp_path):
    slow = {"learning_rate": 6e-4, "seconds_per_trial": 0.5}
    with serving(tmp_path, law=slow) as (url, _):
        client = CourseClient(url, KEY)
        responses = together(20, lambda _: client.loss(**COURSE))
        assert {r.status_code for r in responses} == {200}
        assert len({r.text for r in responses}) == 1
        assert client.total_flops_used().json() == 10**16
        (run,) = requests.get(f"{url}/runs", params={"api_key": KEY}, timeout=60).json()["runs"]
        assert run["attempts"] == 1


def test_many_runs_train_at_once(tmp_path):
    slow = {"learning_rate": 6e-4, "seconds_per_trial": 0.5}
    with serving(tmp_path, law=slow) as (url, _):
        client = CourseClient(url, KEY)
        began = time.monotonic()
        together(20, lambda i: client.loss(**COURSE | {"d_model": 64 + i}))
        assert time.monotonic() - began < 20 * 0.5 / 2


def test_whoever_hangs_up_leaves_the_run_alive(tmp_path):
    slow = {"learning_rate": 6e-4, "seconds_per_trial": 1.0}
    with serving(tmp_path, law=slow) as (url, _):
        parameters = {**COURSE, "api_key": KEY}
        with pytest.raises(requests.Timeout):
            requests.get(f"{url}/loss", params=parameters, timeout=0.3)
        client = CourseClient(url, KEY)
        assert client.loss(**COURSE).json()["total_flops_used"] == 10**16
        (run,) = requests.get(f"{url}/runs", params={"api_key": KEY}, timeout=60).json()["runs"]
        assert run["attempts"] == 1


LOST = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
"""A service that is gone before it answers, or in the middle."""

SERVER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
import time
from pathlib import Path
from serving import serving
law = {{"learning_rate": 6e-4, "seconds_per_trial": 0.05}}
with serving(Path(sys.argv[1]), port=int(sys.argv[2]), law=law):
    time.sleep(600)
"""


def test_killed_under_load_nothing_is_lost_or_charged_twice(tmp_path, request):
    """SIGKILL at random moments; `tests/benchmarks/serve.py` does it twenty times on Ray Serve."""
    rng, answered, over = random.Random(0), {}, threading.Event()
    with serving(tmp_path / "port") as (url, _):
        port = url.rpartition(":")[2]

    def load(worker):
        client = CourseClient(url, KEY)
        numbers = iter(range(worker, 900, 6))
        number = next(numbers)
        while not over.is_set():
            try:
                response = client.loss(**COURSE | {"d_model": 64 + number})
            except LOST:
                time.sleep(0.05)  # asked again: it may or may not have been accepted
                continue
            assert response.status_code == 200, response.text
            answered[64 + number] = response.json()["loss"]
            number = next(numbers)

    command = [sys.executable, "-c", SERVER, str(tmp_path / "service"), port]
    started = []

    def start():
        started.append(subprocess.Popen(command))
        _wait_until(lambda: _answers(url))
        return started[-1]

    request.addfinalizer(lambda: [(server.kill(), server.wait()) for server in started])
    with ThreadPoolExecutor(6) as pool:
        workers = [pool.submit(load, number) for number in range(6)]
        try:
            for _ in range(3):
                server = start()
                before = len(answered)
                _wait_until(lambda before=before: len(answered) > before + 6)
                time.sleep(rng.uniform(0, 0.3))
                os.kill(server.pid, signal.SIGKILL)
                server.wait()
            start()
        finally:
            over.set()
        for worker in workers:
            worker.result()
    client = CourseClient(url, KEY)
    _wait_until(lambda: _reserved(url) == 0)
    told = {run["d_model"]: run["loss"] for run in client.previous_runs()}
    assert len(told) == len(client.previous_runs())
    assert answered.items() <= told.items()
    assert client.total_flops_used().json() == len(told) * 10**16


def _wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def _answers(url):
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except LOST:
        return False


def _reserved(url):
    return requests.get(f"{url}/budget", params={"api_key": KEY}, timeout=60).json()["reserved"]
