import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnviz.drawing.scale import Scale, parse_scale
from attnviz.errors import UsageError
from attnviz.explanation.selection import choose_heads, choose_layers, parse_heads, parse_layers
from attnviz.geometry import queries
from attnviz.geometry.queries import Query

LISTS = [
    "",
    ",",
    ",3",
    "3,,5",
    "a",
    "0,a",
    "5-3",
    "1-",
    "--1",
    "1.5",
    "0x1",
    "0;1",
    "0-20000",
    "ALL",
]


@st.composite
def spans(draw: st.DrawFn) -> tuple[int, int]:
    first = draw(st.integers(0, 50))
    return first, first + draw(st.integers(0, 10))


def written(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


# Heads and layers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", None),
        (" all ", None),
        ("8", 8),
        ("08", 8),
        ("0,", (0,)),
        ("3,", (3,)),
        ("0,3,5-7", (0, 3, 5, 6, 7)),
        ("7,3,7", (7, 3)),
        ("5-7,6-8", (5, 6, 7, 8)),
        (" 0 , 2-3 ", (0, 2, 3)),
        ("4-4", (4,)),
    ],
)
def test_heads_are_all_or_a_count_or_a_list(
    text: str, expected: int | tuple[int, ...] | None
) -> None:
    assert parse_heads(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", None),
        ("-1", (-1,)),
        ("0", (0,)),
        ("8", (8,)),
        ("0,5-7,-1", (0, 5, 6, 7, -1)),
        ("-2,-1", (-2, -1)),
    ],
)
def test_layers_are_all_or_a_list(text: str, expected: tuple[int, ...] | None) -> None:
    assert parse_layers(text) == expected


@pytest.mark.parametrize("text", [*LISTS, "9" * 5000, "9" * 5000 + ","])
def test_heads_that_cannot_be_read_are_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--heads"):
        parse_heads(text)


@pytest.mark.parametrize("text", [*LISTS, "9" * 5000])
def test_layers_that_cannot_be_read_are_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--layers"):
        parse_layers(text)


@pytest.mark.parametrize("text", ["0", "00"])
def test_no_heads_at_all_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="leaves nothing to show"):
        parse_heads(text)


@given(st.lists(spans(), min_size=2, max_size=6))
def test_a_list_is_the_union_of_its_ranges_in_order_of_appearance(
    ranges: list[tuple[int, int]],
) -> None:
    parsed = parse_heads(",".join(written(*span) for span in ranges))
    appearing = [number for first, last in ranges for number in range(first, last + 1)]
    assert isinstance(parsed, tuple)
    assert set(parsed) == set(appearing)
    assert list(parsed) == sorted(set(appearing), key=appearing.index)


@given(st.integers(1, 64), st.data())
def test_chosen_numbers_are_there_and_differ(available: int, data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.integers(-available, available - 1), min_size=1))
    chosen = choose_layers(tuple(wanted), available)
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) == {number % available for number in wanted}


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [(None, (0, 1, 2, 3)), (2, (0, 1)), (4, (0, 1, 2, 3)), ((3, 0), (3, 0)), ((1, 1), (1,))],
)
def test_heads_are_chosen_out_of_those_there_are(
    chosen: int | tuple[int, ...] | None, expected: tuple[int, ...]
) -> None:
    assert choose_heads(chosen, 4) == expected


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [(None, (0, 1, 2)), ((-1,), (2,)), ((-3, 2), (0, 2)), ((2, -1), (2,))],
)
def test_negative_layers_count_from_the_end(
    chosen: tuple[int, ...] | None, expected: tuple[int, ...]
) -> None:
    assert choose_layers(chosen, 3) == expected


@pytest.mark.parametrize("chosen", [5, (4,), (0, 9), (-1,), 10**18])
def test_more_heads_than_there_are_is_wrong_usage(chosen: int | tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"^--heads.* 4 heads"):
        choose_heads(chosen, 4)


@pytest.mark.parametrize("chosen", [(3,), (-4,), (0, 7)])
def test_a_layer_that_is_not_there_is_wrong_usage(chosen: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"^--layers.* 3 layers, numbered 0 to 2.* number "):
        choose_layers(chosen, 3)


def test_one_layer_is_not_called_layers() -> None:
    with pytest.raises(UsageError, match="has 1 layer,"):
        choose_layers((3,), 1)


# Scales


@pytest.mark.parametrize("text", ["head", "layer", "all", "log"])
def test_a_scale_is_a_word(text: str) -> None:
    assert parse_scale(text).kind == text


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [("0:0.05", 0, 0.05), ("-1:1", -1, 1), ("1e-4:1e-2", 1e-4, 1e-2), (" 0 : 1 ", 0, 1)],
)
def test_a_scale_is_a_range(text: str, low: float, high: float) -> None:
    assert parse_scale(text) == Scale("fixed", low, high)


@pytest.mark.parametrize(
    "text",
    ["", ":", "0", "0:", ":1", "1:0", "0:0", "0:1:2", "a:b", "nan:1", "0:nan", "0:inf", "fixed"],
)
def test_a_scale_that_is_none_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--scale '.*LO:HI"):
        parse_scale(text)


# Queries


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", Query("auto")),
        ("cls", Query("cls")),
        ("mean", Query("mean")),
        ("120,80", Query("point", (120, 80))),
        (" 1.5 , 2. ", Query("point", (1.5, 2))),
        ("-3,5", Query("point", (-3, 5))),
        ("1,2,3,4", Query("box", (1, 2, 3, 4))),
        ("0,0,0.5,0.5", Query("box", (0, 0, 0.5, 0.5))),
        ("mask.png", Query("mask", path="mask.png")),
        ("/data/cls", Query("mask", path="/data/cls")),
        ("./1,2", Query("mask", path="./1,2")),
        ("my, mask.png", Query("mask", path="my, mask.png")),
    ],
)
def test_a_query_is_a_word_or_a_place_or_a_mask(text: str, expected: Query) -> None:
    assert queries.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "middle", "CLS", "5", "1,", ",1", "1,2,", "1;2", "a,b", "1e3,5"]
)
def test_a_query_that_cannot_be_read_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--query .*cannot be read; give auto, cls"):
        queries.parse(text)


@pytest.mark.parametrize(("text", "count"), [("1,2,3", 3), ("1,2,3,4,5", 5)])
def test_a_wrong_count_of_numbers_is_wrong_usage(text: str, count: int) -> None:
    with pytest.raises(UsageError, match=f"has {count} numbers"):
        queries.parse(text)


@pytest.mark.parametrize("text", ["5,5,5,9", "5,5,9,5", "9,5,5,9", "5,9,9,5", "0,0,0,0"])
def test_an_empty_box_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="is an empty box"):
        queries.parse(text)


@pytest.mark.parametrize("text", ["auto", "cls", "mean", "120,80", "1.5,2", "1,2,3,4", "mask.png"])
def test_a_query_reads_as_it_was_typed(text: str) -> None:
    assert str(queries.parse(text)) == text


@pytest.mark.parametrize(("there", "kind"), [(True, "cls"), (False, "mean")])
def test_auto_is_the_class_token_where_there_is_one(there: bool, kind: str) -> None:
    assert queries.resolve(Query("auto"), has_class_token=there).kind == kind


def test_the_class_token_of_a_model_without_one_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="no class token; take --query mean"):
        queries.resolve(Query("cls"), has_class_token=False)
