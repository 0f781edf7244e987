"""The plan as a table for a terminal."""

from rich.console import Console

from tuner.plan import Plan
from tuner.space import Size
from tuner.terminal import Columns
from tuner.throughput import Throughput

HEADINGS = ("budget", "trials", "shapes", "N", "tokens", "steps", "GB", "FLOP", "hours")


def show(plan: Plan, console: Console) -> None:
    """Print the plan's numbers and warnings."""
    rows = [
        (
            f"{b.budget:.3g}", str(b.trials), _range(_size(b.shapes[0]), _size(b.shapes[-1])),
            *(_range(_short(low), _short(high)) for low, high in (b.params, b.tokens, b.steps)),
            _figure(b.memory[1] / 1e9), f"{b.flops_expected:.2g}", _figure(b.hours_expected),
        )
        for b in plan.stages
    ]  # fmt: skip
    console.print(f"{plan.name}: {plan.trials} trials", markup=False, highlight=False)
    console.print(Columns(headings=HEADINGS, rows=rows), soft_wrap=True)
    console.print(
        "GB: most of a trial, its batch whole. FLOP, and hours of one slot: with pruning.",
        highlight=False,
    )
    console.print(
        f"In full the trials take {plan.flops_exact:.3g} FLOP by every matrix product, "
        f"{plan.flops_6nd:.3g} by 6ND.",
        highlight=False,
    )
    share, hours = plan.devices_a_slot, plan.devices_a_slot * plan.hours
    devices = "" if share == 1 else f", {_hours(hours)} of devices"
    money = (
        f", {plan.money:.2f} and {plan.money_expected:.2f} at the price given" if plan.money else ""
    )
    console.print(
        f"At most {plan.cap:.3g} FLOP, retries and extensions included; "
        f"about {plan.flops_expected:.3g} with pruning. "
        f"At most {_hours(plan.hours)} of one slot{devices}, about {_hours(plan.hours_expected)} "
        f"with pruning{money}.",
        highlight=False,
    )
    if plan.target is not None:
        console.print(_answer(plan), highlight=False)
    console.print(f"Speed: {_speeds(plan.throughput)} ({plan.throughput.source}).", highlight=False)
    for warning in plan.warnings:
        console.print(f"warning: {warning}", markup=False, highlight=False)


def _answer(plan: Plan) -> str:
    """What the sweep is for, and how its cost compares with that."""
    assert plan.target is not None
    times = _range(*(f"{flops / plan.target:.2g}" for flops in (plan.flops_expected, plan.cap)))
    told = f"It answers for {plan.target:.3g} FLOP and takes {times} times that"
    if plan.interval is None:
        return f"{told}."
    return f"{told} at most: it stops once N_opt there is known to within {plan.interval:.0%}."


def _speeds(throughput: Throughput) -> str:
    """FLOP/s of a slot, from the slowest to the fastest width."""
    rates = [rate for _, rate in throughput.points]
    return _range(f"{min(rates):.2g}", f"{max(rates):.2g}") + " FLOP/s a slot"


def _size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low}-{high}"


def _figure(value: float) -> str:
    """A figure that needs no more than two digits."""
    return f"{value:.0f}" if value >= 10 else f"{value:.{1 if value < 0.1 else 2}g}"


def _short(count: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * size:  # what rounds to 1000 of the smaller unit
            return f"{count / size:.{3 if count >= 99.5 * size else 2}g}{unit}"
    return f"{count:g}"


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return "a minute"
    if hours < 2:
        return f"{hours * 60:.0f} minutes"
    return f"{hours:.1f} hours" if hours < 100 else f"{hours:,.0f} hours"
