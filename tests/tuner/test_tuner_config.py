import tomllib

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from tuner.config import ConfigError, Sweep, load, parse

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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"search": {"trails": 3}}, "unknown key `search.trails`. Did you mean `search.trials`?"),
        ({"trials": 3}, "unknown key `trials`. Did you mean `search.trials`?"),
        ({"colour": 3}, "unknown key `colour`. Remove it."),
        ({"budgets": []}, "`budgets` is missing. Add it, e.g. budgets = [3e10, 1e11, 3e11]"),
        ({"budgets": [2e10, 1e10]}, "budgets must rise: [10000000000.0, 20000000000.0]"),
        ({"budgets": [-1.0]}, "`budgets.0` = -1.0"),
        ({"budgets": ["1e15x"]}, '`budgets.0` = "1e15x"'),
        ({"name": "a b"}, '`name` = "a b"'),
        ({"backend": "torch"}, "input should be 'train', 'law', 'replay' or 'api'"),
        ({"search": {"learning_rate": [1e-2, 1e-3]}}, "lowest rate first: [0.001, 0.01]"),
        ({"pruning": {"rungs": [0.5, 0.25]}}, "rungs must rise: [0.25, 0.5]"),
        ({"pruning": {"rungs": [0.5, 1.0]}}, "`pruning.rungs.1` = 1.0"),
        ({"training": {"batch_size": [4, 8]}}, "2 sizes for 1 budgets"),
        ({"shapes": {"ladder": [[1, 8], [1, 8]]}}, "names a shape twice"),
        ({"data": {"tokenizer": "gpt2"}}, '`data.tokenizer` = "gpt2"'),
        ({"shapes": 3}, "`shapes` = 3"),
    ],
)
def test_a_fault_names_place_value_and_remedy(change, said):
    (line,) = faults({**LEAST, **change})
    assert line.startswith("x.toml: ")
    assert said in line


def test_all_faults_at_once():
    assert len(faults({"search": {"trails": 1, "sampler": "best"}})) == 4


def test_missing_keys_come_with_an_example():
    assert faults({}) == [
        'x.toml: `name` is missing. Add it, e.g. name = "mine"',
        "x.toml: `budgets` is missing. Add it, e.g. budgets = [3e10, 1e11, 3e11]",
    ]


def test_settings_are_laid_over_the_file(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text('name = "s"\nbudgets = [1e10]\n')
    sweep = load(
        path, ["search.trials=7", "backend=law", 'data.source="a b"', "budgets=[1e9, 2e9]"]
    )
    assert (sweep.search.trials, sweep.backend, sweep.data.source) == (7, "law", "a b")
    assert sweep.budgets == (1e9, 2e9)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("trials", "expected key=value"),
        ("=3", "expected key=value"),
        ("name.x=3", "is not a section"),
    ],
)
def test_wrong_settings(tmp_path, setting, said):
    path = tmp_path / "s.toml"
    path.write_text('name = "s"\nbudgets = [1e10]\n')
    with pytest.raises(ConfigError, match=said):
        load(path, [setting])


def test_files_that_are_none(tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    for path, said in [
        (tmp_path / "absent.toml", "no such file"),
        (tmp_path, "is a folder"),
        (broken, "not TOML"),
        (binary, "not TOML"),
    ]:
        with pytest.raises(ConfigError, match=said):
            load(path)


def test_written_and_read_again_it_is_the_same(small):
    sweep = small()
    text = tomli_w.dumps(sweep.model_dump(mode="json", exclude_none=True))
    assert parse(tomllib.loads(text), place="x") == sweep


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*Sweep.model_fields, "trials", "rungs"]), inner, max_size=3
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(list(Sweep.model_fields)), JSON))
def test_no_table_ends_in_a_traceback(table):
    try:
        parse(table, place="x.toml")
    except ConfigError as error:
        assert all(line.startswith("x.toml: ") for line in str(error).splitlines())
