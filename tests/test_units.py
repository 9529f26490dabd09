"""Units round-trip, refuse what is ambiguous, and never confuse GB with GiB."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage import units
from tonnage.errors import TonnageError, UnitError

amounts = st.floats(min_value=1e-6, max_value=1e9)

PARSERS = (
    units.parse_time_s,
    units.parse_bytes,
    units.parse_tokens,
    units.parse_rate,
    units.parse_token_rate,
    units.parse_fraction,
    units.parse_price_usd_per_hour,
    units.parse_watts,
    units.parse_count,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1.5 s", 1.5), ("200 ms", 0.2), ("8 h", 28800), ("30 min", 1800), ("2 weeks", 1209600)],
)
def test_times(text, seconds):
    assert units.parse_time_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"), [("80 GB", 80e9), ("80 GiB", 80 * 2**30), ("1 TiB", 2**40), ("5 kB", 5000)]
)
def test_gb_is_not_gib(text, size):
    assert units.parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "per_s"),
    [
        ("31/s", 31),
        ("7 requests/s", 7),
        ("2 M requests/day", 2e6 / 86400),
        ("120 requests per minute", 2),
        (3.5, 3.5),
    ],
)
def test_rates(text, per_s):
    assert units.parse_rate(text) == pytest.approx(per_s)


@pytest.mark.parametrize(
    ("text", "value"),
    [("2.5 M", 2.5e6), ("20,000", 20000), ("679 k", 679e3), (12, 12), ("1_000", 1000)],
)
def test_counts(text, value):
    assert units.parse_count(text) == value


@pytest.mark.parametrize(
    ("text", "usd_per_hour"),
    [("3.40 usd/h", 3.4), ("$3.40/h", 3.4), ("730 usd/month", 1.0), ("24 USD per day", 1.0)],
)
def test_prices(text, usd_per_hour):
    assert units.parse_price_usd_per_hour(text) == pytest.approx(usd_per_hour)


def test_words_become_tokens_by_the_stated_ratio():
    assert units.parse_tokens("600 words") == pytest.approx(800)
    assert units.parse_tokens("600 words", words_per_token=0.5) == pytest.approx(1200)
    assert units.parse_tokens("128 k tokens") == units.parse_tokens(128000) == 128000


def test_a_length_keeps_what_it_counts():
    assert units.parse_length("600 words") == (600, "words")
    assert units.parse_length("2 k") == (2000, "tokens")


@given(amounts)
def test_a_time_is_the_same_in_every_unit(value):
    seconds = units.parse_time_s(f"{value!r} s")
    assert units.parse_time_s(f"{value * 1000!r} ms") == pytest.approx(seconds)
    assert units.parse_time_s(f"{value / 3600!r} h") == pytest.approx(seconds)


@given(amounts)
def test_a_binary_prefix_is_1024_of_the_next_smaller(value):
    assert units.parse_bytes(f"{value!r} GiB") == pytest.approx(
        units.parse_bytes(f"{value * 1024!r} MiB")
    )


@given(amounts)
def test_per_cent_is_a_hundredth(value):
    assert units.parse_fraction(f"{value!r} %") == pytest.approx(units.parse_fraction(value) / 100)


@given(st.floats(min_value=1e-7, max_value=3e6))
def test_a_formatted_time_is_read_back_within_its_digits(seconds):
    assert units.parse_time_s(units.format_time(seconds)) == pytest.approx(seconds, rel=5e-3)


@given(st.floats(min_value=1, max_value=1e17), st.booleans())
def test_a_formatted_size_is_read_back_within_its_digits(size, binary):
    text = units.format_bytes(size, binary=binary)
    assert units.parse_bytes(text) == pytest.approx(size, rel=5e-3, abs=0.51)


@given(st.integers(min_value=0, max_value=10**14))
def test_a_formatted_count_is_read_back_exactly(count):
    assert units.parse_count(units.format_number(count)) == count


@pytest.mark.parametrize("parse", [units.parse_time_s, units.parse_bytes])
@pytest.mark.parametrize("text", [120, "120", 1.5])
def test_what_needs_a_unit_is_refused_without_one(parse, text):
    with pytest.raises(UnitError, match="has no unit"):
        parse(text)


@pytest.mark.parametrize("number", [64, "64", 6.7, "6.7"])
def test_a_bare_rate_is_per_second_and_a_bare_price_per_hour(number):
    assert units.parse_rate(number) == pytest.approx(float(number))
    assert units.parse_price_usd_per_hour(number) == pytest.approx(float(number))


@pytest.mark.parametrize("text", ["1,5 s", "3,25 h"])
def test_a_decimal_comma_is_ambiguous(text):
    with pytest.raises(UnitError, match="decimal point"):
        units.parse_time_s(text)


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "value",
    [True, False, math.nan, math.inf, -math.inf, 10**400, "1e999 s", "", "s", "many", "1e300"],
)
def test_what_is_no_number_is_refused(parse, value):
    with pytest.raises(UnitError):
        parse(value)


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.one_of(st.text(max_size=30), st.floats(), st.integers(), st.booleans()))
def test_a_parser_reads_a_finite_number_or_says_what_it_wants(parse, text):
    with contextlib.suppress(TonnageError):
        assert math.isfinite(parse(text))


def test_unknown_is_a_dash_and_zero_is_zero():
    assert units.format_time(None) == units.format_bytes(None) == units.format_number(None) == "–"
    assert units.format_number(0) == "0"
    assert units.format_fraction(0) == "0 %"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0214, "21.4 ms"), (1.5, "1.5 s"), (7200, "2 h"), (0.9999, "1 s")]
)
def test_times_are_shown_in_the_unit_people_use(seconds, text):
    assert units.format_time(seconds) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1, "requests/s", "1 request/s"),
        (1.0000001, "requests/s", "1 request/s"),  # printed as 1
        (0.5, "requests/s", "0.5 requests/s"),
        (0, "tokens", "0 tokens"),
        (1, "GPUs", "1 GPU"),
        (1, "tokens/s", "1 token/s"),
        (1, "s", "1 s"),
        (1, "usd/h", "1 usd/h"),
        (None, "requests/s", "– requests/s"),
    ],
)
def test_one_is_not_many(value, unit, text):
    assert units.format_amount(value, unit) == text
