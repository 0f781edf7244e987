# ruff: noqa: E501  a message stands as a person reads it
"""Each message that a wrong sweep file gets, once, whole; and no file that ends in a traceback."""

import ast
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.config import Sweep, load, parse
from tuner.errors import BudgetError, ConfigError
from tuner.plan import check_corpus, plan

LAW = {"name": "x", "budgets": [1e13, 1e14], "backend": "law"}
GRID = {
    "name": "x", "design": "grid", "shapes": {"ladder": ["small"]}, "grid": {"tokens": [1000000]},
}  # fmt: skip
API = {
    "name": "x", "budgets": [1e13], "backend": "api", "api": {"key_file": "k"},
    "pruning": {"rungs": []}, "search": {"repeats": 0},
}  # fmt: skip

FAULTS = [
    (
        LAW,
        {
            "training": {"schedule": "forks", "batch_size": [4, 8]},
            "search": {"batch_size": [4, 8]},
            "target": {"interval": 0.15},
            "resources": {"stack": 4, "devices": 2},
        },
        [
            "x.toml: search.batch_size: runs chosen by value differ in budget, size and rate alone; remove it, or target.interval",
            "x.toml: resources.stack: runs chosen by value are chosen one at a time; remove it, or target.interval",
            'x.toml: training.batch_size: a trunk has one for all budgets, not (4, 8); give one number, or write training.schedule = "wsd"',
            'x.toml: search.batch_size: a trunk has one for all budgets, not (4, 8); remove it, or write training.schedule = "wsd"',
            'x.toml: target.interval: 0.15 is reached run by run, not by trunks; remove it, or write training.schedule = "wsd"',
            'x.toml: resources.stack: forks are trained one a process, not 4; remove it, or write training.schedule = "wsd"',
            'x.toml: resources.devices: forks are trained on one device, not 2; remove it, or write training.schedule = "wsd"',
        ],
    ),
    (
        GRID,
        {"training": {"schedule": "forks"}},
        [
            'x.toml: training.schedule: "forks" go from budget to budget, which a grid has not; write "wsd"'
        ],
    ),
    (
        API,
        {"training": {"schedule": "forks"}},
        ['x.toml: training.schedule: a service keeps no trunk for "forks"; write "linear"'],
    ),
    (
        LAW,
        {"resources": {"device": "abacus"}},
        [
            'x.toml: `resources.device` = "abacus": unknown; known are H200, H100, H100 PCIe, A100, L40S, L4, RTX 4090. Or give flops_per_second'
        ],
    ),
    (
        LAW,
        {"search": {"learning_rate": [1e-3, 1e-1], "limits": [2e-3, 1.0]}},
        [
            "x.toml: search.limits: [0.002, 1] does not hold the learning rates, [0.001, 0.1]; widen it"
        ],
    ),
    (
        LAW,
        {"search": {"trails": 3}},
        ["x.toml: unknown key `search.trails`. Did you mean `search.trials`?"],
    ),
    (LAW, {"trials": 3}, ["x.toml: unknown key `trials`. Did you mean `search.trials`?"]),
    (LAW, {"colour": 3}, ["x.toml: unknown key `colour`. Remove it."]),
    (
        {},
        {},
        [
            'x.toml: `name` is missing. Add it, e.g. name = "mine"',
            "x.toml: `budgets` is missing. Add it, e.g. budgets = [3e10, 1e11, 3e11]",
        ],
    ),
    (
        LAW,
        {"budgets": []},
        ["x.toml: `budgets` is missing. Add it, e.g. budgets = [3e10, 1e11, 3e11]"],
    ),
    (
        LAW,
        {"budgets": [20000000000.0, 10000000000.0]},
        [
            "x.toml: `budgets` = [20000000000.0, 10000000000.0]: budgets must rise: [10000000000.0, 20000000000.0]"
        ],
    ),
    (LAW, {"budgets": [-1.0]}, ["x.toml: `budgets.0` = -1.0: input should be greater than 0"]),
    (
        LAW,
        {"budgets": ["1e15x"]},
        [
            'x.toml: `budgets.0` = "1e15x": input should be a valid number, unable to parse string as a number'
        ],
    ),
    (
        LAW,
        {"budgets": 10000000000.0},
        ["x.toml: `budgets` = 10000000000.0: expected a list, e.g. budgets = [3e10, 1e11, 3e11]"],
    ),
    (
        LAW,
        {"budgets": [float("inf")]},
        ["x.toml: `budgets.0` = Infinity: input should be a finite number"],
    ),
    (
        LAW,
        {"name": "a b"},
        [
            'x.toml: `name` = "a b": letters, digits, dots, dashes and underscores are wanted, a letter or digit first'
        ],
    ),
    (
        LAW,
        {"model": "a b"},
        [
            'x.toml: `model` = "a b": write "package.module:build", or nothing for the shipped decoder'
        ],
    ),
    (LAW, {"seed": -1}, ["x.toml: `seed` = -1: input should be greater than or equal to 0"]),
    (
        LAW,
        {"seed": 1.5},
        [
            "x.toml: `seed` = 1.5: input should be a valid integer, got a number with a fractional part"
        ],
    ),
    (
        LAW,
        {"backend": "torch"},
        ["x.toml: `backend` = \"torch\": input should be 'train', 'law', 'replay' or 'api'"],
    ),
    (LAW, {"shapes": 3}, ["x.toml: `shapes` = 3: is a section; write [shapes] and its keys below"]),
    (
        LAW,
        {"shapes": {"ladder": [[1, 8], [1, 8]]}},
        ["x.toml: `shapes.ladder` = [[1, 8], [1, 8]]: names a shape twice; name each once"],
    ),
    (
        LAW,
        {"shapes": {"ladder": ["tiny"]}},
        [
            'x.toml: `shapes.ladder.0` = "tiny": no such size; known are small, medium, large and [num_layers, d_model]'
        ],
    ),
    (
        LAW,
        {"shapes": {"ladder": [[1, 8, 3]]}},
        ["x.toml: `shapes.ladder.0` = [1, 8, 3]: 2 values are wanted"],
    ),
    (
        LAW,
        {"shapes": {"ladder": [[0, 8]]}},
        ["x.toml: `shapes.ladder.0.0` = 0: input should be greater than or equal to 1"],
    ),
    (
        LAW,
        {"shapes": {"per_budget": 2}},
        ["x.toml: `shapes.per_budget` = 2: input should be greater than or equal to 3"],
    ),
    (
        LAW,
        {"data": {"tokenizer": "gpt2"}},
        ['x.toml: `data.tokenizer` = "gpt2": write "byte", or "bpe:SIZE" with SIZE from 257 up'],
    ),
    (
        LAW,
        {"data": {"held_out_share": 1}},
        ["x.toml: `data.held_out_share` = 1: input should be less than 1"],
    ),
    (
        LAW,
        {"data": {"allow_repeats": "maybe"}},
        [
            'x.toml: `data.allow_repeats` = "maybe": input should be a valid boolean, unable to interpret input'
        ],
    ),
    (
        LAW,
        {"training": {"batch_size": [4, 8, 16]}},
        ["x.toml: training.batch_size: 3 sizes for 2 budgets; give one number, or one for each"],
    ),
    (
        LAW,
        {"training": {"batch_size": 0}},
        ["x.toml: `training.batch_size` = 0: input should be greater than or equal to 1"],
    ),
    (
        LAW,
        {"training": {"warmup": 1.5}},
        ["x.toml: `training.warmup` = 1.5: input should be less than or equal to 1"],
    ),
    (
        LAW,
        {"training": {"beta1": 1.0}},
        ["x.toml: `training.beta1` = 1.0: input should be less than 1"],
    ),
    (
        LAW,
        {"search": {"learning_rate": [0.01, 0.001]}},
        ["x.toml: `search.learning_rate` = [0.01, 0.001]: lowest rate first: [0.001, 0.01]"],
    ),
    (
        LAW,
        {"search": {"learning_rate": [0.01]}},
        ["x.toml: `search.learning_rate.1` is missing. Add it"],
    ),
    (
        LAW,
        {"search": {"batch_size": [4, 2]}},
        ["x.toml: `search.batch_size` = [4, 2]: choices must rise: [2, 4]"],
    ),
    (
        LAW,
        {"search": {"weight_decay": [0.1, 0.0]}},
        ["x.toml: `search.weight_decay` = [0.1, 0.0]: choices must rise: [0.0, 0.1]"],
    ),
    (
        LAW,
        {"search": {"sampler": "grid", "trials": 3, "batch_size": [2, 4]}},
        [
            "x.toml: search.trials: 3 is no multiple of the 2 choices of batch size and weight decay that a grid sampler crosses with the rates"
        ],
    ),
    (
        LAW,
        {
            "explore": {"budget": 1000000000000.0, "trials": 3},
            "search": {"sampler": "grid", "trials": 4, "batch_size": [2, 4]},
        },
        [
            "x.toml: explore.trials: 3 is no multiple of the 2 choices of batch size and weight decay that a grid sampler crosses with the rates"
        ],
    ),
    (
        LAW,
        {"explore": {"budget": 10000000000000.0}},
        ["x.toml: explore.budget: 1e+13 is not below the smallest budget, 1e+13; lower it"],
    ),
    (
        LAW,
        {"explore": {"within": 1.0}},
        ["x.toml: `explore.within` = 1.0: input should be greater than 1"],
    ),
    (
        LAW,
        {"pruning": {"rungs": [0.5, 0.25]}},
        ["x.toml: `pruning.rungs` = [0.5, 0.25]: rungs must rise: [0.25, 0.5]"],
    ),
    (
        LAW,
        {"pruning": {"rungs": [0.5, 1.0]}},
        ["x.toml: `pruning.rungs.1` = 1.0: input should be less than 1"],
    ),
    (
        LAW,
        {"pruning": {"min_population": 1}},
        ["x.toml: `pruning.min_population` = 1: input should be greater than or equal to 2"],
    ),
    (
        LAW,
        {"pruning": {"reduction": 1}},
        ["x.toml: `pruning.reduction` = 1: input should be greater than 1"],
    ),
    (LAW, {"cap": {"money": 3}}, ["x.toml: cap.money: needs a price_per_hour above 0"]),
    (LAW, {"cap": {"flops": 0}}, ["x.toml: `cap.flops` = 0: input should be greater than 0"]),
    (
        LAW,
        {"resources": {"trials_per_gpu": 2}},
        ["x.toml: resources.trials_per_gpu: 2 trials cannot share 0 GPUs; set gpus_per_trial = 1"],
    ),
    (
        LAW,
        {"resources": {"trials_per_gpu": "many"}},
        ['x.toml: `resources.trials_per_gpu` = "many": write "auto", or a whole number from 1 up'],
    ),
    (
        LAW,
        {"grid": {"tokens": [10]}},
        ['x.toml: grid.tokens: only a grid reads it; write design = "grid" or remove it'],
    ),
    (
        LAW,
        {"model": "a:b", "training": {"parametrization": "completep"}},
        [
            'x.toml: training.parametrization: completep knows the shipped decoder\'s blocks alone; write "mup" or "standard" beside a model of your own'
        ],
    ),
    (
        LAW,
        {"backend": "replay"},
        ['x.toml: replay.table: missing. Add it, e.g. table = "runs/demo"'],
    ),
    (
        LAW,
        {"backend": "replay", "replay": {"table": "t", "columns": ["a"]}},
        ['x.toml: `replay.columns.0` = "a": write "THEIRS=OURS", e.g. "final_loss=loss"'],
    ),
    (
        LAW,
        {"target": {"interval": 0.1}, "budgets": [10000000000000.0]},
        ["x.toml: target.interval: one budget shows no trend; name two or more"],
    ),
    (
        LAW,
        {
            "target": {"interval": 0.1},
            "search": {"batch_size": [2, 4], "weight_decay": [0.0, 0.1], "seeds": 2},
        },
        [
            "x.toml: search.batch_size: runs chosen by value differ in budget, size and rate alone; remove it, or target.interval",
            "x.toml: search.weight_decay: runs chosen by value differ in budget, size and rate alone; remove it, or target.interval",
            "x.toml: search.seeds: runs chosen by value differ in budget, size and rate alone; remove it, or target.interval",
        ],
    ),
    (
        GRID,
        {"target": {"interval": 0.1, "budget": 1000000000000000.0}},
        ["x.toml: target.interval: a grid is run whole; remove it"],
    ),
    (
        GRID,
        {"budgets": [10000000000.0]},
        [
            "x.toml: `budgets` = [10000000000.0]: a grid's budgets follow from its sizes and tokens; remove them"
        ],
    ),
    (
        GRID,
        {"grid": {"tokens": []}},
        ["x.toml: grid.tokens: missing in a grid. Add it, e.g. tokens = [1e6, 1e7, 1e8]"],
    ),
    (
        GRID,
        {"grid": {"tokens": [2, 1]}},
        ["x.toml: `grid.tokens` = [2, 1]: tokens must rise: [1, 2]"],
    ),
    (
        GRID,
        {"shapes": {"ladder": []}},
        ["x.toml: shapes.ladder: missing in a grid. Add it, e.g. [[4, 256], [8, 512]]"],
    ),
    (
        GRID,
        {"shapes": {"per_budget": 3}},
        ["x.toml: shapes.per_budget: a grid runs the whole ladder; remove it"],
    ),
    (
        GRID,
        {"training": {"batch_size": [1, 2]}},
        [
            "x.toml: training.batch_size: 2 sizes for 1 numbers of tokens; give one number, or one for each"
        ],
    ),
    (
        GRID,
        {"search": {"batch_size": [2, 4]}},
        ["x.toml: search.batch_size: a grid's crossings share one; remove it"],
    ),
    (
        GRID,
        {"explore": {"budget": 1000000000.0}},
        ["x.toml: explore.budget: a grid has one stage; remove it"],
    ),
    (
        API,
        {"api": {"key_file": ""}},
        ['x.toml: api.key_file: missing. Add it, e.g. key_file = "api_key.txt"'],
    ),
    (
        API,
        {"pruning": {"rungs": [0.5]}},
        ["x.toml: pruning.rungs: a service tells the end alone; write rungs = []"],
    ),
    (API, {"search": {"seeds": 2}}, ["x.toml: search.seeds: a service takes no seed; write 1"]),
    (API, {"search": {"repeats": 1}}, ["x.toml: search.repeats: a service takes no seed; write 0"]),
    (
        API,
        {"search": {"weight_decay": [0.1]}},
        ["x.toml: search.weight_decay: a service takes none; remove it"],
    ),
    (
        GRID,
        {
            "backend": "api",
            "api": {"key_file": "k"},
            "pruning": {"rungs": []},
            "search": {"repeats": 0},
        },
        ['x.toml: design: a service sells FLOPs, not tokens; write "isoflop"'],
    ),
    (
        LAW,
        {"budgets": [10000000000000.0, 10000001000000.0]},
        ["x: budgets 1e+13 are alike to six digits: keep them apart"],
    ),
    (
        LAW,
        {"shapes": {"ladder": [[1, 64], [2, 64], [40, 4096]]}},
        [
            "x: `budgets`: 1e+13 FLOP buy no whole step of the largest of its shapes ((1, 64), (2, 64), (40, 4096)); raise the budget, or lower training.batch_size or the ladder"
        ],
    ),
    (
        GRID,
        {"grid": {"tokens": [100]}},
        [
            "x: `grid.tokens`: 100 are no whole step; raise them, or lower training.batch_size or shapes.context_length"
        ],
    ),
    (
        LAW,
        {"cap": {"flops": 1000000000000.0}},
        ["x: `cap.flops` = 1e+12 buys no trial at the smallest budget, 1e+13; raise it"],
    ),
    (
        LAW,
        {"shapes": {"positions": "rotary", "ladder": [[1, 9]]}},
        [
            "shapes.ladder: 1x9: rotary positions need an even head size, got 9; choose another width or head_size"
        ],
    ),
    (
        LAW,
        {"shapes": {"ladder": [[1, 1]], "ffn": "swiglu"}},
        ["shapes.ladder: 1x1: d_ff must be at least 1, got 0; choose another width or head_size"],
    ),
    (
        LAW,
        {"shapes": {"ladder": [[1, 8]], "context_length": 10**30}},
        [
            "x: `budgets`: 1e+13 FLOP buy no whole step of the largest of its shapes ((1, 8),); raise the budget, or lower training.batch_size or the ladder",
            "x: `budgets`: 1e+14 FLOP buy no whole step of the largest of its shapes ((1, 8),); raise the budget, or lower training.batch_size or the ladder",
        ],
    ),
]


def changed(base, changes):
    """A sweep's table with keys of its sections laid over."""
    table = dict(base)
    for name, value in changes.items():
        is_section = isinstance(value, dict) and isinstance(table.get(name, {}), dict)
        table[name] = {**table.get(name, {}), **value} if is_section else value
    return table


@pytest.mark.parametrize(("base", "changes", "lines"), FAULTS)
def test_a_fault_names_place_value_and_remedy(base, changes, lines):
    with pytest.raises((ConfigError, BudgetError)) as caught:
        plan(parse(changed(base, changes), place="x.toml"))
    assert str(caught.value).splitlines() == lines


FILES = [
    (
        "absent.toml", None,
        "no such file. Ready ones: course.toml, course_api.toml, course_api_cpu.toml, demo.toml, "
        "gpu.toml, grid3.toml, grid3_cpu.toml, grid5.toml, grid5_cpu.toml, law.toml, paper.toml, "
        "smoke.toml",
    ),
    ("folder", ..., "is a folder; a sweep is a TOML file"),
    ("broken.toml", b"name = ", "not TOML: Invalid value (at end of document)"),
    (
        "binary.toml", b"\xff\xfe",
        "not TOML: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "said"), FILES)
def test_files_that_are_none(tmp_path, name, content, said):
    path = tmp_path / name
    if content is ...:
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: {said}"


SETTINGS = [
    ("trials", "-s trials: expected key=value, e.g. -s search.trials=5"),
    ("=3", "-s =3: expected key=value, e.g. -s search.trials=5"),
    ("name.x=3", "-s name.x=3: `name` is not a section"),
]


@pytest.mark.parametrize(("setting", "said"), SETTINGS)
def test_wrong_settings(tmp_path, setting, said):
    path = tmp_path / "s.toml"
    path.write_text('name = "s"\nbudgets = [1e10]\n')
    with pytest.raises(ConfigError) as caught:
        load(path, [setting])
    assert str(caught.value) == said


REPEATS = "x: budget 1e+13: its smallest shape sees {tokens} tokens, python-stdlib has 9; use more text, larger shapes, or data.allow_repeats = true"


def test_text_that_would_repeat():
    sweep = parse({**LAW, "budgets": [1e13]}, place="x.toml")
    with pytest.raises(ConfigError) as caught:
        check_corpus(sweep, plan(sweep), 9)
    tokens = plan(sweep).budgets[0].tokens[1]
    assert str(caught.value) == REPEATS.format(tokens=f"{tokens:,}")


ELSEWHERE = {
    "model:",  # test_tuner_backends.py
    "; drop the budget, or widen replay.within or shapes.ladder",  # test_tuner_replay.py
    "d_model must be a multiple of num_heads, got",  # unreachable: heads divide the width
}


MODULES = ("config", "sections", "ladder", "grid", "plan", "space")


def test_no_message_of_these_modules_is_left_out(root):
    """Every text that is raised or collected as a fault stands in one of the tables above."""
    shown = [line for *_, lines in FAULTS for line in lines]
    shown += [f": {said}" for *_, said in FILES] + [said for _, said in SETTINGS] + [REPEATS]
    modules = [root / "model" / "shape.py"]
    modules += [root / "tuner" / f"{name}.py" for name in MODULES]
    for path in modules:
        for text in raised(ast.parse(path.read_text())):
            known = text in ELSEWHERE or any(text in line for line in shown)
            assert known, f"{path.name}: no test shows {text!r}"


def raised(tree):
    """The longest constant piece of each text that is raised as an error or added to `found`."""
    for node in ast.walk(tree):
        is_fault = isinstance(node, ast.Call) and (
            getattr(node.func, "id", "") in {"ValueError", "ConfigError", "BudgetError"}
            or (
                getattr(node.func, "attr", "") == "append"
                and getattr(node.func.value, "id", "") in {"found", "faults"}
            )
        )
        is_list = (
            isinstance(node, ast.Assign)
            and getattr(node.targets[0], "id", "") in {"found", "faults"}
            and isinstance(node.value, ast.ListComp)
        )
        if not is_list and not (is_fault and node.args):
            continue
        text = node.value.elt if is_list else node.args[0]
        pieces = [
            piece.value
            for piece in ast.walk(text)
            if isinstance(piece, ast.Constant) and isinstance(piece.value, str)
        ]
        longest = max(pieces, key=len, default="").strip()
        if len(longest) > 3:
            yield longest


def test_no_message_is_shown_twice():
    shown = Counter(tuple(lines) for *_, lines in FAULTS)
    assert shown.most_common(1)[0][1] == 1


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["law", "grid", "tpe", "auto", 1, 4, 1e13, 0.5])
)  # fmt: skip
KEYS = sorted(
    {key for field in Sweep.model_fields.values() for key in getattr(
        field.annotation, "model_fields", {})}
)  # fmt: skip
SECTIONS = st.dictionaries(st.sampled_from(KEYS), LEAVES | st.lists(LEAVES, max_size=2), max_size=3)
VALUES = LEAVES | st.lists(LEAVES, max_size=3) | SECTIONS
TABLES = st.dictionaries(st.sampled_from(list(Sweep.model_fields)), VALUES, max_size=5)


# An example may hold a ladder that takes long to plan, on a machine that does much else.
@settings(deadline=None)
@given(TABLES, st.sampled_from([{}, LAW, GRID]))
def test_no_table_ends_in_a_traceback(table, base):
    try:
        plan(parse({**base, **table}, place="x.toml"))
    except (ConfigError, BudgetError) as error:
        assert all(": " in line for line in str(error).splitlines())
