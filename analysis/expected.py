"""The loss that one run of an allocation will have, and whose word that is."""

from dataclasses import dataclass

from analysis.comparison import Fits
from analysis.laws import LossLaw
from analysis.results import Fit
from analysis.trend import Estimate

LOSS_FITS = ("chinchilla", "skaling", "chinchilla_lad", "chinchilla_logmse", "chinchilla_mse")
"""Who is asked for a loss, in this order, where the chosen approach has none."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A predicted loss."""

    loss: Estimate
    """nat/token, with the 95 % interval of one run."""
    approach: str
    """Whose law it is."""
    doubt: str = ""
    """Why that is not to be trusted."""


def expected_loss(fits: Fits, budget: float, params: float, tokens: float) -> Expected | None:
    """The loss of `budget` FLOP spent on N weights and D tokens, at or near the best allocation.

    The chosen law's. An approach through the profiles has none: then it is L(C)'s, which goes
    through each budget's best run as they do; and failing that another law's, though laws of N and
    D were then passed over because they miss the profiles. None: there is no law of loss.

    Raises:
        FitError: `fits` carries no bootstrap draws.
    """
    if not isinstance(fits.best.law, LossLaw):
        by_budget = [fit for fit in fits.powers.fits if fit.variable == "budget"]
        for power in reversed(by_budget):  # with a floor, where the levels tell it
            if power.status.state == "ok":
                low, high = power.prediction_interval(budget)
                loss = Estimate(value=float(power.predict(budget)), low=low, high=high)
                return Expected(loss=loss, approach="L(C)")
    source = law_of_loss(fits)
    if source is None:
        return None
    low, high = source.loss_prediction_interval(params, tokens)
    loss = Estimate(value=float(source.predict(params, tokens)), low=low, high=high)
    return Expected(loss=loss, approach=source.name, doubt=source.status.reason)


def law_of_loss(fits: Fits) -> Fit | None:
    """The chosen law; else the first trusted one; else the one of smallest residuals."""
    there = {fit.name: fit for fit in fits.approaches if isinstance(fit.law, LossLaw)}
    if fits.chosen in there:
        return there[fits.chosen]
    trusted = [there[x] for x in LOSS_FITS if x in there and there[x].status.state == "ok"]
    closest = sorted(there.values(), key=lambda fit: fit.noise)
    return next(iter([*trusted, *closest]), None)
