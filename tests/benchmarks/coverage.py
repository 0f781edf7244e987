"""How often 95 % intervals hold the truth: synthetic laws, factorial designs, 2 % noise.

For 9, 16, 25 and 60 runs over two decades of N and of D: coverage of the exponent `a` and of N_opt
at 100 times the largest run, and the median log-width of the intervals over that of known-noise
Gauss-Newton intervals at the truth. A data set whose fit fails or ends on a bound is a miss.
"""

import argparse
import json
import platform
import subprocess
import time

import numpy as np

from analysis.laws import LossLaw
from analysis.lossfit import LOSS_APPROACHES
from analysis.parametric import law, logarithmic_gradient, solve, solve_all
from analysis.problem import Problem
from analysis.results import FitError
from analysis.uncertainty import resampled, residuals

TRUTH = LossLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)  # arXiv 2404.10102
DESIGNS = {9: (3, 3), 16: (4, 4), 25: (5, 5), 60: (6, 10)}
NOISE = 0.02
PARAMS, TOKENS = (1e7, 1e9), (1e8, 1e10)
BUDGET = 100 * 6 * PARAMS[1] * TOKENS[1]


def design(runs):
    sizes, lengths = DESIGNS[runs]
    grid = np.meshgrid(np.geomspace(*PARAMS, sizes), np.geomspace(*TOKENS, lengths))
    return tuple(axis.ravel() for axis in grid)


def targets(fitted):
    return np.stack([np.asarray(fitted.a), np.asarray(fitted.n_opt(BUDGET))])


def known_noise_width(runs):
    """Log-widths of Gauss-Newton intervals for `targets`, the noise and the truth being known."""
    params, tokens = design(runs)
    problem = Problem.of(params, tokens, TRUTH.loss(params, tokens))
    point = solve(problem, LOSS_APPROACHES["chinchilla_logmse"].objective).point
    _, jacobian = logarithmic_gradient(problem, point)
    covariance = np.linalg.inv(jacobian[:, :5].T @ jacobian[:, :5]) * NOISE**2
    step = 1e-6 * np.eye(6)[:5]
    ahead = np.log(targets(law(point + step, problem.centers)))
    behind = np.log(targets(law(point - step, problem.centers)))
    slope = (ahead - behind) / 2e-6
    return 2 * 1.96 * np.sqrt(np.einsum("tk,kl,tl->t", slope, covariance, slope))


def interval(name, bootstrap, params, tokens, loss, replicates, rng):
    """Ends of the 95 % intervals of `targets`, (2, 2), and whether the law was identified."""
    approach = LOSS_APPROACHES[name]
    problem = Problem.of(params, tokens, loss)
    found = solve(problem, approach.objective)
    each = np.arange(len(loss))
    left = residuals(problem.log_loss[0], found.predicted, found.jacobian, each)
    tables = resampled(problem, left, each, bootstrap, replicates, rng)
    points = np.concatenate([solve_all(table, approach.objective) for table in tables])
    ends = np.percentile(targets(law(points, problem.centers)), [2.5, 97.5], axis=1)
    return ends, not found.certificate.bounds


def coverage(name, bootstrap, runs, datasets, replicates, seed=0):
    """One row of the table: coverage and relative width for `a` and N_opt, and data sets missed."""
    params, tokens = design(runs)
    truth, known = targets(TRUTH), known_noise_width(runs)
    hits, widths, unidentified = np.zeros(2), [], 0
    for stream in np.random.SeedSequence([seed, runs]).spawn(datasets):
        rng = np.random.default_rng(stream)
        loss = TRUTH.loss(params, tokens) * np.exp(NOISE * rng.normal(size=runs))
        try:
            (low, high), identified = interval(
                name, bootstrap, params, tokens, loss, replicates, rng
            )
        except FitError:
            low = high = np.full(2, np.nan)
            identified = False
        hits += identified * ((low <= truth) & (truth <= high))
        unidentified += not identified
        widths.append(np.log(high / low) / known)
    cover, width = hits / datasets, np.nanmedian(widths, axis=0)
    return {"approach": name, "bootstrap": bootstrap, "runs": runs, "cover_a": cover[0],
            "cover_n_opt": cover[1], "width_a": width[0], "width_n_opt": width[1],
            "unidentified": unidentified}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="60 data sets instead of 400")
    parser.add_argument("--all", action="store_true", help="pairs and wild bootstraps too")
    quick = parser.parse_args()
    datasets, replicates = (60, 200) if quick.quick else (400, 400)
    began, rows = time.perf_counter(), []
    print("| approach | bootstrap | runs | a | N_opt | width a | width N_opt | unidentified |")
    print("|---|---|---|---|---|---|---|---|")
    for name in ("chinchilla", "chinchilla_logmse"):
        for bootstrap in ("residual", "pairs", "wild") if quick.all else ("residual",):
            for runs in DESIGNS:
                row = coverage(name, bootstrap, runs, datasets, replicates)
                rows.append(row)
                figures = (
                    f"{value:.3g}" if isinstance(value, float) else str(value)
                    for value in row.values()
                )
                print("|", " | ".join(figures), "|", flush=True)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    print(json.dumps({"rows": rows, "datasets": datasets, "replicates": replicates,
                      "seconds": round(time.perf_counter() - began, 1),
                      "machine": platform.processor() or platform.machine(),
                      "commit": commit.stdout.strip()}))  # fmt: skip


if __name__ == "__main__":
    main()
