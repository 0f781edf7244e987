"""Tables on terminals of any width: nothing is cut, nothing is colored for who wants no color."""

import io
import json
import math

import pytest
from driving import provenance
from rich.console import Console
from rich.live import Live

from tuner import plan, planview, simulate, statusview
from tuner import provenance as provenances
from tuner import status as statuses
from tuner.config import load
from tuner.ledger import Ledger
from tuner.terminal import print_json

WIDE = {"budgets": [1.25e17, 1.25e18], "shapes": {"per_budget": 6, "head_size": 64}}


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    """The status of a sweep whose table is wide, and the sweep."""
    from tuner.config import parse

    folder = tmp_path_factory.mktemp("sweep")
    sweep = parse({"name": "wide", "backend": "law", **WIDE}, place="wide")
    simulate.simulate(sweep, folder, slots=2)
    ledger = Ledger(folder / "ledger.db")
    provenances.settle(ledger, provenance(sweep))
    found = statuses.of(sweep, ledger)
    ledger.close()
    return sweep, found


def shown(draw, width, **options):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, **options)
    draw(console)
    return console.file.getvalue()


def cells(text):
    """Words of a table's lines, in any order, whatever part they stand in."""
    return set(text.split())


@pytest.mark.parametrize("width", [200, 80, 60, 30])
def test_no_column_of_the_plan_is_cut(standing, width):
    sweep, _ = standing
    said = shown(lambda c: planview.show(plan.plan(sweep), c), width, no_color=True)
    wide = shown(lambda c: planview.show(plan.plan(sweep), c), 1000, no_color=True)
    assert "…" not in said
    assert cells(plain(wide)) == cells(plain(said))
    assert max(map(len, plain(said).splitlines())) <= width


@pytest.mark.parametrize("width", [200, 80, 60, 30])
def test_no_column_of_the_status_is_cut(standing, width):
    _, status = standing
    said = shown(lambda c: c.print(statusview.table(status), soft_wrap=True), width, no_color=True)
    wide = shown(lambda c: c.print(statusview.table(status), soft_wrap=True), 1000, no_color=True)
    assert "…" not in said
    assert cells(plain(wide)) == cells(plain(said))
    assert max(map(len, plain(said).splitlines()[1:])) <= width  # below the title


@pytest.mark.parametrize("width", [80, 60])
def test_the_live_table_is_whole_too(standing, width):
    _, status = standing

    def draw(console):
        with Live(console=console, auto_refresh=False) as live:
            live.update(statusview.table(status), refresh=True)

    said = plain(shown(draw, width, no_color=True))
    assert "…" not in said
    assert {*statusview.HEADINGS, "1.25e+17", "1.25e+18"} <= cells(said)


def test_eighty_columns_hold_the_demo_s_plan_in_one_piece(root):
    sweep = load(root / "tuner" / "sweeps" / "demo.toml")
    said = plain(shown(lambda c: planview.show(plan.plan(sweep), c), 80))
    (heading,) = [line for line in said.splitlines() if line.startswith("budget  ")]
    assert tuple(heading.split()) == planview.HEADINGS


def test_in_a_pipe_a_row_is_a_line(standing):
    _, status = standing
    console = Console(file=io.StringIO(), width=40)
    console.print(statusview.table(status), soft_wrap=True)
    assert len(console.file.getvalue().splitlines()) == 2 + len(status.budgets)


def test_no_color_is_respected(standing, monkeypatch):
    sweep, status = standing

    def draw(console):
        planview.show(plan.plan(sweep), console)
        console.print(statusview.table(status), style="red")

    assert "\x1b[31m" in shown(draw, 80, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    said = shown(draw, 80, color_system="standard")
    assert not any(f"\x1b[{code}" in said for code in (*range(30, 38), 38, 48, 90))


def plain(text):
    from rich.text import Text

    return Text.from_ansi(text).plain


def test_json_has_no_infinity(capsys):
    print_json({"high": math.inf, "all": [(1.5, math.nan)]})
    assert json.loads(capsys.readouterr().out) == {"high": None, "all": [[1.5, None]]}
