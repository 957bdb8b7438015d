import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from stored_pictures import as_stored, exchanged_profile, srgb_profile

from attnviz.errors import AttnvizError, ImageError, MissingExtraError
from attnviz.io import size_limit
from attnviz.io.decoding import to_rgb
from attnviz.io.picture import Picture, load_image, load_mask

Pixels = NDArray[np.uint8]
WIDTH, HEIGHT = 32, 24
# Eight pictures of quadrants(), written once by libheif with x265: what reads HEIC cannot write it.
HEIC = Path(__file__).parent / "heic"
# Loads the picture that its argument names, in a process of its own.
LOADER = """
import sys, attnviz
try:
    print(attnviz.load_image(sys.argv[1]).pixels.shape)
except attnviz.AttnvizError as error:
    sys.exit(str(error))
"""


def quadrants() -> Pixels:
    """Four plain fields in different colours: what lossy formats keep, and no symmetry has."""
    pixels = np.empty((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[:12, :16], pixels[:12, 16:] = (220, 40, 40), (40, 200, 60)
    pixels[12:, :16], pixels[12:, 16:] = (40, 60, 210), (250, 250, 250)
    return pixels


def corners(pixels: Pixels) -> NDArray[np.int_]:
    """One pixel of each quadrant, far from its border."""
    return pixels[np.ix_([4, 19], [4, 27])].astype(int)


def noise(seed: int = 0) -> Pixels:
    values = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3))
    return values.astype(np.uint8)


def saved(path: Path, image: Image.Image | Pixels, **options: Any) -> Path:
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    try:
        picture.save(path, **options)
    except (KeyError, ValueError, OSError) as error:
        pytest.skip(f"this Pillow cannot write {path.name}: {error}")
    return path


def away(loaded: Picture, expected: Pixels) -> float:
    """The largest difference between what was read and what is meant."""
    assert loaded.pixels.dtype == np.uint8
    assert loaded.pixels.shape == expected.shape
    return float(np.abs(loaded.pixels.astype(int) - expected.astype(int)).max())


# Formats


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("apng", {"format": "PNG"}),
        ("bmp", {}),
        ("dib", {}),
        ("tif", {}),
        ("tiff", {"compression": "tiff_lzw"}),
        ("tif", {"compression": "tiff_adobe_deflate"}),
        ("ppm", {}),
        ("tga", {}),
        ("pcx", {}),
        ("sgi", {}),
        ("ico", {"sizes": [(WIDTH, HEIGHT)]}),
        ("webp", {"lossless": True}),
        ("jp2", {}),
        ("dds", {}),
        ("qoi", {}),
    ],
)
def test_lossless_formats_come_back_exactly(
    tmp_path: Path, suffix: str, options: dict[str, Any]
) -> None:
    path = saved(tmp_path / f"noise.{suffix}", noise(), **options)
    assert away(load_image(path), noise()) == 0


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("jpg", {"quality": 95, "subsampling": 0}),
        ("jpg", {"quality": 95, "progressive": True, "subsampling": 0}),
        ("mpo", {"quality": 95, "subsampling": 0}),
        ("webp", {"quality": 95}),
        ("avif", {"quality": 95}),
    ],
)
def test_lossy_formats_keep_plain_fields(
    tmp_path: Path, suffix: str, options: dict[str, Any]
) -> None:
    loaded = load_image(saved(tmp_path / f"fields.{suffix}", quadrants(), **options))
    assert (loaded.width, loaded.height) == (WIDTH, HEIGHT)
    assert corners(loaded.pixels) == pytest.approx(corners(quadrants()), abs=8)


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_of_several_frames_the_first_is_taken(tmp_path: Path, suffix: str) -> None:
    first, second = quadrants(), np.full((HEIGHT, WIDTH, 3), 9, dtype=np.uint8)
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(
        tmp_path / f"two.{suffix}",
        Image.fromarray(first),
        save_all=True,
        append_images=[Image.fromarray(second)],
        **options,
    )
    assert away(load_image(path), first) == 0


def test_the_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    path = saved(tmp_path / "really-a-png.jpg", noise(), format="PNG")
    assert away(load_image(path), noise()) == 0


def test_standard_input_is_read_as_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = saved(tmp_path / "noise.png", noise()).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    loaded = load_image("-")
    assert (loaded.path, loaded.name) == ("-", "stdin")
    assert away(loaded, noise()) == 0


def test_empty_standard_input_is_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(ImageError, match=r"^standard input: empty"):
        load_image("-")


def test_standard_input_of_a_process_is_read(tmp_path: Path) -> None:
    data = saved(tmp_path / "noise.png", noise()).read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", LOADER, "-"], input=data, capture_output=True, check=False
    )
    assert done.stdout.decode().strip() == f"({HEIGHT}, {WIDTH}, 3)"


def test_a_pipe_with_a_writer_is_read(tmp_path: Path) -> None:
    """As the shell's `<(…)` gives it."""
    reading, writing = os.pipe()
    os.write(writing, saved(tmp_path / "noise.png", noise()).read_bytes())
    os.close(writing)
    line = [sys.executable, "-c", LOADER, f"/dev/fd/{reading}"]
    done = subprocess.run(line, capture_output=True, pass_fds=[reading], check=False, timeout=60)
    os.close(reading)
    assert done.stdout.decode().strip() == f"({HEIGHT}, {WIDTH}, 3)"


@pytest.mark.parametrize("suffix", ["heic", "heif"])
def test_heic_without_its_extra_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"photo.{suffix}"
    path.write_bytes((HEIC / "orientation1.heic").read_bytes())
    Image.init()  # Pillow lists its readers at first use; that list is what is shortened here
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind != "HEIF"])
    with pytest.raises(MissingExtraError) as caught:
        load_image(path)
    assert str(path) in str(caught.value)
    assert "pip install 'attnviz[heic]'" in str(caught.value)


def test_other_formats_do_without_the_heic_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    assert away(load_image(saved(tmp_path / "noise.png", noise())), noise()) == 0


# Orientation


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_every_orientation_is_turned_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    stored = as_stored(noise(), orientation)
    path = saved(tmp_path / f"a.{suffix}", stored, exif=oriented(orientation), **options)
    assert away(load_image(path), noise()) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "avif"])
def test_every_orientation_of_lossy_formats_is_turned_upright(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    stored = as_stored(quadrants(), orientation)
    path = saved(tmp_path / f"a.{suffix}", stored, exif=oriented(orientation), quality=95)
    loaded = load_image(path)
    assert loaded.pixels.shape == quadrants().shape
    assert corners(loaded.pixels) == pytest.approx(corners(quadrants()), abs=8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_read_and_turned_upright(orientation: int) -> None:
    loaded = load_image(HEIC / f"orientation{orientation}.heic")
    assert loaded.pixels.shape == quadrants().shape
    assert corners(loaded.pixels) == pytest.approx(corners(quadrants()), abs=8)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_changes_nothing(tmp_path: Path, orientation: int) -> None:
    path = saved(tmp_path / "a.png", noise(), exif=oriented(orientation))
    assert away(load_image(path), noise()) == 0


def test_damaged_exif_does_not_lose_the_picture(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", noise(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert away(load_image(path), noise()) == 0


# Modes


def rgb(image: Image.Image) -> Pixels:
    return np.asarray(to_rgb(image))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "CMYK", "RGBA", "LA", "P"])
def test_modes_of_tiff_files_come_out_as_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(quadrants()).convert(mode)
    loaded = load_image(saved(tmp_path / "a.tif", image))
    assert away(loaded, np.asarray(image.convert("RGB"))) == 0


@pytest.mark.parametrize("mode", ["YCbCr", "LAB", "HSV"])
def test_colour_spaces_come_out_as_the_colours_they_stand_for(mode: str) -> None:
    image = Image.fromarray(quadrants()).convert("RGB")
    if mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        changed = ImageCms.profileToProfile(
            image, ImageCms.createProfile("sRGB"), lab, outputMode="LAB"
        )
        assert changed is not None
    else:
        changed = image.convert(mode)
    assert changed.mode == mode
    assert rgb(changed).astype(int) == pytest.approx(quadrants().astype(int), abs=8)


def test_lab_tiff_files_are_read(tmp_path: Path) -> None:
    white = saved(tmp_path / "white.tif", Image.new("LAB", (4, 4), (255, 128, 128)))
    assert away(load_image(white), np.full((4, 4, 3), 255, dtype=np.uint8)) <= 2


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_maps_its_whole_range_to_8_bits(tmp_path: Path, suffix: str) -> None:
    samples = np.array([[0, 128, 257, 32896, 65278, 65535]], dtype=np.uint16)
    loaded = load_image(saved(tmp_path / f"deep.{suffix}", Image.fromarray(samples)))
    assert loaded.pixels[0, :, 0].tolist() == [0, 0, 1, 128, 254, 255]
    assert (loaded.pixels == loaded.pixels[..., :1]).all()


def test_16_bit_grey_that_is_dark_stays_dark(tmp_path: Path) -> None:
    """The range is the sample type's and not the picture's."""
    samples = np.full((4, 4), 2570, dtype=np.uint16)
    loaded = load_image(saved(tmp_path / "dark.png", Image.fromarray(samples)))
    assert loaded.pixels.max() == 10


def test_big_endian_16_bit_is_16_bit(tmp_path: Path) -> None:
    data = b"P5\n3 1\n65535\n" + np.array([0, 32896, 65535], dtype=">u2").tobytes()
    path = tmp_path / "deep.pgm"
    path.write_bytes(data)
    assert load_image(path).pixels[0, :, 0].tolist() == [0, 128, 255]


def test_32_bit_samples_hold_16_bits(tmp_path: Path) -> None:
    samples = np.array([[0, 32896, 65535]], dtype=np.int32)
    loaded = load_image(saved(tmp_path / "i.tif", Image.fromarray(samples)))
    assert loaded.pixels[0, :, 0].tolist() == [0, 128, 255]


def test_larger_32_bit_samples_run_to_their_maximum(tmp_path: Path) -> None:
    samples = np.array([[-5, 0, 100_000, 200_000]], dtype=np.int32)
    loaded = load_image(saved(tmp_path / "i.tif", Image.fromarray(samples)))
    assert loaded.pixels[0, :, 0].tolist() == [0, 0, 128, 255]


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 51.0, 255.0], [0, 51, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
        ([float("nan"), -1.0, 1.0], [0, 0, 255]),
        ([0.0, float("inf"), 1.0], [0, 255, 255]),
    ],
)
def test_float_samples_run_to_1_or_255_or_65535(
    tmp_path: Path, samples: list[float], expected: list[int]
) -> None:
    image = Image.fromarray(np.array([samples], dtype=np.float32))
    assert load_image(saved(tmp_path / "f.tif", image)).pixels[0, :, 0].tolist() == expected


# Transparency


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize(("alpha", "grey"), [(0, 255), (128, 127), (255, 0)])
def test_transparency_is_laid_on_white(tmp_path: Path, mode: str, alpha: int, grey: int) -> None:
    colour = (0, 0, 0, alpha) if mode == "RGBA" else (0, alpha)
    loaded = load_image(saved(tmp_path / "a.png", Image.new(mode, (4, 4), colour)))
    assert away(loaded, np.full((4, 4, 3), grey, dtype=np.uint8)) <= 1


def test_palettes_keep_their_colours_without_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(quadrants()).quantize(8)
    loaded = load_image(saved(tmp_path / "p.png", image))
    assert away(loaded, np.asarray(image.convert("RGB"))) == 0


def palette() -> Image.Image:
    """Left half red (index 0), right half black (index 1)."""
    image = Image.new("P", (4, 2), 0)
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.paste(1, (2, 0, 4, 2))
    return image


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_transparent_palette_index_is_white(tmp_path: Path, suffix: str) -> None:
    loaded = load_image(saved(tmp_path / f"p.{suffix}", palette(), transparency=1))
    assert loaded.pixels[0].tolist() == [[255, 0, 0]] * 2 + [[255, 255, 255]] * 2


def test_palette_transparency_in_bytes_is_a_share_of_each_colour(tmp_path: Path) -> None:
    path = saved(tmp_path / "p.png", palette(), transparency=bytes([255, 128]))
    assert load_image(path).pixels[0].tolist() == [[255, 0, 0]] * 2 + [[127, 127, 127]] * 2


def test_a_palette_with_an_alpha_channel_is_laid_on_white() -> None:
    image = palette().convert("PA")
    image.putalpha(Image.new("L", image.size, 0))
    assert (rgb(image) == 255).all()


def test_premultiplied_alpha_is_not_multiplied_twice() -> None:
    straight = Image.new("RGBA", (2, 2), (200, 30, 60, 128))
    expected = rgb(straight).astype(int)
    assert rgb(straight.convert("RGBa")).astype(int) == pytest.approx(expected, abs=2)


def test_premultiplied_grey_is_read() -> None:
    straight = Image.new("LA", (2, 2), (200, 128))
    expected = rgb(straight).astype(int)
    assert rgb(straight.convert("La")).astype(int) == pytest.approx(expected, abs=2)


def test_a_transparent_colour_is_white(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    loaded = load_image(saved(tmp_path / "key.png", image, transparency=(1, 2, 3)))
    assert loaded.pixels.tolist() == [[[255, 255, 255], [9, 9, 9]]]


# Colour profiles


def grey_profile() -> bytes:
    profile = srgb_profile()
    return profile[:16] + b"GRAY" + profile[20:].replace(b"rTRC", b"kTRC")


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_an_srgb_profile_leaves_pixels_untouched(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", noise(), icc_profile=srgb_profile(), **options)
    assert away(load_image(path), noise()) == 0


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_another_profile_is_converted_to_srgb(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", noise(), icc_profile=exchanged_profile(), **options)
    assert away(load_image(path), noise()[..., ::-1]) <= 1


def test_the_profile_of_a_picture_with_alpha_is_used(tmp_path: Path) -> None:
    image = Image.fromarray(noise()).convert("RGBA")
    path = saved(tmp_path / "a.png", image, icc_profile=exchanged_profile())
    assert away(load_image(path), noise()[..., ::-1]) <= 1


def test_white_under_transparency_stays_white_whatever_the_profile(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    path = saved(tmp_path / "a.png", image, icc_profile=exchanged_profile())
    assert (load_image(path).pixels == 255).all()


def test_the_profile_of_a_palette_picture_is_used(tmp_path: Path) -> None:
    path = saved(tmp_path / "p.png", palette(), icc_profile=exchanged_profile())
    expected = np.asarray(palette().convert("RGB"))[..., ::-1]
    assert away(load_image(path), expected) <= 1


@pytest.mark.parametrize("profile", [b"garbage", b"\0" * 200, srgb_profile()[:300]])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_a_profile_that_is_none_is_ignored(tmp_path: Path, mode: str, profile: bytes) -> None:
    image = Image.fromarray(noise()).convert(mode)
    path = saved(tmp_path / "a.png", image, icc_profile=profile)
    assert away(load_image(path), np.asarray(image.convert("RGB"))) == 0


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_a_grey_profile_is_no_reason_to_fail(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (4, 4), 0)
    path = saved(tmp_path / "a.png", image, icc_profile=grey_profile())
    assert load_image(path).pixels.shape == (4, 4, 3)


def test_a_cmyk_picture_with_an_rgb_profile_keeps_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(quadrants()).convert("CMYK")
    path = saved(tmp_path / "a.tif", image, icc_profile=exchanged_profile())
    assert away(load_image(path), np.asarray(image.convert("RGB"))) == 0


# Errors


def message(path: str | Path) -> str:
    """The one line that says why a picture cannot be read; it names the file."""
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert str(path) in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert message(tmp_path / "no.jpg") == "FILE: no such file; check the path"


def test_a_path_through_a_file_is_an_error(tmp_path: Path) -> None:
    message(saved(tmp_path / "a.png", noise()) / "b.png")


def test_a_folder_is_told_from_a_picture(tmp_path: Path) -> None:
    assert message(tmp_path).startswith("FILE: a folder")


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "none.jpg").touch()
    assert message(tmp_path / "none.jpg").startswith("FILE: empty")


@pytest.mark.parametrize(
    "content", [b"<!doctype html><html>Not found</html>", b"\0" * 64, b"version https://git-lfs"]
)
def test_what_is_no_picture_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "page.jpg").write_bytes(content)
    assert message(tmp_path / "page.jpg").startswith("FILE: not a picture that can be read")


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "ppm", "webp", "avif", "heic"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_picture_is_told(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    if suffix == "heic":
        path.write_bytes((HEIC / "orientation1.heic").read_bytes())
    else:
        saved(path, noise())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "\n" not in message(path)


def test_a_damaged_picture_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "bad.png", noise())
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)
    path.write_bytes(data)
    assert message(path).startswith("FILE: truncated or damaged")


def test_a_picture_that_is_too_large_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "bomb.png", Image.new("1", (30_000, 10_000)))
    monkeypatch.setattr("attnviz.io.size_limit.available", lambda: 10**9)
    assert message(path) == (
        "FILE: 300 megapixels would need about 3.6 GB of memory, and less is free; "
        "scale it down first"
    )


def test_where_memory_allows_a_large_picture_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond Pillow's limit, which stays what it was, and band by band."""
    path = saved(tmp_path / "large.png", noise())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr("attnviz.io.size_limit._BAND", 3 * WIDTH)
    assert away(load_image(path), noise()) == 0
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_container_has_the_memory_that_it_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnviz.io.size_limit._CGROUP", tmp_path)
    free = size_limit.available()
    (tmp_path / "memory.current").write_text("600\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert size_limit.available() == pytest.approx(free, rel=0.5)
    (tmp_path / "memory.max").write_text("1000\n")
    assert size_limit.available() == 400


def test_a_large_picture_is_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "large.png", noise())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert away(load_image(path), noise()) == 0


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "locked.png", noise())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert message(path).startswith("FILE: cannot be read (Permission denied)")


def test_a_name_with_a_newline_is_read(tmp_path: Path) -> None:
    loaded = load_image(saved(tmp_path / "two\nlines.png", noise()))
    assert (loaded.name, away(loaded, noise())) == ("two\nlines.png", 0)


@pytest.mark.parametrize("name", ["nul\0.png", "x" * 300 + ".png"])
def test_a_name_that_cannot_be_is_an_error(tmp_path: Path, name: str) -> None:
    assert message(str(tmp_path / name)).startswith("FILE: cannot be read (")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_without_a_writer_does_not_hang(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    line = [sys.executable, "-c", LOADER, str(pipe)]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=10)
    except subprocess.TimeoutExpired:
        pytest.fail("waits for ever for a writer")
    assert done.returncode == 1
    assert done.stderr.startswith(f"{pipe}: ")


def test_every_error_is_an_attnviz_error(tmp_path: Path) -> None:
    with pytest.raises(AttnvizError):
        load_image(tmp_path / "no.jpg")


# Masks


def test_a_mask_is_true_from_mid_grey_on(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 127, 128, 255]], dtype=np.uint8))
    path = saved(tmp_path / "mask.png", image)
    assert load_mask(path, width=4, height=1).tolist() == [[False, False, True, True]]


def test_a_one_bit_mask_is_read(tmp_path: Path) -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 255)
    path = saved(tmp_path / "mask.png", image)
    assert load_mask(path, width=2, height=1).tolist() == [[False, True]]


def test_a_mask_is_turned_upright_too(tmp_path: Path) -> None:
    upright = np.zeros((3, 2, 3), dtype=np.uint8)
    upright[0] = 255
    path = saved(tmp_path / "mask.png", as_stored(upright, 6), exif=oriented(6))
    assert load_mask(path, width=2, height=3).tolist() == [[True] * 2, [False] * 2, [False] * 2]


def test_a_mask_of_another_size_names_both_sizes(tmp_path: Path) -> None:
    path = saved(tmp_path / "mask.png", noise())
    with pytest.raises(ImageError, match=r"32x24.*picture 24x32") as caught:
        load_mask(path, width=24, height=32)
    assert str(path) in str(caught.value)


def test_a_missing_mask_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no\.png: no such file"):
        load_mask(tmp_path / "no.png", width=1, height=1)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
def test_a_device_without_an_end_is_not_read() -> None:
    with pytest.raises(ImageError, match="/dev/zero: empty"):
        load_image("/dev/zero")
