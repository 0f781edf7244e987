"""The client of a training API: asks once, tries a lost connection again, tells nobody the key."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from serving import KEY, serving

from tuner import remote, simulate
from tuner.backends.api import ServiceFailedError, ServiceRefusedError
from tuner.config import parse
from tuner.errors import ConfigError
from tuner.ledger import Ledger
from tuner.plan import plan
from tuner.remote import BrokenError, Client, Query, RefusedError, UnreachableError
from tuner.sections import Api
from tuner.sweep import run

QUERY = Query(
    d_model=128, num_layers=4, num_heads=2, batch_size=128, learning_rate=1e-3, train_flops=10**16
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(remote, "PAUSES", (0.01, 0.02))


def client_of(folder, url, **options):
    (folder / "key").write_text(KEY + "\n")
    return Client(Api(base_url=url, key_file=str(folder / "key"), **options), folder / "cache")


@contextmanager
def service(*replies):
    """One that answers as told, the last for ever.

    A reply of None hangs up, a number of seconds first waits as long.
    """
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            reply = replies[min(len(asked), len(replies)) - 1]
            if isinstance(reply, float):
                time.sleep(reply)
            if not isinstance(reply, tuple):
                self.connection.close()
                return
            status, content = reply
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def test_it_sends_what_the_course_asks_for(tmp_path):
    with service((200, '{"loss": 3.5, "total_flops_used": 1}')) as (url, asked):
        assert client_of(tmp_path, url).loss(QUERY) == 3.5
    parts = urlsplit(asked[0])
    assert parts.path == "/loss"
    assert parse_qs(parts.query) == {
        "d_model": ["128"], "num_layers": ["4"], "num_heads": ["2"], "batch_size": ["128"],
        "learning_rate": ["0.001"], "train_flops": ["10000000000000000"], "api_key": [KEY],
    }  # fmt: skip


def test_nothing_is_asked_twice(tmp_path):
    with service((200, '{"loss": 3.5}')) as (url, asked):
        assert [client_of(tmp_path, url).loss(QUERY) for _ in range(3)] == [3.5] * 3
        assert len(asked) == 1
    assert client_of(tmp_path, url).loss(QUERY) == 3.5  # with no service at all


def test_two_who_ask_the_same_at_once_do_not_write_over_each_other(tmp_path, monkeypatch):
    replace, others = Path.replace, []

    def after_another(path, target):
        if not others:
            others.append(path)
            others.append(client_of(tmp_path, url).loss(QUERY))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", after_another)
    with service((200, '{"loss": 3.5}')) as (url, asked):
        assert client_of(tmp_path, url).loss(QUERY) == others[1] == 3.5
    assert len(asked) == 2


def test_a_lost_connection_is_tried_again(tmp_path):
    with service(None, None, (200, '{"loss": 3.5}')) as (url, asked):
        assert client_of(tmp_path, url).loss(QUERY) == 3.5
        assert len(asked) == 3


def test_patience_begins_when_the_connection_is_lost(tmp_path):
    with service(0.5, (200, '{"loss": 3.5}')) as (url, asked):
        assert client_of(tmp_path, url, patience=0.2).loss(QUERY) == 3.5
        assert len(asked) == 2


def test_an_answer_that_breaks_off_is_asked_for_again(tmp_path, monkeypatch):
    broken, get = [requests.exceptions.ChunkedEncodingError("broke off")], requests.get

    def once(*arguments, **options):
        if broken:
            raise broken.pop()
        return get(*arguments, **options)

    monkeypatch.setattr(requests, "get", once)
    with service((200, '{"loss": 3.5}')) as (url, _):
        assert client_of(tmp_path, url).loss(QUERY) == 3.5


def test_who_asks_too_often_waits(tmp_path):
    with service((429, "{}"), (429, "{}"), (200, '{"loss": 3.5}')) as (url, asked):
        assert client_of(tmp_path, url).loss(QUERY) == 3.5
        assert len(asked) == 3
    with service((429, "{}")) as (url, _), pytest.raises(BrokenError, match="429: Too Many"):
        client_of(tmp_path, url, patience=0.1).loss(QUERY)


def test_a_key_that_is_not_known_is_told_without_it(tmp_path):
    told = r"Invalid API key; look at api\.key_file"
    with (
        serving(tmp_path / "s", keys=("another",)) as (url, _),
        pytest.raises(RefusedError, match=told) as caught,
    ):
        client_of(tmp_path, url).loss(QUERY)
    assert "AAAA" not in str(caught.value)


def test_an_answer_that_is_late_is_asked_for_again(tmp_path):
    with serving(tmp_path / "s", law={"learning_rate": 6e-4, "seconds_per_trial": 0.5}) as (url, _):
        client = client_of(tmp_path, url, timeout=0.1)
        assert 1 < client.loss(QUERY) < 11


def test_no_service_is_told_without_the_key(tmp_path):
    with service() as (url, _):
        pass
    began = time.monotonic()
    with pytest.raises(UnreachableError) as caught:
        client_of(tmp_path, url, patience=0.1).loss(QUERY)
    assert time.monotonic() - began < 5
    assert "ConnectionError" in str(caught.value)
    assert "ada" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("reply", "error", "told"),
    [
        ((404, '{"message": "too wide"}'), RefusedError, r"refused \(404\): too wide"),
        ((422, '{"message": "budget"}'), RefusedError, r"refused \(422\): budget"),
        ((200, '{"message": "Invalid API key"}'), RefusedError, "Invalid API key"),
        ((503, '{"message": "failed"}'), BrokenError, "503: failed"),
        ((500, "<html>"), BrokenError, "500: Internal Server Error"),
        ((200, "<html>"), BrokenError, "no loss: <html>"),
        ((200, '{"loss": NaN}'), BrokenError, "no loss"),
        ((200, "[1]"), BrokenError, "no loss"),
    ],
)
def test_what_is_no_loss_is_never_taken_for_one(tmp_path, reply, error, told):
    with service(reply) as (url, asked):
        with pytest.raises(error, match=told):
            client_of(tmp_path, url).loss(QUERY)
        assert len(asked) == 1  # only what was lost on the way is repeated
        assert not list((tmp_path / "cache").glob("*.json"))


def test_a_key_that_is_missing_is_a_mistake(tmp_path):
    with pytest.raises(ConfigError, match=r"no_key.*: No such file or directory; write the key"):
        Client(Api(key_file=str(tmp_path / "no_key")), tmp_path).loss(QUERY)


# --- a sweep


def sweep_of(url, folder, **settings):
    (folder / "key").write_text(KEY)
    return parse(
        {
            "name": "asking", "backend": "api", "budgets": [1e15, 3e15],
            "api": {"base_url": url, "key_file": str(folder / "key")},
            "data": {"tokenizer": "bpe:32000"},
            "shapes": {"ladder": [[2, 64], [2, 128], [4, 128]], "head_size": 32,
                       "context_length": 512},
            "training": {"batch_size": 128},
            "search": {"trials": 1, "sampler": "grid", "learning_rate": [1e-4, 1e-3],
                       "repeats": 0, "extend": False, "warm_start": False},
            "pruning": {"rungs": []},
            **settings,
        },
        place="asking",
    )  # fmt: skip


def test_a_sweep_without_its_key_begins_nothing(tmp_path):
    sweep = sweep_of("http://127.0.0.1:1", tmp_path)
    (tmp_path / "key").write_text("\n")
    with pytest.raises(ConfigError, match=r"api\.key_file: .*key is empty; write the key there"):
        run(sweep, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_asks_the_service_and_its_rows_are_the_services(tmp_path):
    with serving(tmp_path / "service") as (url, state):
        sweep = sweep_of(url, tmp_path)
        simulate.simulate(sweep, tmp_path / "sweep")
        own = Ledger(tmp_path / "sweep" / "ledger.db")
        told = {own.reports(record.key)[-1].loss for record in own.records("completed")}
        own.close()
        theirs = state.ledger()
        answered = theirs.runs(theirs.keys()[0])
        theirs.close()
    assert len(answered) == plan(sweep).trials == 6
    assert told == {run.loss for run in answered}


def test_a_sweep_stops_at_the_budget_of_the_service(tmp_path):
    with serving(tmp_path / "service", budget=5e15) as (url, state):
        simulate.simulate(sweep_of(url, tmp_path), tmp_path / "sweep")
        theirs = state.ledger()
        assert theirs.keys()[0].charged <= 5e15
        theirs.close()
    own = Ledger(tmp_path / "sweep" / "ledger.db")
    failed = own.records("failed")
    assert own.records("completed")
    own.close()
    assert failed
    assert {record.attempts for record in failed} == {1}
    assert all("of the budget" in record.reason for record in failed)


def test_what_a_service_cannot_do_is_a_mistake(tmp_path):
    with pytest.raises(ConfigError) as caught:
        sweep_of("http://x", tmp_path, api={}, pruning={}, search={"seeds": 2})
    assert [line.split(":")[1].strip() for line in str(caught.value).splitlines()] == [
        "api.key_file", "pruning.rungs", "search.seeds", "search.repeats"
    ]  # fmt: skip


def test_errors_survive_the_way_from_a_worker():
    import pickle

    for kind in (ServiceFailedError, ServiceRefusedError):
        assert str(pickle.loads(pickle.dumps(kind("why")))) == "why"


def test_the_cache_is_readable(tmp_path):
    with service((200, '{"loss": 3.5}')) as (url, _):
        client_of(tmp_path, url).loss(QUERY)
    (path,) = (tmp_path / "cache").glob("*.json")
    kept = json.loads(path.read_text())
    assert kept["loss"] == 3.5
    assert kept["d_model"] == 128
    assert KEY not in path.read_text()
