"""Files that Pillow reads in part: every bit comes back, or what does not is told."""

import io
import logging
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import measured
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from attnviz import load_image, load_mask
from attnviz.errors import ImageError, MissingExtraError
from attnviz.io.decoding import open_picture
from attnviz.io.picture import Picture, load_mask_colours
from attnviz.io.picture_files import KINDS

HEIGHT, WIDTH = 24, 31


def random(*shape: int, kind: str = "uint16") -> NDArray[Any]:
    info = np.iinfo(kind)
    values = np.random.default_rng(3).integers(info.min, info.max, shape, endpoint=True)
    return values.astype(kind)


def samples(path: Path) -> NDArray[Any]:
    """What is read of a file, before it is 8 bits."""
    found = open_picture(path.read_bytes(), str(path)).samples
    assert found is not None
    return found.values


def said(picture: Picture) -> list[str]:
    assert all(note.kind in KINDS for note in picture.notes)
    return [str(note) for note in picture.notes]


def on_white(colour: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """The oracle of transparency, from 8 bits each."""
    share = alpha.astype(np.float64)[..., None] / 255
    return colour * share + 255 * (1 - share)


# PNG and its kin


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_all_16_bits_of_a_png_are_read(tmp_path: Path, channels: int, interlaced: bool) -> None:
    values = random(HEIGHT, WIDTH, channels)
    path = measured.png16(tmp_path / "a.png", values, interlaced=interlaced)
    colours = 3 if channels > 2 else 1
    assert np.array_equal(samples(path), values[..., :colours])
    picture = load_image(path)
    assert (picture.range, picture.notes) == ((0, 65535), ())
    expected = measured.as_8_bit(values, 0, 65535).astype(float)
    shown = expected[..., :colours]
    if channels in (2, 4):
        shown = on_white(shown, expected[..., -1])
    assert np.abs(picture.pixels - shown).max() <= (1 if channels in (2, 4) else 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_of_16_bits_is_white(tmp_path: Path, channels: int) -> None:
    values = np.full((2, 3, channels), 1000, dtype=np.uint16)
    values[0, 1] = 1001  # the same in its high byte
    key = np.full(channels, 1001, dtype=">u2").tobytes()
    path = measured.png16(tmp_path / "a.png", values, (b"tRNS", key))
    white = load_image(path).pixels.min(axis=2) == 255
    assert white.tolist() == [[False, True, False], [False] * 3]


def test_a_16_bit_png_is_turned_upright(tmp_path: Path) -> None:
    values = random(HEIGHT, WIDTH, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # what is stored is to be turned by 90° clockwise
    path = measured.png16(tmp_path / "a.png", values, (b"eXIf", exif.tobytes()[6:]))
    expected = measured.as_8_bit(np.rot90(values, -1), 0, 65535)
    assert np.array_equal(load_image(path).pixels, expected)


def test_a_colour_profile_of_16_bits_is_applied(tmp_path: Path) -> None:
    """As it is of the same picture in 8 bits."""
    from stored_pictures import exchanged_profile  # noqa: PLC0415

    values = random(HEIGHT, WIDTH, 3, kind="uint8")
    Image.fromarray(values).save(tmp_path / "8.png", icc_profile=exchanged_profile())
    deep = values.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "16.tif", deep, photometric="rgb", iccprofile=exchanged_profile())
    eight, sixteen = (load_image(tmp_path / name).pixels for name in ("8.png", "16.tif"))
    assert np.array_equal(eight, sixteen)
    assert not np.array_equal(eight, values)


@pytest.mark.parametrize("kind", [2, 3, 5, 6])
@pytest.mark.parametrize("largest", [1023, 4095, 65535])
def test_portable_maps_span_what_their_header_says(tmp_path: Path, kind: int, largest: int) -> None:
    colours = 3 if kind in (3, 6) else 1
    values = np.random.default_rng(0).integers(0, largest + 1, (5, 7, colours))
    body = values.astype(">u2").tobytes()
    if kind < 4:
        body = " ".join(map(str, values.ravel())).encode()
    path = tmp_path / "a.ppm"
    path.write_bytes(f"P{kind}\n# a word\n7 5\n{largest}\n".encode() + body)
    picture = load_image(path)
    assert picture.range == (0, largest)
    expected = np.broadcast_to(measured.as_8_bit(values, 0, largest), (5, 7, 3))
    assert np.array_equal(picture.pixels, expected)


def test_bits_that_nobody_reads_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.sgi"
    Image.fromarray(random(8, 9, 3, kind="uint8")).save(path, bpc=2)
    assert said(load_image(path)) == ["8 of 16 bits are read; save it as PNG or TIFF to have all"]


# TIFF


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("bands", [2, 4, 7])
def test_further_bands_are_told(tmp_path: Path, kind: str, planes: str, bands: int) -> None:
    values = random(HEIGHT, WIDTH, bands, kind=kind)
    stored = values if planes == "contig" else np.ascontiguousarray(np.moveaxis(values, -1, 0))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored, photometric="minisblack", planarconfig=planes)
    picture = load_image(path)
    colours = 3 if bands > 2 else 1
    info = np.iinfo(kind)
    expected = measured.as_8_bit(values[..., :colours], info.min, info.max)
    assert np.array_equal(picture.pixels, np.broadcast_to(expected, picture.pixels.shape))
    which = "the first three are drawn" if bands > 2 else "the first is drawn, in grey"
    assert said(picture) == [f"{bands} bands: {which}"]


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_a_fourth_band_beside_colours_is_told(tmp_path: Path, kind: str) -> None:
    values = random(HEIGHT, WIDTH, 4, kind=kind)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="rgb", extrasamples=["unspecified"])
    picture = load_image(path)
    expected = measured.as_8_bit(values[..., :3], 0, np.iinfo(kind).max)
    assert np.array_equal(picture.pixels, expected)
    assert said(picture) == ["4 bands: the first three are drawn"]


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_alpha_is_no_band(tmp_path: Path, kind: str) -> None:
    values = random(HEIGHT, WIDTH, 4, kind=kind)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="rgb", extrasamples=["unassalpha"])
    picture = load_image(path)
    eight = measured.as_8_bit(values, 0, np.iinfo(kind).max).astype(float)
    assert np.abs(picture.pixels - on_white(eight[..., :3], eight[..., 3])).max() <= 1
    assert picture.notes == ()


def test_premultiplied_alpha_of_16_bits_is_not_multiplied_twice(tmp_path: Path) -> None:
    straight = random(HEIGHT, WIDTH, 4)
    straight[..., 3] = np.maximum(straight[..., 3], 20_000)
    stored = straight.copy()
    stored[..., :3] = np.rint(straight[..., :3] * (straight[..., 3:] / 65535))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored, photometric="rgb", extrasamples=["assocalpha"])
    eight = measured.as_8_bit(straight, 0, 65535).astype(float)
    expected = on_white(eight[..., :3], eight[..., 3])
    assert np.abs(load_image(path).pixels - expected).max() <= 2


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("pages", [1, 2, 5])
def test_further_pages_are_told(tmp_path: Path, kind: str, pages: int) -> None:
    path = tmp_path / "a.tif"
    values = random(pages, HEIGHT, WIDTH, kind=kind)
    with tifffile.TiffWriter(path) as writer:
        for page in values:
            writer.write(page, photometric="minisblack", contiguous=False)
    picture = load_image(path)
    expected = measured.as_8_bit(values[0], 0, np.iinfo(kind).max)
    assert np.array_equal(picture.pixels[..., 0], expected)
    expected_notes = [f"{pages} pages: the first is drawn"] if pages > 1 else []
    assert said(picture) == expected_notes
    assert said(load_image(path, region="0,0,2,2")) == expected_notes
    assert said(load_image(path, channels="0")) == expected_notes
    assert said(load_image(path, region="0,0,2,2", slice=pages - 1)) == []


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_overviews_and_masks_are_no_pages(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cog.tif"
    values = random(64, 64, 3, kind=kind)
    with tifffile.TiffWriter(path) as writer:
        writer.write(values, photometric="rgb")
        writer.write(values[::2, ::2], photometric="rgb", subfiletype=1)
        writer.write(values[::4, ::4], photometric="rgb", subfiletype=1)
        writer.write(values[..., 0] > 9, photometric="mask", subfiletype=4)
    assert load_image(path).notes == ()


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_further_frames_are_told(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    frames = [Image.fromarray(random(8, 9, 3, kind="uint8") // n) for n in (1, 2, 3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert said(load_image(path)) == [
        f"3 frames: the first is drawn; `attnviz video {path}` draws all"
    ]
    frames[0].save(path)
    assert load_image(path).notes == ()


def test_a_fourth_band_that_nothing_is_said_of_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, random(8, 9, 4, kind="uint8"), photometric="rgb", extrasamples=["unspecified"]
    )
    data = bytearray(path.read_bytes())
    place = data.index((338).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    data[place : place + 2] = (50_000).to_bytes(2, "little")  # another tag, which nobody knows
    path.write_bytes(data)
    assert "taken for transparency" in said(load_image(path))[0]


def test_white_may_be_zero(tmp_path: Path) -> None:
    values = random(HEIGHT, WIDTH)
    path = measured.tiff(tmp_path / "a.tif", values, photometric="miniswhite")
    assert np.array_equal(
        load_image(path).pixels[..., 0], 255 - np.rint(values.astype(float) / 65535 * 255)
    )


def test_palettes_of_16_bits_are_colours(tmp_path: Path) -> None:
    index = random(HEIGHT, WIDTH)
    colours = random(3, 65536)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, index, photometric="palette", colormap=colours)
    expected = measured.as_8_bit(colours[:, index].transpose(1, 2, 0), 0, 65535)
    assert np.array_equal(load_image(path).pixels, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["uint16", "int16"])
def test_every_orientation_of_deep_tiffs_is_turned_upright(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    from stored_pictures import as_stored  # noqa: PLC0415

    upright = random(HEIGHT, WIDTH, 3, kind=kind)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        as_stored(upright, orientation),
        photometric="rgb",
        extratags=[(274, "H", 1, orientation, True)],
    )
    info = np.iinfo(kind)
    expected = measured.as_8_bit(upright, info.min, info.max)
    assert np.array_equal(load_image(path).pixels, expected)


@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_gdals_values_for_nothing_are_black_and_count_nowhere(tmp_path: Path, kind: str) -> None:
    values = np.linspace(-10, 40, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(kind)
    values[:6] = -9999
    path = measured.tiff(tmp_path / "a.tif", values, extratags=[(42113, "s", 0, "-9999", True)])
    picture = load_image(path, "percentile")
    held = values[6:].astype(np.float64)
    assert picture.range == pytest.approx(tuple(np.percentile(held, (0.5, 99.5))))
    assert not picture.pixels[:6].any()
    assert said(picture)[0].startswith("25 % of the values are no numbers")


def test_a_band_beside_the_four_inks_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = random(8, 9, 5, kind="uint8")
    tifffile.imwrite(path, values, photometric="separated", extrasamples=["unspecified"])
    assert said(load_image(path)) == ["5 bands: the first 4 are drawn"]


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_inks_of_16_bits_are_told_and_others_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    values = random(8, 9, 4).astype(kind)
    tifffile.imwrite(path, values, photometric="separated", extrasamples=())
    if kind == "uint16":
        assert said(load_image(path)) == ["8 of 16 bits are read; save it as RGB to have all"]
    else:
        with pytest.raises(ImageError, match="32-bit SEPARATED; save it as RGB"):
            load_image(path)


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    path = measured.tiff(tmp_path / "a.tif", np.ones((4, 4), dtype=np.complex64))
    with pytest.raises(ImageError, match="complex numbers; save their magnitude"):
        load_image(path)


def test_a_deep_tiff_that_is_too_large_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = measured.tiff(tmp_path / "a.tif", np.zeros((1500, 1500), dtype=np.float16))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    assert load_image(path).width == 1500  # there is memory
    monkeypatch.setattr("attnviz.io.size_limit.available", lambda: 10**8)
    with pytest.raises(ImageError, match=r"2 megapixels would need about 0\.1 GB .* scale it down"):
        load_image(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["float32", "uint16"])
def test_truncated_deep_tiffs_are_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str, share: float
) -> None:
    path = measured.tiff(tmp_path / "a.tif", np.ones((64, 64, 3), dtype=kind), compression="zlib")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


# Codecs


CODED = [(how, kind, colours) for how in ("lzw", "zstd") for kind in ("uint16", "int16", "uint32") for colours in (False, True)]  # fmt: skip # noqa: E501
# Reads files as if imagecodecs were not installed; the last argument is where samples are kept.
ALONE = """
import sys
sys.modules["imagecodecs"] = None
import numpy as np
from attnviz.errors import AttnvizError
from attnviz.io.decoding import open_picture
found = {}
for path in sys.argv[1:-1]:
    try:
        samples = open_picture(open(path, "rb").read(), path).samples
        found[path] = samples.values, samples.bits, samples.kind
    except AttnvizError as error:
        found[path] = str(error)
import pickle
pickle.dump(found, open(sys.argv[-1], "wb"))
"""


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, tuple[Path, NDArray[Any]]]:
    """TIFFs in compressions that tifffile alone does not have, and what is in them."""
    pytest.importorskip("imagecodecs")
    folder = tmp_path_factory.mktemp("coded")
    found = {}
    for how, kind, colours in CODED:
        values = random(HEIGHT, WIDTH, *((3,) if colours else ()), kind=kind)
        path = measured.tiff(folder / f"{how}-{kind}-{colours}.tif", values, compression=how)
        found[how, kind, colours] = path, values
    return found


@pytest.fixture(scope="module")
def alone(coded: dict[Any, tuple[Path, NDArray[Any]]]) -> dict[str, Any]:
    """What is read of them without imagecodecs: samples, or an error."""
    paths = [str(path) for path, _ in coded.values()]
    result = Path(paths[0]).with_name("alone.pickle")
    subprocess.run([sys.executable, "-c", ALONE, *paths, str(result)], check=True)
    with result.open("rb") as file:
        read: dict[str, Any] = pickle.load(file)
    return read


@pytest.mark.parametrize("which", CODED, ids=lambda which: "-".join(map(str, which)))
def test_compressed_tiffs_are_exact_or_name_the_extra(
    coded: dict[Any, tuple[Path, NDArray[Any]]], alone: dict[str, Any], which: tuple[str, str, bool]
) -> None:
    path, values = coded[which]
    how, kind, colours = which
    assert np.array_equal(samples(path).reshape(values.shape), values)
    found = alone[str(path)]
    if colours and kind != "uint16":  # Pillow has no such mode
        assert f"compressed by {how.upper()}" in found
        assert "pip install 'attnviz[codecs]'" in found
    else:
        read, bits, sign = found
        assert np.array_equal(read.reshape(values.shape), values)
        assert (bits, sign == "signed") == (8 * values.itemsize, kind[0] == "i")


def jpeg2000(path: Path, values: NDArray[Any], bits: int) -> Path:
    codecs = pytest.importorskip("imagecodecs")
    options = {
        "level": 0,
        "reversible": True,
        "bitspersample": bits,
        "codecformat": path.suffix[1:],
    }
    path.write_bytes(codecs.jpeg2k_encode(values, **options))
    return path


@pytest.mark.parametrize("suffix", ["jp2", "j2k"])
@pytest.mark.parametrize("bits", [10, 12, 15, 16])
def test_grey_jpeg_2000_has_the_values_of_the_file(tmp_path: Path, suffix: str, bits: int) -> None:
    """Which Pillow spreads over 16 bits."""
    values = (random(HEIGHT, WIDTH) >> (16 - bits)).astype(np.uint16)
    path = jpeg2000(tmp_path / f"a.{suffix}", values, bits)
    assert np.array_equal(samples(path)[..., 0], values)
    assert load_image(path).range == (0, 2**bits - 1)


def test_signed_jpeg_2000_is_signed(tmp_path: Path) -> None:
    values = random(HEIGHT, WIDTH, kind="int16")
    path = jpeg2000(tmp_path / "a.jp2", values, 16)
    assert np.array_equal(samples(path)[..., 0], values)
    assert load_image(path).range == (-32768, 32767)


def test_16_bit_jpeg_2000_without_a_codec_says_so() -> None:
    """A file of Pillow's own making, since nothing else is needed to read it."""
    buffer = io.BytesIO()
    values = random(HEIGHT, WIDTH)
    Image.fromarray(values).save(buffer, "JPEG2000", irreversible=False)
    found = open_picture(buffer.getvalue(), "a.jp2").samples
    assert found is not None
    assert np.array_equal(found.values[..., 0], values)


@pytest.mark.parametrize("bits", [12, 16])
def test_coloured_jpeg_2000_is_exact_or_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    values = (random(HEIGHT, WIDTH, 3) >> (16 - bits)).astype(np.uint16)
    path = jpeg2000(tmp_path / "a.jp2", values, bits)
    assert np.array_equal(samples(path), values)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(MissingExtraError, match=rf"3 bands of {bits} bits .*attnviz\[codecs\]"):
        load_image(path)


@pytest.mark.parametrize("bands", [2, 4, 5])
def test_bands_of_jpeg_2000_are_not_transparency(tmp_path: Path, bands: int) -> None:
    values = random(HEIGHT, WIDTH, bands, kind="uint8")
    path = jpeg2000(tmp_path / "a.jp2", values, 8)
    picture = load_image(path)
    colours = 3 if bands > 2 else 1
    assert np.array_equal(
        picture.pixels, np.broadcast_to(values[..., :colours], picture.pixels.shape)
    )
    assert said(picture)[0].startswith(f"{bands} bands: the first")


def test_jpeg_2000_with_transparency_has_it(tmp_path: Path) -> None:
    values = random(HEIGHT, WIDTH, 4, kind="uint8")
    path = tmp_path / "a.jp2"
    Image.fromarray(values).save(path, irreversible=False)
    picture = load_image(path)
    assert np.abs(picture.pixels - on_white(values[..., :3], values[..., 3])).max() <= 1
    assert picture.notes == ()


# Masks


def test_masks_are_read_as_ever(tmp_path: Path) -> None:
    """White and black, whatever the range of their type."""
    cases: list[tuple[str, list[int]]] = [
        ("uint8", [0, 127, 128, 255]),
        ("uint16", [0, 32767, 32896, 65535]),
        ("int32", [0, 32767, 32896, 65535]),
        ("float32", [0, 0, 1, 1]),
    ]
    for kind, values in cases:
        path = tmp_path / f"{kind}.tif"
        Image.fromarray(np.array([values], dtype=kind)).save(path)
        mask = load_mask(path, width=4, height=1)
        assert mask.tolist() == [[False, False, True, True]], kind
    signed = measured.tiff(tmp_path / "s.tif", np.array([[0, 0, 32767, 32767]], dtype=np.int16))
    assert load_mask(signed, width=4, height=1)[0, :2].tolist() == [False, False]


def test_colours_of_16_bit_masks_are_their_high_bytes(tmp_path: Path) -> None:
    values = np.array([[[0x0100, 0, 0], [0x00FF, 0, 0], [0xFF00, 0x80FF, 0]]], dtype=np.uint16)
    path = measured.png16(tmp_path / "mask.png", values)
    assert load_mask_colours(path, width=3, height=1).pixels.tolist() == [
        [[1, 0, 0], [0, 0, 0], [255, 128, 0]]
    ]


def test_what_tifffile_says_stays_unsaid(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = measured.tiff(tmp_path / "a.tif", random(HEIGHT, WIDTH, 3))
    data = bytearray(path.read_bytes())
    place = data.index((283).to_bytes(2, "little"))
    data[place + 8 : place + 12] = b"\xff\xff\xff\x7f"  # the resolution lies beyond the file
    path.write_bytes(data)
    load_image(path)
    logging.getLogger("tifffile").warning("odd, but harmless")
    assert capfd.readouterr().err == ""
