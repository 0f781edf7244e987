"""Does a law of loss fit a table of profiles as well as smooth curves do, profile by profile?"""

import numpy as np
from scipy.special import fdtrc  # scipy.stats has it too, and takes half a second to load

from analysis.cells import Cells
from analysis.laws import LossLaw, letters
from analysis.profiles import Profile, profiles

SIZES_FOR_CUBIC = 6
"""A profile of fewer sizes is smoothed by a parabola."""


def lack_of_fit(cells: Cells, law: LossLaw, *, given: int = 0) -> float | None:
    """p-value of an F test of the law against a smooth curve a profile; None without profiles.

    Small: the law misses what the profiles have in common, and its optimum may be off, however
    narrow its intervals. `given` of the law's letters were not fitted.
    """
    squares, freedom, points = 0.0, 0, 0
    missed = 0.0
    for profile in profiles(cells):
        degree = 3 if len(profile.log_params) >= SIZES_FOR_CUBIC else 2
        spare = len(profile.log_params) - degree - 1
        if spare < 1:
            continue
        measured = np.log(profile.loss)
        curve = np.polynomial.Polynomial.fit(profile.log_params, measured, degree)
        squares += float(np.sum((measured - curve(profile.log_params)) ** 2))
        missed += _missed(profile, law)
        freedom += spare
        points += len(measured)
    extra = points - (len(letters(law)) - given) - freedom
    if freedom < 3 or extra < 1:
        return None
    ratio = (missed - squares) / extra / max(squares / freedom, 1e-300)
    return float(fdtrc(extra, freedom, ratio))


def _missed(profile: Profile, law: LossLaw) -> float:
    """Sum of squares of ln loss that the law leaves on a profile."""
    predicted = law.loss(np.exp(profile.log_params), np.exp(profile.log_tokens))
    return float(np.sum((np.log(profile.loss) - np.log(predicted)) ** 2))
