"""JPEGs that are decoded at a part of their size, where the model sees far less."""

import io
from pathlib import Path

import batches
import numpy as np
import pytest
from PIL import Image

import attnviz
from attnviz.batch.jobs import Job, Outcome, Prepared, Settings
from attnviz.batch.work import prepare
from attnviz.cli import main
from attnviz.errors import ExitCode
from attnviz.explanation.request import Questions
from attnviz.geometry.placement import Fit
from attnviz.io.picture import decode_reduced
from attnviz.output.write_pictures import Drawing

CAT = Path(__file__).parents[2] / "sample_images" / "cat.jpg"


def photograph(path: Path, width: int, height: int, *, turned: bool = False) -> Path:
    """A sharp photograph, enlarged and with the noise of a sensor."""
    with Image.open(CAT) as cat:
        large = np.asarray(cat.resize((width, height), Image.Resampling.LANCZOS), dtype=np.float64)
    noisy = large + np.random.default_rng(0).normal(0, 8, large.shape)
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    image.save(path, quality=90, exif=exif)
    return path


def prepared(path: Path, *, draft: bool, fit: Fit = "keep", pictures: str = "none") -> Prepared:
    model = attnviz.load_model("random", size=96, heads=2)
    settings = Settings(Questions(), Drawing(), "digest", fit, pictures=pictures, draft=draft)  # type: ignore[arg-type]
    found = prepare(Job(str(path), "a"), model, settings)
    assert isinstance(found, Prepared)
    return found


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("fit", ["keep", "crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(601, 403), (1000, 776)])
def test_the_model_sees_the_picture_within_a_grey_level(
    tmp_path: Path, size: tuple[int, int], fit: Fit, turned: bool
) -> None:
    path = photograph(tmp_path / "a.jpg", *size, turned=turned)
    whole, reduced = (prepared(path, draft=draft, fit=fit) for draft in (False, True))
    assert reduced.picture == whole.picture
    assert reduced.placement == whole.placement
    assert reduced.entry == whole.entry
    away = reduced.pixels.astype(np.float64) - whole.pixels.astype(np.float64)
    assert np.abs(away).mean() < 1
    assert abs(away.mean()) < 0.1
    assert np.abs(away).max() > 0 or (turned and size[0] % 2)


def test_only_as_much_is_left_out_as_may_be() -> None:
    data = CAT.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        size = image.size
    for allowed, scale in ((1.99, None), (2.0, 2), (3.9, 2), (7.0, 4), (99.0, 8)):
        found = decode_reduced(data, "cat.jpg", lambda *_, most=allowed: most)
        assert (None if found is None else found.scale) == scale
        if found is not None:
            assert (found.header.width, found.header.height) == size
            assert found.picture.width == -(-size[0] // found.scale)


def test_small_pictures_and_other_formats_are_decoded_whole(tmp_path: Path) -> None:
    small = photograph(tmp_path / "small.jpg", 300, 200)
    png = tmp_path / "large.png"
    Image.open(photograph(tmp_path / "large.jpg", 900, 600)).save(png)
    grey = tmp_path / "cmyk.jpg"
    Image.open(tmp_path / "large.jpg").convert("CMYK").save(grey)
    for path in (small, png, grey):
        assert (prepared(path, draft=True).pixels == prepared(path, draft=False).pixels).all()


def test_a_sheet_has_a_picture_of_its_size(tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.jpg", 900, 600)
    for pictures in ("sheet", "heads"):
        whole, reduced = (prepared(path, draft=draft, pictures=pictures) for draft in (False, True))
        assert (reduced.thumbnail is None) == (pictures == "heads")
        if whole.thumbnail is not None and reduced.thumbnail is not None:
            away = reduced.thumbnail.pixels.astype(np.float64) - whole.thumbnail.pixels
            assert away.shape == (171, 256, 3)
            assert np.abs(away).mean() < 2


def test_a_damaged_picture_is_told_as_it_is(tmp_path: Path) -> None:
    path = photograph(tmp_path / "a.jpg", 900, 600)
    path.write_bytes(path.read_bytes()[:9000])
    model = attnviz.load_model("random", size=96, heads=2)
    found = prepare(Job(str(path), "a"), model, Settings(Questions(), Drawing(), "digest"))
    assert isinstance(found, Outcome)
    assert "truncated or damaged" in str(found.entry.error)


def test_the_option_decodes_all_of_it(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg", 900, 600)
    options = [str(tmp_path), *batches.SMALL, "--pictures", "none"]
    found = {}
    for name, more in (("fast", []), ("whole", ["--no-draft"])):
        assert main(["batch", *options, *more, "-o", str(tmp_path / name)]) == ExitCode.DONE
        (found[name],) = batches.lines(tmp_path / name / "stats.jsonl")
    assert found["fast"]["image"] == {
        **found["whole"]["image"],
        "reduced": 8,
    }
    pairs = [[each["entropy"] for each in found[name]["heads"]] for name in found]
    assert pairs[0] != pairs[1]
    assert pairs[0] == pytest.approx(pairs[1], rel=0.02)
    assert main(["stats", str(tmp_path / "a.jpg"), *batches.SMALL, "-o", str(tmp_path / "s")]) == 0
