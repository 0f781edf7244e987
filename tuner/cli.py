"""The command `isoflop`, which alone sees everything. Heavy imports wait inside commands."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuner import cli_laws, cli_models, cli_serve
from tuner.mistakes import INCOMPLETE, INTERRUPTED, OK, REFUSED, check_names, storage_trouble, told
from tuner.terminal import (
    AsJson,
    Settings,
    SweepFile,
    busy,
    measured_file,
    out,
    positive,
    print_json,
    talk,
)

if TYPE_CHECKING:
    from tuner.config import Sweep
    from tuner.mirror import Mirror
    from tuner.plan import Plan


app = typer.Typer(
    name="isoflop",
    help="Plan one big training run from many small ones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(cli_models.data_app, name="data")
app.add_typer(cli_serve.serve_app, name="serve")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A sweep's folder.")]
Address = Annotated[
    str | None, typer.Option(help="A running Ray cluster: auto, or ray://HOST:10001.")
]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE",
        envvar="ISOFLOP_STORAGE",
        help="Where machines that share no disk keep checkpoints and corpus, with a mirror of DIR: "
        "a folder, or s3://BUCKET/PREFIX.",
    ),
]


@app.callback()
def common(
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Results and errors only; also after a command.")
    ] = False,
) -> None:
    """Plan one big training run from many small ones.

    Example: isoflop plan tuner/sweeps/demo.toml
    """
    talk.quiet = quiet


# --- sweeps


@app.command()
def plan(sweep_file: SweepFile, settings: Settings = None, as_json: AsJson = False) -> None:
    """Show what a sweep will do and cost at most. Spends nothing.

    Example: isoflop plan tuner/sweeps/demo.toml -s search.trials=5
    """
    from tuner import planview
    from tuner.config import load

    counted = _counted(load(sweep_file, settings or ()))
    if as_json:
        print_json(counted.to_dict())
    else:
        planview.show(counted, out)
        laid = "".join(f" -s {shlex.quote(setting)}" for setting in settings or ())
        talk.print(f"next: isoflop run {sweep_file}{laid}", markup=False)


@app.command()
def run(
    sweep_file: SweepFile,
    settings: Settings = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Where to write; default runs/NAME.")
    ] = None,
    address: Address = None,
    storage: Storage = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before starting.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the plan, run the sweep, write the report.

    Example: isoflop run tuner/sweeps/smoke.toml --yes
    """
    from tuner import planview
    from tuner.config import load

    sweep = load(sweep_file, settings or ())
    planview.show(_counted(sweep), talk)
    if not yes and sys.stdin.isatty() and not typer.confirm("Start?", err=True):
        raise typer.Exit(REFUSED)
    _run(sweep, folder or Path("runs") / sweep.name, address, storage, as_json=as_json)


@app.command()
def resume(
    folder: Folder, address: Address = None, storage: Storage = None, as_json: AsJson = False
) -> None:
    """Go on with a sweep that was interrupted. No finished trial runs again.

    Example: isoflop resume runs/demo

    Where the folder's machine is lost: isoflop resume runs/demo --storage s3://BUCKET/PREFIX

    It keeps the settings it began with. Raise [cap] in its file and run that with the same --dir:
    what the cap had cut goes on. For anything else run the changed file with another --dir: what
    the old one answered is not paid again.
    """
    from tuner.status import of, open_folder

    _mirror(folder, storage)
    sweep, ledger, _ = open_folder(folder)
    talk.print(of(sweep, ledger).line())
    ledger.close()
    _run(sweep, folder, address, storage, as_json=as_json)


@app.command()
def status(
    folder: Folder,
    as_json: AsJson = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on showing until the sweep's run ends, or Ctrl-C.")
    ] = False,
    every: Annotated[
        float, typer.Option(help="Seconds between two looks of --watch.", callback=positive)
    ] = 2.0,
) -> None:
    """Show where a sweep stands, from its folder alone.

    Example: isoflop status runs/demo --watch
    """
    from tuner import statusview
    from tuner.status import of_folder

    if watch:
        try:
            statusview.watch(folder, every, out, as_json=as_json)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
    elif as_json:
        print_json(of_folder(folder).to_dict())
    else:
        out.print(statusview.table(of_folder(folder)), soft_wrap=True)


@app.command()
def export(
    folder: Folder,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Also here: .csv or .parquet.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the run table of a sweep from its ledger.

    Example: isoflop export runs/demo -o table.csv
    """
    from analysis import runs
    from tuner.errors import ConfigError
    from tuner.export import TRIALS
    from tuner.export import export as write
    from tuner.status import open_folder

    sweep, ledger, provenance = open_folder(folder)
    if output is not None and output.suffix not in {".csv", ".parquet"}:
        raise ConfigError(f"-o {output}: end it in .csv or .parquet")
    paths = [folder / name for name in TRIALS]
    with busy(f"writing the trials of {folder}"):
        table = write(folder, sweep, ledger, provenance)
        ledger.close()
        if output is not None:
            runs.write(table, output)
            paths.append(output)
    if as_json:
        print_json({"paths": [str(path) for path in paths], "rows": len(table)})
        return
    for path in paths:
        out.print(str(path), soft_wrap=True)


# --- laws


app.command()(cli_laws.fit)
app.command()(cli_laws.predict)
app.command()(cli_laws.report)
app.command()(cli_laws.writeup)


@app.command()
def confirm(
    folder: Folder,
    budget: Annotated[
        float | None,
        typer.Option(help="FLOP of the run; default three times the largest.", callback=positive),
    ] = None,
    address: Address = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before starting.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train the predicted optimum beyond what was measured; hold its loss against the prediction.

    Example: isoflop confirm runs/demo
    """
    from tuner import answer, planview
    from tuner import confirm as confirming
    from tuner import sweep as sweeps
    from tuner.plan import plan as count
    from tuner.reading import read

    asked = confirming.prepare(folder, budget)
    planview.show(count(asked.sweep), talk)
    if not yes and sys.stdin.isatty() and not typer.confirm("Start?", err=True):
        raise typer.Exit(REFUSED)
    with _interruptible(asked.folder):
        sweeps.run(asked.sweep, asked.folder, address=address)
    found = confirming.hold(folder, asked)
    answer.write_report(read(folder), folder, folder / "report.html", asked.target)
    if as_json:
        print_json(found.to_dict())
    else:
        out.print(found.summary(), markup=False, highlight=False, soft_wrap=True)


# --- the machine


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check that this machine can run sweeps, and measure how fast.

    Example: isoflop doctor
    """
    from tuner.doctor import examine

    with busy("looking, and training a moment"):
        checks, measured = examine()
    if measured is not None:
        try:
            measured.write(measured_file())
        except OSError as error:
            talk.print(
                f"{measured_file()}: {error.strerror}; plans will guess: set XDG_CACHE_HOME to a "
                "folder that can be written to", markup=False, soft_wrap=True,
            )  # fmt: skip
    if as_json:
        print_json({check.name: check.to_dict() for check in checks})
    else:
        for check in checks:
            mark = "ok  " if check.sound else "FAIL"
            out.print(f"{mark} {check.name:12} {check.found}", markup=False, soft_wrap=True)
            if check.remedy:
                out.print(f"     mend with: {check.remedy}", markup=False, soft_wrap=True)
    if not all(check.sound for check in checks):
        raise typer.Exit(INCOMPLETE)


app.command()(cli_models.train)
app.command()(cli_models.generate)


# --- what several commands need


def _counted(sweep: "Sweep") -> "Plan":
    """The plan, by the best that is known of this machine's speed, unless it is in vain."""
    from tuner import plan, refusals, throughput

    measured = throughput.Measured.read(measured_file())
    counted = plan.plan(sweep, throughput=throughput.known(sweep, measured))
    refusals.check(sweep, counted)
    return counted


def _mirror(folder: Path, storage: str | None) -> "Mirror | None":
    """The mirror of a sweep's folder in `storage`; brings the folder back where it is lost."""
    if storage is None:
        return None
    from tuner.mirror import Mirror, place_of
    from tuner.storage import Place

    mirror = Mirror(folder, place_of(folder, Place.of(storage)))
    if mirror.restore():
        talk.print(f"{folder}: brought back from {mirror.place}")
    return mirror


def _run(
    sweep: "Sweep", folder: Path, address: str | None, storage: str | None, *, as_json: bool
) -> None:
    """Run or go on, then fit and report; leave with the exit code that says how it went."""
    from analysis.results import FitError
    from analysis.tables import RunTableError
    from tuner import answer, statusview
    from tuner import status as statuses
    from tuner import sweep as sweeps
    from tuner.reading import read
    from tuner.storage import Place

    mirror = _mirror(folder, storage)
    talk.print(f"writing to {folder}; watch it with: isoflop status {folder} --watch")
    talk.print(f"            tensorboard --logdir {folder / sweeps.TENSORBOARD}")
    with _interruptible(folder):
        sweeps.run(sweep, folder, address=address, storage=Place.of(storage) if storage else None)
    standing = statuses.of_folder(folder)
    # What is unsound stands beside the answer.
    talk.print(statusview.table(replace(standing, unsound=())))
    path = folder / "report.html"
    try:
        with busy("fitting, and writing the report"):
            prediction = answer.write_report(
                read(folder), folder, path, sweep.target_budget, standing
            )
    except (FitError, RunTableError) as error:
        talk.print(f"no law fits this table yet:\n{error}", markup=False)
        talk.print(f"the runs are in {folder / 'trials.csv'}")
        if as_json:
            print_json({"path": None, "status": standing.to_dict(), "prediction": None})
        raise typer.Exit(INCOMPLETE) from None
    finally:
        if mirror:
            mirror.copy()
    talk.print(prediction.summary(), markup=False)
    if as_json:
        said = {"status": standing.to_dict(), "prediction": prediction.to_dict()}
        print_json({"path": str(path), **said})
    else:
        out.print(str(path), soft_wrap=True)
    if standing.failed:
        raise typer.Exit(INCOMPLETE)


@contextmanager
def _interruptible(folder: Path) -> Iterator[None]:
    from tuner.sweep import HopelessSweepError, InterruptedSweepError

    try:
        yield
    except (KeyboardInterrupt, InterruptedSweepError):
        talk.print(f"interrupted; everything finished is kept. next: isoflop resume {folder}")
        raise typer.Exit(INTERRUPTED) from None
    except HopelessSweepError as error:
        talk.print(f"isoflop: {folder}: the first trials all failed: {error}", markup=False)
        talk.print(f"mend the cause, remove {folder}, and run again: nothing was completed")
        raise typer.Exit(INCOMPLETE) from None
    except storage_trouble() as error:
        talk.print(f"isoflop: {folder}: {error}", markup=False)
        talk.print(f"what was written is kept; mend the disk, then: isoflop resume {folder}")
        raise typer.Exit(INCOMPLETE) from None


def main() -> None:
    """Run the command; a person's mistake ends in one line each, not in a traceback."""
    check_names()
    with told():
        words = _quiet_first(sys.argv[1:]) or ["--help"]
        sys.exit(app(words, standalone_mode=False) or OK)


def _quiet_first(words: list[str]) -> list[str]:
    """-q belongs before the command; people write it anywhere. What follows -- is left alone."""
    end = words.index("--") if "--" in words else len(words)
    quiet = [word for word in words[:end] if word in {"-q", "--quiet"}]
    rest = [word for word in words[:end] if word not in {"-q", "--quiet"}]
    return [*quiet[:1], *rest, *words[end:]]


if __name__ == "__main__":
    main()
