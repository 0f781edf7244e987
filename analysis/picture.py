"""The README's two figures from any runs: `python -m analysis.picture RUNS FOLDER`."""

import sys
from pathlib import Path

from analysis import figures
from analysis.fit import fit
from analysis.runs import read
from analysis.style import PAPER, draw


def write(source: Path, folder: Path) -> None:
    """Draw the runs in `source` to `folder`: demo_profiles.svg and demo_n_opt.svg."""
    runs = read(source)
    goal = 10 * float(runs.table["budget"].max())
    fits = fit(runs, at=[goal])
    drawn = {
        "demo_profiles.svg": draw(lambda ax: figures.isoflop_profiles(runs, fits["parabola"], ax)),
        "demo_n_opt.svg": draw(lambda ax: figures.n_opt(runs, fits, ax, target=goal)),
    }
    for name, figure in drawn.items():
        figure.savefig(folder / name, facecolor=PAPER.light, metadata={"Date": None})


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
