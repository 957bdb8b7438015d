"""Mask pictures, and the tokens that are objects'."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from attnviz.errors import ImageError
from attnviz.evaluation.objects import Objects, load_objects, on_tokens
from attnviz.geometry.placement import place

RED, GREEN, VOID = (200, 0, 0), (0, 160, 0), (224, 224, 192)


def drawn(path: Path, *shapes: tuple[tuple[int, int, int, int], object], mode: str = "RGB") -> Path:
    """A black picture of 64×48 with filled boxes (left, top, right, bottom, inclusive)."""
    image = Image.new(mode, (64, 48))
    for box, colour in shapes:
        ImageDraw.Draw(image).rectangle(box, fill=colour)  # type: ignore[arg-type]
    image.save(path)
    return path


def read(path: Path) -> Objects:
    return load_objects(str(path), width=64, height=48)


def test_every_colour_is_an_object(tmp_path: Path) -> None:
    path = drawn(tmp_path / "m.png", ((0, 0, 9, 9), RED), ((20, 10, 39, 29), GREEN))
    found = read(path)
    assert found.count == 2
    sizes = [int((found.labels == number).sum()) for number in (0, 1, 2)]
    assert sizes == [64 * 48 - 500, 400, 100]  # green comes before red: 0x00a000 < 0xc80000


def test_a_palette_is_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (64, 48), 0)
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    ImageDraw.Draw(image).rectangle((0, 0, 9, 9), fill=1)
    ImageDraw.Draw(image).rectangle((20, 0, 29, 9), fill=2)
    image.save(tmp_path / "m.png")
    assert read(tmp_path / "m.png").count == 2


def test_grey_edges_of_a_white_shape_are_no_objects(tmp_path: Path) -> None:
    large = Image.new("L", (640, 480))
    ImageDraw.Draw(large).ellipse((100, 100, 500, 400), fill=255)
    large.resize((64, 48), Image.Resampling.BOX).save(tmp_path / "m.png")
    levels = np.unique(np.asarray(Image.open(tmp_path / "m.png")))
    assert len(levels) > 10
    found = read(tmp_path / "m.png")
    assert found.count == 1
    assert found.labels.sum() == pytest.approx(np.asarray(large).astype(bool).sum() / 100, rel=0.02)


def test_a_grey_mask_may_be_a_jpeg(tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 48))
    ImageDraw.Draw(image).rectangle((16, 8, 40, 30), fill=(255, 255, 255))
    image.save(tmp_path / "m.jpg", quality=60)
    found = read(tmp_path / "m.jpg")
    assert (found.count, int(found.labels.sum())) == (1, 25 * 23)


def test_smooth_edges_between_colours_and_void_borders_are_background(tmp_path: Path) -> None:
    image = Image.new("RGB", (256, 192))
    ImageDraw.Draw(image).rectangle((42, 42, 121, 121), fill=RED)
    ImageDraw.Draw(image).rectangle((122, 42, 201, 121), fill=GREEN)
    image.resize((64, 48), Image.Resampling.BOX).save(tmp_path / "m.png")
    assert len(np.unique(np.asarray(Image.open(tmp_path / "m.png")).reshape(-1, 3), axis=0)) > 3
    assert read(tmp_path / "m.png").count == 2
    path = drawn(tmp_path / "voc.png", ((5, 5, 30, 30), VOID), ((10, 10, 25, 25), RED))
    found = read(path)
    assert (found.count, int((found.labels > 0).sum())) == (1, 256)


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ([], "no object, since no grey is lighter than half"),
        ([((0, 0, 9, 9), (3, 3, 3))], "no object, since no grey"),
        ([((0, 0, 1, 40), RED)], "no object, since no colour but black fills 3x3"),
    ],
)
def test_a_mask_without_an_object_says_so(
    tmp_path: Path, shapes: list[tuple[tuple[int, int, int, int], object]], told: str
) -> None:
    with pytest.raises(ImageError, match=told):
        read(drawn(tmp_path / "m.png", *shapes))


def test_a_photograph_is_no_mask(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "m.png")
    with pytest.raises(ImageError, match=r"m.png: \d+ colours, but each colour is an object"):
        read(tmp_path / "m.png")


def test_a_mask_of_another_size_says_so(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="the mask is 64x48, the picture 32x24"):
        load_objects(str(drawn(tmp_path / "m.png")), width=32, height=24)


def boxed(width: int, height: int, *boxes: tuple[int, int, int, int]) -> Objects:
    labels = np.zeros((height, width), dtype=np.int64)
    for number, (left, top, right, bottom) in enumerate(boxes, start=1):
        labels[top:bottom, left:right] = number
    return Objects("mask.png", labels, len(boxes))


def everything(rows: int, columns: int) -> NDArray[np.bool_]:
    return np.ones((rows, columns), dtype=np.bool_)


def test_a_token_is_an_objects_from_half_its_area_on() -> None:
    placement = place(64, 48, size=round((64 * 48) ** 0.5), patch=16)
    assert (placement.grid.rows, placement.grid.columns) == (3, 4)
    objects = boxed(64, 48, (0, 0, 24, 16), (32, 16, 39, 32))
    found = on_tokens(objects, placement, everything(3, 4)).reshape(2, 3, 4)
    # The first has token 0 and half of token 1; the second less than half of token (1, 2).
    assert np.argwhere(found[0]).tolist() == [[0, 0], [0, 1]]
    assert np.argwhere(found[1]).tolist() == [[1, 2]]


def test_only_the_part_of_a_token_on_the_picture_counts() -> None:
    # 64×40 padded to 64×64: the picture takes rows 12 to 52, so token row 0 shows a quarter of it.
    placement = place(64, 40, size=64, patch=16, fit="pad")
    drawn = placement.coverage(0, 0, 64, 40) > 0
    found = on_tokens(boxed(64, 40, (0, 0, 16, 2)), placement, drawn).reshape(4, 4)
    assert np.argwhere(found).tolist() == [[0, 0]]
    found = on_tokens(boxed(64, 40, (0, 1, 16, 7)), placement, drawn).reshape(4, 4)
    assert np.argwhere(found).tolist() == [[0, 0]]


def test_objects_that_were_cropped_off_are_left_out() -> None:
    placement = place(96, 32, size=32, patch=16, fit="crop")  # sees x from 32 to 64
    objects = boxed(96, 32, (0, 0, 20, 20), (40, 0, 50, 20))
    assert on_tokens(objects, placement, everything(2, 2)).shape == (1, 4)
    with pytest.raises(ImageError, match="the model saw nothing of its objects"):
        on_tokens(boxed(96, 32, (0, 0, 20, 20)), placement, everything(2, 2))


def test_tokens_that_are_not_drawn_are_left_out() -> None:
    placement = place(64, 64, size=64, patch=16)
    drawn = everything(4, 4)
    drawn[0] = False
    found = on_tokens(boxed(64, 64, (0, 0, 32, 32)), placement, drawn)
    assert np.flatnonzero(found[0]).tolist() == [0, 1]  # row 1 is the first that is drawn


@given(
    st.tuples(st.integers(20, 90), st.integers(20, 90)),
    st.sampled_from(["keep", "crop", "pad", "squash"]),
    st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 60), st.integers(1, 60)),
)
def test_tokens_are_those_that_counting_small_squares_gives(
    size: tuple[int, int], fit: str, box: tuple[int, int, int, int]
) -> None:
    """Against the picture sampled 40 times a token side, at the centres of small squares."""
    (width, height), (left, top, across, down) = size, box
    left, top = min(left, width - 1), min(top, height - 1)
    objects = boxed(width, height, (left, top, left + across, top + down))
    placement = place(width, height, size=48, patch=16, fit=fit)  # type: ignore[arg-type]
    grid, fine = placement.grid, 40
    drawn = placement.coverage(0, 0, width, height) > 1e-9
    x, y = (
        (np.arange(count * fine) + 0.5) / fine * grid.patch for count in (grid.columns, grid.rows)
    )
    px = np.array([placement.to_picture(value, 0)[0] for value in x])
    py = np.array([placement.to_picture(0, value)[1] for value in y])
    on = ((py >= 0) & (py < height))[:, None] & ((px >= 0) & (px < width))
    inside = objects.labels[np.ix_(*(np.clip(np.floor(p).astype(int), 0, n - 1)
                                     for p, n in ((py, height), (px, width))))] * on  # fmt: skip
    shape = (grid.rows, fine, grid.columns, fine)
    with np.errstate(invalid="ignore"):
        share = inside.reshape(shape).sum((1, 3)) / on.reshape(shape).sum((1, 3))
    try:
        found = on_tokens(objects, placement, drawn)
    except ImageError:
        assert np.nan_to_num(share).max() < 0.2
        return
    expected = share[drawn]
    assert found[0].any()
    # Of a thin strip too few small squares are seen to count its share.
    seen = on.reshape(shape).sum((1, 3))[drawn]
    sure = (np.abs(expected - 0.5) > 0.06) & (seen >= fine * fine / 4)
    if np.nanmax(expected) > 0.56:
        np.testing.assert_array_equal(found[0][sure], (expected >= 0.5)[sure])
