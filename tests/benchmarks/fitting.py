"""How fast the parametric fits are, beside the procedures in `references.py`, on one table."""

import argparse
import json
import os
import platform
import resource
import subprocess
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import references
from references import cpu

from analysis.laws import LossLaw
from analysis.objectives import huber
from analysis.parametric import solve, solve_all
from analysis.problem import FREE, Box, Problem
from analysis.runs import read
from analysis.uncertainty import resampled, residuals

TRUTH = LossLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)  # arXiv 2404.10102
REPLICATES = 4000


def runs(count):
    """A table like Chinchilla's: sizes and budgets of its figure 4, 2 % noise, a few outliers."""
    rng = np.random.default_rng(0)
    params = 10 ** rng.uniform(7.8, 10.2, count)
    tokens = 10 ** rng.uniform(18.2, 21.5, count) / 6 / params
    noise = np.where(rng.random(count) < 0.02, 0.1, 0.006) * rng.normal(size=count)
    return params, tokens, TRUTH.loss(params, tokens) * np.exp(noise)


def recorded(path):
    """N, D and loss of a table on disk."""
    frame = read(path).table
    return tuple(frame[name].to_numpy(float) for name in ("params", "tokens", "loss"))


def bootstrap(problem, box, replicates):
    """CPU seconds of `replicates` converged pairs-bootstrap fits."""
    found = solve(problem, huber(), box)
    each = np.arange(len(problem.log_params))
    left = residuals(problem.log_loss[0], found.predicted, found.jacobian, each)

    def draws():
        rng = np.random.default_rng(0)
        for table in resampled(problem, left, each, "pairs", replicates, rng):
            solve_all(table, huber(), box)

    return cpu(draws)


def growth(counts):
    """CPU seconds of one fit at each number of rows."""
    return {str(n): round(cpu(lambda n=n: solve(Problem.of(*runs(n)), huber())), 4) for n in counts}


def memory(problem, counts):
    """Peak memory of the process so far, MiB, after each number of replicates."""
    peaks = {}
    for count in counts:
        bootstrap(problem, FREE, count)
        peaks[str(count)] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return peaks


def ours(table):
    """Our own figures on one table."""
    problem = Problem.of(*table)
    return {
        "peak_mib_by_replicates": memory(problem, (400, 4000, 16000)),
        "fit_ms": round(1e3 * cpu(lambda: solve(problem, huber()), repeats=20), 2),
        "fit_objective": solve(problem, huber()).value,
        "boot4000_cpu_s": round(bootstrap(problem, FREE, REPLICATES), 2),
        "coupled_boot4000_cpu_s": round(bootstrap(problem, Box(coupled=True), REPLICATES), 2),
    }


def theirs(table, quick):
    """The references' figures on the same table; null where a package is not installed."""
    sample = 25 if quick else 150
    fit_seconds, fit_objective = references.lbfgs_fit(table, sample)
    hasty, hasty_arrived = references.lbfgs_bootstrap(table, REPLICATES, sample, None)
    seconds, arrived = references.lbfgs_bootstrap(table, REPLICATES, sample, references.CONVERGED)
    package_seconds, package_objective = references.chinchilla(table)
    return {
        "lbfgs_4500_starts_cpu_s": round(fit_seconds, 1),
        "lbfgs_objective": fit_objective,
        "lbfgs_boot4000_cpu_s": round(seconds, 1),
        "lbfgs_boot4000_arrived": arrived,
        "lbfgs_boot4000_default_tolerance_cpu_s": round(hasty, 1),
        "lbfgs_boot4000_default_tolerance_arrived": hasty_arrived,
        "chinchilla_cpu_s": package_seconds,
        "chinchilla_objective": package_objective,
        "simple_scaling_laws_boot4000_cpu_s": references.simple_scaling_laws(
            table, REPLICATES, 20 if quick else 400
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller samples of the references")
    parser.add_argument("--table", type=Path, help="a table of runs in place of the simulated one")
    options = parser.parse_args()
    quick = options.quick
    table = recorded(options.table) if options.table else runs(240)
    figures = ours(table) | theirs(table, quick)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    figures |= {
        "fit_ratio_vs_lbfgs": round(1e3 * figures["lbfgs_4500_starts_cpu_s"] / figures["fit_ms"]),
        "ratio_vs_lbfgs": round(figures["lbfgs_boot4000_cpu_s"] / figures["boot4000_cpu_s"], 1),
        "fit_cpu_s_by_rows": growth((240, 2400, 24000, 240000)),
        "boot100_cpu_s_by_rows": {
            str(n): round(bootstrap(Problem.of(*runs(n)), FREE, 100), 2) for n in (240, 2400, 24000)
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": commit.stdout.strip(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
