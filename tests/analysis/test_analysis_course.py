"""The course's file through the command: its first problem answered by `fit` and `report`."""

import json
import re

import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from analysis import figures
from analysis.comparison import Fits
from analysis.runs import read
from tuner.cli import app

BUDGETS = [6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21]
LOWEST = {0: (7.6209e8, 1.3122e9), -1: (1.2149e10, 4.1156e10)}
"""N and D of the lowest run of the smallest and the largest budget."""
LAWS = {
    "argmin": ("1.1634", "0.46868", "0.14326", "0.53132", "70.05", "206.1", "237.9", "808.6"),
    "argmin_raw": ("25.793", "0.40381", "0.0063376", "0.59677", "50.02", "126.8", "337", "1332"),
    "parabola": ("0.13317", "0.5146", "1.2515", "0.4854", "91.14", "298.1", "182.9", "559.2"),
}
"""n_coef, a, d_coef, b; N_opt at 1e23 and 1e24, D_opt at 1e23 and 1e24, in units of 1e9."""


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def answer(course_file):
    return json.loads(invoke("fit", course_file, "--json"))


@pytest.fixture(scope="module")
def summary(course_file):
    return invoke("fit", course_file, "--at", "1e23", "--at", "1e24")  # as the README has it


@pytest.fixture(scope="module")
def page(course_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("course") / "report.html"
    invoke("report", course_file, "--budget", "1e24", "-o", path)
    return path.read_text(encoding="utf-8")


def by_name(answer, name):
    return next(one for one in answer["approaches"] if one["name"] == name)


@pytest.mark.parametrize("name", LAWS)
def test_laws_and_values_by_method(answer, name):
    record = by_name(answer, name)
    law = record["allocation"]
    values = [law[letter] for letter in ("n_coef", "a", "d_coef", "b")]
    values += [record[q][c] / 1e9 for q in ("n_opt", "d_opt") for c in ("1e+23", "1e+24")]
    for value, digits in zip(values, LAWS[name], strict=True):
        figures = len(digits.replace(".", "").lstrip("0"))
        assert f"{value:.{figures}g}" == f"{float(digits):.{figures}g}"


@pytest.mark.parametrize("name", ["argmin", "parabola", "akima", "cubic", "chinchilla"])
def test_every_budget_has_its_points(answer, name):
    points = by_name(answer, name)["points"]
    assert [point["budget"] for point in points] == pytest.approx(BUDGETS)
    for point in points:
        assert 6 * point["params"] * point["tokens"] == pytest.approx(point["budget"], rel=1e-9)


def test_the_points_of_the_lowest_runs(answer):
    points = by_name(answer, "argmin")["points"]
    for place, (params, tokens) in LOWEST.items():
        assert points[place]["params"] == pytest.approx(params, rel=1e-4)
        assert points[place]["tokens"] == pytest.approx(tokens, rel=1e-4)


def test_the_chosen_law_is_the_one_behind_the_file(answer):
    assert answer["chosen"] == "chinchilla"
    assert by_name(answer, "chinchilla")["n_opt"]["1e+23"] == pytest.approx(9.1892e10, rel=1e-4)
    assert by_name(answer, "chinchilla")["n_opt"]["1e+24"] == pytest.approx(3.0031e11, rel=1e-4)


def test_the_summary_opens_with_values_laws_and_points(summary):
    head = summary[: summary.index("\nargmin: ok")]
    assert re.search(r"N_opt\(1e\+23\)\s+D_opt\(1e\+23\)\s+N_opt\(1e\+24\)\s+D_opt\(1e\+24\)", head)
    assert re.search(
        r"argmin +0\.46868 .* 7\.005e\+10 +2\.379e\+11 +2\.061e\+11 +8\.086e\+11", head
    )
    assert re.search(r"N_opt = 0\.1363\d* · C\^0\.51429, D_opt = 1\.222\d* · C\^0\.48571", head)
    assert head.count(" FLOP: N_opt ") == len(BUDGETS)
    assert "3e+21 FLOP: N_opt 1.2149e+10, D_opt 4.1156e+10" in summary


def test_the_page_shows_laws_and_points(page):
    text = re.sub(r"<[^>]+>", " ", page)
    assert re.search(
        r"argmin\s+1\.1634 · C\^0\.46868\s+0\.14326 · C\^0\.53132\s+70\.1B\s+238B", text
    )
    assert re.search(r"3e21\s+12\.1B\s+41\.2B\s+3\.773", text)


@pytest.mark.parametrize(
    ("draw", "quantity", "anchor"),
    [(figures.n_opt, "params", "n-opt"), (figures.d_opt, "tokens", "d-opt")],
)
def test_both_plots_reach_the_budget_asked_for(answer, course_file, page, draw, quantity, anchor):
    """The points of the lowest runs, and the chosen law drawn on to 1e24 FLOP."""
    assert f'clipPath id="{anchor}' in page
    ax = draw(read(course_file), Fits.from_dict(answer), Figure().subplots(), target=1e24)
    drawn = {line.get_linestyle() + str(line.get_marker()): line.get_xydata() for line in ax.lines}
    law = by_name(answer, "chinchilla")
    assert drawn["--None"][-1] == pytest.approx([1e24, law[anchor.replace("-", "_")]["1e+24"]])
    dots = [line.get_xydata()[0] for line in ax.lines if line.get_marker() == "o"]
    points = [(point["budget"], point[quantity]) for point in by_name(answer, "argmin")["points"]]
    assert dots == [pytest.approx(point) for point in points]


def test_the_truth_pinned_and_the_number_of_draws(course_file):
    answer = json.loads(
        invoke("fit", course_file, "--pin-E", "2.69", "--replicates", "0", "--json")
    )
    record = by_name(answer, "chinchilla")
    assert record["given"] == ["E"]
    assert record["params"]["E"] == pytest.approx(2.69, rel=1e-12)
    assert record["params"]["beta"] == pytest.approx(0.36, rel=1e-6)
    assert record["bse"] == {}
    assert "given, not fitted" in invoke("fit", course_file, "--pin-E", "2.69", "--replicates", 20)


def test_a_life_of_serving(course_file):
    found = json.loads(
        invoke("predict", course_file, "--budget", "1e22", "--served", "1e12", "--json")
    )
    cheapest = found["deployment"]
    assert cheapest["params"] < found["params"]["value"]
    assert cheapest["flops"] < cheapest["compute_optimal_flops"]
    assert cheapest["loss"] == pytest.approx(found["loss"]["value"], rel=1e-6)
