"""What people get wrong in their first hour, and what they are told: one table, one line each."""

import os
import re
import subprocess
import sys

import pytest

from tuner import cli

SWEEP = 'name = "mine"\nbudgets = [1e17, 1e18, 1e19]\nbackend = "law"\n'
TABLE = "C,N,L\n" + "".join(
    f"{c:g},{n:g},{1.7 + 400 / n**0.34 + 410 / (c / 6 / n) ** 0.28:.5f}\n"
    for c in (1e18, 1e19, 1e20)
    for n in (3e7, 1e8, 3e8, 1e9)
)

MISTAKES = [
    # a word mistyped
    ("plna sweep.toml", "No such command 'plna'. Did you mean 'plan'?"),
    ("predict runs.csv --budgte 1e20", "No such option: --budgte. Did you mean --budget?"),
    (
        "resume empty -s search.trials=3",
        "No such option: -s; a sweep keeps the settings it began with. Raise [cap] in its file",
    ),
    ("plan sweep.toml -s search.trails=3", "Did you mean `search.trials`?"),
    ("plan mistyped.toml", "unknown key `buget`. Did you mean `budgets`?"),
    # something left out
    ("plan", "Missing argument"),
    ("predict runs.csv", "Missing option '--budget'"),
    ("plan nameless.toml", "`name` is missing"),
    # the wrong thing in the right place
    ("plan absent.toml", "absent.toml: no such file. Ready ones: course.toml, course_api.toml"),
    ("plan runs.csv", "runs.csv: not TOML"),
    ("plan .", ".: is a folder; a sweep is a TOML file"),
    ("fit sweep.toml", "sweep.toml: unknown ending '.toml'; known: .parquet, .csv"),
    ("status empty", "empty: no sweep here (no ledger.db)"),
    ("fit empty", "empty: holds neither trials.parquet nor trials.csv"),
    # numbers
    ("predict runs.csv --budget ten", "Invalid value for '--budget'"),
    ("predict runs.csv --budget -1e20", "is no positive, finite number"),
    ("plan sweep.toml -s budgets=1e17", "`budgets`"),
    (
        "plan sweep.toml -s budgets=[1e15k]",
        '`budgets` = "[1e15k]": expected a list, e.g. budgets = [3e10',
    ),
    ("plan sweep.toml -s shapes.per_budget=0", "`shapes.per_budget` = 0"),
    # somebody's table
    ("fit columns.csv", "no column"),
    ("fit words.csv", "words.csv"),
    ("fit rows.csv", "rows.csv"),
    ("fit runs.csv --map L", "--map L: expected THEIRS=OURS"),
    ("fit columns.csv --map params=size", "the file's name comes first: --map size=params"),
    # what is to be written
    ("report runs.csv -o absent/report.html", "absent/report.html: No such file or directory"),
    ("report a.csv b.csv c.csv d.csv e.csv", "5 sweeps: name at most 4"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the newcomer stands."""
    written = {
        "sweep.toml": SWEEP,
        "mistyped.toml": SWEEP.replace("budgets", "buget"),
        "nameless.toml": SWEEP.replace('name = "mine"\n', ""),
        "columns.csv": TABLE.replace("C,N,L", "flop,size,score"),
        "words.csv": TABLE.replace("1e+18,3e+07", "1e+18,thirty million"),
        "rows.csv": "C,N,L\n",
        **dict.fromkeys(["runs.csv", *(f"{letter}.csv" for letter in "abcde")], TABLE),
    }
    for name, text in written.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def isoflop(line, monkeypatch, capsys):
    """Exit code, stdout and stderr of a command line, in this process."""
    monkeypatch.setattr(sys, "argv", ["isoflop", *line.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


@pytest.mark.parametrize(("line", "said"), MISTAKES)
def test_a_mistake_gets_its_line(folder, monkeypatch, capsys, line, said):
    code, out, err = isoflop(line, monkeypatch, capsys)
    assert said in err
    assert code == 2
    assert not out
    assert all(one.startswith("isoflop: ") for one in err.splitlines())
    assert len(err) < 900


STUMBLES = [
    ("predict one.csv --budget 1e20", 1, "not sound: one budget: the exponent is not measured"),
    ("fit one.csv --replicates 100", 2, "not sound: one budget: the exponent is not measured"),
    ("fit shattered.csv --replicates 100", 2, "not sound: one budget"),
    ("predict edges.csv --budget 1e21", 1, "not sound: at every budget the largest size has"),
    ("predict millions.csv --budget 1e21", 20, "! budgets are 1e+06 times 6 · params · tokens"),
    ("predict diverged.csv --budget 1e21", 20, "! 2 rows without a loss left out: rows 2, 7"),
]
"""Commands on tables that can be read and not believed, and what stands in the first lines."""


@pytest.mark.parametrize(("line", "within", "said"), STUMBLES)
def test_a_table_that_is_not_sound_is_answered_with_doubt(
    folder, monkeypatch, capsys, line, within, said
):
    rows = [[float(cell) for cell in row.split(",")] for row in TABLE.splitlines()[1:]]
    one = [
        (n, 1e19 / 6 / n * (1 + step), 2.5 + (n / 3e8 - 1) ** 2)
        for n, step in zip(
            (5e7, 1e8, 1.5e8, 2e8, 3e8, 4e8, 5e8, 6e8),
            (0.01, -0.01, 0.014, 0, -0.013, 0.005, 0.012, -0.003),
            strict=True,
        )
    ]
    tables = {
        "one": ("C,N,L", [(1e19, n, loss) for n, _, loss in one]),
        "shattered": ("N,D,L", one),
        "edges": ("C,N,L", [(c, n / 100, loss + 1e9 / n) for c, n, loss in rows]),
        "millions": ("C,N,D,L", [(c, n / 1e6, c / 6 / n, loss) for c, n, loss in rows]),
        "diverged": ("C,N,L", [
            (c, n, "nan" if number in (2, 7) else loss)
            for number, (c, n, loss) in enumerate(rows, 1)
        ]),
    }  # fmt: skip
    for name, (head, cells) in tables.items():
        text = "\n".join([head, *(",".join(map(str, row)) for row in cells)])
        (folder / f"{name}.csv").write_text(text + "\n")
    code, out, err = isoflop(line, monkeypatch, capsys)
    assert (code, err) == (0, "")  # and pytest turns a warning into an error
    assert said in "\n".join(out.splitlines()[:within])


def test_all_faults_of_a_file_come_at_once(folder, monkeypatch, capsys):
    (folder / "sweep.toml").write_text('budgets = "many"\n[serch]\n[search]\ntrails = 3\n')
    _, _, err = isoflop("plan sweep.toml", monkeypatch, capsys)
    for said in ("`name`", "`budgets`", "`serch`", "`search.trails`"):
        assert said in err


def test_ready_sweeps_are_known_by_name_anywhere(folder, monkeypatch, capsys):
    said = {isoflop(f"plan {name}", monkeypatch, capsys)[1]
            for name in ("law.toml", "tuner/sweeps/law.toml")}  # fmt: skip
    assert len(said) == 1
    assert "1e+19" in said.pop()
    (folder / "law.toml").write_text(SWEEP.replace("1e19", "1e20"))  # their own goes first
    assert "1e+20" in isoflop("plan law.toml", monkeypatch, capsys)[1]


def test_a_missing_package_names_its_extra(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.split(".")[0] in {"model", "tuner"}]:
        if name not in {"model", "tuner", "model.shape"} and "cli" not in name:
            monkeypatch.delitem(sys.modules, name, raising=False)
    code, _, err = isoflop("generate empty", monkeypatch, capsys)
    assert (code, err) == (
        2,
        "isoflop: this needs the package torch: pip install 'isoflop[sweep]'\n",
    )


def test_interrupted_anywhere_it_ends_clean(folder, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("analysis.fit.fit", interrupt)
    code, out, err = isoflop("fit runs.csv", monkeypatch, capsys)
    assert (code, out) == (130, "")
    assert err.strip() in {"", "isoflop: interrupted"}  # typer says it, or we do; never a traceback


def test_quiet_is_heard_before_and_after_the_command(folder, monkeypatch, capsys):
    for line in ("-q plan sweep.toml", "plan sweep.toml -q", "plan -q sweep.toml"):
        code, out, err = isoflop(line, monkeypatch, capsys)
        assert (code, err) == (0, "")
        assert "1e+17" in out
    _, _, err = isoflop("plan sweep.toml", monkeypatch, capsys)
    assert "next: isoflop run sweep.toml" in err


def test_without_a_command_it_shows_its_help(folder, monkeypatch, capsys):
    code, out, _ = isoflop("", monkeypatch, capsys)
    assert code == 0
    assert "Commands:" in out


def test_no_color_is_heeded(folder):
    command = [sys.executable, "-m", "tuner.cli", "plan", "sweep.toml"]
    terminal = {**os.environ, "FORCE_COLOR": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    plain = subprocess.run(
        command, capture_output=True, env={**terminal, "NO_COLOR": "1"}, check=True
    ).stdout
    assert b"1e+17" in plain
    assert not re.search(rb"\x1b\[(\d+;)*(3[0-8]|9[0-7])(;\d+)*m", plain)
