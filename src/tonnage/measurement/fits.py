"""Latency against concurrency -> a line or a scalability law, and the GPUs it asks for.

A line through measured levels (least squares, outliers dropped by quartiles) says at which
concurrency a target is met; users over that concurrency, times the GPUs tested, is the GPU count.
The rules for outliers and for a fit too poor to use are those of `nat sizing calc`, so that both
tools give one figure; the range beside the figure is ours. Where the system saturates inside the
levels, the Universal Scalability Law bends with it; `choose_fit` compares the two on levels that
they were not shown.

How to choose: `fit_line` unless the levels bend upwards; `choose_fit` when you would rather have
that decided by cross-validation. A "no" is a value: `NoFit`, `Unreachable`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tonnage.evidence import student_t

CONFIDENCE = 0.9  # of every range, unless another is asked for
OUTLIERS_FROM = 5  # fewer points have no quartiles worth the name
LINE_PARAMETERS = 2
USL_PARAMETERS = 3
LEAST_SCATTER = 0.05  # of the largest latency: a point below scatters as if it were so large
_ROUND_OFF = 1e-12  # a residual this small beside the largest value is float noise, not a finding
_FARTHEST = 1e6  # times the estimate: where a side that goes on is called unbounded

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRules:
    """When a point is an outlier and when a fit is too poor; the defaults of `nat sizing calc`.

    `small_range` points or fewer first lose raw values beyond `extreme_iqrs` interquartile ranges
    from the quartiles; residuals beyond `residual_iqrs` are dropped at any size.
    """

    remove_outliers: bool = True
    small_range: int = 8
    extreme_iqrs: float = 2.0
    residual_iqrs: float = 1.5
    min_r_squared: float = 0.7


NAT_RULES = FitRules()


@dataclass(frozen=True, slots=True)
class NoFit:
    """Why there is no fit."""

    reason: str


@dataclass(frozen=True, slots=True)
class Range:
    """A range that should hold the true value as often as asked; None is a side without bound."""

    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFit:
    """latency = intercept + slope x concurrency, in the unit of the latency.

    `outliers` are the concurrencies dropped, extremes first; `levels` those kept, ascending.
    The variances are of the estimates; None with two points, which leave nothing to judge by.
    """

    slope: float
    intercept: float
    r_squared: float
    outliers: tuple[int, ...]
    levels: tuple[int, ...]
    slope_variance: float | None
    intercept_variance: float | None
    covariance: float | None
    degrees_of_freedom: int  # of the variances; 0 with two points

    def latency(self, concurrency: float) -> float:
        """What the line says at `concurrency`."""
        return self.intercept + self.slope * concurrency


@dataclass(frozen=True, slots=True, kw_only=True)
class UslFit:
    """Universal Scalability Law, through the latency that it implies.

    X(N) = l N / (1 + s (N - 1) + k N (N - 1)); R(N) = N / X(N) in a closed loop without think time.
    l (lambda) is `rate_alone_per_s`, what one request in flight achieves; s (sigma) `contention`,
    the share of work done one at a time; k (kappa) `coherency`, what each pair in flight costs.
    After N. J. Gunther, Guerrilla Capacity Planning (2007), chapters 4-5. Fitted to a percentile
    it describes that percentile, and l is its inverse, not a throughput. `outliers` is always
    empty: a dropped level would hide the bend that this law is for.
    """

    rate_alone_per_s: float
    contention: float
    coherency: float
    r_squared: float
    levels: tuple[int, ...]
    covariance: tuple[tuple[float, ...], ...] | None  # of the factors of 1, N - 1 and N(N - 1)
    degrees_of_freedom: int
    outliers: tuple[int, ...] = ()

    @property
    def knee(self) -> float | None:
        """The concurrency of the highest throughput, sqrt((1 - s) / k), at least one request.

        None when nothing ever bends it down.
        """
        if self.coherency == 0:
            return None
        return math.sqrt(max((1 - self.contention) / self.coherency, 1.0))

    def latency(self, concurrency: float) -> float:
        """R(N) in seconds."""
        pairs = concurrency * (concurrency - 1)
        return (
            1 + self.contention * (concurrency - 1) + self.coherency * pairs
        ) / self.rate_alone_per_s


Fit = LineFit | UslFit


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The target is not reachable at any GPU count by this fit."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reachable:
    """The concurrency at which the fit meets the target.

    `range`: None when there are too few points for one. `extrapolated`: beyond the largest level
    that the fit rests on. `below_one`: one request alone already misses the target, so that more
    GPUs make a figure but not a service.
    """

    concurrency: float
    range: Range | None
    extrapolated: bool
    below_one: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The fit that best predicts levels it was not shown, and how far off each kind was.

    Errors are root mean squares in the unit of the latency, each level left out once; None where
    there are too few levels to leave one out.
    """

    fit: Fit | NoFit
    line: LineFit | NoFit
    usl: UslFit | NoFit
    line_error: float | None
    usl_error: float | None


# ── the line ────────────────────────────────────────────────────────────────────────────────────


def fit_line(points: Points, rules: FitRules = NAT_RULES) -> LineFit | NoFit:
    """Least squares through (concurrency, latency), outliers dropped first as `rules` say.

    Every point counts alike in the line itself, as in `nat sizing calc`. Its variances suppose a
    straight line and independent normal scatter in proportion to latency (`_covariance`).
    """
    points = list(points)
    removes = rules.remove_outliers and len(points) >= OUTLIERS_FROM
    kept, outliers = _without_outliers(points, rules) if removes else (points, [])
    if len(kept) < LINE_PARAMETERS:
        return NoFit(f"{len(kept)} usable level{'s' * (len(kept) != 1)}: a line needs two")
    found = _least_squares(kept)
    if found is None:
        return NoFit("every point is at one concurrency: a line needs two")
    intercept, slope, total = found
    left = math.fsum((y - intercept - slope * x) ** 2 for x, y in kept)
    r_squared = 1 - left / total if total > 0 else 0.0
    if r_squared < rules.min_r_squared:
        return NoFit(f"R² is {r_squared:.2f}, below {rules.min_r_squared:g}")
    levels = sorted(x for x, _ in kept)
    design = _line_terms(np.array(levels, dtype=float))
    sure = _covariance(design, points, _line_terms, np.array([intercept, slope]))
    covariance, freedom = sure or (None, 0)
    return LineFit(
        slope=slope,
        intercept=intercept,
        r_squared=r_squared,
        outliers=tuple(outliers),
        levels=tuple(levels),
        slope_variance=None if covariance is None else float(covariance[1, 1]),
        intercept_variance=None if covariance is None else float(covariance[0, 0]),
        covariance=None if covariance is None else float(covariance[0, 1]),
        degrees_of_freedom=freedom,
    )


def _line_terms(levels: np.ndarray) -> np.ndarray:
    return np.stack([np.ones_like(levels), levels], axis=-1)


def _without_outliers(
    points: list[tuple[int, float]], rules: FitRules
) -> tuple[list[tuple[int, float]], list[int]]:
    """What is kept, and the concurrencies dropped: raw extremes of a small range, then residuals.

    A residual of float noise is never an outlier, else noise would decide over exact lines.
    """
    kept, outliers = points, []
    if len(points) <= rules.small_range:
        low, high = _fences([y for _, y in points], rules.extreme_iqrs)
        kept = [(x, y) for x, y in points if low <= y <= high]
        outliers = [x for x, y in points if not low <= y <= high]
    plain = _least_squares(kept)
    if plain is None:
        return kept, outliers
    intercept, slope, _ = plain
    residuals = [y - intercept - slope * x for x, y in kept]
    low, high = _fences(residuals, rules.residual_iqrs)
    noise = _ROUND_OFF * max(abs(y) for _, y in kept)
    near = [low - noise <= residual <= high + noise for residual in residuals]
    outliers += [x for (x, _), inside in zip(kept, near, strict=True) if not inside]
    return [each for each, inside in zip(kept, near, strict=True) if inside], outliers


def _fences(values: Sequence[float], iqrs: float) -> tuple[float, float]:
    """The quartiles (linear interpolation), moved out by `iqrs` times their distance."""
    ordered = sorted(values)
    first, third = _quantile(ordered, 0.25), _quantile(ordered, 0.75)
    reach = iqrs * (third - first) if third > first else 0.0  # whatever `iqrs`, which may be inf
    return first - reach, third + reach


def _quantile(ordered: Sequence[float], fraction: float) -> float:
    place = fraction * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _least_squares(points: Points) -> tuple[float, float, float] | None:
    """Intercept, slope and spread of y (Σ(y - mean)²); None if no spread in x.

    Sums are correctly rounded, so that the order of the points does not matter to the last bit.
    """
    mean_x = math.fsum(x for x, _ in points) / len(points)
    mean_y = math.fsum(y for _, y in points) / len(points)
    if len({x for x, _ in points}) == 1:
        return None
    spread_x = math.fsum((x - mean_x) ** 2 for x, _ in points)
    slope = math.fsum((x - mean_x) * (y - mean_y) for x, y in points) / spread_x
    flat = len({y for _, y in points}) == 1  # a mean may be off by a bit; no spread is none
    spread_y = 0.0 if flat else math.fsum((y - mean_y) ** 2 for _, y in points)
    return mean_y - slope * mean_x, slope, spread_y


def _covariance(
    design: np.ndarray,
    points: Points,
    terms: Callable[[np.ndarray], np.ndarray],
    factors: np.ndarray,
) -> tuple[np.ndarray, int] | None:
    """Covariance and degrees of freedom of `factors`: unweighted least squares over `design`.

    (D'D)⁻¹ D'SD (D'D)⁻¹ times a variance, S being the squared fitted latencies: scatter grows in
    proportion to latency, as that of a percentile does. The variance is what weighted least squares
    over all `points` leave, those dropped as outliers too: taken from what is left after trimming,
    the scatter would look smaller than it is. Supposing constant scatter where it is proportional,
    ranges of nominally 90 % cover 40-60 % on levels that double; the other way round they cover up
    to 99 % (both simulated, see the tests). None without a spare point.
    """
    scale = np.abs(design).max(axis=0)
    spare = len(points) - len(scale)
    if spare < 1:
        return None
    ordered = sorted(points)  # sums must not depend on the order of the points
    everywhere = terms(np.array([x for x, _ in ordered], dtype=float)) / scale
    seen = np.array([y for _, y in ordered])
    scaled = factors * scale
    root = np.sqrt(_proportional(everywhere @ scaled))
    _, squares = _solve(everywhere / root[:, None], seen / root)
    variance = squares / spare
    kept = design / scale
    solve = np.linalg.pinv(kept)
    sandwich = (solve * _proportional(kept @ scaled)) @ solve.T
    return np.asarray(variance * sandwich / np.outer(scale, scale)), spare


def _proportional(fitted: np.ndarray) -> np.ndarray:
    """Squares of fitted latencies; none so small that it alone would decide."""
    return np.asarray(np.maximum(np.abs(fitted), LEAST_SCATTER * np.abs(fitted).max()) ** 2)


def slope_range(fit: LineFit, confidence: float = CONFIDENCE) -> Range | None:
    """Student's t interval of the slope; None with two points."""
    return _t_range(fit.slope, fit.slope_variance, fit.degrees_of_freedom, confidence)


def intercept_range(fit: LineFit, confidence: float = CONFIDENCE) -> Range | None:
    """Student's t interval of the intercept; None with two points."""
    return _t_range(fit.intercept, fit.intercept_variance, fit.degrees_of_freedom, confidence)


def _t_range(value: float, variance: float | None, spare: int, confidence: float) -> Range | None:
    if variance is None:
        return None
    reach = student_t(spare, confidence) * math.sqrt(variance)
    return Range(value - reach, value + reach)


# ── the Universal Scalability Law ───────────────────────────────────────────────────────────────


def fit_usl(points: Points, rules: FitRules = NAT_RULES) -> UslFit | NoFit:
    """Least squares of N/X(N), which is linear in 1/l, s/l and k/l; none of them negative.

    Needs three concurrencies. No level is dropped. A bend that the points do not need is zero.
    """
    if len({x for x, _ in points}) < USL_PARAMETERS:
        return NoFit("the scalability law needs three concurrencies")
    levels = np.array([x for x, _ in points], dtype=float)
    latency = np.array([y for _, y in points], dtype=float)
    design = _usl_terms(levels)
    size = float(latency @ latency)
    best: tuple[float, tuple[int, ...], np.ndarray] | None = None
    for count in (0, 1, 2):  # few terms first: another must earn its place
        for extra in combinations((1, 2), count):
            columns = (0, *extra)
            factors, squares = _solve(design[:, columns], latency)
            clearly = best is None or squares < best[0] * (1 - 1e-9) - 1e-24 * size
            if factors.min() >= 0 and factors[0] > 0 and clearly:
                best = squares, columns, factors
    if best is None:
        return NoFit("no latency above zero")
    squares, columns, factors = best
    around_mean = float(((latency - latency.mean()) ** 2).sum())
    flat = around_mean == 0 or bool((latency == latency[0]).all())
    r_squared = 0.0 if flat else 1 - squares / around_mean
    if r_squared < rules.min_r_squared:
        return NoFit(f"R² is {r_squared:.2f}, below {rules.min_r_squared:g}")
    alone, contended, paired = (
        float(factors[columns.index(each)]) if each in columns else 0.0 for each in (0, 1, 2)
    )
    sure = _usl_covariance(points, columns, factors)
    return UslFit(
        rate_alone_per_s=1 / alone,
        contention=contended / alone,
        coherency=paired / alone,
        r_squared=r_squared,
        levels=tuple(sorted(x for x, _ in points)),
        covariance=sure[0] if sure else None,
        degrees_of_freedom=sure[1] if sure else 0,
    )


def _usl_terms(levels: np.ndarray) -> np.ndarray:
    return np.stack([np.ones_like(levels), levels - 1, levels * (levels - 1)], axis=-1)


def _solve(design: np.ndarray, latency: np.ndarray) -> tuple[np.ndarray, float]:
    """Factors and the sum of squares they leave; columns are scaled alike, for the arithmetic."""
    scale = np.abs(design).max(axis=0)
    factors = np.linalg.lstsq(design / scale, latency, rcond=None)[0] / scale
    left = latency - design @ factors
    return factors, float(left @ left)


def _usl_covariance(
    points: Points, columns: tuple[int, ...], factors: np.ndarray
) -> tuple[tuple[tuple[float, ...], ...], int] | None:
    def terms(levels: np.ndarray) -> np.ndarray:
        return _usl_terms(levels)[:, columns]

    levels = np.array(sorted(x for x, _ in points), dtype=float)
    part = _covariance(terms(levels), points, terms, factors)
    if part is None:
        return None
    full = np.zeros((USL_PARAMETERS, USL_PARAMETERS))
    full[np.ix_(columns, columns)] = part[0]
    return tuple(tuple(float(each) for each in row) for row in full), part[1]


# ── line or law ─────────────────────────────────────────────────────────────────────────────────


def choose_fit(points: Points, rules: FitRules = NAT_RULES) -> Choice:
    """The line, unless the scalability law predicts left-out levels better.

    Each level is left out once, with every point at it, and predicted from the others; nothing
    is dropped as an outlier meanwhile, because a bend looks like one. Needs four concurrencies;
    with fewer it is the line. A fit too poor to use loses.
    """
    line, usl = fit_line(points, rules), fit_usl(points, rules)
    if len({x for x, _ in points}) <= USL_PARAMETERS:
        return Choice(fit=line, line=line, usl=usl, line_error=None, usl_error=None)
    lax = FitRules(remove_outliers=False, min_r_squared=-math.inf)
    line_error = _left_out_error(points, lambda rest: fit_line(rest, lax))
    usl_error = _left_out_error(points, lambda rest: fit_usl(rest, lax))
    noise = _ROUND_OFF * max(abs(y) for _, y in points)
    bends = isinstance(usl, UslFit) and usl_error + noise < line_error
    return Choice(
        fit=usl if bends or (isinstance(line, NoFit) and isinstance(usl, UslFit)) else line,
        line=line,
        usl=usl,
        line_error=line_error,
        usl_error=usl_error,
    )


def _left_out_error(points: Points, fit: Callable[[Points], Fit | NoFit]) -> float:
    squares: list[float] = []
    for level in sorted({x for x, _ in points}):
        found = fit([point for point in points if point[0] != level])
        if isinstance(found, NoFit):
            return math.inf
        squares += [(y - found.latency(x)) ** 2 for x, y in points if x == level]
    return math.sqrt(math.fsum(squares) / len(squares))


# ── what a fit says ─────────────────────────────────────────────────────────────────────────────


def concurrency_at(
    fit: Fit, target_s: float, confidence: float = CONFIDENCE
) -> Reachable | Unreachable:
    """Where the fit meets `target_s`: for a line (target - intercept) / slope.

    The range is Fieller's: every concurrency whose fitted latency is not told apart from the
    target at `confidence`. It holds if the line (or law) holds; the target itself is exact.
    """
    if isinstance(fit, UslFit):
        return _usl_concurrency_at(fit, target_s, confidence)
    if target_s <= fit.intercept:
        return Unreachable(
            "not reachable at any GPU count by this fit: the target is not above the intercept,"
            " the latency left when nothing else is in flight"
        )
    if fit.slope * fit.levels[-1] <= _ROUND_OFF * abs(fit.intercept):
        return Unreachable(
            "not reachable at any GPU count by this fit: latency does not rise with concurrency,"
            " so no level answers to the target"
        )
    concurrency = (target_s - fit.intercept) / fit.slope
    return Reachable(
        concurrency=concurrency,
        range=_fieller(fit, target_s, confidence),
        extrapolated=concurrency > fit.levels[-1],
        below_one=concurrency < 1,
    )


def _fieller(fit: LineFit, target_s: float, confidence: float) -> Range | None:
    """Every c > 0 with (d - bc)² <= t² (Vaa + 2c Vab + c² Vbb), d = target - a; hulled.

    That is A c² - 2 B c + C <= 0. A > 0 when the slope differs from zero: then it is a
    segment; else the outside of one, or everything. E. C. Fieller, J. R. Stat. Soc. B 16 (1954).
    """
    if fit.slope_variance is None or fit.intercept_variance is None or fit.covariance is None:
        return None
    t2 = student_t(fit.degrees_of_freedom, confidence) ** 2
    vaa, vab, vbb = fit.intercept_variance, fit.covariance, fit.slope_variance
    distance, slope = target_s - fit.intercept, fit.slope
    leading = slope**2 - t2 * vbb
    half = distance * slope + t2 * vab
    # B² - AC, without the difference of two large parts
    under_root = (
        t2 * (slope**2 * vaa + 2 * distance * slope * vab + distance**2 * vbb)
        - t2**2 * (vaa * vbb - vab**2)
    )  # fmt: skip
    if leading > 0:
        root = math.sqrt(max(under_root, 0.0))
        return Range(_positive((half - root) / leading), _positive((half + root) / leading))
    if leading == 0 or under_root <= 0:
        return Range(None, None)
    root = math.sqrt(under_root)
    inner, outer = sorted(((half - root) / leading, (half + root) / leading))
    return Range(outer if inner <= 0 < outer else None, None)  # zero lies in the gap, or does not


def _positive(value: float) -> float | None:
    return value if value > 0 else None


def _usl_concurrency_at(fit: UslFit, target_s: float, confidence: float) -> Reachable | Unreachable:
    alone_s = fit.latency(1)
    if target_s < alone_s:
        return Unreachable(
            "not reachable at any GPU count by this fit: one request alone takes longer"
        )
    if fit.contention == 0 and fit.coherency == 0:
        return Unreachable(
            "not reachable at any GPU count by this fit: latency does not rise with concurrency,"
            " so no level answers to the target"
        )
    # k N² + (s - k) N = s + l T - 1, solved so that k = 0 divides by nothing
    linear = fit.contention - fit.coherency
    constant = fit.contention + fit.rate_alone_per_s * target_s - 1
    root = math.sqrt(linear**2 + 4 * fit.coherency * constant)
    concurrency = (
        2 * constant / (linear + root) if linear >= 0 else (root - linear) / (2 * fit.coherency)
    )
    return Reachable(
        concurrency=concurrency,
        range=_usl_range(fit, target_s, concurrency, confidence),
        extrapolated=concurrency > fit.levels[-1],
        below_one=False,
    )


def _usl_range(fit: UslFit, target_s: float, concurrency: float, confidence: float) -> Range | None:
    """Fieller's range for the law: the stretch around the estimate not told from the target."""
    if fit.covariance is None:
        return None
    covariance = np.array(fit.covariance)
    t = student_t(fit.degrees_of_freedom, confidence)

    def inside(level: float) -> bool:
        terms = _usl_terms(np.array(level))
        reach = t * math.sqrt(max(float(terms @ covariance @ terms), 0.0))
        return abs(fit.latency(level) - target_s) <= reach

    return Range(_edge(inside, concurrency, 1 / 1.05), _edge(inside, concurrency, 1.05))


def _edge(inside: Callable[[float], bool], start: float, factor: float) -> float | None:
    """Walk from `start` by `factor` until outside, then bisect; None where it never ends."""
    near, far = start, start * factor
    while inside(far):
        near, far = far, far * factor
        if not start / _FARTHEST < far < start * _FARTHEST:
            return None
    for _ in range(60):
        middle = (near + far) / 2
        near, far = (middle, far) if inside(middle) else (near, middle)
    return near


def gpu_estimate(users: float, concurrency: float, test_gpus: float) -> float:
    """GPUs = users / concurrency x GPUs tested; a fraction, to be rounded up by whoever buys.

    Every user has one request in flight, and GPUs are added as copies of what was tested.
    """
    return users / concurrency * test_gpus


def gpu_range(users: float, concurrency: Range, test_gpus: float) -> Range:
    """The range of `gpu_estimate`: few in flight, many GPUs; an open side stays open."""
    return Range(
        *(
            None if side is None else gpu_estimate(users, side, test_gpus)
            for side in (concurrency.high, concurrency.low)
        )
    )
