"""Drawn requests are distributed as they are called; each concern has random numbers of its own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tonnage.errors import InputError
from tonnage.traffic import MAX_TOKENS, Arrivals, Requests
from tonnage.traffic.arrivals import draw_arrivals_s
from tonnage.traffic.draws import draw_closed_loop_benchmark, draw_lengths, draw_requests
from tonnage.traffic.streams import stream
from tonnage.workload import Lengths, TokenMix

DRAWN = 200_000
POISSON = Arrivals(kind="poisson", rate_per_s=4.0)

lengths = st.builds(
    Lengths,
    kind=st.sampled_from(["constant", "lognormal", "normal", "uniform", "exponential"]),
    mean_tokens=st.floats(0.5, 1e5),
    cv=st.floats(0, 0.5),
)
mixes = st.builds(TokenMix, prompt=lengths, output=lengths, cached_share=st.floats(0, 1))
calls = st.lists(st.tuples(mixes, st.floats(0.1, 10)), min_size=1, max_size=3)
seeds = st.integers(0, 2**64)


def mix(prompt: float, output: float, *, cv: float = 0.5, cached_share: float = 0.0) -> TokenMix:
    return TokenMix(
        prompt=Lengths(kind="lognormal", mean_tokens=prompt, cv=cv),
        output=Lengths(kind="exponential", mean_tokens=output),
        cached_share=cached_share,
    )


def columns(requests: Requests) -> list[bytes]:
    chosen = (
        requests.arrival_s,
        requests.prompt_tokens,
        requests.output_tokens,
        requests.cached_tokens,
    )
    return [b"" if each is None else each.tobytes() for each in chosen]


# ── lengths ──


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("kind", "mean", "cv", "kurtosis"),
    [
        ("lognormal", 1000, 0.5, 9),
        ("lognormal", 300, 1.0, 114),
        ("normal", 1000, 0.3, 3),
        ("uniform", 2000, 0.5, 1.8),
        ("exponential", 500, 1.0, 9),
    ],
)
def test_lengths_have_the_mean_and_variation_stated(kind, mean, cv, kurtosis, seed):
    drawn = draw_lengths(Lengths(kind=kind, mean_tokens=mean, cv=cv), DRAWN, stream(seed, "law"))
    assert drawn.mean() / mean == pytest.approx(1, abs=5 * cv / math.sqrt(DRAWN))
    # Var(s^2) = sigma^4 (kurtosis - 1) / n; s moves by half that
    error = math.sqrt((kurtosis - 1) / DRAWN) / 2
    assert drawn.std() / mean / cv == pytest.approx(1, abs=5 * error + 0.001)


@pytest.mark.parametrize("percentile", [10, 50, 90, 99])
@pytest.mark.parametrize("kind", ["lognormal", "normal", "uniform", "exponential"])
def test_percentiles_are_those_the_closed_form_reckons_with(kind, percentile):
    shape = Lengths(kind=kind, mean_tokens=10_000, cv=0.4)
    drawn = draw_lengths(shape, DRAWN, stream(0, "law"))
    share = (drawn <= shape.percentile_tokens(percentile)).mean() * 100
    assert share == pytest.approx(percentile, abs=0.6)


@given(st.floats(1, 1e6), seeds)
def test_a_constant_length_is_that_length_or_split_between_its_neighbours(mean, seed):
    drawn = draw_lengths(Lengths.constant(mean), 1000, stream(seed, "law"))
    assert {*drawn.tolist()} <= {math.floor(mean), math.floor(mean) + 1}
    fraction = mean - math.floor(mean)
    assert drawn.mean() - math.floor(mean) == pytest.approx(fraction, abs=0.1)


def test_what_the_floor_of_one_token_does_to_short_answers_is_as_documented():
    for mean, lifted in ((5, 0.0187), (20, 0.0012)):
        drawn = draw_lengths(
            Lengths(kind="exponential", mean_tokens=mean), 10 * DRAWN, stream(0, "law")
        )
        assert drawn.mean() / mean - 1 == pytest.approx(lifted, abs=0.003)
    cut = draw_lengths(Lengths(kind="normal", mean_tokens=1000, cv=0.5), DRAWN, stream(0, "law"))
    assert cut.mean() == pytest.approx(1000, rel=0.006)
    assert cut.std() / cut.mean() == pytest.approx(0.487, abs=0.004)


@given(
    st.sampled_from(["lognormal", "normal", "uniform", "exponential"]),
    st.floats(1e-3, 1e12),
    st.floats(0, 100),
    seeds,
)
def test_every_length_is_a_whole_number_within_what_can_be(kind, mean, cv, seed):
    drawn = draw_lengths(Lengths(kind=kind, mean_tokens=mean, cv=cv), 50, stream(seed, "law"))
    assert drawn.dtype == np.int64
    assert ((drawn >= 1) & (drawn <= MAX_TOKENS)).all()


# ── requests ──


@given(calls, st.integers(1, 300), seeds, st.none() | st.integers(2, 10_000))
def test_requests_are_well_formed_and_follow_from_the_seed(calls, count, seed, context):
    drawn = draw_requests(
        calls, count, seed=seed, arrivals=POISSON, max_context_tokens=context
    ).requests
    again = draw_requests(calls, count, seed=seed, arrivals=POISSON, max_context_tokens=context)
    assert columns(drawn) == columns(again.requests)
    assert len(drawn) == count
    assert (drawn.prompt_tokens >= 1).all()
    assert (drawn.output_tokens >= 1).all()
    assert (np.diff(drawn.arrival_s) >= 0).all()
    if context is not None:
        assert (drawn.prompt_tokens + drawn.output_tokens <= context).all()
    if drawn.cached_tokens is not None:
        assert ((drawn.cached_tokens >= 0) & (drawn.cached_tokens <= drawn.prompt_tokens)).all()


@given(calls, st.integers(1, 200), st.integers(0, 200), seeds)
def test_more_requests_begin_with_those_that_fewer_would_be(calls, count, more, seed):
    few = draw_requests(calls, count, seed=seed, arrivals=POISSON).requests
    many = draw_requests(calls, count + more, seed=seed, arrivals=POISSON).requests
    assert few.prompt_tokens.tolist() == many.prompt_tokens[:count].tolist()
    assert few.output_tokens.tolist() == many.output_tokens[:count].tolist()
    assert few.arrival_s.tolist() == many.arrival_s[:count].tolist()


def test_each_concern_is_drawn_apart():
    base = draw_requests([(mix(1000, 200), 1)], 500, seed=7, arrivals=POISSON).requests
    closed = draw_requests([(mix(1000, 200), 1)], 500, seed=7).requests
    assert closed.arrival_s.tolist() == [0.0] * 500
    assert columns(base)[1:] == columns(closed)[1:]
    longer = replace(mix(1000, 200), output=Lengths(kind="lognormal", mean_tokens=900, cv=2))
    other = draw_requests([(longer, 1)], 500, seed=7, arrivals=POISSON).requests
    assert columns(base)[:2] == columns(other)[:2]
    assert base.arrival_s.tolist() == draw_arrivals_s(POISSON, 500, seed=7).tolist()
    drawn = [base.prompt_tokens, base.output_tokens, np.diff(base.arrival_s, prepend=0)]
    for one in range(3):
        for another in range(one):
            assert abs(np.corrcoef(drawn[one], drawn[another])[0, 1]) < 0.2
    different = draw_requests([(mix(1000, 200), 1)], 500, seed=8, arrivals=POISSON).requests
    assert all(a != b for a, b in zip(columns(base)[:3], columns(different)[:3], strict=True))


def test_calls_are_mixed_by_weight_and_keep_their_lengths_and_caches():
    short, long = mix(10, 5, cv=0.1), mix(10_000, 5, cv=0.1, cached_share=0.6)
    drawn = draw_requests([(short, 3), (long, 1)], DRAWN, seed=0).requests
    is_long = drawn.prompt_tokens > 1000
    assert is_long.mean() == pytest.approx(0.25, abs=5 * math.sqrt(0.1875 / DRAWN))
    assert drawn.prompt_tokens[is_long].mean() == pytest.approx(10_000, rel=0.01)
    assert drawn.cached_tokens is not None
    assert drawn.cached_tokens[~is_long].max() == 0
    share = drawn.cached_tokens[is_long] / drawn.prompt_tokens[is_long]
    assert share == pytest.approx(0.6, abs=1e-3)
    assert draw_requests([(short, 1)], 5, seed=0).requests.cached_tokens is None


@given(st.integers(2, 3000), seeds)
def test_what_exceeds_the_context_is_cut_output_first_and_counted(context, seed):
    drawn = draw_requests([(mix(1000, 500), 1)], 200, seed=seed)
    cut = draw_requests([(mix(1000, 500), 1)], 200, seed=seed, max_context_tokens=context)
    assert drawn.notes == ()
    prompts, outputs = drawn.requests.prompt_tokens, drawn.requests.output_tokens
    for prompt, output, cut_prompt, cut_output in zip(
        prompts.tolist(),
        outputs.tolist(),
        cut.requests.prompt_tokens.tolist(),
        cut.requests.output_tokens.tolist(),
        strict=True,
    ):
        if prompt + output <= context:
            assert (cut_prompt, cut_output) == (prompt, output)
        elif prompt < context:
            assert (cut_prompt, cut_output) == (prompt, context - prompt)
        else:
            assert (cut_prompt, cut_output) == (context - 1, 1)
    too_long = int((prompts + outputs > context).sum())
    expected = (f"{too_long} of 200 requests were cut to {context:,} tokens",) if too_long else ()
    assert cut.notes == expected


def test_a_context_of_one_token_is_refused():
    with pytest.raises(InputError, match="max_context_tokens is 1, too few"):
        draw_requests([(mix(1, 1), 1)], 1, seed=0, max_context_tokens=1)


# ── the closed-loop benchmark ──


@given(st.integers(1, 50), st.integers(1, 5000), st.integers(1, 500), seeds)
def test_the_benchmark_has_ten_requests_a_client_of_a_fifth_of_spread(
    clients, prompt, output, seed
):
    drawn = draw_closed_loop_benchmark(
        clients, prompt_tokens=prompt, output_tokens=output, seed=seed
    )
    assert len(drawn) == 10 * clients
    assert not drawn.arrival_s.any()
    for nominal, found in ((prompt, drawn.prompt_tokens), (output, drawn.output_tokens)):
        assert ((found >= max(int(0.8 * nominal), 1)) & (found <= nominal)).all()


def test_the_benchmark_reaches_both_ends_evenly_and_draws_outputs_apart():
    drawn = draw_closed_loop_benchmark(20_000, prompt_tokens=100, output_tokens=100, seed=1)
    values, counts = np.unique(drawn.prompt_tokens, return_counts=True)
    assert values.tolist() == [*range(80, 101)]
    assert counts == pytest.approx(200_000 / 21, rel=0.06)
    assert abs(np.corrcoef(drawn.prompt_tokens, drawn.output_tokens)[0, 1]) < 0.02


@given(st.floats(0.01, 1), st.floats(0.01, 2), st.integers(1, 5), seeds)
def test_the_benchmark_takes_another_spread_and_number(low, high, each, seed):
    assume(low <= high)
    drawn = draw_closed_loop_benchmark(
        3,
        prompt_tokens=1000,
        output_tokens=100,
        seed=seed,
        requests_per_client=each,
        spread=(low, high),
    )
    assert len(drawn) == 3 * each
    assert drawn.prompt_tokens.max() <= max(high * 1000, 1)
