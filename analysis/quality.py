"""What a person should know about a table before believing any fit of it."""

import numpy as np

from analysis.cells import ONE_BUDGET, Cells
from analysis.laws import FLOPS_PER_PARAM_TOKEN, Array
from analysis.profiles import Profile, is_profiled, profiles
from analysis.runs import Runs
from analysis.tables import NO_LOSS

DUPLICATE = 0.005  # relative distance of two sizes below which they are one measurement
FAR_OFF = 5.0  # robust standard deviations from a profile's parabola
FEW_SIZES = 5
SHOWN_ROWS = 12
APART = 0.1  # ln FLOP between budgets that nobody meant as one
# Of 6 · N · D, by honest counts: a lookup table or a mixture's idle experts in N at the low end,
# attention over long contexts at the high one.
FEWEST_FLOPS, MOST_FLOPS = 0.3, 3.0
# Tokens a weight, in the middle of a table: 5 to 200 in published ones; millions of one beside
# billions of the other are off by a thousand.
FEWEST_TOKENS, MOST_TOKENS = 0.1, 1e5
PROFILE = 3  # sizes that show a minimum at all
REMEDY = {"smallest": "smaller", "largest": "larger"}
EXTRAPOLATION = 10.0  # times the largest budget measured


def unsound(cells: Cells) -> tuple[str, ...]:
    """What no law of this table survives, in words; empty where there is no such thing."""
    if cells.one_budget:
        return ("one budget: the exponent is not measured, run others 3 and 10 times as large",)
    if not is_profiled(cells, PROFILE):
        return ()
    found = profiles(cells)
    whole = [profile for profile in found if len(profile.log_params) >= PROFILE]
    others = sum(len(profile.log_params) for profile in found) - len(whole[0].log_params)
    if len(whole) == 1 and others < PROFILE:
        return (
            f"one budget, {whole[0].budget:.3g} FLOP, has {PROFILE} sizes or more: the exponent is "
            "hardly measured, run as many sizes at budgets 3 and 10 times as large",
        )
    return _all_on_an_edge(whole)


def _all_on_an_edge(whole: list[Profile]) -> tuple[str, ...]:
    """The sentence where no profile shows its minimum: then every optimum is an extrapolation."""
    sides = {_edge(profile) for profile in whole}
    if "" in sides:
        return ()
    which, remedy = " or ".join(sorted(sides)), " and ".join(sorted(REMEDY[x] for x in sides))
    return (
        f"at every budget the {which} size has the lowest loss: no optimum was measured, "
        f"add {remedy} ones",
    )


def _edge(profile: Profile) -> str:
    """On which edge of a profile its lowest run lies; empty where it is inside."""
    best = int(profile.loss.argmin())
    last = len(profile.loss) - 1
    return "smallest" if best == 0 else "largest" if best == last else ""


def table_warnings(runs: Runs, cells: Cells) -> tuple[str, ...]:
    """Warnings on the table as a whole and profile by profile; nothing is dropped for them."""
    found: list[str] = _units(cells) if runs.count == "as given" else []
    found += [*_shattered(cells), *_without_loss(runs)]
    if is_profiled(cells, PROFILE):
        for profile in profiles(cells):
            found += profile_warnings(profile) if len(profile.log_params) >= PROFILE else []
    edges = cells.budget[cells.rate_on_edge]
    if len(edges):
        found.append(
            f"{len(edges)} of {len(cells)} cells have their best learning rate on the edge of the "
            f"rates tried (budgets {', '.join(f'{c:.3g}' for c in np.unique(edges))}): "
            + _remedy(cells)
        )
    return tuple(found)


def _units(cells: Cells) -> list[str]:
    """The questions where a stranger's C is not his N times his D, or D no number of N. Of small
    models of a known count attention may be most of C, so that a sweep's own table is not asked."""
    ratio = float(np.median(cells.budget / (FLOPS_PER_PARAM_TOKEN * cells.params * cells.tokens)))
    if not FEWEST_FLOPS <= ratio <= MOST_FLOPS:
        return [
            f"budgets are {ratio:.3g} times 6 · params · tokens: params or tokens in other units, "
            "or not all of them counted?"
        ]
    each = float(np.median(cells.tokens / cells.params))
    if not FEWEST_TOKENS <= each <= MOST_TOKENS:
        return [f"{each:.3g} tokens a weight: params in millions, or tokens in billions?"]
    return []


def _shattered(cells: Cells) -> list[str]:
    """The sentence where budgets come in tight groups, apart from each other, that are no profiles.

    Scattered tables have neighbors as close by chance, but no gaps between groups; a grid of N and
    D has crossings that cost nearly the same, and means none of them as one.
    """
    if 2 * len(cells) >= len(np.unique(cells.params)) * len(np.unique(cells.tokens)):
        return []
    logs = np.sort(np.log(cells.budgets))
    groups = np.split(logs, np.flatnonzero(np.diff(logs) > APART) + 1)
    broken = [group for group in groups if len(group) > 1]
    width = max((float(np.ptp(group)) for group in broken), default=np.inf)
    count = sum(map(len, broken))
    if width > ONE_BUDGET or len(cells) < 3 * len(groups):
        return []
    others, meant = ("each other", "one") if len(broken) == 1 else ("others", f"{len(broken)}")
    return [
        f"{count} budgets lie within {100 * width:.2g} % of {others}: "
        f"if they are meant as {meant}, "
        "give a column of budgets, or name it: --map THEIRS=budget"
    ]


def _without_loss(runs: Runs) -> list[str]:
    lost = [str(row.row) for row in runs.dropped if row.reason == NO_LOSS]
    if not lost:
        return []
    shown = ", ".join(lost[:SHOWN_ROWS]) + " …" * (len(lost) > SHOWN_ROWS)
    rows = "row" if len(lost) == 1 else "rows"
    return [f"{len(lost)} {rows} without a loss left out: {rows} {shown}"]


def far_answers(cells: Cells, at: tuple[float, ...]) -> tuple[str, ...]:
    """A warning where answers at budgets `at` lie farther out than intervals cover."""
    largest = float(cells.budget.max())
    if max(at) <= EXTRAPOLATION * largest:
        return ()
    return (
        f"answers beyond {EXTRAPOLATION * largest:.3g} FLOP are more than {EXTRAPOLATION:g} "
        f"times the largest budget measured ({largest:.3g})",
    )


def profile_warnings(profile: Profile) -> list[str]:
    """What is unsound about one profile."""
    x, y = profile.log_params, profile.loss
    place = f"budget {profile.budget:.3g}"
    found = []
    close = np.diff(x) < DUPLICATE
    if close.any():
        found.append(f"{place}: {close.sum()} pairs of sizes within {DUPLICATE:.1%} of each other")
    if len(x) < FEW_SIZES:
        found.append(f"{place}: {len(x)} sizes; {FEW_SIZES} or more show a minimum safely")
    best = int(y.argmin())
    if side := _edge(profile):
        found.append(f"{place}: the {side} size has the lowest loss: the minimum may lie beyond")
    elif len(x) >= FEW_SIZES and best in (1, len(x) - 2):
        found.append(f"{place}: the lowest run is next to the edge: the profile is off center")
    center = x - x.mean()
    curve = np.polynomial.Polynomial.fit(center, y, 2)
    if curve.convert().coef[-1] <= 0:
        found.append(f"{place}: the profile is not convex in ln N")
    if len(x) > FEW_SIZES:
        found += _far_off(place, profile, y - curve(center))
    return found


def _far_off(place: str, profile: Profile, left: Array) -> list[str]:
    spread = 1.4826 * np.median(np.abs(left - np.median(left)))
    far = np.abs(left) > FAR_OFF * max(spread, 1e-4 * float(profile.loss.mean()))
    return [
        f"{place}: the run at N = {np.exp(profile.log_params[i]):.4g} lies {left[i]:+.3g} nat off "
        "its profile"
        for i in np.flatnonzero(far)
    ]


def _remedy(cells: Cells) -> str:
    """Whether the range of rates ends too early, or too few were tried within it."""
    ended = int(cells.rate_at_end.sum())
    more = "try more rates at each size"
    return f"{ended} of them near the end of all rates tried: widen the range" if ended else more
