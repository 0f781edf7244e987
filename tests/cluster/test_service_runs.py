"""The asynchronous addresses, the other backends, and what goes wrong while a run is answered."""

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from serving import COURSE, KEY, running, serving, settings_of

from cluster.service import desk
from cluster.service.refusals import OutOfRange
from cluster.service.state import prepare
from model.progress import DIVERGED_LOSS, Progress
from tuner.backends import contract
from tuner.errors import ConfigError


class Diverges(list):
    """A run that reports what it holds."""

    device = "nothing"


WAITS = {"learning_rate": 6e-4, "seconds_per_trial": 0.3}


def call(method, url, address, *, key=KEY, **options):
    return requests.request(
        method, f"{url}/{address}", headers={"X-API-Key": key}, timeout=60, **options
    )


def until_over(url, run):
    while run["status"] in {"queued", "running"}:
        time.sleep(0.02)
        run = call("GET", url, f"runs/{run['id']}").json()
    return run


def test_a_run_is_asked_watched_and_answered(tmp_path):
    with serving(tmp_path, law=WAITS) as (url, _):
        asked = call("POST", url, "runs", json=COURSE)
        assert asked.status_code == 202
        assert asked.headers["Location"] == f"/runs/{asked.json()['id']}"
        assert call("GET", url, "budget").json()["reserved"] == 10**16
        run = until_over(url, asked.json())
        assert run["status"] == "completed"
        assert run["charged"] == 10**16
        assert run | COURSE == run
        again = call("POST", url, "runs", json=COURSE)
        assert again.status_code == 200
        assert again.json() == run
        assert call("GET", url, "runs").json() == {"runs": [run]}
        assert call("GET", url, "budget").json() == {
            "budget": 2e18, "charged": 10**16, "reserved": 0, "left": 2e18 - 1e16,
        }  # fmt: skip
        loss = call("GET", url, "loss", params=COURSE).json()
        assert loss == {"loss": run["loss"], "total_flops_used": 10**16}


def test_nobody_sees_or_ends_anothers_run(tmp_path):
    with serving(tmp_path, keys=(KEY, "eve"), law=WAITS) as (url, _):
        run = call("POST", url, "runs", json=COURSE).json()["id"]
        for method in ("GET", "DELETE"):
            assert call(method, url, f"runs/{run}", key="eve").status_code == 404
        assert call("GET", url, "runs", key="eve").json() == {"runs": []}


def test_a_run_may_be_given_up(tmp_path):
    with serving(tmp_path, law=WAITS) as (url, state):
        ledger = state.ledger()
        run = call("POST", url, "runs", json=COURSE).json()["id"]
        assert call("DELETE", url, f"runs/{run}").json()["status"] == "canceled"
        assert call("DELETE", url, f"runs/{run}").status_code == 409
        while ledger.stopping():
            time.sleep(0.02)
        assert call("GET", url, "budget").json()["reserved"] == 0
        ledger.close()


def test_attempts_that_die_are_tried_again_and_the_hopeless_refunded(tmp_path):
    with serving(tmp_path, law={"faults": {"raises": 1.0}}) as (url, _):
        response = call("GET", url, "loss", params=COURSE)
        assert response.status_code == 503
        assert "InjectedFaultError" in response.json()["message"]
        assert call("GET", url, "budget").json()["left"] == 2e18
        (run,) = call("GET", url, "runs").json()["runs"]
        assert (run["status"], run["attempts"], run["charged"]) == ("failed", 4, 0)


def test_some_attempts_that_die_cost_nobody_anything(tmp_path):
    often = {"attempts": 20}
    with serving(tmp_path, law={"faults": {"raises": 0.5}}, limits=often) as (url, _):
        for width in range(64, 84):
            asked = COURSE | {"d_model": width}
            assert call("GET", url, "loss", params=asked).status_code == 200
        assert call("GET", url, "total_flops_used").json() == 20 * 10**16


def test_a_training_that_diverged_is_refused_with_no_loss(tmp_path, monkeypatch):
    def diverged(*_, **__):
        return [Progress(
            step=3, tokens=1, flops=1, flops_evaluation=0, loss=DIVERGED_LOSS, loss_se=0.0,
            train_loss=DIVERGED_LOSS, learning_rate=1e-3, seconds=1.0, final=True, diverged=True,
        )]  # fmt: skip

    monkeypatch.setattr(contract, "start", lambda *_, **__: Diverges(diverged()))
    with serving(tmp_path) as (url, _):
        refused = call("GET", url, "loss", params=COURSE)
        assert refused.status_code == 404
        assert refused.json()["message"].startswith("the training diverged by step 3 of ")
        (run,) = call("GET", url, "runs").json()["runs"]
        assert 0 < run["charged"] < 10**16  # three steps of many: nobody trains for nothing
        assert call("GET", url, "loss", params=COURSE).json() == refused.json()
        assert call("GET", url, "total_flops_used").json() == run["charged"]
        assert call("GET", url, "previous_runs").json() == {"previous_runs": []}


def test_a_run_in_flight_goes_on_after_a_restart(tmp_path):
    with serving(tmp_path, law=WAITS) as (url, state):
        run = call("POST", url, "runs", json=COURSE).json()
    with running(state) as url:
        run = until_over(url, run)
        assert run["status"] == "completed"
        assert call("GET", url, "total_flops_used").json() == 10**16


def test_a_folder_belongs_to_the_settings_that_answer(tmp_path):
    prepare(settings_of(), tmp_path)
    prepare(settings_of(budget=1e18, limits={"queued": 5}), tmp_path)
    with pytest.raises(ConfigError, match="its answers come from other settings"):
        prepare(settings_of(law={"E": 2.0}), tmp_path)


def test_requests_beyond_the_rate_are_told_to_wait(tmp_path):
    with serving(tmp_path, limits={"requests_per_second": 2}) as (url, _):
        statuses = [call("GET", url, "budget").status_code for _ in range(6)]
        assert statuses[:2] == [200, 200]
        assert 429 in statuses


def test_so_many_requests_of_a_key_may_wait_and_answers_on_record_do_not(tmp_path):
    with serving(tmp_path, law=WAITS, limits={"waiting": 2}) as (url, _):
        assert call("GET", url, "loss", params=COURSE).status_code == 200
        asked = [COURSE | {"d_model": 64 + width} for width in range(5)]
        with ThreadPoolExecutor(5) as pool:
            waiting = [pool.submit(call, "GET", url, "loss", params=one) for one in asked]
            assert call("GET", url, "loss", params=COURSE).status_code == 200
            statuses = Counter(one.result().status_code for one in waiting)
        assert statuses == {200: 2, 429: 3}
        assert call("GET", url, "total_flops_used").json() == 3 * 10**16


def test_a_record_is_read_beside_the_loop_that_answers(tmp_path, monkeypatch):
    def recorded(*_):
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        raise OutOfRange("seen")

    table = tmp_path / "record.csv"
    table.write_text(RECORD)
    monkeypatch.setattr(desk, "_recorded", recorded)
    with serving(tmp_path, backend="replay", replay={"table": str(table)}) as (url, _):
        assert call("GET", url, "loss", params=COURSE).json() == {"message": "seen"}


def test_a_body_that_is_too_long_is_refused(tmp_path):
    with serving(tmp_path) as (url, _):
        for data in (b"x" * 70_000, (b"x" * 1000 for _ in range(70))):
            response = call("POST", url, "runs", data=data)
            assert response.status_code == 413
            assert response.json() == {"message": "the body is over 65536 bytes"}


RECORD = """\
trial,budget,params,tokens,learning_rate,loss
slow,1e16,5e6,3e8,1e-4,4.5
fast,1e16,5e6,3e8,9e-4,4.0
large,1e16,5e7,3e7,9e-4,5.0
"""


@pytest.mark.parametrize(
    ("asked", "loss", "trial"),
    [
        ({}, 4.0, "fast"),
        ({"learning_rate": 1e-4}, 4.5, "slow"),
        ({"d_model": 768, "num_layers": 4}, 5.0, "large"),
    ],
)
def test_a_record_answers_and_says_which_run(tmp_path, asked, loss, trial):
    table = tmp_path / "record.csv"
    table.write_text(RECORD)
    with serving(tmp_path, backend="replay", replay={"table": str(table)}) as (url, _):
        run = until_over(url, call("POST", url, "runs", json=COURSE | asked).json())
        assert (run["loss"], run["answered_by"]) == (loss, f"replay of {trial}")


def test_what_is_not_on_record_is_refused_and_free(tmp_path):
    table = tmp_path / "record.csv"
    table.write_text(RECORD)
    with serving(tmp_path, backend="replay", replay={"table": str(table)}) as (url, _):
        refused = call("GET", url, "loss", params=COURSE | {"train_flops": 10**14})
        assert refused.status_code == 404
        assert "1e+14" in refused.json()["message"]
        assert call("GET", url, "budget").json()["left"] == 2e18
