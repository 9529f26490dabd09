"""Lengths, loads and the Poisson peak: what must hold of them, whatever the numbers."""

import math
from decimal import Decimal, localcontext

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tonnage.workload import (
    Batch,
    ClosedLoad,
    Lengths,
    LlmCall,
    OpenLoad,
    Promise,
    TokenMix,
    Workload,
    poisson_percentile,
    reading_speed_tpot_s,
)

means = st.floats(min_value=1, max_value=1e6)


@st.composite
def distributions(draw):
    kind = draw(st.sampled_from(["constant", "lognormal", "normal", "uniform", "exponential"]))
    cv = {
        "constant": st.just(0.0),
        "lognormal": st.floats(0.01, 5),
        "normal": st.floats(0.01, 0.5),
        "uniform": st.floats(0.01, 1 / math.sqrt(3)),
        "exponential": st.just(1.0),
    }[kind]
    return Lengths(kind=kind, mean_tokens=draw(means), cv=draw(cv))


# ── the Poisson peak ────────────────────────────────────────────────────────────────────────────


def poisson_percentile_by_exact_sum(mean: str, percentile: str) -> int:
    """Smallest k whose cumulative probability reaches the percentile, summed term by term.

    In 60-digit decimals from k = 0, with each term from the one before it: slow, and sharing
    nothing with the implementation.
    """
    with localcontext() as context:
        context.prec = 60
        rate, target = Decimal(mean), Decimal(percentile) / 100
        term = cumulative = (-rate).exp()
        k = 0
        while cumulative < target:
            k += 1
            term *= rate / k
            cumulative += term
        return k


@pytest.mark.parametrize(("mean", "peak"), [(64, 77), (7, 12)])
def test_the_course_figures(mean, peak):
    assert poisson_percentile(mean, 95) == peak


@given(
    st.decimals(min_value="0.001", max_value=900, places=3),
    st.sampled_from(["50", "75", "90", "95", "99", "99.9"]),
)
@example(Decimal("6.667"), "95")
@example(Decimal(700), "99.9")
def test_the_peak_is_that_of_an_exact_sum(mean, percentile):
    expected = poisson_percentile_by_exact_sum(str(mean), percentile)
    assert poisson_percentile(float(mean), float(percentile)) == expected


@given(st.floats(0.01, 1e7), st.floats(0.01, 1e7))
def test_more_load_never_has_a_lower_peak(one, other):
    low, high = sorted((one, other))
    assume(high <= 1e6 or low > 1e6)  # the two methods differ by at most one where they meet
    assert poisson_percentile(low, 95) <= poisson_percentile(high, 95)


@pytest.mark.parametrize("mean", [9e5, 999_999.0])
def test_the_normal_approximation_joins_within_one(mean):
    spread = 1.6448536269514722 * math.sqrt(mean)
    assert abs(poisson_percentile(mean, 95) - (mean + spread)) <= 1.5


def test_no_load_has_no_peak():
    assert poisson_percentile(0, 95) == 0


# ── lengths ─────────────────────────────────────────────────────────────────────────────────────


@given(distributions(), st.floats(0.5, 99.5), st.floats(0.5, 99.5))
def test_percentiles_rise_and_are_never_negative(lengths, one, other):
    low, high = sorted((one, other))
    assert 0 <= lengths.percentile_tokens(low) <= lengths.percentile_tokens(high) + 1e-9


@given(distributions(), st.integers(1, 64))
def test_nodes_keep_the_mean_and_their_order(lengths, count):
    nodes = lengths.nodes(count)
    assert len(nodes) == count
    assert math.fsum(nodes) / count == pytest.approx(lengths.mean_tokens)
    assert list(nodes) == sorted(nodes)


@given(means, st.floats(0.01, 1.2), st.sampled_from([90.0, 95.0, 99.0]))
def test_a_lognormal_is_found_again_from_its_mean_and_a_percentile(mean, sigma, percentile):
    lengths = Lengths(kind="lognormal", mean_tokens=mean, cv=math.sqrt(math.expm1(sigma**2)))
    tokens = lengths.percentile_tokens(percentile)
    assume(tokens > mean)
    found = Lengths.lognormal_from_percentile(
        mean_tokens=mean, percentile=percentile, tokens=tokens
    )
    assert found.percentile_tokens(percentile) == pytest.approx(tokens, rel=1e-6)
    assert found.cv == pytest.approx(lengths.cv, rel=1e-3)


@given(means, st.floats(0.05, 2))
def test_a_lognormal_is_found_again_from_its_mean_and_median(mean, sigma):
    lengths = Lengths(kind="lognormal", mean_tokens=mean, cv=math.sqrt(math.expm1(sigma**2)))
    median = lengths.percentile_tokens(50)
    found = Lengths.lognormal_from_percentile(mean_tokens=mean, percentile=50, tokens=median)
    assert found.cv == pytest.approx(lengths.cv, rel=1e-6)


@pytest.mark.parametrize(("percentile", "tokens"), [(95, 1e6), (95, 50), (50, 200)])
def test_no_lognormal_has_a_percentile_on_the_wrong_side_or_too_far(percentile, tokens):
    with pytest.raises(ValueError, match="p"):
        Lengths.lognormal_from_percentile(mean_tokens=100, percentile=percentile, tokens=tokens)


@given(distributions())
def test_the_standard_deviation_is_that_of_many_nodes(lengths):
    assume(lengths.kind != "lognormal" or lengths.cv < 0.5)
    nodes = lengths.nodes(4000)
    variance = math.fsum((node - lengths.mean_tokens) ** 2 for node in nodes) / len(nodes)
    # the tails that mid-quantiles cannot reach, and the mass a normal loses below zero
    assert math.sqrt(variance) == pytest.approx(
        lengths.standard_deviation_tokens, rel=0.04, abs=1e-6 * lengths.mean_tokens
    )


def test_resident_tokens_are_prompt_and_half_the_answer():
    mix = TokenMix(prompt=Lengths.constant(3000), output=Lengths.constant(400), cached_share=0.25)
    assert mix.resident_tokens_mean == 3200
    assert mix.prefill_tokens_mean == 2250


# ── modes ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("load", "metrics", "mode"),
    [
        (OpenLoad(requests_per_s_mean=1, requests_per_s_peak=2), ("ttft", "tpot"), "streaming"),
        (ClosedLoad(clients=3), ("e2e",), "sequential"),
        (ClosedLoad(clients=3), ("ttft", "e2e"), "streaming"),
        (Batch(requests=10, deadline_s=60), (), "offline"),
        (None, (), "memory"),
    ],
)
def test_the_promises_and_the_load_say_how_latency_matters(load, metrics, mode):
    mix = TokenMix(prompt=Lengths.constant(10), output=Lengths.constant(10))
    workload = Workload(
        calls=(LlmCall(name="answer", model="m", mix=mix),),
        load=load,
        promises=tuple(Promise(metric=m, percentile=95, limit_s=1) for m in metrics),
    )
    assert workload.mode == mode


def test_reading_speed_follows_the_words_of_a_token():
    assert reading_speed_tpot_s(0.75) == pytest.approx(0.189, abs=5e-4)
    assert reading_speed_tpot_s(0.375) == pytest.approx(reading_speed_tpot_s(0.75) / 2)
