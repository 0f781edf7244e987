"""Numbers as a person reads them: counts with a letter, FLOPs as powers, intervals in words."""

import math
from collections.abc import Mapping

LETTER = {"params": "N", "tokens": "D", "budget": "C"}
"""What equations call the columns."""
_LETTERS = ("", "k", "M", "B", "T", "Q")


def count(value: float) -> str:
    """Three digits and a letter: 15700 is `15.7k`, 7.005e10 is `70.1B`, 0 is `0`."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "?"
    if value < 1:
        return f"{value:.3g}" if value > 1e-3 or value == 0 else "≈ 0"
    power = min(int(math.log10(value)) // 3, len(_LETTERS) - 1)
    digits = f"{value / 1000**power:.3g}"
    if digits in ("1e+03", "1000") and power + 1 < len(_LETTERS):
        digits, power = "1", power + 1
    return f"{float(digits):g}{_LETTERS[power]}"


def rows(number: int) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} row" if number == 1 else f"{number} rows"


def flops(value: float) -> str:
    """A power of ten with as many digits as it needs: `3e10`, `1.25e21`."""
    mantissa, power = f"{value:.3g}".split("e") if value >= 1e3 else (f"{value:.3g}", "")
    return f"{mantissa}e{int(power)}" if power else mantissa


def rate(value: float) -> str:
    """A learning rate: `0.016`, `3.2e-05`."""
    return f"{value:.2g}"


def loss(value: float) -> str:
    """A loss, to a thousandth of a nat."""
    return f"{value:.3f}"


def exponent(value: float) -> str:
    """An exponent, to a thousandth."""
    return f"{value:.3f}"


def share(value: float) -> str:
    """A share as a percentage: `4.1 %`, `260 %`."""
    if math.isnan(value):
        return "—"
    if abs(value) < 1e-4:
        return "below 0.01 %"
    return f"{100 * value:.2g} %" if abs(value) < 1 else f"{100 * value:.0f} %"


def duration(seconds: float) -> str:
    """`0.42 s`, `45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def loss_power(params: Mapping[str, float], letter: str) -> str:
    """A power law of loss in `letter`: `1.9001 + 1519.2 · C^-0.1599`."""
    floor = f"{params['E']:.5g} + " if "E" in params else ""
    return f"{floor}{params['coef']:.5g} · {letter}^-{params['exponent']:.4f}"
