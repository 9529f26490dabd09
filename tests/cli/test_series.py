"""Series of levels, as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage.cli.series import parse_series
from tonnage.errors import UsageError
from tonnage.units import parse_count


def series(text):
    return parse_series(text, flag="--concurrency", parse=float)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("5", (5,)),
        ("1, 2,4", (1, 2, 4)),
        ("8,4,1", (8, 4, 1)),
        ("1,2,4,…,32", (1, 2, 4, 8, 16, 32)),
        ("1,2,3,...,6", (1, 2, 3, 4, 5, 6)),
        ("10,20,…,50", (10, 20, 30, 40, 50)),
        ("0.5,1,2,…,4", (0.5, 1, 2, 4)),
    ],
)
def test_a_series_is_what_its_writer_meant(text, values):
    assert series(text) == values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no level"),
        ("1,x", "cannot be read"),
        ("0,1", "must be above 0, not 0"),
        ("4,4", "has 4 twice"),
        ("1,2,…", "stands between"),
        ("…,8", "stands between"),
        ("1,2,…,16", "can go on in two ways"),
        ("1,2,4,…,100", "never meets 100"),
        ("4,2,…,1", "never meets 1"),
    ],
)
def test_what_is_no_series_is_refused_with_a_reason(text, said):
    with pytest.raises(UsageError, match=said.replace(".", r"\.")):
        parse_series(text, flag="--concurrency", parse=parse_count)


@given(start=st.integers(1, 50), step=st.integers(1, 50), count=st.integers(4, 40))
def test_an_arithmetic_series_is_written_out(start, step, count):
    whole = tuple(float(start + step * i) for i in range(count))
    text = ",".join(f"{value:g}" for value in whole[:3])
    assert series(f"{text},…,{whole[-1]:g}") == whole


@given(start=st.integers(1, 9), factor=st.integers(2, 4), count=st.integers(4, 8))
def test_a_geometric_series_is_written_out(start, factor, count):
    whole = tuple(float(start * factor**i) for i in range(count))
    text = ",".join(f"{value:.0f}" for value in whole[:3])
    assert series(f"{text},…,{whole[-1]:.0f}") == whole
