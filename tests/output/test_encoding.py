import csv
import io

import numpy as np
import pytest
from PIL import Image

from attnviz.errors import OutputError
from attnviz.output.encoding import as_csv, as_image, as_json, as_npz, as_parts


@pytest.mark.parametrize(("kind", "name"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")])
def test_a_picture_is_encoded_in_the_format_asked_for(kind: str, name: str) -> None:
    image = Image.new("RGB", (5, 3), "red")
    data = as_image(image, kind)
    assert as_image(image, kind) == data
    decoded = Image.open(io.BytesIO(data))
    assert (decoded.format, decoded.size) == (name, (5, 3))


@pytest.mark.parametrize(("kind", "width"), [("webp", 16384), ("jpg", 65536)])
def test_a_picture_too_large_for_its_format_is_an_error(kind: str, width: int) -> None:
    with pytest.raises(OutputError, match=f"{kind} cannot hold {width}x1 pixels.*--format png"):
        as_image(Image.new("RGB", (width, 1)), kind)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (300, 1), (131, 97)])
def test_a_png_holds_every_pixel(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], fast: bool, at_once: bool
) -> None:
    if fast:
        pytest.importorskip("isal")
    else:
        monkeypatch.setattr("attnviz.output.encoding.isal_zlib", None)
    if not at_once:  # in bands of ten rows
        monkeypatch.setattr("attnviz.output.encoding._AT_ONCE", 0)
        monkeypatch.setattr("attnviz.output.encoding._BAND", 30 * size[0])
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    data = b"".join(as_parts(Image.fromarray(pixels), "png"))
    with Image.open(io.BytesIO(data)) as image:
        image.verify()  # checksums
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", size)
        np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("image", ["a,b.jpg", 'say "cat".jpg', "two\nlines.jpg", "über ×.jpg", ""])
def test_csv_keeps_every_file_name(image: str) -> None:
    text = as_csv([{"image": image, "head": 0}, {"image": "dog.jpg", "head": 1}])
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert rows == [{"image": image, "head": "0"}, {"image": "dog.jpg", "head": "1"}]


def test_csv_quotes_only_what_must_be_and_ends_lines_plainly() -> None:
    rows = [{"image": "a,b.jpg", "entropy": 1.5, "entropy_ratio": None}]
    assert as_csv(rows) == 'image,entropy,entropy_ratio\n"a,b.jpg",1.5,\n'


def test_csv_can_go_on_without_a_header() -> None:
    assert as_csv([{"image": "a.jpg", "head": 0}], header=False) == "a.jpg,0\n"


def test_json_is_readable_and_strict() -> None:
    assert as_json({"path": "über ×.jpg"}) == '{"path": "über ×.jpg"}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json({"entropy": float("nan")})


def test_equal_arrays_give_equal_bytes() -> None:
    maps = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    data = as_npz(maps=maps, layers=np.array([0, 11]))
    assert as_npz(maps=maps.copy(), layers=np.array([0, 11])) == data
    with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
        assert sorted(loaded) == ["layers", "maps"]
        assert loaded["maps"].dtype == np.float32
        assert np.array_equal(loaded["maps"], maps)
