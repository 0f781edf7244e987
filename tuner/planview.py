"""The plan as a table for a terminal."""

from rich.console import Console
from rich.table import Table

from tuner.plan import Plan


def show(plan: Plan, console: Console) -> None:
    """Print the plan's numbers and warnings."""
    title = f"{plan.name}: {plan.trials} trials"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("budget", "trials", "shapes", "N", "tokens", "steps", "FLOP", "likely"):
        table.add_column(heading, justify="right", no_wrap=True)
    for b in plan.budgets:
        first, last = b.shapes[0], b.shapes[-1]
        table.add_row(
            f"{b.budget:g}", str(b.trials),
            f"{first[0]}x{first[1]}-{last[0]}x{last[1]}",
            _range(b.params), _range(b.tokens), _range(b.steps),
            f"{b.flops:.3g}", f"{b.flops_expected:.3g}",
        )  # fmt: skip
    console.print(table)
    money = f", {plan.money:.2f} at the price given" if plan.money else ""
    console.print(
        f"At most {plan.cap:.3g} FLOP, retries and extensions included; "
        f"about {plan.flops_expected:.3g} with pruning. "
        f"At most {_hours(plan.hours)} of one slot{money}.",
        highlight=False,
    )
    for warning in plan.warnings:
        console.print(f"warning: {warning}", markup=False, highlight=False)


def _range(pair: tuple[int, int]) -> str:
    return f"{_short(pair[0])}-{_short(pair[1])}"


def _short(count: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:g}"


def _hours(hours: float) -> str:
    return f"{hours * 60:.0f} minutes" if hours < 2 else f"{hours:.1f} hours"
