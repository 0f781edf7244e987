"""Every figure of a fit as a file. The README's two: `python -m analysis.picture RUNS FOLDER`."""

import sys
from pathlib import Path

from analysis import figures
from analysis.comparison import Fits
from analysis.figures_runs import Paint
from analysis.fit import fit
from analysis.laws import AllocationLaw
from analysis.runs import Runs, read
from analysis.style import PAPER, draw


def write(runs: Runs, fits: Fits, folder: Path, *, target: float) -> list[Path]:
    """Draw all that `runs` support to SVG files in `folder`, laws extended to `target` FLOP."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_save(folder / f"{name}.svg", paint) for name, paint in _all(runs, fits, target)]


def _all(runs: Runs, fits: Fits, target: float) -> list[tuple[str, Paint]]:
    """Name and painter of each figure, those left out for which there is nothing to show."""
    found: list[tuple[str, Paint]] = [
        ("n_opt", lambda ax: figures.n_opt(runs, fits, ax, target=target)),
        ("d_opt", lambda ax: figures.d_opt(runs, fits, ax, target=target)),
        ("frontier", lambda ax: figures.frontier(runs, fits, ax, target=target)),
        ("disagreement", lambda ax: figures.disagreement(fits, ax, budget=target)),
    ]
    if any(isinstance(one.law, AllocationLaw) for one in fits.approaches):
        shown = figures.profile_fit(fits)
        found.insert(0, ("profiles", lambda ax: figures.isoflop_profiles(runs, shown, ax)))
    law = figures.loss_fit(fits)
    if law is not None:
        found.append(("loss_surface", lambda ax: figures.loss_surface(runs, law, ax)))
        found.append(("residuals", lambda ax: figures.residuals(runs, law, ax)))
    return found


def _save(path: Path, paint: Paint) -> Path:
    draw(paint).savefig(path, facecolor=PAPER.light, metadata={"Date": None})
    return path


def main(source: Path, folder: Path) -> None:
    """Draw the runs in `source` as the README shows them: demo_profiles.svg, demo_n_opt.svg."""
    runs = read(source)
    goal = runs.reach
    shown = dict(_all(runs, fit(runs, at=[goal]), goal))
    for name in ("profiles", "n_opt"):
        _save(folder / f"demo_{name}.svg", shown[name])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
