"""Fits find what made the data, drop what they should, and know how sure they are."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage.errors import InputError
from tonnage.evidence import student_t
from tonnage.measurement import Point, Run
from tonnage.measurement.fits import (
    FitRules,
    LineFit,
    NoFit,
    Range,
    Reachable,
    Unreachable,
    UslFit,
    choose_fit,
    concurrency_at,
    fit_line,
    fit_usl,
    gpu_estimate,
    gpu_range,
    intercept_range,
    slope_range,
)
from tonnage.measurement.sweep import fit_metric, join_runs, usable_points

# the table in NVIDIA's documentation of `nat sizing calc`
LEVELS = (1, 2, 4, 8, 16, 32)
LLM_S = (1.14981, 1.3591, 1.50682, 2.10668, 3.30196, 6.57847)
RUNTIME_S = (4.03488, 4.71197, 5.67581, 7.90895, 12.677, 24.5307)
EVERYTHING = FitRules(remove_outliers=False, min_r_squared=-math.inf)
SIMULATIONS = 3000

concurrencies = st.lists(st.integers(1, 500), min_size=2, max_size=20, unique=True)
latencies = st.floats(0.01, 100)
noisy_lines = st.lists(
    st.tuples(st.integers(1, 64), st.integers(-1500, 1500)).map(
        lambda level_and_ms: (level_and_ms[0], 2 + 0.2 * level_and_ms[0] + level_and_ms[1] / 1000)
    ),
    max_size=14,
)


def line(points, rules=FitRules(), **more):  # noqa: B008 — frozen
    found = fit_line(points, rules, **more)
    assert isinstance(found, LineFit), found
    return found


def table(values):
    return list(zip(LEVELS, values, strict=True))


def as_line(intercept, slope, levels=LEVELS):
    return [(level, intercept + slope * level) for level in levels]


# ── the published figures ───────────────────────────────────────────────────────────────────────


def test_the_documented_table_gives_the_documented_gpus():
    fit = line(table(RUNTIME_S))
    assert fit.slope == pytest.approx(0.656838, abs=5e-7)
    assert fit.intercept == pytest.approx(3.026423, abs=5e-7)
    assert fit.r_squared == pytest.approx(0.9955, abs=5e-5)
    assert fit.outliers == ()
    answer = concurrency_at(fit, 10)
    assert isinstance(answer, Reachable)
    assert not answer.extrapolated
    assert gpu_estimate(100, answer.concurrency, 8) == pytest.approx(75.3516, abs=5e-5)


def test_the_worked_example_gives_its_gpus():
    answer = concurrency_at(line(as_line(3.5, 0.6)), 10)
    assert isinstance(answer, Reachable)
    assert answer.concurrency == pytest.approx(10.83, abs=0.005)
    assert gpu_estimate(100, answer.concurrency, 8) == pytest.approx(73.85, abs=0.005)


def test_the_top_of_the_documented_latencies_is_an_outlier():
    fit = line(table(LLM_S))
    assert fit.outliers == (32,)
    assert fit.r_squared == pytest.approx(0.996, abs=5e-4)
    assert fit.levels == LEVELS[:-1]


# ── against an oracle written otherwise ─────────────────────────────────────────────────────────


def oracle(points):
    """The same rules with arrays, numpy's percentiles and numpy's polynomial fit."""
    level, latency = (np.array(each, dtype=float) for each in zip(*points, strict=True))
    kept = np.arange(len(points))
    gone = []
    if len(points) > 4:
        if len(points) <= 8:
            q1, q3 = np.percentile(latency, [25, 75])
            bad = np.abs(latency - (q1 + q3) / 2) > 2.5 * (q3 - q1)
            gone += list(kept[bad])
            kept = kept[~bad]
        left = latency[kept] - np.polyval(np.polyfit(level[kept], latency[kept], 1), level[kept])
        q1, q3 = np.percentile(left, [25, 75])
        bad = np.abs(left - (q1 + q3) / 2) > 2.0 * (q3 - q1) + 1e-12 * latency[kept].max()
        gone += list(kept[bad])
        kept = kept[~bad]
    slope, intercept = np.polyfit(level[kept], latency[kept], 1)
    r_squared = np.corrcoef(level[kept], latency[kept])[0, 1] ** 2
    return slope, intercept, r_squared, [int(level[each]) for each in gone]


@pytest.mark.parametrize("seed", range(300))
def test_line_and_outliers_are_those_of_the_oracle(seed):
    random = np.random.default_rng(seed)
    levels = random.choice(np.arange(1, 65), size=random.integers(3, 13), replace=False)
    latency = 2 + 0.1 * levels + random.standard_t(1.5, len(levels)) * 0.2
    latency = np.maximum(latency, 0.01)
    points = [(int(x), float(y)) for x, y in zip(levels, latency, strict=True)]
    slope, intercept, r_squared, outliers = oracle(points)
    fit = fit_line(points)
    if r_squared < 0.7:
        assert isinstance(fit, NoFit)
        return
    assert isinstance(fit, LineFit)
    assert list(fit.outliers) == outliers
    assert (fit.slope, fit.intercept) == pytest.approx((slope, intercept), rel=1e-6, abs=1e-9)
    assert fit.r_squared == pytest.approx(r_squared, abs=1e-9)


def test_the_oracle_meets_outliers_of_both_kinds():
    cases = []
    for seed in range(300):
        random = np.random.default_rng(seed)
        levels = random.choice(np.arange(1, 65), size=random.integers(3, 13), replace=False)
        latency = np.maximum(2 + 0.1 * levels + random.standard_t(1.5, len(levels)) * 0.2, 0.01)
        cases.append((len(levels), oracle(list(zip(levels, latency, strict=True)))))
    assert any(size <= 8 and found[3] for size, found in cases)
    assert any(size > 8 and found[3] for size, found in cases)
    assert any(found[2] < 0.7 for _, found in cases)


# ── laws of the line ────────────────────────────────────────────────────────────────────────────


@given(concurrencies, latencies, st.floats(0.001, 10))
def test_an_exact_line_is_found_whatever_its_size(levels, intercept, slope):
    keep = FitRules(remove_outliers=False)
    fit = line(as_line(intercept, slope, levels), keep)
    assert fit.slope == pytest.approx(slope, rel=1e-6, abs=1e-9)
    assert fit.intercept == pytest.approx(intercept, rel=1e-6, abs=1e-6)
    assert fit.r_squared == pytest.approx(1)


@given(st.integers(5, 30), latencies, st.floats(0.001, 10))
def test_float_noise_makes_no_outliers_on_an_even_line(count, intercept, slope):
    fit = line(as_line(intercept, slope, range(1, count + 1)))
    assert fit.outliers == ()


@given(noisy_lines, st.randoms(use_true_random=False))
def test_the_order_of_the_points_changes_only_the_order_of_the_outliers(points, random):
    shuffled = list(points)
    random.shuffle(shuffled)
    one, other = fit_line(points), fit_line(shuffled)
    if isinstance(one, NoFit) or isinstance(other, NoFit):
        assert one == other
        return
    assert sorted(one.outliers) == sorted(other.outliers)
    assert (one.slope, one.intercept, one.r_squared) == (
        other.slope,
        other.intercept,
        other.r_squared,
    )


@given(noisy_lines, st.sampled_from([0.125, 0.5, 2.0, 64.0]))
def test_another_unit_of_time_scales_the_line_and_nothing_else(points, scale):
    one = fit_line(points)
    other = fit_line([(x, y * scale) for x, y in points])
    if isinstance(one, NoFit) or isinstance(other, NoFit):
        assert one == other
        return
    assert other.outliers == one.outliers
    assert other.r_squared == one.r_squared
    assert (other.slope, other.intercept) == (one.slope * scale, one.intercept * scale)
    ours, theirs = (concurrency_at(fit, unit) for fit, unit in ((one, 5.0), (other, 5 * scale)))
    assert ours == theirs


@given(concurrencies, latencies, st.floats(0.01, 10), st.floats(1, 200))
def test_the_line_meets_the_target_where_it_says(levels, intercept, slope, target_s):
    fit = line(as_line(intercept, slope, levels), EVERYTHING)
    answer = concurrency_at(fit, target_s)
    if target_s <= fit.intercept:
        assert isinstance(answer, Unreachable)
        return
    assert isinstance(answer, Reachable)
    assert fit.latency(answer.concurrency) == pytest.approx(target_s)
    assert answer.extrapolated == (answer.concurrency > max(levels))
    assert answer.below_one == (answer.concurrency < 1)


@given(st.floats(1, 1e6), st.floats(0.1, 1e4), st.integers(1, 1000))
def test_gpus_grow_with_users_and_shrink_with_concurrency(users, concurrency, gpus):
    one = gpu_estimate(users, concurrency, gpus)
    assert gpu_estimate(2 * users, concurrency, gpus) == pytest.approx(2 * one)
    assert gpu_estimate(users, 2 * concurrency, gpus) == pytest.approx(one / 2)


# ── when there is no fit ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([], "0 usable levels"),
        ([(4, 1.0)], "1 usable level:"),
        ([(4, 1.0), (4, 2.0)], "one concurrency"),
        ([(1, 0.1), (2, 0.1), (3, 0.1)], "R² is 0.00"),
        ([(1, 1.0), (2, 5.0), (3, 1.0), (4, 4.0)], "R² is 0."),
    ],
)
def test_no_fit_says_why(points, said):
    found = fit_line(points)
    assert isinstance(found, NoFit)
    assert said in found.reason


def test_two_points_are_a_line_without_a_range():
    fit = line([(1, 2.0), (3, 3.0)])
    assert (fit.slope, fit.intercept, fit.r_squared) == pytest.approx((0.5, 1.5, 1.0))
    assert slope_range(fit) is None
    assert intercept_range(fit) is None
    answer = concurrency_at(fit, 2.5)
    assert isinstance(answer, Reachable)
    assert answer.range is None


def test_a_line_that_falls_reaches_no_target():
    answer = concurrency_at(line(as_line(10, -0.1)), 12)
    assert isinstance(answer, Unreachable)
    assert "not reachable at any GPU count by this fit" in answer.reason


def test_four_points_lose_none():
    points = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    keep = FitRules(min_r_squared=0)
    assert line(points, keep).outliers == ()
    assert line([*points, (5, 5.0)], keep).outliers == (4,)


# ── how sure ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("freedom", "confidence", "t"),
    [  # a printed table of Student's distribution, two-sided
        (1, 0.90, 6.314),
        (2, 0.90, 2.920),
        (3, 0.90, 2.353),
        (4, 0.90, 2.132),
        (5, 0.90, 2.015),
        (10, 0.90, 1.812),
        (30, 0.90, 1.697),
        (120, 0.90, 1.658),
        (1, 0.95, 12.706),
        (4, 0.95, 2.776),
        (7, 0.95, 2.365),
        (5, 0.99, 4.032),
        (60, 0.99, 2.660),
    ],
)
def test_student_t_is_that_of_the_tables(freedom, confidence, t):
    assert student_t(freedom, confidence) == pytest.approx(t, abs=5.1e-4)


def holds(span, truth):
    return (span.low is None or span.low <= truth) and (span.high is None or truth <= span.high)


def coverage(levels, intercept, scatter, *, fits=line, seed=20):
    """How often each range of a fit holds the truth, under latencies with `scatter`."""
    random = np.random.default_rng(seed)
    slope, target_s = 0.66, 10.0
    latency = intercept + slope * np.array(levels)
    hits = dict.fromkeys(("slope", "intercept", "concurrency", "gpus"), 0)
    for _ in range(SIMULATIONS):
        seen = [
            float(each) for each in latency + scatter(latency) * random.normal(size=len(levels))
        ]
        fit = fits(list(zip(levels, seen, strict=True)), EVERYTHING)
        answer = concurrency_at(fit, target_s)
        assert isinstance(answer, Reachable)
        slopes, intercepts = slope_range(fit), intercept_range(fit)
        assert slopes is not None
        assert intercepts is not None
        assert answer.range is not None
        true = (target_s - intercept) / slope
        hits["slope"] += holds(slopes, slope)
        hits["intercept"] += holds(intercepts, intercept)
        hits["concurrency"] += holds(answer.range, true)
        hits["gpus"] += holds(gpu_range(100, answer.range, 8), gpu_estimate(100, true, 8))
    return {what: count / SIMULATIONS for what, count in hits.items()}


LEVEL_SETS = [LEVELS, tuple(range(1, 11)), tuple(2**each for each in range(8))]


@pytest.mark.parametrize("levels", LEVEL_SETS)
@pytest.mark.parametrize("intercept", [0.5, 3.0])
def test_ninety_per_cent_ranges_hold_the_truth_ninety_times_in_a_hundred(levels, intercept):
    """Where scatter is a share of latency, as that of a percentile of a growing queue is."""
    seen = coverage(levels, intercept, lambda latency: 0.06 * latency)
    assert 0.87 < seen.pop("intercept") < 0.99  # wide where it is near zero, as the scatter is not
    assert all(0.87 < each < 0.96 for each in seen.values()), seen


@pytest.mark.parametrize("levels", LEVEL_SETS)
def test_where_all_levels_scatter_alike_the_ranges_are_rather_too_wide(levels):
    seen = coverage(levels, 3.0, lambda latency: 0.03 * latency.max())
    assert seen.pop("intercept") > 0.83
    assert all(each > 0.88 for each in seen.values()), seen


@pytest.mark.parametrize("levels", [LEVELS, tuple(range(1, 11))])
def test_dropping_outliers_does_not_make_the_ranges_too_sure(levels):
    """Scatter judged by the points left would make them hold 77 to 83 times in a hundred."""
    random = np.random.default_rng(21)
    latency = 3 + 0.66 * np.array(levels)
    hits = 0
    for _ in range(SIMULATIONS):
        seen = [float(each) for each in latency + 0.4 * random.normal(size=len(levels))]
        fit = line(list(zip(levels, seen, strict=True)))
        answer = concurrency_at(fit, 7.0)
        assert isinstance(answer, Reachable)
        assert answer.range is not None
        hits += holds(answer.range, 4 / 0.66)
    assert 0.88 < hits / SIMULATIONS < 0.96


def test_the_range_of_the_law_holds_the_truth_too():
    random = np.random.default_rng(22)
    law = usl(contention=0.1, coherency=0.002)
    truth = concurrency_at(law, 10.0)
    assert isinstance(truth, Reachable)
    hits = 0
    tries = 800
    for _ in range(tries):
        noise = 1 + 0.05 * random.normal(size=len(LEVELS))
        found = fit_usl(
            [(x, law.latency(x) * float(n)) for x, n in zip(LEVELS, noise, strict=True)]
        )
        assert isinstance(found, UslFit)
        answer = concurrency_at(found, 10.0)
        assert isinstance(answer, Reachable)
        assert answer.range is not None
        hits += holds(answer.range, truth.concurrency)
    assert 0.87 < hits / tries < 0.96


def brute_fieller(fit, target_s):
    """Walk a fine grid and keep what the t test does not tell from the target."""
    t = student_t(fit.degrees_of_freedom, 0.9)
    grid = np.geomspace(1e-3, 1e6, 400_000)
    variance = fit.intercept_variance + 2 * grid * fit.covariance + grid**2 * fit.slope_variance
    inside = grid[np.abs(target_s - fit.latency(grid)) <= t * np.sqrt(variance)]
    low, high = float(inside.min()), float(inside.max())
    return Range(low if low > 1.1e-3 else None, high if high < 0.9e6 else None)


@pytest.mark.parametrize("scatter", [0.01, 0.3, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("target_s", [2.0, 5.0, 12.0, 40.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_range_is_the_set_that_the_test_does_not_refuse(scatter, target_s, seed):
    random = np.random.default_rng(seed)
    fit = line([(x, 3 + 0.3 * x + scatter * float(random.normal())) for x in LEVELS], EVERYTHING)
    answer = concurrency_at(fit, target_s)
    if isinstance(answer, Unreachable):
        return
    brute = brute_fieller(fit, target_s)
    assert answer.range is not None
    for ours, theirs in (
        (answer.range.low, brute.low),
        (answer.range.high, brute.high),
    ):
        assert (ours is None) == (theirs is None)
        assert ours is None or ours == pytest.approx(theirs, rel=1e-3)


def test_a_slope_that_might_be_nothing_leaves_the_range_open():
    points = [(1, 1.0), (2, 1.9), (3, 1.1), (4, 2.0)]
    answer = concurrency_at(line(points, EVERYTHING), 3.0)
    assert isinstance(answer, Reachable)
    assert answer.range is not None
    assert answer.range.high is None
    assert gpu_range(100, answer.range, 8).low is None


@given(noisy_lines, st.floats(0.1, 20))
def test_the_range_holds_the_estimate(points, target_s):
    fit = fit_line(points)
    if isinstance(fit, NoFit):
        return
    answer = concurrency_at(fit, target_s)
    if isinstance(answer, Reachable) and answer.range is not None:
        loose = Range(
            *(
                None if side is None else side * factor
                for side, factor in (
                    (answer.range.low, 1 - 1e-9),
                    (answer.range.high, 1 + 1e-9),
                )
            )
        )
        assert holds(loose, answer.concurrency)


# ── the Universal Scalability Law ───────────────────────────────────────────────────────────────


def usl(*, contention, coherency, rate=0.25):
    return UslFit(
        rate_alone_per_s=rate,
        contention=contention,
        coherency=coherency,
        r_squared=1.0,
        levels=LEVELS,
        covariance=None,
        degrees_of_freedom=0,
    )


@given(st.floats(0.01, 100), st.floats(0.01, 0.9), st.floats(1e-4, 0.1))
def test_an_exact_law_is_found(rate, contention, coherency):
    law = usl(contention=contention, coherency=coherency, rate=rate)
    fit = fit_usl([(x, law.latency(x)) for x in LEVELS])
    assert isinstance(fit, UslFit)
    assert fit.rate_alone_per_s == pytest.approx(rate, rel=1e-6)
    assert fit.contention == pytest.approx(contention, rel=1e-5)
    assert fit.coherency == pytest.approx(coherency, rel=1e-5)


@given(st.floats(0.01, 0.9), st.floats(1e-4, 0.1))
def test_the_knee_is_where_throughput_is_highest(contention, coherency):
    law = usl(contention=contention, coherency=coherency)
    knee = law.knee
    assert knee is not None
    highest = knee / law.latency(knee)
    for near in (knee * 0.98, knee * 1.02):
        if near >= 1:
            assert near / law.latency(near) <= highest * (1 + 1e-12)


@given(st.floats(1e-4, 0.9), st.floats(0, 0.1), st.floats(4, 500))
def test_the_law_meets_the_target_where_it_says(contention, coherency, target_s):
    law = usl(contention=contention, coherency=coherency)
    answer = concurrency_at(law, target_s)
    assert isinstance(answer, Reachable)
    assert law.latency(answer.concurrency) == pytest.approx(target_s)


def test_a_straight_line_has_no_knee_and_is_the_same_line():
    points = as_line(3.0, 0.5)
    fit = fit_usl(points)
    assert isinstance(fit, UslFit)
    assert fit.coherency == 0
    assert fit.knee is None
    ours, lines = concurrency_at(fit, 12.0), concurrency_at(line(points), 12.0)
    assert isinstance(ours, Reachable)
    assert isinstance(lines, Reachable)
    assert ours.concurrency == pytest.approx(lines.concurrency)


def test_factors_of_the_law_are_never_negative():
    falling_off = [(x, 3 + 2 * math.sqrt(x)) for x in LEVELS]  # bends downwards
    fit = fit_usl(falling_off)
    assert isinstance(fit, UslFit)
    assert fit.coherency == 0
    assert fit.contention > 0


def test_the_law_refuses_what_it_cannot_meet():
    assert isinstance(concurrency_at(usl(contention=0.1, coherency=0.01), 3.9), Unreachable)
    assert isinstance(concurrency_at(usl(contention=0, coherency=0), 5.0), Unreachable)
    assert isinstance(fit_usl([(1, 1.0), (2, 2.0)]), NoFit)
    assert isinstance(fit_usl([(1, 1e-200), (2, 2e-200), (4, 4e-200)]), NoFit)
    assert isinstance(fit_usl([(1, 1.0), (2, 1.0), (4, 1.0)]), NoFit)


# ── line or law ─────────────────────────────────────────────────────────────────────────────────


def test_the_law_is_chosen_where_the_levels_bend():
    law = usl(contention=0.05, coherency=0.01)
    choice = choose_fit([(x, law.latency(x)) for x in LEVELS])
    assert isinstance(choice.fit, UslFit)
    assert choice.line_error is not None
    assert choice.usl_error is not None
    assert choice.usl_error < choice.line_error


def test_the_line_is_chosen_where_they_do_not():
    choice = choose_fit(as_line(3.0, 0.5))
    assert choice.fit == line(as_line(3.0, 0.5))
    assert isinstance(choose_fit(as_line(3.0, 0.5, (1, 2, 4))).fit, LineFit)  # too few to choose


def test_the_error_is_that_of_leaving_each_out():
    points = table(RUNTIME_S)
    squares = []
    for left_out in range(len(points)):
        rest = [each for place, each in enumerate(points) if place != left_out]
        levels, latency = (np.array(each) for each in zip(*rest, strict=True))
        slope, intercept = np.polyfit(levels, latency, 1)
        squares.append((points[left_out][1] - intercept - slope * points[left_out][0]) ** 2)
    choice = choose_fit(points)
    assert choice.line_error == pytest.approx(math.sqrt(sum(squares) / len(squares)))


# ── sweeps ──────────────────────────────────────────────────────────────────────────────────────


def run(*points, **more):
    return Run(name="test", tool="tonnage", points=points, **more)


def test_only_sound_levels_are_used_and_the_others_are_named():
    sweep = join_runs(
        [
            run(
                Point(concurrency=8, e2e_p95_s=3.0),
                Point(concurrency=1, e2e_p95_s=1.0),
                Point(concurrency=2, e2e_p95_s=1.5, interrupted=True),
                Point(concurrency=4, e2e_p95_s=2.0, failed=3),
                Point(concurrency=16),
                Point(concurrency=32, e2e_p95_s=0.0),
                Point(requests_per_s=3.0, e2e_p95_s=1.0),
            )
        ],
        files=["a"],
    )
    used, left_out = usable_points(sweep, "e2e_p95_s")
    assert used == ((1, 1.0), (8, 3.0))
    assert [each.concurrency for each in left_out] == [2, 4, 16, 32, None]
    assert [each.reason for each in left_out] == [
        "interrupted",
        "interrupted, 3 failed",
        "not measured",
        "not measured",
        "open loop: no concurrency",
    ]


def test_runs_of_one_system_are_fitted_together():
    runs = [
        run(Point(concurrency=level, e2e_p95_s=1.0 + level), gpus=gpus)
        for level, gpus in ((1, 8), (4, None))
    ]
    sweep = join_runs(runs, files=["a", "b"])
    assert sweep.gpus == 8
    fitted = fit_metric(sweep, "e2e_p95_s", target_s=6.0)
    assert isinstance(fitted.answer, Reachable)
    assert fitted.answer.concurrency == pytest.approx(5)
    assert fitted.answer.extrapolated


@pytest.mark.parametrize(
    ("one", "other"), [({"gpus": 8}, {"gpus": 4}), ({"model": "a"}, {"model": "b"})]
)
def test_runs_of_two_systems_are_refused(one, other):
    with pytest.raises(InputError, match="another system"):
        join_runs([run(**one), run(**other)], files=["a", "b"])


def test_points_are_told_by_rising_concurrency():
    sweep = join_runs([run(*(Point(concurrency=each) for each in (8, 2, 4)))], files=["a"])
    assert [each.concurrency for each in sweep.points] == [2, 4, 8]
