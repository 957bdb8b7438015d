"""What is collected from packages: cut-outs with their kinds, grounds, pictures inside of files."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cutouts import LEFT_OUT, SIDE, UNLABELLED, carved, collect, kind_of
from material import read
from PIL import Image

from attnviz.models.tiny import LABELS


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a/stamps/animals/birds/gull.png", "bird"),
        ("a/stamps/animals/mammals/cats/tom.png", "mammal"),
        ("a/stamps/vehicles/flight/planes/jet.png", "aircraft"),
        ("a/stamps/food/fruit/pear.png", "fruit"),
        ("a/stamps/town/roadsigns/stop.png", LEFT_OUT),
        ("a/stamps/hobbies/what.png", UNLABELLED),
        ("emoji/assets/1f436.webp", "mammal"),  # DOG FACE
        ("emoji/assets/1f339.webp", "flower"),  # ROSE
        ("emoji/assets/1f600.webp", LEFT_OUT),  # GRINNING FACE
        ("emoji/assets/1f477-1f3fb.webp", LEFT_OUT),  # another skin
    ],
)
def test_names_tell_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def disc(side: int, colour: tuple[int, int, int]) -> Image.Image:
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[..., :3] = colour
    pixels[..., 3] = 255 * (x**2 + y**2 < 0.8)
    return Image.fromarray(pixels)


def noise(side: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def test_files_inside_of_a_file_are_found() -> None:
    files = []
    for form in ("PNG", "JPEG", "WEBP"):
        data = io.BytesIO()
        noise(40, 0).save(data, form)
        files.append(data.getvalue())
    joined = b"".join(len(data).to_bytes(4, "big") + data + b"zz" for data in files)
    assert list(carved(b"head" + joined)) == files


def test_a_folder_becomes_material(tmp_path: Path) -> None:
    for name in ("birds/gull", "birds/gull_mirror", "fish/carp", "words/flags/x"):
        path = tmp_path / "animals" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        disc(300, (len(name), 90, 40)).save(path)
    disc(300, (10, 90, 40)).save(tmp_path / "animals" / "again.png")  # the gull once more
    for number in range(30):
        noise(320, number).save(tmp_path / f"w{number * 977}.jpg")
        disc(60 + number, (number, 200, 9)).save(tmp_path / f"r{number * 977}.png")
    cutouts, grounds = collect(tmp_path)
    assert len(grounds) == 30
    assert sorted(one.kind for one in cutouts if one.kind != UNLABELLED) == ["fish", "mammal"]
    assert max(max(one.pixels.shape) for one in cutouts) <= SIDE
    script = Path(__file__).parents[2] / "training" / "cutouts.py"
    out = tmp_path / "material.npz"
    subprocess.run([sys.executable, script, tmp_path, "--out", out], check=True)
    seen, held_out = read(out), read(out, held_out=True)
    assert len(seen.cutouts) + len(held_out.cutouts) == len(cutouts)
    assert len(seen.grounds) + len(held_out.grounds) == 30
    assert 0 < len(held_out.grounds) < 10
    for part in (seen, held_out):
        assert part.chances.sum() == pytest.approx(1)
        assert all(kind == -1 or LABELS[kind] in ("fish", "mammal") for kind in part.kinds)
