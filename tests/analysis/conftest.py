"""Published tables, where they are at hand, and simulated runs."""

from pathlib import Path

import numpy as np
import pytest

from analysis.laws import LossLaw
from analysis.runs import Runs
from analysis.simulate import Tuning, simulate

PUBLISHED = Path(__file__).parents[3] / "shared" / "published"


@pytest.fixture
def published():
    """Path of a published table by name; skips where they are not at hand."""

    def path(name):
        if not (PUBLISHED / name).exists():
            pytest.skip(f"published tables are not at {PUBLISHED}")
        return PUBLISHED / name

    return path


@pytest.fixture(scope="session")
def course_file():
    """The course's published profiles; skips where they are not at hand."""
    path = PUBLISHED / "isoflops_curves.json"
    if not path.exists():
        pytest.skip(f"published tables are not at {PUBLISHED}")
    return path


@pytest.fixture(scope="session")
def truth():
    return LossLaw(E=1.2, A=30.0, B=60.0, alpha=0.35, beta=0.37)


@pytest.fixture(scope="session")
def tuned_runs(truth):
    """Four budgets, eight sizes, five rates of which three complete, .2 % noise."""
    table = simulate(
        truth, [3e10, 1e11, 3e11, 1e12], np.geomspace(3e3, 3e5, 8), noise=0.002, kept=3,
        tuning=Tuning(rates=(0.004, 0.008, 0.016, 0.032, 0.064), best=0.016, curvature=0.01),
    )  # fmt: skip
    return Runs.of(table, source="simulated")
