"""Nonsense from outside: no 5xx, no traceback in a response, no key in a log."""

import json
import logging
import re
from urllib.parse import quote

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import COURSE, KEY, serving

NONSENSE = [
    "", " ", "0", "-1", "1e309", "-1e309", "nan", "inf", "NaN", "1e-400", "9" * 30, "9" * 5000,
    "0x40", "true",
    "1_000", "\u0663", "\uff16\uff14", "\u0000", "\ud800", "é" * 3000, "1; DROP TABLE runs; --",
    "' OR '1'='1",
    "../../etc/passwd",
    "${jndi:ldap://x}", "<script>alert(1)</script>", "%00", "None", "[]",
    "{}", "1,5", "1e16 ", "+64", "1" + "0" * 400, "-0", "64.0000000000000001",
]  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("service")) as made:
        yield made


def sound(response):
    """A response that no program and no person need fear."""
    assert response.status_code < 500, response.text[:500]
    assert "Traceback" not in response.text
    assert 'File "' not in response.text
    if response.status_code >= 400:
        assert isinstance(response.json()["message"], str)
        assert len(response.text) < 2000
    return response


def encoded(text):
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@pytest.mark.parametrize("name", [*COURSE, "api_key", "unknown"])
def test_nonsense_in_the_query(service, name):
    known = {**COURSE, "api_key": KEY}
    for value in NONSENSE:
        query = {key: encoded(str(given)) for key, given in known.items()} | {name: encoded(value)}
        joined = "&".join(f"{key}={given}" for key, given in query.items())
        sound(requests.get(f"{service[0]}/loss?{joined}", timeout=60))
    doubled = "&".join(f"{key}={encoded(str(given))}" for key, given in [*known.items()] * 2)
    assert sound(requests.get(f"{service[0]}/loss?{doubled}", timeout=60)).status_code == 200


@pytest.mark.parametrize("name", list(COURSE))
def test_nonsense_in_the_body(service, name):
    wild = [
        None,
        True,
        [],
        {},
        [64],
        -1,
        0,
        10**400,
        1.5,
        -0.0,
        "64",
        "nan",
        "\ud800",
        {"a": {"b": 1}},
    ]
    for value in wild:
        sound(_post(service, json.dumps(COURSE | {name: value})))
    for literal in ("NaN", "Infinity", "-Infinity", "1e400", "9" * 5000):
        text = re.sub(rf'"{name}": [^,}}]+', f'"{name}": {literal}', json.dumps(COURSE))
        assert sound(_post(service, text)).status_code in {400, 404, 422}


def test_bodies_that_are_none(service):
    for text in ("", "null", "[]", "{", '"', "1", "[" * 50_000, "\x00", "{}" * 9):
        assert sound(_post(service, text)).status_code in {400, 422}
    for kind in (
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
    ):
        sound(_post(service, json.dumps(COURSE), kind))
    long = b"x" * 10_000_000
    for address in ("runs", "login"):
        try:
            answer = requests.post(f"{service[0]}/{address}", data=long, timeout=60)
        except requests.ConnectionError:  # it was told before all of it was sent
            continue
        assert sound(answer).status_code == 413


def _post(service, text, kind="application/json"):
    return requests.post(
        f"{service[0]}/runs", data=text.encode("utf-8", "surrogatepass"), timeout=60,
        headers={"Content-Type": kind, "X-API-Key": quote(KEY)} | {"X-API-Key": KEY},
    )  # fmt: skip


def test_other_addresses_methods_and_headers(service):
    for address in (
        "",
        "loss/",
        "runs/x",
        "runs/%00",
        "runs/..%2f..",
        "runs/" + "x" * 5000,
        "é",
        "docs",
    ):
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            answer = requests.request(
                method, f"{service[0]}/{address}", timeout=60, headers={"X-API-Key": KEY}
            )
            assert answer.status_code < 500
            assert "Traceback" not in answer.text
    for value in (b"\xff\xfe", b"", b"x" * 20_000):
        sound(requests.get(f"{service[0]}/runs", headers={"X-API-Key": value}, timeout=60))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.fixed_dictionaries(
        {name: st.one_of(st.integers(), st.floats(), st.text(), st.none()) for name in COURSE}
    ),
    st.text(max_size=200),
)
def test_any_query_at_all(service, asked, key):
    query = "&".join(f"{name}={encoded(str(value))}" for name, value in asked.items())
    for api_key in (key, KEY):
        url = f"{service[0]}/loss?{query}&api_key={encoded(api_key)}"
        assert sound(requests.get(url, timeout=60)).status_code in {404, 422}


def test_sql_in_a_key_is_a_key(service):
    for key in ("' OR 1=1 --", "'; DROP TABLE keys; --", '" OR ""="'):
        answer = requests.get(f"{service[0]}/runs", params={"api_key": key}, timeout=60)
        assert answer.json() == {"message": f"Invalid API key provided: {key}"}
    assert requests.get(f"{service[0]}/runs", params={"api_key": KEY}, timeout=60).ok


def test_no_log_tells_a_key(service, caplog):
    with caplog.at_level(logging.DEBUG):
        for key in (KEY, "almost " + KEY):
            requests.get(f"{service[0]}/loss", params={**COURSE, "api_key": key}, timeout=60)
    own = [
        r.getMessage() for r in caplog.records if not r.name.startswith("urllib3")
    ]  # the client's
    assert not [line for line in own if "ssh-rsa" in line]


def test_a_long_unknown_key_is_cut(service):
    answer = requests.get(f"{service[0]}/runs", params={"api_key": "k" * 9000}, timeout=60)
    assert answer.json()["message"].endswith("k" * 200 + "…")


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["positive", "negative"])
def test_every_described_operation_answers_as_described(service, asked):
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis: the dev extra")
    url, _ = service
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks as described

    # Not its other checks: the course answers 422, not 401, to a key that it does not know.
    checks = [
        not_a_server_error,
        described.status_code_conformance,
        described.content_type_conformance,
        described.response_schema_conformance,
    ]
    mode = schemathesis.GenerationMode(asked)
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    # What takes nothing can be given nothing wrong.
    wrong = [one for one in operations if mode.is_positive or one.label != "GET /health"]
    answered = {operation.label: 0 for operation in wrong}
    for operation in wrong:

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case):
            answer = case.call(headers={"X-API-Key": KEY})
            case.validate_response(answer, checks=checks)
            answered[case.operation.label] += 1

        check()
    assert all(answered.values()), answered
