"""Values of any type as 8 bits, and what is said of them; the oracle is NumPy's arithmetic."""

from pathlib import Path
from typing import Any

import measured
import numpy as np
import pytest
from numpy.typing import NDArray

from attnviz import load_image
from attnviz.io.picture import Picture
from attnviz.io.values import to_8_bit

SHAPE = (40, 50)
SPANS: dict[str, tuple[float, float]] = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
}


def values_of(kind: str, *, colours: bool) -> NDArray[Any]:
    """Values of a type, from end to end of what pictures of it hold."""
    rng = np.random.default_rng(1)
    shape = (*SHAPE, 3) if colours else SHAPE
    if kind.startswith("float"):
        return rng.normal(0, 1, shape).astype(kind)
    if kind in SPANS:
        low, high = SPANS[kind]
    else:
        low, high = (-70_000, 4_000_000) if kind[0] == "i" else (3, 4_000_000)
    return rng.integers(int(low), int(high) + 1, shape).astype(kind)


def kinds(picture: Picture) -> list[str]:
    return [note.kind for note in picture.notes]


def grey(path: Path, values: NDArray[Any], **options: Any) -> Picture:
    return load_image(measured.tiff(path / "a.tif", values, **options))


TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float16", "float32", "float64"]  # fmt: skip # noqa: E501


@pytest.mark.parametrize("colours", [False, True], ids=["grey", "colours"])
@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_drawn_by_every_range(tmp_path: Path, kind: str, colours: bool) -> None:
    values = values_of(kind, colours=colours)
    path = measured.tiff(tmp_path / "a.tif", values)
    finite = values.astype(np.float64)
    spread = float(finite.min()), float(finite.max())
    middle = spread[0] + 0.3 * (spread[1] - spread[0])
    low, high = float(f"{spread[0] / 2:.6g}"), float(f"{middle:.6g}")
    if low > high:
        low, high = high, low
    full = SPANS.get(kind, spread)
    ranges: dict[str, tuple[float, float]] = {
        "full": full,
        "percentile": tuple(np.percentile(finite, (0.5, 99.5))),
        f"{low!r}:{high!r}": (low, high),
    }
    for asked, (black, white) in ranges.items():
        picture = load_image(path, range=asked)
        expected = measured.as_8_bit(values, black, white)
        seen = picture.pixels if colours else picture.pixels[..., 0]
        assert np.array_equal(seen, expected), asked
        assert picture.pixels.shape == (*SHAPE, 3)
        if kind == "uint8" and asked == "full":
            assert picture.range is None
        else:
            assert picture.range == pytest.approx((black, white))


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_16_bit_tiffs_of_any_layout_are_the_same(
    tmp_path: Path, planes: str, order: str, compression: str | None
) -> None:
    values = values_of("uint16", colours=True)
    stored = values if planes == "contig" else np.moveaxis(values, -1, 0)
    path = measured.tiff(
        tmp_path / "a.tif",
        np.ascontiguousarray(stored),
        photometric="rgb",
        planarconfig=planes,
        byteorder=order,
        compression=compression,
    )
    assert np.array_equal(load_image(path).pixels, measured.as_8_bit(values, 0, 65535))


@pytest.mark.parametrize(
    ("values", "span"),
    [
        ([0.0, 0.5, 1.0], (0, 1)),
        ([0.0, 0.001], (0, 1)),
        ([0.0, 51.0], (0, 255)),
        ([0.0, 255.0], (0, 255)),
        ([0.0, 50.0], (0, 50)),  # under a fifth of 255: hardly a picture of 8 bits
        ([0.0, 13107.0], (0, 65535)),
        ([0.0, 13106.0], (0, 13106)),
        ([3.0, 70000.0], (3, 70000)),
        ([-0.01, 0.5], (-0.01, 0.5)),
        ([-1.5, 2.5], (-1.5, 2.5)),
        ([-1e30, 3e30], (-1e30, 3e30)),
    ],
)
def test_floats_have_the_span_that_they_look_like(
    tmp_path: Path, values: list[float], span: tuple[float, float]
) -> None:
    samples = np.array([values], dtype=np.float32)
    picture = grey(tmp_path, samples)
    assert picture.range == pytest.approx(span, rel=1e-6)
    assert picture.pixels[0, :, 0].tolist() == measured.as_8_bit(samples[0], *span).tolist()
    guessed = span in ((0, 1), (0, 255), (0, 65535))
    assert ("own" in kinds(picture)) == (not guessed)


@pytest.mark.parametrize(
    ("kind", "values", "span"),
    [
        ("int32", [0, 4095], (0, 4095)),
        ("int32", [0, 60000], (0, 65535)),
        ("uint32", [0, 200], (0, 255)),
        ("uint32", [7, 4_000_000_000], (7, 4_000_000_000)),
        ("int32", [-5, 200_000], (-5, 200_000)),
    ],
)
def test_32_bit_integers_have_the_span_that_they_look_like(
    tmp_path: Path, kind: str, values: list[int], span: tuple[float, float]
) -> None:
    samples = np.array([values], dtype=kind)
    picture = grey(tmp_path, samples)
    assert picture.range == span
    assert picture.pixels[0, :, 0].tolist() == measured.as_8_bit(samples[0], *span).tolist()


def test_what_is_no_number_is_black_and_told(tmp_path: Path) -> None:
    values = np.array([[np.nan, -np.inf, np.inf, -2.0, 0.0, 2.0]], dtype=np.float32)
    picture = grey(tmp_path, values)
    assert picture.range == (-2, 2)  # of the finite ones
    assert picture.pixels[0, :, 0].tolist() == [0, 0, 255, 0, 128, 255]
    assert kinds(picture) == ["missing", "own"]
    assert str(picture.notes[0]).startswith("17 % of the values are no numbers")


def test_percentiles_leave_out_what_is_no_number(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32)
    finite = values.copy().reshape(-1)[300:]
    values.reshape(-1)[:300] = np.nan
    path = measured.tiff(tmp_path / "a.tif", values)
    assert load_image(path, "percentile").range == pytest.approx(
        tuple(np.percentile(finite.astype(np.float64), (0.5, 99.5)))
    )


@pytest.mark.parametrize("asked", ["full", "percentile"])
def test_a_picture_of_nothing_but_nan_is_black(tmp_path: Path, asked: str) -> None:
    path = measured.tiff(tmp_path / "a.tif", np.full((2, 2), np.nan, dtype=np.float32))
    picture = load_image(path, asked)
    assert not picture.pixels.any()
    assert picture.range == (0, 1)
    assert kinds(picture) == ["missing"]


@pytest.mark.parametrize(
    ("asked", "kind", "value"), [("full", "float32", -7.5), ("percentile", "uint16", 4095)]
)
def test_a_picture_of_one_value_is_grey(
    tmp_path: Path, asked: str, kind: str, value: float
) -> None:
    values = np.full((30, 40), value, dtype=kind)
    picture = load_image(measured.tiff(tmp_path / "a.tif", values), asked)
    assert (picture.pixels == 128).all()
    assert picture.range is not None
    assert picture.range[0] < value < picture.range[1]


def test_a_percentile_that_sees_nothing_gives_way_to_all_values(tmp_path: Path) -> None:
    values = np.zeros((100, 100), dtype=np.uint16)
    values[3, 4] = 1000
    picture = load_image(measured.tiff(tmp_path / "a.tif", values), "percentile")
    assert picture.range == (0, 1000)
    assert picture.pixels[3, 4].tolist() == [255] * 3


# The note of values that use little of the range


@pytest.mark.parametrize(("largest", "told"), [(13106, True), (13107, False)])
def test_values_under_a_fifth_of_the_range_are_told(
    tmp_path: Path, largest: int, told: bool
) -> None:
    values = np.linspace(0, largest, 3000).astype(np.uint16).reshape(50, 60)
    assert (kinds(grey(tmp_path, values)) == ["narrow"]) == told


def test_the_note_has_the_line_to_type(tmp_path: Path) -> None:
    values = np.linspace(0, 4095, 2000).astype(np.uint16).reshape(SHAPE)
    (note,) = grey(tmp_path, values).notes
    assert str(note) == (
        "values 0 … 4095 use 6 % of 0 … 65535; add --range 0:4095 or --range percentile"
    )
    typed = str(note).split("--range ")[1].split()[0]
    again = load_image(tmp_path / "a.tif", typed)
    assert again.notes == ()
    assert (again.pixels.min(), again.pixels.max()) == (0, 255)


def test_hounsfield_units_are_told_with_their_sign(tmp_path: Path) -> None:
    values = np.linspace(-1000, 1500, 2000).astype(np.int16).reshape(SHAPE)
    assert "add --range -1000:1500 or" in str(grey(tmp_path, values).notes[0])


def test_one_hot_pixel_does_not_hide_that_the_others_are_dark(tmp_path: Path) -> None:
    values = np.linspace(0, 3060, 2000).astype(np.uint16).reshape(SHAPE)
    values[0, 0] = 65535
    (note,) = grey(tmp_path, values).notes
    assert note.kind == "narrow"
    assert str(note).startswith("99 % of the values, 15 … 3047 use 5 % of")


@pytest.mark.parametrize(
    ("asked", "told"), [("0:1000", True), ("0:10", False), ("5000:6000", True), ("0:499", False)]
)
def test_a_range_that_was_typed_is_told_too(tmp_path: Path, asked: str, told: bool) -> None:
    values = np.linspace(0, 100, 2000).astype(np.uint16).reshape(SHAPE)
    path = measured.tiff(tmp_path / "a.tif", values)
    assert (kinds(load_image(path, asked)) == ["narrow"]) == told


def test_a_dark_picture_of_8_bits_is_an_ordinary_picture(tmp_path: Path) -> None:
    picture = grey(tmp_path, np.arange(40, dtype=np.uint8).reshape(5, 8))
    assert (picture.range, picture.notes) == (None, ())
    assert picture.pixels[..., 0].tolist() == np.arange(40).reshape(5, 8).tolist()


# How it is done


def test_long_pictures_are_scaled_in_parts_that_fit_together() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (3000, 700, 1)).astype(np.uint16)
    assert np.array_equal(to_8_bit(values, (100, 60000)), measured.as_8_bit(values, 100, 60000))


def test_a_range_far_from_the_values_is_no_warning() -> None:
    values = np.array([[-3e38, 0, 3e38]], dtype=np.float32)
    assert to_8_bit(values, (0.0, 5e-324)).tolist() == [[0, 0, 255]]
