"""Sweeps small enough to run many of."""

import pytest

from tuner.config import Sweep, parse

SMALL = {
    "name": "small",
    "backend": "law",
    "budgets": [1e13, 1e14],
    "shapes": {"per_budget": 5},
    "search": {"trials": 3, "learning_rate": [2e-3, 2e-1]},
}


@pytest.fixture
def small():
    """A function from settings to a small sweep on a law."""

    def make(**settings) -> Sweep:
        table = {**SMALL, **settings}
        for name, section in SMALL.items():
            if isinstance(section, dict) and name in settings:
                table[name] = {**section, **settings[name]}
        return parse(table, place="small.toml")

    return make
