"""Documents that are made from the code are as new as the code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tuner.reference import reference


def test_the_command_reference_is_fresh(root):
    written = (root / "tuner" / "COMMANDS.md").read_text(encoding="utf-8")
    assert written == reference(), "run: python -m tuner.reference > tuner/COMMANDS.md"


def test_every_command_has_an_example_that_parses():
    text = reference()
    sections = text.split("\n## ")[1:]
    groups = {"isoflop data", "isoflop serve keys"}
    for section in sections:
        title = section.splitlines()[0]
        assert title in groups or f"\n{title}" in section, f"no example of {title}"


def test_completion_installs_and_completes(tmp_path):
    command = Path(sys.executable).parent / "isoflop"
    if shutil.which("bash") is None or not command.exists():
        pytest.skip("needs bash and the installed command")
    (tmp_path / ".bashrc").touch()
    home = {
        **os.environ,
        "HOME": str(tmp_path),
        "SHELL": "/bin/bash",
        "PATH": f"{command.parent}:{os.environ['PATH']}",
    }
    subprocess.run(
        ["bash", "-c", "isoflop --install-completion bash || isoflop --install-completion; true"],
        env=home, check=True, capture_output=True,
    )  # fmt: skip
    assert "isoflop" in (tmp_path / ".bashrc").read_text()
    asked = {
        **home,
        "_ISOFLOP_COMPLETE": "complete_bash",
        "COMP_WORDS": "isoflop re",
        "COMP_CWORD": "1",
    }
    said = subprocess.run([str(command)], env=asked, capture_output=True, text=True, check=False)
    assert set(said.stdout.split()) == {"resume", "report"}


@pytest.mark.ray
@pytest.mark.slow
def test_the_tutorial_runs(root, tmp_path):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "tutorial.sh", str(tmp_path / "out")], cwd=root, capture_output=True, text=True,
        env={**os.environ, "PATH": path}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads((tmp_path / "out" / "answer.json").read_text())
    assert answer["params"]["low"] < answer["params"]["value"] < answer["params"]["high"]
    assert answer["params"]["value"] == pytest.approx(1.8e9, rel=0.2)  # as the tutorial says
    assert (tmp_path / "out" / "law" / "report.html").stat().st_size < 5_000_000
