import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import stories

from analysis import report
from analysis.comparison import Conventions


class Page(HTMLParser):
    """What a browser makes of the page: text by section, tables, ids, what it would fetch."""

    void = frozenset({"meta", "br", "link", "img", "hr", "input"})

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.fetched, self.headings, self.rows = [], [], [], [], []
        self.labels = []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in self.void:
            self.open.append(tag)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        self.fetched += [v for k, v in attrs.items() if k in ("src", "href") and v[:1] != "#"]
        if tag == "tr":
            self.rows.append([])
        if attrs.get("role") == "img":
            self.labels.append(attrs["aria-label"])

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def write(folder, told, **options):
    path = folder / "report.html"
    report.write(told.runs, told.fits, told.prediction, path, title="A <told> sweep", **options)
    return path.read_text(encoding="utf-8"), path.with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write(tmp_path_factory.mktemp("report"), stories.story(), notes=["Bytes & all."])


@pytest.fixture(scope="module")
def page(written):
    return Page(written[0])


def test_the_first_section_is_the_answer(page):
    assert page.headings[0] == "With 1e13 FLOP"
    assert page.rows[:7] == [
        ["quantity", "value", "95 % interval"],
        ["parameters N", "111k", "92k … 133k"],
        ["training tokens D", "15.2M", "12.1M … 17.3M"],
        ["held-out loss L, nat/token", "1.311", "1.287 … 1.335"],
        ["peak learning rate η", "0.021", "0.015 … 0.03"],
        ["batch size, sequences", "8", "given"],
        [
            "shape",
            "num_layers 2, d_model 64, num_heads 4, d_ff 256: 115k parameters",
            "2x56 … 2x72",
        ],
    ]


def test_every_section_is_there_for_a_sweep_of_ours(page):
    assert page.headings == [
        "With 1e13 FLOP", "How sure", "IsoFLOP profiles", "Tokens and loss against compute",
        "Loss as a function of parameters and tokens", "Learning rates", "What pruning saved",
        "Training curves", "Every trial", "How it was run",
    ]  # fmt: skip


def test_every_approach_is_shown_with_its_state(page):
    rows = {row[0]: row for row in page.rows if len(row) == 6}
    assert rows["parabola"][1:3] == ["0.410", "0.386 … 0.434"]
    assert rows["parabola"][-1] == "ok"
    assert ["akima", "needs five sizes in each profile"] in page.rows
    assert rows["argmin"][-1] == "doubtful: three budgets only"


def test_warnings_and_disagreement_are_told(written):
    for text in (
        "the budget lies 33 times beyond the largest that was run",
        "chinchilla: E lies far below every loss",
        "it foretells the largest budget best",
    ):
        assert all(text in page for page in written)


def test_one_warning_of_several_approaches_is_told_once(tmp_path):
    told = stories.story()
    doubted, skipped = "budgets are 7 · N · D", "needs five sizes in each profile"
    approaches = [replace(fit, warnings=(doubted,)) for fit in told.fits.approaches]
    approaches[1] = replace(approaches[1], warnings=(skipped,))  # the reason of its state
    said = tuple(f"{fit.name}: {text}" for fit in approaches for text in fit.warnings)
    fits = replace(told.fits, approaches=tuple(approaches), warnings=said)
    _, markdown = write(tmp_path, replace(told, fits=fits))
    assert markdown.count(doubted) == 1
    assert f"- parabola, argmin, chinchilla: {doubted}" in markdown
    assert f"- akima: {skipped}" not in markdown


def test_disagreement_is_a_table(page):
    assert ["1e13", "1.9", "argmin", "chinchilla", "3 %"] in page.rows


def test_long_reasons_and_many_warnings_are_cut(tmp_path):
    told = stories.story()
    first = replace(
        told.fits.approaches[0],
        warnings=tuple(f"warning number {number}" for number in range(30)),
        status=replace(stories.OK, state="doubtful", reason="word " * 500),
    )
    fits = replace(told.fits, approaches=(first, *told.fits.approaches[1:]))
    html, _ = write(tmp_path, replace(told, fits=fits))
    assert "and 19 more like these" in html
    assert max(len(cell) for row in Page(html).rows for cell in row) < 250


def test_the_exponents_by_convention_are_shown(tmp_path, page):
    told = stories.story()
    assert ["non embedding", "6ND", "parabola", "0.400", "0.380 … 0.420", "few sizes"] in page.rows
    assert ["transformer", "exact", "parabola", "—", "—", "no budgets"] in page.rows
    none = replace(told.fits, conventions=Conventions(left_out="N is as the table gives it"))
    html, markdown = write(tmp_path, replace(told, fits=none))
    for text in (html, markdown):
        assert "under other conventions are left out: N is as the table gives it." in text


def test_rows_that_were_not_fitted_are_counted_with_their_reason(page):
    reason = "status is pruned, not completed: slow | late"
    assert [row[1] for row in page.rows if row and row[0] == reason] == ["18"]


def test_every_trial_is_in_the_table(page):
    numbered = [row for row in page.rows if row and row[0].isdecimal()]
    assert len(numbered) == len(stories.BUDGETS) * len(stories.SHAPES) * len(stories.RATES)
    assert numbered[0][:7] == ["1", "3e10", "1", "8", "5.38k", "1.78M", "0.004"]


def test_what_pruning_saved(written):
    words = "saved 25 % of what all of them would have spent; 8.3 % went into trials that were"
    assert words in written[0]


def test_the_page_fetches_nothing(written, page):
    assert page.fetched == []
    assert "url(http" not in written[0]
    assert "@import" not in written[0]


def test_no_id_is_used_twice(page):
    assert len(page.ids) == len(set(page.ids))


def test_every_figure_is_described(written, page):
    assert len(page.labels) == written[0].count('<svg aria-hidden="true"') == 10
    assert all(len(label) > 40 for label in page.labels)


def test_every_figure_is_well_formed(written):
    for svg in re.findall(r'<svg aria-hidden="true".*?</svg>', written[0], re.DOTALL):
        ElementTree.fromstring(svg)


def test_the_same_input_gives_the_same_bytes(tmp_path, written):
    assert write(tmp_path, stories.story(), notes=["Bytes & all."]) == written


def test_published_laws_stand_beside_the_fit(page):
    rows = {row[0]: row for row in page.rows if len(row) == 6}
    assert rows["this fit"][1:5] == ["0.410", "107k", "15.6M", "non embedding"]
    assert [rows[name][1] for name in ("Chinchilla", "Epoch", "Kaplan", "Llama 3")] == [
        "0.452", "0.513", "0.730", "0.463",
    ]  # fmt: skip
    assert "arXiv 2001.08361" in rows["Kaplan"][-1]


def test_main_figures_answer_the_pointer(written):
    drawn = re.findall(r'<script type="application/json">(.*?)</script>', written[0], re.DOTALL)
    assert len(drawn) == 9  # all but the bars of pruning
    shown = [json.loads(text) for text in drawn]
    assert all({"data", "layout", "width", "height"} == set(one) for one in shown)
    said = [text for one in shown for trace in one["data"] for text in trace.get("text", ())]
    assert any("<b>3e10 FLOP</b><br>parameters N: 2.82k" in text for text in said)


def test_no_address_leads_out_of_the_page(written):
    ours = re.sub(r"<script>.*?plotly\.js.*?</script>", "", written[0], flags=re.DOTALL)
    assert len(written[0]) - len(ours) > 1_000_000
    names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\s\"'<>]+", ours)) <= names


def test_what_people_wrote_is_escaped(written):
    html, markdown = written
    assert "<h1>A &lt;told&gt; sweep</h1>" in html
    assert "Bytes &amp; all." in html
    assert "# A <told> sweep" in markdown


def test_markdown_tables_are_whole(written):
    tables = re.findall(r"(?:^\|.*\n)+", written[1], re.MULTILINE)
    assert len(tables) >= 7
    for table in tables:
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(bars) == 1
    assert r"slow \| late" in written[1]


def test_somebodys_table_gets_what_it_can_fill(tmp_path):
    html, markdown = write(tmp_path, stories.story(stories.others()))
    page = Page(html)
    assert page.headings == [
        "With 1e13 FLOP", "How sure", "IsoFLOP profiles", "Tokens and loss against compute",
        "Loss as a function of parameters and tokens", "Every trial", "How it was run", "Left out",
    ]  # fmt: skip
    for text in (
        "Learning rates: the table has no learning_rate.",
        "What pruning saved: the table has no status and no flops.",
        "Training curves: the runs came without a table of curves.",
    ):
        assert text in html
        assert text in markdown


def test_runs_that_are_no_profiles_are_not_drawn_as_such(tmp_path):
    told = stories.story()
    reason = "most budgets have one size"
    skipped = tuple(
        replace(
            fit, law=None, draws=None, status=replace(stories.OK, state="skipped", reason=reason)
        )
        if fit.name != "chinchilla"
        else fit
        for fit in told.fits.approaches
    )
    fits = replace(told.fits, approaches=skipped, chosen="chinchilla", disagreement=())
    html, _ = write(tmp_path, replace(told, fits=fits))
    assert f"IsoFLOP profiles: {reason}." in html


def test_without_a_prediction_the_page_opens_with_the_law(tmp_path):
    html, _ = write(tmp_path, stories.story(asked=False))
    page = Page(html)
    assert page.headings[0] == "The law"
    assert page.rows[1][0] == "3e10"
    assert "N_opt grows as C^0.410 (95 % interval 0.386 … 0.434)" in html


def test_without_any_fit_the_page_says_so_and_shows_the_runs(tmp_path):
    told = stories.story(asked=False)
    none = tuple(
        replace(fit, law=None, draws=None, points=(), status=replace(fit.status, state="failed"))
        for fit in told.fits.approaches
    )
    fits = replace(
        told.fits, approaches=none, chosen="", chosen_because="Every approach failed.",
        disagreement=(), validation=(),
    )  # fmt: skip
    html, _ = write(tmp_path, replace(told, fits=fits))
    page = Page(html)
    assert page.headings[0] == "No law could be fitted"
    assert "Every approach failed." in html
    assert "IsoFLOP profiles" in page.headings
    assert "Tokens and loss against compute: no law could be fitted." in html


def test_fits_read_from_a_file_have_no_bands_but_a_page(tmp_path):
    told = stories.story()
    bare = tuple(replace(fit, draws=None) for fit in told.fits.approaches)
    html, _ = write(tmp_path, replace(told, fits=replace(told.fits, approaches=bare)))
    rows = {row[0]: row for row in Page(html).rows if len(row) == 6}
    assert rows["parabola"][4] == "—"


def test_a_page_of_many_trials_stays_small(written):
    assert len(written[0]) < 5_000_000


def test_each_live_figure_has_a_way_back_and_the_first_says_how_to_use_it(written):
    html = written[0]
    live = html.count(" data-live ")
    assert live > 1
    assert html.count('<button class="whole" type="button" hidden>') == live
    assert html.count('<span class="hint">') == 1
    assert html.index('<span class="hint">') < html.index("</section>")
