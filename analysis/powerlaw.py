"""Power laws y = c · x^p: in log space, and in raw space for comparison."""

import numpy as np

from analysis.laws import Array


def log_fit(x: Array, y: Array) -> tuple[Array, Array]:
    """Least squares of ln y on ln x. `x` (n,), `y` (..., n) → coefficient and exponent (...)."""
    log_x = np.log(x)
    centered = log_x - log_x.mean()
    log_y = np.log(y)
    exponent = log_y @ centered / (centered @ centered)
    return np.exp(log_y.mean(axis=-1) - exponent * log_x.mean()), exponent


def raw_fit(x: Array, y: Array) -> tuple[Array, Array]:
    """Least squares of y on c · x^p in raw space: the largest x decide alone.

    `x` (n,), `y` (..., n) → coefficient and exponent (...). Given p, c is linear; p is found by a
    grid that closes in on the best of its points.
    """
    log_x = np.log(x) - np.log(x).mean()
    exponent = np.asarray(log_fit(x, y)[1])
    for width in 0.5 * 0.1 ** np.arange(12):
        tried = exponent[..., None] + width * np.linspace(-1, 1, 41)
        power = np.exp(tried[..., None] * log_x)  # (..., grid, n)
        gain = np.einsum("...gn,...n->...g", power, y) ** 2 / np.sum(power**2, axis=-1)
        best = gain.argmax(axis=-1)[..., None]
        exponent = np.take_along_axis(tried, best, axis=-1)[..., 0]
    power = np.exp(exponent[..., None] * np.log(x))
    # [()]: of one table a number; powers of arrays round otherwise than those of numbers.
    return np.sum(y * power, axis=-1) / np.sum(power**2, axis=-1), exponent[()]
