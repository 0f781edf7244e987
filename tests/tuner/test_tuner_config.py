import tomllib

import pytest
import tomli_w

from tuner.config import load, parse
from tuner.errors import ConfigError

LEAST = {"name": "x", "budgets": [1e10]}


def faults(table):
    with pytest.raises(ConfigError) as caught:
        parse(table, place="x.toml")
    return str(caught.value).splitlines()


def test_two_lines_make_a_sweep():
    sweep = parse(LEAST, place="x.toml")
    assert sweep.budgets == (1e10,)
    assert sweep.target_budget == 1e11


def test_every_ready_sweep_loads(root):
    files = sorted((root / "tuner" / "sweeps").glob("*.toml"))
    assert {"demo.toml", "law.toml", "smoke.toml"} <= {file.name for file in files}
    for file in files:
        assert load(file).name == file.stem


def test_all_faults_at_once():
    assert len(faults({"search": {"trails": 1, "sampler": "best"}})) == 4


def test_settings_are_laid_over_the_file(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text('name = "s"\nbudgets = [1e10]\n')
    sweep = load(
        path, ["search.trials=7", "backend=law", 'data.source="a b"', "budgets=[1e9, 2e9]"]
    )
    assert (sweep.search.trials, sweep.backend, sweep.data.source) == (7, "law", "a b")
    assert sweep.budgets == (1e9, 2e9)


def test_written_and_read_again_it_is_the_same(small):
    sweep = small()
    text = tomli_w.dumps(sweep.model_dump(mode="json", exclude_none=True))
    assert parse(tomllib.loads(text), place="x") == sweep
