"""Pictures are read tile by tile as they are read whole; slides are read by OpenSlide."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from attnviz.errors import ImageError, MissingExtraError
from attnviz.io.parts import Part
from attnviz.io.picture import load_image
from attnviz.io.picture_tiles import open_tiled

BOX = (40, 20, 33, 17)


def colours(width: int = 120, height: int = 90) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pyramid(path: Path, pixels: NDArray[np.uint8]) -> None:
    """A tiled TIFF with two smaller levels, as slides are."""
    with tifffile.TiffWriter(path) as file:
        for step in (1, 2, 4):
            file.write(
                pixels[::step, ::step],
                tile=(32, 32),
                compression="zlib",
                photometric="rgb",
                subfiletype=int(step > 1),
                metadata=None,
            )


def save(kind: str, path: Path, pixels: NDArray[np.uint8]) -> Path:
    path = path / f"picture.{kind}"
    if kind == "png":
        Image.fromarray(pixels).save(path)
    elif kind == "npy":
        np.save(path, pixels)
    else:
        pyramid(path, pixels)
    return path


@pytest.mark.parametrize("kind", ["png", "npy", "tif", "svs"])
def test_a_tile_has_the_pixels_of_the_whole(kind: str, tmp_path: Path) -> None:
    pixels = colours()
    path = save(kind, tmp_path, pixels)
    with open_tiled(path, "full", Part(), 32, 0.25) as picture:
        assert (picture.header.width, picture.header.height) == (120, 90)
        x, y, w, h = BOX
        np.testing.assert_array_equal(picture.read(BOX).pixels, pixels[y : y + h, x : x + w])
        np.testing.assert_array_equal(picture.reduced().pixels, pixels)
    with open_tiled(path, "full", Part(region=(10, 5, 100, 80)), 32, 0.25) as picture:
        assert (picture.header.width, picture.header.height) == (100, 80)
        inside = picture.read(BOX).pixels
        np.testing.assert_array_equal(inside, pixels[y + 5 : y + 5 + h, x + 10 : x + 10 + w])
        assert picture.header.part.region == (10, 5, 100, 80)


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_a_reduced_picture_has_the_means_of_blocks(kind: str, tmp_path: Path) -> None:
    pixels = colours(120, 88)
    with open_tiled(save(kind, tmp_path, pixels), "full", Part(), 32, 0.25) as picture:
        reduced = picture.reduced(30).pixels
    means = pixels.reshape(22, 4, 30, 4, 3).mean((1, 3))
    assert reduced.shape == (22, 30, 3)
    assert np.abs(reduced - means).max() <= 1


def test_a_reduced_slide_comes_from_its_level_of_that_size(tmp_path: Path) -> None:
    pixels = colours(128, 96)
    with open_tiled(save("svs", tmp_path, pixels), "full", Part(), 32, 0.25) as picture:
        np.testing.assert_array_equal(picture.reduced(32).pixels, pixels[::4, ::4])


def test_all_tiles_are_drawn_by_one_range(tmp_path: Path) -> None:
    values = np.linspace(-3, 900, 96 * 96, dtype=np.float32).reshape(96, 96)
    tifffile.imwrite(tmp_path / "a.tif", values, tile=(32, 32))
    with (
        open_tiled(tmp_path / "a.tif", "full", Part(), 32, 0.25) as picture,
        pytest.raises(ImageError, match="add --range LO:HI"),
    ):
        picture.read((0, 60, 32, 32))
    with open_tiled(tmp_path / "a.tif", "-3:900", Part(), 32, 0.25) as picture:
        whole = load_image(tmp_path / "a.tif", "-3:900").pixels
        np.testing.assert_array_equal(picture.read((0, 60, 32, 32)).pixels, whole[60:92, :32])


def test_bands_of_a_tile_are_kept(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(0, 256, (64, 80, 6), dtype=np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif", bands, photometric="minisblack", planarconfig="contig", tile=(32, 32)
    )
    with open_tiled(tmp_path / "a.tif", "full", Part(channels=(3, 2, 1)), 32, 0.25) as picture:
        tile = picture.read((8, 16, 32, 32))
    np.testing.assert_array_equal(tile.pixels, bands[16:48, 8:40, [3, 2, 1]])
    assert tile.bands is not None
    np.testing.assert_array_equal(tile.bands, bands[16:48, 8:40])


def test_a_slide_is_read_whole_and_by_region(tmp_path: Path) -> None:
    pixels = colours()
    path = save("svs", tmp_path, pixels)
    np.testing.assert_array_equal(load_image(path).pixels, pixels)
    part = load_image(path, region="40,20,33,17").pixels
    np.testing.assert_array_equal(part, pixels[20:37, 40:73])
    red = load_image(path, channels="0", region="40,20,33,17").pixels
    np.testing.assert_array_equal(red[..., 1], pixels[20:37, 40:73, 0])
    with pytest.raises(ImageError, match="type --region 40,20,80,70"):
        load_image(path, region="40,20,100,100")
    with pytest.raises(ImageError, match="leave out --slice"):
        load_image(path, slice=1)


def test_a_slide_too_large_to_read_whole_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save("svs", tmp_path, colours())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    monkeypatch.setattr("attnviz.io.size_limit.available", lambda: 1000)
    with pytest.raises(ImageError, match=r"megapixels would .* --tile 224 .* --region 0,0,120,90"):
        load_image(path)


def test_a_damaged_slide_is_an_error_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.mrxs"
    path.write_bytes(b"no slide at all")
    with pytest.raises(ImageError, match="not a slide"):
        load_image(path)


def test_without_openslide_its_own_formats_name_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    (tmp_path / "a.mrxs").write_bytes(b"x")
    with pytest.raises(MissingExtraError, match=r"pip install 'attnviz\[slide\]'"):
        load_image(tmp_path / "a.mrxs")
    pixels = colours()
    path = save("svs", tmp_path, pixels)  # a TIFF of a vendor is a TIFF
    part = load_image(path, region="40,20,33,17").pixels
    np.testing.assert_array_equal(part, pixels[20:37, 40:73])


def test_a_sample_tells_of_dark_and_of_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = np.linspace(1000, 4000, 96 * 96).reshape(96, 96).astype(np.uint16)
    tifffile.imwrite(path, values, tile=(32, 32))
    with open_tiled(path, "full", Part(), 32, 0.25) as picture:
        assert [str(note) for note in picture.notes] == [
            "in a sample, values 1000 … 4000 use 5 % of 0 … 65535; add --range 1000:4000"
        ]
    with open_tiled(path, "1000:4000", Part(), 32, 0.25) as picture:
        assert picture.notes == ()
    numbers = np.linspace(0, 1, 96 * 96, dtype=np.float32).reshape(96, 96)
    numbers[48:] = np.nan
    tifffile.imwrite(path, numbers, tile=(32, 32))
    with open_tiled(path, "0:1", Part(), 32, 0.25) as picture:
        (note,) = picture.notes
    assert str(note) == "in a sample, 50 % of the values are no numbers: they are drawn black"
