import pytest

from attnviz.errors import UsageError
from attnviz.io.ranges import ValueRange, number, parse_range


@pytest.mark.parametrize("name", ["full", "percentile"])
def test_names_are_read(name: str) -> None:
    assert parse_range(name).kind == name


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("0:4095", 0, 4095),
        ("-1000:400", -1000, 400),
        ("-3:-1", -3, -1),
        ("0.25:1e3", 0.25, 1000),
        (" 1 : 2 ", 1, 2),
    ],
)
def test_two_numbers_are_a_range(text: str, low: float, high: float) -> None:
    assert parse_range(text) == ValueRange("fixed", low, high)


@pytest.mark.parametrize(
    "text",
    ["", "all", "Full", "5", "a:b", ":", "1:", ":1", "1:2:3", "nan:1", "0:inf", "-1e308:1e308"],
)
def test_anything_else_says_what_there_is(text: str) -> None:
    with pytest.raises(UsageError, match="choose full, percentile or two numbers") as caught:
        parse_range(text)
    assert "--range 0:4095" in str(caught.value)


def test_numbers_in_the_wrong_order_are_turned_for_the_reader() -> None:
    with pytest.raises(UsageError, match=r"^--range 10:2: .*type --range 2:10$"):
        parse_range("10:2")


def test_one_value_is_no_range() -> None:
    with pytest.raises(UsageError, match=r"^--range 5:5: .*such as --range 5:6$"):
        parse_range("5:5")


@pytest.mark.parametrize(
    ("value", "text"),
    [(65535.0, "65535"), (-1024.0, "-1024"), (4294967295.0, "4294967295"), (0.1, "0.1"),
     (-0.0, "0"), (1.23456789, "1.23457"), (1e300, "1e+300")],
)  # fmt: skip
def test_numbers_are_written_as_they_are_typed(value: float, text: str) -> None:
    assert number(value) == text
