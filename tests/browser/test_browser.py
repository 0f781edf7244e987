"""A report in headless Chromium: read, pointed at, zoomed, printed. Skipped without one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and shutil.which("node") and (HERE / "node_modules").is_dir()),
        reason="needs Chromium, Node, and npm install in tests/browser",
    ),
]


def test_a_report_is_sound_in_a_browser(tmp_path):
    root = HERE.parents[1]
    page = tmp_path / "report.html"
    table = root / "data" / "isoflops_curves.json"
    command = [sys.executable, "-m", "tuner.cli", "report", str(table), "-o", str(page)]
    subprocess.run(command, check=True, capture_output=True)
    looked = subprocess.run(
        ["node", str(HERE / "look.mjs"), str(page), str(tmp_path / "shots")],
        capture_output=True, text=True, env={**os.environ, "CHROMIUM": CHROMIUM}, check=False,
    )  # fmt: skip
    found = json.loads(looked.stdout)
    assert found["faults"] == []
    assert [v for v in found["violations"] if v["impact"] in {"serious", "critical"}] == []
    assert found["bytes"] < 5_000_000
    assert len(found["views"]) == 6
    assert (tmp_path / "shots" / "print.pdf").stat().st_size > 10_000
