"""Fits as text for a person: the answer, how sure, and what could not be trusted and why."""

from textwrap import shorten
from typing import TYPE_CHECKING

from analysis import wording
from analysis.laws import AllocationLaw
from analysis.results import Fit

if TYPE_CHECKING:
    from analysis.comparison import Conventions, Disagreement, Fits
    from analysis.losspower import LossPowers

SHOWN = 12
"""Points listed of one approach: the hull of training curves has hundreds."""

BRIEF = 90
"""Characters of a doubt in a table."""


def of_fit(fit: Fit) -> str:
    """One approach: its parameters with errors and intervals, its certificate, its warnings."""
    lines = [
        f"{fit.name}: {fit.status.state}" + (f" ({fit.status.reason})" * bool(fit.status.reason))
    ]
    if fit.law is None:
        return lines[0]
    value = "" if fit.objective is None else f" = {fit.objective:.9g}"
    lines.append(f"  {fit.objective_name}{value}")
    for name, estimate in {**fit.params, "a": fit.a}.items():
        error = f"  se {fit.bse[name]:.3g}" if name in fit.bse else ""
        error += "  given, not fitted" if name in fit.given else ""
        low_high = (
            "  95 % [{:.6g}, {:.6g}]".format(*fit.intervals[name]) if name in fit.intervals else ""
        )
        lines.append(f"  {name:<7}{estimate:<14.7g}{error}{low_high}")
    if isinstance(fit.law, AllocationLaw):
        lines += _points(fit)
    else:
        lines.append(f"  {_power_laws(fit)}")
    if (proof := fit.certificate) is not None:
        lines.append(
            f"  converged: gradient {proof.gradient:.1e}, Hessian condition {proof.condition:.1e}, "
            f"{proof.reached:.0%} of {proof.starts} starts arrived here"
        )
    lines += [f"  ! {warning}" for warning in fit.warnings]
    return "\n".join(lines)


def _points(fit: Fit) -> list[str]:
    """The points ⟨C, N_opt⟩ and ⟨C, D_opt⟩, a line a budget."""
    shown = [
        f"  {point.budget:.4g} FLOP: N_opt {point.params:.5g}, D_opt {point.tokens:.5g}, "
        f"loss {point.loss:.5g}"
        for point in fit.points[:SHOWN]
    ]
    return shown + [f"  … and {len(fit.points) - SHOWN} more"] * (len(fit.points) > SHOWN)


def _power_laws(fit: Fit) -> str:
    law = fit.allocation
    return (
        f"N_opt = {float(law.n_coef):.5g} · C^{float(law.a):.5f}, "
        f"D_opt = {float(law.d_coef):.5g} · C^{float(law.b):.5f}"
    )


def of_fits(fits: "Fits") -> str:
    """The answer and what speaks against it; then every approach, the rest, the rows left out."""
    lines = [f"{fits.source}: {fits.n} points, {wording.rows(len(fits.dropped))} dropped"]
    lines += [f"not sound: {why}" for why in fits.unsound]
    lines += [f"follow {fits.chosen}: {fits.chosen_because}", f"  {_power_laws(fits.best)}"]
    lines += [f"! {warning}" for warning in (*fits.unsound, *fits.warnings)]
    lines += ["", *_table(fits), "", f"{fits.chosen}, budget by budget:", *_points(fits.best)]
    lines += [
        f"held-out error of ln loss, {one.approach}: {one.error:.4g} over {one.folds} folds"
        for one in fits.validation
    ]
    lines += [_disagreement(one) for one in fits.disagreement if one.budget in fits.targets]
    lines += _powers(fits.powers)
    lines += _conventions(fits.conventions)
    lines += [f"row {row.row} dropped: {row.reason}" for row in fits.dropped[:5]]
    lines += [f"… and {len(fits.dropped) - 5} more"] * (len(fits.dropped) > 5)
    lines += ["", *(of_fit(fit) for fit in fits.approaches)]
    return "\n".join(lines)


def _disagreement(record: "Disagreement") -> str:
    """One budget's line; what the worst would cost is known only where a loss law is trusted."""
    line = (
        f"at {record.budget:.3g} FLOP approaches differ {record.ratio:.3g}-fold in N_opt "
        f"({record.lowest} … {record.highest})"
    )
    if not record.extra_flops:
        return line
    worst = 1 + max(record.extra_flops.values())
    return f"{line}; the worst needs {worst:.4g} times the compute"


def _powers(powers: "LossPowers") -> list[str]:
    """L(N), L(D), L(C), a line each, and why one is left out."""
    lines = []
    for fit in powers.fits:
        letter = wording.LETTER[fit.variable]
        ends = fit.intervals.get("exponent")
        interval = ", 95 % of the exponent [{:.4f}, {:.4f}]".format(*ends) if ends else ""
        doubt = f"  ! {fit.status.reason}" * bool(fit.status.reason)
        lines.append(
            f"L({letter}) = {wording.loss_power(fit.params, letter)}{interval}; {fit.levels} "
            f"levels, error of ln loss {fit.objective**0.5:.2g}{doubt}"
        )
    lines += [f"{name} is left out: {reason}" for name, reason in powers.left_out.items()]
    return ["", *lines, ""]


def _conventions(table: "Conventions") -> list[str]:
    """Exponents by what is counted; a sentence where there are none."""
    if table.left_out:
        return [f"exponents under other conventions are left out: {table.left_out}"]
    lines = ["", f"{'N counts':<15}{'C counts':<10}{'approach':<12}{'a':>8}  95 % of a"]
    for row in table.exponents:
        value = "—" if row.a is None else f"{row.a:.5f}"
        interval = "" if row.interval is None else "[{:.4f}, {:.4f}]".format(*row.interval)
        doubt = f"  ! {shorten(row.reason, BRIEF, placeholder=' …')}" if row.reason else ""
        lines.append(
            f"{row.count:<15}{row.flops:<10}{row.approach:<12}{value:>8}  {interval}{doubt}"
        )
    return [*lines, ""]


def _table(fits: "Fits") -> list[str]:
    shown = [fit for fit in fits.approaches if fit.law is not None]
    head = "".join(f"{f'N_opt({c:.3g})':>14}{f'D_opt({c:.3g})':>14}" for c in fits.targets)
    lines = [f"{'approach':<18}{'a':>8}  {'95 % of a':<18}{head}"]
    for fit in shown:
        interval = "[{:.4f}, {:.4f}]".format(*fit.intervals["a"]) if "a" in fit.intervals else ""
        values = "".join(
            f"{float(fit.n_opt(c)):>14.4g}{float(fit.d_opt(c)):>14.4g}" for c in fits.targets
        )
        lines.append(f"{fit.name:<18}{fit.a:>8.5f}  {interval:<18}{values}")
    return lines
