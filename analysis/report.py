"""Runs, fits and a prediction as one self-contained HTML page, and as Markdown beside it.

A pure function of its input: the same runs and fits give the same bytes. Needs no network, to
write or to read. The sections are made in
`report_answer`, `report_laws` and `report_runs`.
"""

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis import report_answer, report_confirm, report_laws, report_overlay, report_runs
from analysis.confirm import Confirmation
from analysis.fit import Fits
from analysis.overlay import LOOKS, Tale
from analysis.predict import Prediction
from analysis.report_page import LeftOut, Page, Section, Story
from analysis.runs import Runs
from analysis.style import stylesheet

_SECTIONS: tuple[Callable[[Story], Section | LeftOut], ...] = (
    report_answer.answer,
    report_answer.certainty,
    report_laws.isoflop,
    report_laws.allocation,
    report_laws.loss_law,
    report_runs.rates,
    report_runs.pruning,
    report_runs.curves,
    report_runs.trials,
    report_runs.provenance,
)
"""In reading order."""


_OVERLAID: tuple[Callable[[Sequence[Tale]], Section | LeftOut], ...] = (
    report_overlay.answer,
    report_overlay.profiles,
    report_overlay.laws,
    report_overlay.provenance,
)
"""Of a page on several sweeps, likewise."""


def write(
    runs: Runs,
    fits: Fits,
    prediction: Prediction | None,
    path: Path,
    *,
    title: str,
    confirmation: Confirmation | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the report to `path` as HTML and beside it, ending in .md, as Markdown.

    Args:
        runs: what was run.
        fits: what was fitted to it.
        prediction: the allocation asked for; without one the page opens with the law.
        path: the HTML file.
        title: the page's heading.
        confirmation: how a larger run came out, if one was made.
        notes: sentences to show with the answer, such as what a sweep found unsound.
    """
    story = Story(runs=runs, fits=fits, prediction=prediction, notes=tuple(notes))
    made = [section(story) for section in _SECTIONS]
    if confirmation is not None:
        made.insert(1, report_confirm.confirmed(confirmation))
    _write(made, path, title)


def write_overlay(stories: Sequence[tuple[str, Story]], path: Path, *, title: str) -> None:
    """Write one page that lays up to four sweeps over each other, and its Markdown twin.

    Args:
        stories: each sweep's name on the page, and what there is to tell of it.
        path: the HTML file.
        title: the page's heading.

    Raises:
        ValueError: there are more sweeps than can be told apart.
    """
    if len(stories) > len(LOOKS):
        raise ValueError(f"{len(stories)} sweeps: at most {len(LOOKS)} can be told apart")
    tales = [
        Tale(name=name, story=story, look=look)
        for (name, story), look in zip(stories, LOOKS, strict=False)
    ]
    _write([section(tales) for section in _OVERLAID], path, title)


def _write(made: Sequence[Section | LeftOut], path: Path, title: str) -> None:
    page = Page(
        title=title,
        sections=tuple(part for part in made if isinstance(part, Section)),
        left_out=tuple(part for part in made if isinstance(part, LeftOut)),
    )
    path.write_text(_render("report.html.jinja", page), encoding="utf-8")
    path.with_suffix(".md").write_text(_render("report.md.jinja", page), encoding="utf-8")


def _render(template: str, page: Page) -> str:
    environment = Environment(
        loader=PackageLoader("analysis"),
        autoescape=template.endswith(".html.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(
        page=page, stylesheet=stylesheet(), asset=_asset
    )


def _asset(name: str) -> str:
    return files("analysis").joinpath("assets", name).read_text(encoding="utf-8").strip()
