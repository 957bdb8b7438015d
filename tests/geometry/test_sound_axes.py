"""Seconds and hertz of a spectrogram's picture."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnviz.errors import UsageError
from attnviz.geometry import queries
from attnviz.geometry.sound_axes import SoundAxes, ticks

AXES = SoundAxes(2.0, 0.0125, 0.01, tuple(50 * 1.1**n for n in range(40)))


@given(st.floats(0, 200), st.floats(0, 40))
def test_places_have_seconds_and_hertz_and_these_have_places(x: float, y: float) -> None:
    assert AXES.x(AXES.time(x)) == pytest.approx(x, abs=1e-5)
    assert AXES.y(AXES.frequency(y)) == pytest.approx(y, abs=1e-9)


def test_middles_of_frames_and_rows() -> None:
    assert AXES.time(0.5) == 0.0125
    assert AXES.time(100.5) == pytest.approx(1.0125)
    assert AXES.frequency(39.5) == 50  # the lowest row is at the bottom
    assert AXES.frequency(0.5) == pytest.approx(50 * 1.1**39)
    assert AXES.frequency(40) == pytest.approx(47.5)  # half a row below


def test_queries_in_seconds_and_hertz() -> None:
    point = queries.located(queries.parse("0.5125s,50Hz"), AXES, 198, "a.wav")
    assert point.numbers == pytest.approx((50.5, 39.5))
    assert str(point) == "0.5125s,50Hz"
    box = queries.located(queries.parse("0.0125s, 50Hz, 1.0125s, 55Hz"), AXES, 198, "a.wav")
    assert box.numbers == pytest.approx((0.5, 38.5, 100.5, 39.5))
    lowest = queries.located(queries.parse("0s,0Hz"), AXES, 198, "a.wav")
    assert lowest.numbers == pytest.approx((0, 40), abs=1e-5)
    assert lowest.numbers[1] < 40
    pixels = queries.parse("3,4")
    assert queries.located(pixels, AXES, 198, "a.wav") == pixels
    with pytest.raises(UsageError, match=r"a place in a sound, and cat\.jpg a picture; give X,Y"):
        queries.located(queries.parse("1s,2Hz"), None, 198, "cat.jpg")


@pytest.mark.parametrize("text", ["1s,2", "1,2Hz", "1Hz,2s", "1s,2Hz,3s"])
def test_half_a_place_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be read; give auto"):
        queries.parse(text)


def test_ticks_are_round_numbers() -> None:
    assert ticks(0, 10.2, 6) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.0, 0.99, 5) == [0, 0.2, 0.4, 0.6, 0.8]
