"""The sample pictures come from the code that draws them, byte for byte."""

import subprocess
import sys
from pathlib import Path

import pytest

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
    assert len(FILES) == 8
    assert {Path(name).suffix for name in FILES} == {".jpg", ".png", ".webp"}


@pytest.mark.parametrize("name", FILES)
def test_a_sample_picture_is_drawn_as_it_is(drawn: Path, name: str) -> None:
    assert (drawn / name).read_bytes() == (SAMPLES / name).read_bytes()
