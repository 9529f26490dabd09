"""`--explain`: every figure it lists can be explained, and an unknown one is answered kindly."""

import pytest

from tonnage.errors import EXIT_USAGE, UsageError
from tonnage.report.explain import explainable, render_explanation


def test_a_figure_shows_formula_inputs_result_and_evidence(plans):
    text = render_explanation(plans["streaming"], "kv_bytes_per_session")
    for part in ("491.52 MiB", "515396075.52 bytes", "layers × 2 × kv_heads", "head_dim = 128"):
        assert part in text
    assert "modelled" in text


@pytest.mark.parametrize("width", [60, 80, 110])
def test_every_figure_it_lists_can_be_explained(plan, width):
    for figure in explainable(plan):
        text = render_explanation(plan, figure, width=width)
        assert text.startswith(f"{figure}\n")
        assert max(map(len, text.splitlines())) <= width


def test_a_demand_step_is_found_by_its_name(plans):
    assert "20,000 registered" in render_explanation(plans["streaming"], "Active users")


def test_an_unknown_figure_is_answered_with_the_nearest_and_all(plans):
    with pytest.raises(UsageError) as caught:
        render_explanation(plans["streaming"], "kv_byte_session")
    assert caught.value.exit_code == EXIT_USAGE
    assert "Did you mean kv_bytes_per_session" in str(caught.value)
    assert "ttft_p95_s" in str(caught.value)
