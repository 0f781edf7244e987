"""The profiles that are shipped: made by a committed command, from a law that a fit gives back."""

import subprocess
import sys
from pathlib import Path

import pytest

from analysis.fit import fit
from analysis.lossfit import LOSS_APPROACHES
from analysis.runs import read
from analysis.simulate import SHIPPED, SHIPPED_BUDGETS, SHIPPED_SIZES

ROOT = Path(__file__).parents[2]
FILE = ROOT / "data" / "isoflops_curves.json"


@pytest.fixture(scope="module")
def fits():
    return fit(read(FILE), replicates=0)


def test_the_command_gives_the_same_bytes(tmp_path):
    path = tmp_path / "again.json"
    command = [sys.executable, "-m", "analysis.simulate", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert path.read_bytes() == FILE.read_bytes()


@pytest.mark.parametrize("name", [*LOSS_APPROACHES])
def test_its_law_comes_back(fits, name):
    for letter, value in fits[name].params.items():
        assert value == pytest.approx(getattr(SHIPPED, letter), rel=1e-6)
    assert fits[name].n_opt(1e23) == pytest.approx(SHIPPED.n_opt(1e23), rel=1e-6)


def test_it_has_profiles_for_every_method(fits):
    assert fits.n == len(SHIPPED_BUDGETS) * len(SHIPPED_SIZES)
    assert fits.chosen == "chinchilla"
    assert {one.name for one in fits.approaches if one.law is None} == {"envelope"}
    assert not [text for text in fits.warnings if "off center" in text]
    for name in ("akima", "cubic"):
        assert fits[name].a == pytest.approx(SHIPPED.a, abs=0.01)


@pytest.mark.parametrize("text", ["E 1.9", "A 350", "B 900", "alpha .33", "beta .31"])
def test_the_truth_is_told(text):
    for page in ("data/README.md", "analysis/README.md"):
        assert text in (ROOT / page).read_text(encoding="utf-8")
