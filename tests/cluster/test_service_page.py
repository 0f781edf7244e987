"""The page for people: logged in without the key in a URL, readable without a script."""

import itertools
import os
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from serving import COURSE, KEY, serving

from cluster.service import keys
from cluster.service import page as page_module
from cluster.service.chart import Dot, chart
from cluster.service.keys import session, session_key

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
WAITS = {"learning_rate": 6e-4, "seconds_per_trial": 0.4}
NAME = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("service"), keys=()) as (url, state):
        ledger = state.ledger()
        ledger.add_key(NAME, KEY)
        ledger.add_key("idle", "idle key")
        for width in (64, 128, 256, 512):
            for flops in (10**15, 10**16):
                asked = COURSE | {"d_model": width, "train_flops": flops}
                requests.get(f"{url}/loss", params={**asked, "api_key": KEY}, timeout=60)
        yield url, ledger
        ledger.close()


def logged_in(url, key=KEY):
    browser = requests.Session()
    return browser, browser.post(f"{url}/login", data={"key": key}, timeout=60)


def test_a_stranger_sees_a_form_and_nothing_else(service):
    page = requests.get(service[0], timeout=60)
    assert page.status_code == 200
    assert 'action="/login"' in page.text
    assert "<table>" not in page.text


def test_only_a_proxy_that_is_trusted_says_that_it_speaks_tls(tmp_path):
    for trusts in (False, True):
        with serving(tmp_path / str(trusts), trusts_proxy=trusts) as (url, _):
            for told, secure in (("https", trusts), ("https, http", trusts), ("http", False)):
                answer = requests.post(
                    f"{url}/login", data={"key": KEY}, headers={"X-Forwarded-Proto": told},
                    allow_redirects=False, timeout=60,
                )  # fmt: skip
                assert ("Secure" in answer.headers["Set-Cookie"]) == secure


def test_the_cookie_is_not_the_key_and_no_script_reads_it(service):
    url, _ = service
    answer = requests.post(f"{url}/login", data={"key": KEY}, allow_redirects=False, timeout=60)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert not set(KEY.split()) & set(re.split(r"[=;. ]", cookie))


def test_the_table_stands_in_the_page_itself(service):
    _, page = logged_in(service[0])
    rows = re.findall(r"<tr><td.*?</tr>", page.text)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    assert [row[:2] + row[3:7] for row in cells] == [
        ["completed", f"1e{power}", str(width), "4", "2", "128"]
        for width in (512, 256, 128, 64)
        for power in (16, 15)
    ]
    assert "4.4e16 of 2e18 FLOP spent" in page.text
    assert "<script" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text
    assert page.headers["Cache-Control"] == "no-store"
    assert all(re.fullmatch(r"\d+\.\d{4}", row[2]) for row in cells)
    assert page.text.count("<circle") == 8
    assert re.findall(r"</i>(.*?) FLOP</li>", page.text) == ["1e15", "1e16"]


def test_a_wrong_key_is_told_without_being_shown(service):
    _, page = logged_in(service[0], "almost my key")
    assert page.status_code == 422
    assert "This key is not known." in page.text
    assert "almost my key" not in page.text


def test_who_logs_out_or_is_revoked_or_forged_is_a_stranger(service):
    url, ledger = service
    browser, page = logged_in(url, "idle key")
    assert "No run is answered yet." in page.text
    assert 'action="/login"' in browser.post(f"{url}/logout", timeout=60).text
    browser, _ = logged_in(url, "idle key")
    ledger.revoke_key("idle")
    assert 'action="/login"' in browser.get(url, timeout=60).text
    for token in ("", "1", "1.9999999999", "1.9999999999." + "0" * 64, "é.é.é", "..", "x" * 5000):
        forged = requests.get(url, headers={"Cookie": f"session={token}".encode()}, timeout=60)
        assert 'action="/login"' in forged.text


def test_while_a_page_is_drawn_others_are_answered(service, monkeypatch):
    url, _ = service
    begun, over, draw = threading.Event(), threading.Event(), chart

    def slow(dots):
        begun.set()
        assert over.wait(60)
        return draw(dots)

    monkeypatch.setattr(page_module.chart, "chart", slow)
    with ThreadPoolExecutor(1) as pool:
        page = pool.submit(logged_in, url)
        assert begun.wait(60)
        try:
            assert requests.get(f"{url}/health", timeout=10).ok
        finally:
            over.set()
        assert "<table>" in page.result()[1].text


def test_the_description_needs_nothing_from_elsewhere(service):
    page = requests.get(f"{service[0]}/docs", timeout=60)
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|<script""", page.text)
    described = requests.get(f"{service[0]}/openapi.json", timeout=60).json()
    for path, methods in described["paths"].items():
        assert all(f"<code>{method.upper()} {path}</code>" in page.text for method in methods)
    for told in ("learning_rate", "train_flops", "X-API-Key", "api_key", "PreviousRuns"):
        assert told.lower() in page.text.lower()
    anchors = set(re.findall(r'href="#(\w+)"', page.text))
    assert anchors <= set(re.findall(r'id="(\w+)"', page.text))


def test_a_session_ends(service, monkeypatch):
    _, ledger = service
    key = ledger.keys()[0]
    token = session(ledger.secret, key)
    assert session_key(ledger.secret, token) == key.number
    later = time.time() + keys.SESSION_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert session_key(ledger.secret, token) is None


def test_it_looks_again_only_while_something_runs(tmp_path):
    with serving(tmp_path, law=WAITS) as (url, _):
        requests.post(f"{url}/runs", params={"api_key": KEY}, json=COURSE, timeout=60)
        browser, page = logged_in(url)
        assert 'http-equiv="refresh"' in page.text
        assert re.search(r'<td class="(queued|running)">', page.text)
        deadline = time.monotonic() + 30
        while 'http-equiv="refresh"' in page.text:
            assert time.monotonic() < deadline
            page = browser.get(url, timeout=60)
        assert '<td class="completed">' in page.text


def test_the_chart_puts_every_dot_in_its_frame():
    assert chart([]) is None
    one = chart([Dot(flops=10**15, params=10**6, loss=3.0)])
    assert len(one.lines[0].dots) == 1
    dots = [
        Dot(flops=10**b, params=10**p, loss=9.0 - p + b / 9) for b in (13, 14) for p in (4, 5, 8)
    ]
    found = chart(dots)
    assert [len(line.dots) for line in found.lines] == [3, 3]
    for line in found.lines:
        xs, ys = [dot[0] for dot in line.dots], [dot[1] for dot in line.dots]
        assert xs == sorted(xs)
        assert ys == sorted(ys)  # a lower loss lies lower on the screen
    assert found.x_ticks
    assert len(found.y_ticks) >= 3


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
@pytest.mark.parametrize("scripts", [True, False])
def test_a_browser_shows_all_of_it_with_and_without_scripts(service, tmp_path, scripts):
    browsers = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    shots, faults, urls, papers = os.environ.get("SHOTS", tmp_path), [], [], set()
    with browsers.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, scheme in itertools.product((390, 1280), ("light", "dark")):
            context = browser.new_context(
                java_script_enabled=scripts, color_scheme=scheme,
                viewport={"width": width, "height": 850},
            )  # fmt: skip
            page = context.new_page()
            page.on("console", lambda message: faults.append(message.text))
            page.on("request", lambda request: urls.append(request.url))
            page.goto(f"{service[0]}/docs")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.goto(service[0])
            page.fill("#key", KEY)
            page.click("text=Show my runs")
            page.wait_for_selector("table")
            assert page.locator("tbody tr").count() == 8
            assert page.locator("circle").count() == 8
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            # No smaller than anybody reads: the chart shrinks with the screen, its numbers do not.
            heights = page.evaluate(
                "[...document.querySelectorAll('svg text[text-anchor=end]')]"
                ".map(text => text.getBoundingClientRect().height)"
            )
            assert min(heights) >= 12
            papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            name = f"{'scripts' if scripts else 'still'}-{width}-{scheme}.png"
            page.screenshot(path=Path(shots) / name, full_page=True)
            context.close()
        browser.close()
    assert not faults
    assert len(papers) == 2
    assert all("ssh-rsa" not in url for url in urls)
