"""Two sweeps on one page: both answers, told apart without color, what differs between them."""

import re
from dataclasses import replace

import pytest
import stories
from test_report_write import Page

from analysis import overlay, report, style
from analysis.overlay import LOOKS, Tale
from analysis.predict import Estimate


def other():
    """The same story with half as many parameters asked for, and run in another place."""
    told = stories.story()
    halved = Estimate(value=50e3, low=45e3, high=55e3)
    runs = replace(told.runs, trials=told.runs.trials.assign(device="gpu"))
    return replace(told, runs=runs, prediction=replace(told.prediction, params=halved))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("overlay") / "both.html"
    report.write_overlay([("one", stories.story()), ("two", other())], path, title="both")
    return path.read_text(encoding="utf-8"), path.with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(written):
    return Page(written[0])


def test_both_answers_stand_beside_each_other(page, written):
    assert page.headings == [
        "With 1e13 FLOP, by 2 sweeps", "IsoFLOP profiles", "Laws side by side", "How they were run",
    ]  # fmt: skip
    assert ["parameters N", "111k [92k … 133k]", "50k [45k … 55k]"] in page.rows
    said = "one asks for 111k parameters, two for 50k: a factor of 2.22, and their 95 % intervals"
    for text in written:
        assert f"{said} do not overlap." in text


def test_intervals_that_overlap_are_said_to(tmp_path):
    told = stories.story()
    report.write_overlay([("one", told), ("again", told)], tmp_path / "x.html", title="x")
    assert "a factor of 1, and their 95 % intervals overlap." in (tmp_path / "x.html").read_text()


def test_what_is_not_sound_is_said_before_any_number(tmp_path):
    told, why = stories.story(), "one budget: the exponent is not measured"
    asked = replace(told.prediction, unsound=(why,), warnings=(why, *told.prediction.warnings))
    doubted = replace(told, prediction=asked)
    report.write_overlay([("one", told), ("two", doubted)], tmp_path / "x.html", title="x")
    said = (tmp_path / "x.md").read_text()
    assert 0 < said.index(f"two is not sound: {why}.") < said.index("one asks for")
    assert said.count(why) == 1


def test_what_differs_comes_first(page):
    rows = [row for row in page.rows if len(row) == 3]
    assert rows.index(["device", "cpu", "gpu"]) < rows.index(["sweep", "told", "told"])


def test_exponents_of_every_approach(page):
    assert ["parabola", "0.410 [0.386 … 0.434]", "0.410 [0.386 … 0.434]"] in page.rows


def test_every_figure_is_described_and_its_ids_are_its_own(written, page):
    assert len(page.labels) == written[0].count('<svg aria-hidden="true"') == 4
    assert len(page.ids) == len(set(page.ids))
    assert all("one, two" in label for label in page.labels)


def test_sweeps_are_told_apart_by_marker_and_dash_too():
    told = [stories.story(), other()]
    tales = [Tale(name=str(n), story=story, look=LOOKS[n]) for n, story in enumerate(told)]
    (ax,) = style.draw(lambda ax: overlay.profiles(tales, ax)).axes
    seen = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in ax.lines}
    assert len(seen) == 2
    assert all(len(set(column)) == 2 for column in zip(*seen, strict=True))


def test_the_lines_are_the_fits_own():
    tales = [Tale(name="one", story=stories.story(), look=LOOKS[0])]
    (ax,) = style.draw(lambda ax: overlay.optimum(tales, ax, "params")).axes
    (line,) = [line for line in ax.lines if line.get_label() == "one"]
    budgets, optima = line.get_data()
    assert optima == pytest.approx(stories.ALLOCATION.n_opt(budgets))
    assert budgets[-1] == pytest.approx(1e13)


def test_more_than_can_be_told_apart_are_refused(tmp_path):
    told = [(str(n), stories.story()) for n in range(5)]
    with pytest.raises(ValueError, match="at most 4"):
        report.write_overlay(told, tmp_path / "x.html", title="x")


def test_the_same_input_gives_the_same_bytes(tmp_path, written):
    path = tmp_path / "again.html"
    report.write_overlay([("one", stories.story()), ("two", other())], path, title="both")
    assert path.read_text(encoding="utf-8") == written[0]
    assert not re.search(r'(?:src|href)="[^#]', written[0].split("<script>")[0])
