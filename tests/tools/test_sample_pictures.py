"""The sample pictures come from the code that draws them, byte for byte."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import word_scenes
from PIL import Image
from word_scenes import scenes

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "sample_images"
FILES = sorted(
    str(path.relative_to(SAMPLES)) for path in SAMPLES.rglob("*") if path.suffix not in ("", ".md")
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    script = ROOT / "tools" / "sample_pictures" / "draw.py"
    subprocess.run([sys.executable, str(script), "--out", str(folder)], check=True)
    return folder


def test_sample_images_holds_pictures_alone() -> None:
    assert len(FILES) == 10
    assert {Path(name).suffix for name in FILES} == {".jpg", ".png", ".webp"}


@pytest.mark.parametrize("name", [name for name in FILES if "scene" not in name])
def test_a_sample_picture_is_drawn_as_it_is(drawn: Path, name: str) -> None:
    assert (drawn / name).read_bytes() == (SAMPLES / name).read_bytes()


def test_the_scene_is_drawn_by_the_code_that_draws_the_training(tmp_path: Path) -> None:
    word_scenes.write(tmp_path, scenes(3, first=3, scale=3), count=1)
    for folder, name in (("pictures", "scene.png"), ("masks", "masks/scene.png")):
        with (
            Image.open(tmp_path / folder / "0000.png") as drawn,
            Image.open(SAMPLES / name) as kept,
        ):
            assert (np.asarray(drawn) == np.asarray(kept)).all()
