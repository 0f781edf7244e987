"""The plan as a table for a terminal."""

from rich.console import Console
from rich.table import Table

from tuner.plan import Plan
from tuner.terminal import show_whole


def show(plan: Plan, console: Console) -> None:
    """Print the plan's numbers and warnings."""
    title = f"{plan.name}: {plan.trials} trials"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("budget", "trials", "shapes", "N", "tokens", "steps", "FLOP", "likely"):
        table.add_column(heading, justify="right", no_wrap=True)
    for b in plan.stages:
        ends = [f"{layers}x{width}" for layers, width in (b.shapes[0], b.shapes[-1])]
        table.add_row(
            f"{b.budget:.3g}", str(b.trials), _range(*ends), *(
                _range(_short(low), _short(high)) for low, high in (b.params, b.tokens, b.steps)
            ),
            f"{b.flops:.3g}", f"{b.flops_expected:.3g}",
        )  # fmt: skip
    show_whole(table, console)
    console.print(
        f"In full the trials take {plan.flops_exact:.3g} FLOP by every matrix product, "
        f"{plan.flops_6nd:.3g} by 6ND.",
        highlight=False,
    )
    money = f", {plan.money:.2f} at the price given" if plan.money else ""
    console.print(
        f"At most {plan.cap:.3g} FLOP, retries and extensions included; "
        f"about {plan.flops_expected:.3g} with pruning. "
        f"At most {_hours(plan.hours)} of one slot{money}.",
        highlight=False,
    )
    for warning in plan.warnings:
        console.print(f"warning: {warning}", markup=False, highlight=False)


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low}-{high}"


def _short(count: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * size:  # what rounds to 1000 of the smaller unit
            return f"{count / size:.3g}{unit}"
    return f"{count:g}"


def _hours(hours: float) -> str:
    return f"{hours * 60:.0f} minutes" if hours < 2 else f"{hours:.1f} hours"
