"""The simulator that judges the closed form is judged itself, by textbook queues."""

from itertools import pairwise

import pytest

from tests.laws.parts import CALIBRATION, deployment, lengths, mix, rate
from tests.queueing.oracle import simulate
from tonnage.engine import StepModel
from tonnage.performance.roofline import tabulate
from tonnage.workload import ClosedLoad, Lengths


def table(*, max_batched_tokens: int = 1000, per_prefill_token_s: float = 0.0):
    """Ten milliseconds a step, whatever it decodes."""
    return tabulate(
        deployment(max_batched_tokens=max_batched_tokens),
        CALIBRATION,
        step_model=StepModel(
            base_s=0.01,
            per_prefill_token_s=per_prefill_token_s,
            per_sequence_s=0.0,
            per_kv_token_s=0.0,
        ),
    )


@pytest.mark.parametrize("load", [rate(2.0), ClosedLoad(clients=30, think_time_s=4.0)])
def test_littles_law(load):
    varied = mix(lengths(800, 0.6), lengths(200, 1.0))
    truth = simulate(table(per_prefill_token_s=1e-5), varied, load, max_running=16)
    present = truth.running + truth.waiting
    assert present == pytest.approx(truth.requests_per_s * truth.e2e_s.mean(), rel=0.02)


def test_one_slot_and_exponential_answers_are_m_m_1():
    """Mean time in the system 1 / (mu - lambda); answers of 40 steps mean, mu = 2.5 per second."""
    answers = Lengths(kind="exponential", mean_tokens=40)
    truth = simulate(table(), mix(1, answers), rate(1.5), max_running=1, requests=20_000)
    assert truth.running == pytest.approx(0.6, rel=0.03)
    assert truth.e2e_s.mean() == pytest.approx(1 / (2.5 - 1.5), rel=0.1)


def test_a_replica_is_never_beaten_by_a_smaller_token_budget():
    """Smaller chunks of prompts make more steps of the same base time."""
    seen = [
        simulate(
            table(max_batched_tokens=budget), mix(2000, 50), ClosedLoad(clients=8), max_running=8
        ).requests_per_s
        for budget in (250, 500, 1000, 2000)
    ]
    assert all(slower < faster for slower, faster in pairwise(seen))
