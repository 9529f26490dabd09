"""A time of day reads as it is written; a mistake in it is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage.errors import InputError
from tonnage.traffic import RateProfile
from tonnage.traffic.profiles import load_profile


def load(folder, text: str) -> RateProfile:
    path = folder / "profile.csv"
    path.write_text(text, encoding="utf-8")
    return load_profile(path)


def test_clock_times_and_seconds_are_pieces_of_one_day(tmp_path):
    by_clock = load(tmp_path, "at,factor\n00:00,0.25\n9:30,2\n\n18:00, 1.0\n")
    by_seconds = load(tmp_path, "at,factor\r\n0,0.25\r\n34200,2\r\n64800.0,1\r\n")
    assert by_clock == by_seconds
    assert by_clock == RateProfile(
        offset_s=(0.0, 34200.0, 64800.0), factor=(0.25, 2.0, 1.0), period_s=86400.0
    )


def test_the_last_piece_goes_on_past_midnight(tmp_path):
    assert load(tmp_path, "at,factor\n08:00,2\n20:00,0.5\n") == RateProfile(
        offset_s=(0.0, 28800.0, 72000.0), factor=(0.5, 2.0, 0.5), period_s=86400.0
    )


def test_a_week_in_seconds_repeats_every_week(tmp_path):
    rows = "".join(f"{day * 86400},{day + 1}\n" for day in range(7))
    assert load(tmp_path, f"at,factor\n{rows}").period_s == 7 * 86400


@given(
    st.dictionaries(st.integers(0, 1439), st.floats(0, 1e6), min_size=1).filter(
        lambda pieces: any(pieces.values())
    )
)
def test_every_profile_of_a_day_reads_back(tmp_path_factory, pieces):
    rows = "".join(
        f"{minute // 60:02}:{minute % 60:02},{pieces[minute]!r}\n" for minute in sorted(pieces)
    )
    profile = load(tmp_path_factory.getbasetemp(), f"at,factor\n{rows}")
    found = dict(zip(profile.offset_s, profile.factor, strict=True))
    assert found.pop(0.0) == pieces.get(0, pieces[max(pieces)])
    assert found == {minute * 60.0: factor for minute, factor in pieces.items() if minute}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", ": has the columns (none)"),
        ("hour,factor\n1,1\n", ": has the columns hour, factor"),
        ("at,factor\n", ": factor has no value above 0"),
        ("at,factor\n00:00,0\n", ": factor has no value above 0"),
        ("at,factor\n00:00\n", ":2: has 1 values"),
        ("at,factor\n00:00,1,2\n", ":2: has 3 values"),
        ("at,factor\n24:00,1\n", ":2: at is '24:00'"),
        ("at,factor\n-1,1\n", ":2: at is '-1'"),
        ("at,factor\nnan,1\n", ":2: at is 'nan'"),
        ("at,factor\n1e300,1\n", ":2: at is '1e300'"),
        ("at,factor\n01:00,1\n00:30,1\n", ":3: at is '00:30', which is not after"),
        ("at,factor\n01:00,1\n3600,1\n", ":3: at is '3600', which is not after"),
        ("at,factor\n00:00,-1\n", ":2: factor is '-1'"),
        ("at,factor\n00:00,much\n", ":2: factor is 'much'"),
        ("at,factor\n00:00,inf\n", ":2: factor is 'inf'"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_a_remedy(tmp_path, text, place):
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    assert f"{tmp_path / 'profile.csv'}{place}" in str(caught.value)
    assert caught.value.hint


@given(
    st.binary(max_size=100) | st.text(max_size=100).map(lambda text: f"at,factor\n{text}".encode())
)
def test_any_other_file_is_read_or_refused_and_never_a_crash(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    try:
        profile = load_profile(path)
    except InputError:
        return
    assert profile.offset_s[0] == 0
    assert max(profile.factor) > 0
