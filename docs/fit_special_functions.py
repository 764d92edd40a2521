"""Prints the polynomials of csrc/aten/rules/special_fits.h: `python docs/fit_special_functions.py`.

Each is the Chebyshev interpolant of a function on an interval, of the least degree whose error, evaluated by Horner's
scheme in float32, stops falling; its variable u runs from -1 to 1 over the interval. mpmath (which torch installs)
gives the values. The comment behind each has the largest error, of the function's largest value.
"""

from collections.abc import Callable

import mpmath
import numpy as np

Function = Callable[[mpmath.mpf], mpmath.mpf]
HIGHEST = 22


def asymptotic(order: int, which: str) -> Function:
    """P and (x / 5) Q of sqrt(2 / (pi x)) (P cos(x - phase) - Q sin(x - phase)), of t = (5 / x)^2."""

    def value(t: mpmath.mpf) -> mpmath.mpf:
        x = 5 / mpmath.sqrt(max(t, mpmath.mpf(10) ** -12))
        phase = x - mpmath.pi * (2 * order + 1) / 4
        scale = mpmath.sqrt(mpmath.pi * x / 2)
        j, y = mpmath.besselj(order, x) * scale, mpmath.bessely(order, x) * scale
        if which == "p":
            return j * mpmath.cos(phase) + y * mpmath.sin(phase)
        return (y * mpmath.cos(phase) - j * mpmath.sin(phase)) * x / 5

    return value


def normal_quantile(w: mpmath.mpf) -> mpmath.mpf:
    """ndtri(p) / (2 p - 1) where -log(4 p (1 - p)) = w."""
    if w == 0:
        return mpmath.sqrt(mpmath.pi / 2)
    share = mpmath.exp(-w)
    p = share / (2 * (1 + mpmath.sqrt(1 - share)))
    start = -mpmath.sqrt(max(-2 * mpmath.log(p) - mpmath.log(max(-4 * mpmath.pi * mpmath.log(p), 1)), 0))
    log_p = mpmath.log(p)
    x = mpmath.findroot(lambda x: mpmath.log(mpmath.erfc(-x / mpmath.sqrt(2)) / 2) - log_p, start)
    return x / (2 * p - 1)


def of_square(function: Function) -> Function:
    return lambda s: function(mpmath.sqrt(max(s, mpmath.mpf(10) ** -24)))


def scaled_bessel_i(order: int) -> Function:
    return lambda x: mpmath.besseli(order, x) * mpmath.exp(-x)


def at_infinity(function: Function, nearest: float) -> Function:
    """sqrt(x) function(x), of t = nearest / x."""

    def value(t: mpmath.mpf) -> mpmath.mpf:
        x = nearest / max(t, mpmath.mpf(10) ** -6)
        return function(x) * mpmath.sqrt(x)

    return value


def scaled_bessel_k(order: int) -> Function:
    return lambda x: mpmath.besselk(order, x) * mpmath.exp(x)


def erfcx(t: mpmath.mpf) -> mpmath.mpf:
    """erfcx(x) / t, of t = 4 / (4 + x)."""
    t = max(t, mpmath.mpf(10) ** -6)
    x = 4 / t - 4
    if x > 50:
        terms = ((-1) ** k * mpmath.fac2(2 * k - 1) / (2 * x * x) ** k for k in range(6))
        return mpmath.fsum(terms) / (x * mpmath.sqrt(mpmath.pi) * t)
    return mpmath.exp(x * x) * mpmath.erfc(x) / t


FITS: dict[str, tuple[Function, float, float]] = {
    "scaled_i0": (scaled_bessel_i(0), 0, 8),
    "scaled_i0_far": (at_infinity(scaled_bessel_i(0), 8), 0, 1),
    "scaled_i1": (scaled_bessel_i(1), 0, 8),
    "scaled_i1_far": (at_infinity(scaled_bessel_i(1), 8), 0, 1),
    "erfcx": (erfcx, 0, 1),
    "quantile": (normal_quantile, 0, 5),
    "quantile_far": (lambda s: normal_quantile(s * s), 2.2, 9.4),
    "i0_near": (of_square(lambda x: mpmath.besseli(0, x)), 0, 4),
    "i1_near": (of_square(lambda x: mpmath.besseli(1, x) / x), 0, 4),
    "k0_near": (of_square(lambda x: mpmath.besselk(0, x) + mpmath.log(x) * mpmath.besseli(0, x)), 0, 4),
    "k1_near": (of_square(lambda x: x * (mpmath.besselk(1, x) - mpmath.log(x) * mpmath.besseli(1, x))), 0, 4),
    "scaled_k0_far": (at_infinity(scaled_bessel_k(0), 2), 0, 1),
    "scaled_k1_far": (at_infinity(scaled_bessel_k(1), 2), 0, 1),
    "j0_near": (of_square(lambda x: mpmath.besselj(0, x)), 0, 25),
    "j1_near": (of_square(lambda x: mpmath.besselj(1, x) / x), 0, 25),
    "y0_near": (
        of_square(lambda x: mpmath.bessely(0, x) - 2 / mpmath.pi * mpmath.log(x) * mpmath.besselj(0, x)),
        0,
        25,
    ),
    "y1_near": (
        of_square(
            lambda x: (mpmath.bessely(1, x) - 2 / mpmath.pi * (mpmath.log(x) * mpmath.besselj(1, x) - 1 / x)) / x
        ),
        0,
        25,
    ),
    "p0": (asymptotic(0, "p"), 0, 1),
    "q0": (asymptotic(0, "q"), 0, 1),
    "p1": (asymptotic(1, "p"), 0, 1),
    "q1": (asymptotic(1, "q"), 0, 1),
}


def horner(coefficients: np.ndarray, u: np.ndarray) -> np.ndarray:
    """From the highest power on, each step rounded to float32 as an engine does."""
    total = u * coefficients[0]
    for c in coefficients[1:-1]:
        total = (total + c).astype(np.float32) * u
    return (total + coefficients[-1]).astype(np.float32)


def fit(function: Function, low: float, high: float) -> tuple[np.ndarray, float]:
    half, middle = (high - low) / 2, (high + low) / 2
    at = np.concatenate([np.cos(np.linspace(0, np.pi, 97)), np.linspace(-1, 1, 83)])
    exact = np.array([float(function(mpmath.mpf(half * u + middle))) for u in at])
    nodes = np.cos((np.arange(HIGHEST + 1) + 0.5) * np.pi / (HIGHEST + 1))
    values = [float(function(mpmath.mpf(half * u + middle))) for u in nodes]
    series = np.polynomial.chebyshev.chebfit(nodes, values, HIGHEST)
    best: tuple[np.ndarray, float] = (np.zeros(2, np.float32), np.inf)
    for degree in range(3, HIGHEST + 1):
        powers = np.polynomial.chebyshev.cheb2poly(series[: degree + 1])[::-1].astype(np.float32)
        error = float(np.abs(horner(powers, at.astype(np.float32)) - exact).max() / np.abs(exact).max())
        if error < 0.7 * best[1]:
            best = powers, error
    return best


def main() -> None:
    mpmath.mp.dps = 30
    for name, (function, low, high) in FITS.items():
        powers, error = fit(function, low, high)
        camel = "k" + "".join(part.capitalize() for part in name.split("_"))
        numbers = ", ".join(f"{c:.9g}F" if "." in f"{c:.9g}" or "e" in f"{c:.9g}" else f"{c:.9g}.0F" for c in powers)
        print(f"// {low:g} to {high:g}: {error:.1e}\nconstexpr Fit {camel} = {{{low:g}, {high:g}, {{{numbers}}}}};")


if __name__ == "__main__":
    main()
