"""From users, days and tokens to the load: the arithmetic holds and is shown in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage.evidence import Evidence
from tonnage.study.demand import Ledger, RequestTokens, derive_load
from tonnage.study.document import WorkloadSection
from tonnage.workload import OpenLoad, poisson_percentile

TOKENS = RequestTokens(prompt_tokens=2000, output_tokens=200, evidence=Evidence.DATASHEET)

rates = st.floats(min_value=1e-3, max_value=1e5)


def derive(**stated):
    ledger = Ledger()
    load = derive_load(WorkloadSection.model_validate(stated), TOKENS, ledger)
    assert isinstance(load, OpenLoad)
    return load, ledger


def formulas(ledger):
    return [step.formula for step in ledger.steps]


def test_users_become_a_load_step_by_step():
    load, ledger = derive(
        users={
            "registered": 20000,
            "active_at_peak": "10 %",
            "requests_per_active_user_per_hour": 12,
        }
    )
    assert formulas(ledger) == [
        "20,000 registered × 10 % active = 2,000 active users",
        "2,000 × 12 requests/h ÷ 3,600 = 6.67 requests/s on average",
        "Poisson p95 of 6.67 per second = 11 requests/s at peak",
    ]
    assert load.requests_per_s_mean == pytest.approx(20 / 3)
    assert load.requests_per_s_peak == 11


def test_a_day_of_people_becomes_a_load():
    load, ledger = derive(
        daily_users={"count": "679 k", "requests_per_user": 3}, active_hours="8 h", peak="none"
    )
    assert formulas(ledger)[:2] == [
        "679,000 people × 3 requests = 2,037,000 requests a day",
        "2,037,000 ÷ 8 h = 70.7 requests/s on average",
    ]
    assert load.requests_per_s_mean == load.requests_per_s_peak == pytest.approx(70.729, abs=1e-3)


@pytest.mark.parametrize(
    ("tokens", "per_day"),
    [
        ({"input": "4 B", "output": "0.4 B"}, 2e6),
        ({"input": "4 B", "output": "0.8 B"}, 4e6),  # the larger counts
        ({"output": "0.4 B"}, 2e6),
        ("4.4 B tokens", 2e6),
    ],
)
def test_tokens_of_a_day_become_requests(tokens, per_day):
    load, _ = derive(tokens_per_day=tokens, active_hours="10 h")
    assert load.requests_per_s_mean == pytest.approx(per_day / 36000)


def test_a_day_of_unknown_hours_is_24_hours_long_and_that_is_assumed():
    load, ledger = derive(requests_per_day="864 k")
    assert load.requests_per_s_mean == pytest.approx(10)
    assert ledger.assumed[0].key == "workload.active_hours"
    assert ledger.assumed[0].value == 86400
    assert ledger.steps[-1].evidence is Evidence.ASSUMED


@pytest.mark.parametrize(("mean", "peak"), [(64, 77), (7, 12)])
def test_the_peak_of_the_course(mean, peak):
    load, ledger = derive(request_rate=f"{mean}/s")
    assert load.requests_per_s_peak == peak
    assert formulas(ledger)[-1] == (f"Poisson p95 of {mean} per second = {peak} requests/s at peak")


@given(rates, st.floats(min_value=50, max_value=99.9))
def test_the_peak_is_never_below_the_mean(rate, percentile):
    load, _ = derive(request_rate=f"{rate!r}/s", peak={"poisson_percentile": percentile})
    assert load.requests_per_s_peak >= load.requests_per_s_mean
    assert load.requests_per_s_peak == max(poisson_percentile(rate, percentile), rate)


@given(rates, st.floats(min_value=1, max_value=10))
def test_a_factor_multiplies(rate, factor):
    load, _ = derive(request_rate=f"{rate!r}/s", peak={"factor": factor})
    assert load.requests_per_s_peak == pytest.approx(rate * factor)


@given(st.integers(1, 10**9), st.floats(0.001, 1), st.floats(0.01, 1000))
def test_the_steps_multiply_to_the_load(registered, share, each):
    load, ledger = derive(
        users={
            "registered": registered,
            "active_at_peak": share,
            "requests_per_active_user_per_hour": each,
        },
        peak="none",
    )
    values = {step.name: step.value for step in ledger.steps}
    assert values["active users"] == pytest.approx(registered * share)
    assert values["mean rate"] == pytest.approx(values["active users"] * each / 3600)
    assert values["peak rate"] == load.requests_per_s_peak == values["mean rate"]


@given(st.floats(1, 1e9), st.floats(1, 86400))
def test_shorter_hours_are_a_higher_rate_of_the_same_day(per_day, active_s):
    load, _ = derive(requests_per_day=per_day, active_hours=f"{active_s!r} s", peak="none")
    assert load.requests_per_s_mean * active_s == pytest.approx(per_day)


def test_what_rests_on_a_guess_says_so():
    _, ledger = derive(users=1000)
    assert [told.key for told in ledger.assumed] == [
        "workload.users.active_at_peak",
        "workload.users.requests_per_active_user_per_hour",
        "workload.peak.poisson_percentile",
    ]
    assert {step.evidence for step in ledger.steps} == {Evidence.ASSUMED}
