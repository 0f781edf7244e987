"""Verbs for laws: `fit`, `predict`, `report`, `writeup`. They need neither torch nor Ray."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner.terminal import AsJson, busy, out, positive, print_json, talk

if TYPE_CHECKING:
    from analysis.comparison import Fits
    from analysis.predict import Prediction

RunTable = Annotated[
    Path, typer.Argument(metavar="RUNS", help="A sweep's folder, or a table: CSV, JSON, Parquet.")
]
ColumnMap = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="THEIRS=OURS", help="What a column of the table is called."),
]


def _all_positive(values: list[float] | None) -> list[float] | None:
    """The same for an option given several times."""
    for value in values or ():
        positive(value)
    return values


PinE = Annotated[
    float | None,
    typer.Option(
        "--pin-E",
        metavar="LOSS",
        help="An irreducible loss known beforehand, nat/token: given, not fitted. E.g. 2.567.",
    ),
]


def fit(
    runs_path: RunTable,
    column_map: ColumnMap = None,
    at: Annotated[
        list[float] | None,
        typer.Option(
            help="Give N_opt and D_opt at this budget, FLOP; may be given several times. Default "
            "ten and a hundred times the largest of the table.",
            callback=_all_positive,
        ),
    ] = None,
    pin_E: PinE = None,
    replicates: Annotated[
        int, typer.Option(min=0, help="Bootstrap draws for the intervals; 0: no intervals.")
    ] = 1000,
    delta: Annotated[
        float,
        typer.Option(help="Width of the Huber penalty on log loss.", callback=positive),
    ] = 1e-3,
    figures: Annotated[
        Path | None,
        typer.Option(
            help="Draw every figure to this folder, up to the largest --at.", file_okay=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit every compute-optimal law the table supports, side by side.

    Example: isoflop fit runs/demo --at 1e13

    With plots: isoflop fit data/isoflops_curves.json --at 1e24 --figures plots

    Known irreducible loss: isoflop fit data/isoflops_curves.json --pin-E 1.9 --replicates 4000
    """
    from analysis.conventions import compared
    from analysis.fit import fit as fit_laws
    from tuner.reading import read

    runs = read(runs_path, column_map or ())
    with busy(f"fitting {runs_path}"):
        fits = fit_laws(runs, at=at or (), pinned_E=pin_E, replicates=replicates, delta=delta)
        fits = compared(runs, fits, pinned_E=pin_E, delta=delta, replicates=min(replicates, 200))
    _print_answer(fits, as_json)
    if figures is not None:
        from analysis.picture import write as draw_all

        for path in draw_all(runs, fits, figures, target=max(at or [runs.reach])):
            talk.print(f"drawn: {path}", markup=False)


def predict(
    runs_path: RunTable,
    budget: Annotated[
        float, typer.Option(help="Compute of the run being planned, FLOP.", callback=positive)
    ],
    column_map: ColumnMap = None,
    served: Annotated[
        float | None,
        typer.Option(
            callback=positive,
            metavar="TOKENS",
            help="Tokens the model will serve in its life: also say which model of the same loss "
            "is cheapest to train and to serve. E.g. 1e12.",
        ),
    ] = None,
    pin_E: PinE = None,
    as_json: AsJson = False,
) -> None:
    """Say what to train at a budget: N, D, shape, learning rate, batch, loss, with intervals.

    Example: isoflop predict runs/demo --budget 1e13

    With inference: isoflop predict data/isoflops_curves.json --budget 1e22 --served 1e12
    """
    from analysis.fit import fit as fit_laws
    from analysis.predict import predict as allocate
    from tuner import doubts
    from tuner.reading import read

    runs = read(runs_path, column_map or ())
    with busy(f"fitting {runs_path}"):
        fits = fit_laws(runs, at=[budget], pinned_E=pin_E)
        prediction = allocate(runs, fits, budget, served=served)
        prediction = doubts.told_with(prediction, doubts.of(runs_path))
    _print_answer(prediction, as_json)


def report(
    tables: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUNS...",
            help="A sweep's folder, or a table: CSV, JSON, Parquet; several are overlaid.",
        ),
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The HTML file.")] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="What the answer is for, FLOP; default ten times the largest.",
            callback=positive,
        ),
    ] = None,
    column_map: ColumnMap = None,
    as_json: AsJson = False,
) -> None:
    """Write one HTML page with the answer, how sure it is, and every trial.

    Example: isoflop report runs/demo -o report.html

    Two sweeps in one: isoflop report runs/demo runs/smoke -o both.html
    """
    from tuner import answer
    from tuner.reading import read

    inside = len(tables) == 1 and tables[0].is_dir()
    path = output or (tables[0] / "report.html" if inside else Path("report.html"))
    told = [(source, read(source, column_map or ())) for source in tables]
    with busy(f"fitting, and writing {path}"):
        if len(told) == 1:
            predictions = [answer.write_report(told[0][1], tables[0], path, budget)]
        else:
            predictions = answer.write_overlay(told, path, budget)
    for source, prediction in zip(tables, predictions, strict=True):
        talk.print(f"{source}: {prediction.summary()}", markup=False)
    if as_json:
        print_json({"path": str(path), "predictions": [said.to_dict() for said in predictions]})
    else:
        out.print(str(path), soft_wrap=True)


def writeup(
    runs_path: RunTable,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of writeup.md and its figures.")
    ] = Path("writeup"),
    curves: Annotated[
        Path | None,
        typer.Option(help="The runs of problem 1, e.g. data/isoflops_curves.json."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            help="What problem 2 predicts for, FLOP; default the sweep's target, or 1e19.",
            callback=positive,
        ),
    ] = None,
    column_map: ColumnMap = None,
    as_json: AsJson = False,
) -> None:
    """Write CS336's third assignment up: both problems in Markdown, numbers and figures filled in.

    Example: isoflop writeup runs/course_api --curves data/isoflops_curves.json
    """
    from tuner import answer

    with busy(f"fitting, and writing to {output}"):
        path = answer.write_up(curves, runs_path, output, budget, column_map or ())
    if as_json:
        print_json({"path": str(path)})
    else:
        out.print(str(path), soft_wrap=True)


def _print_answer(answer: "Fits | Prediction", as_json: bool) -> None:
    """An answer as JSON, or in words."""
    if as_json:
        print_json(answer.to_dict())
    else:
        out.print(answer.summary(), markup=False, highlight=False, soft_wrap=True)
