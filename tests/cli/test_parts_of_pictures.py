import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from attnviz.cli import main
from attnviz.io.picture import load_image


def six_bands(path: Path) -> None:
    bands = np.random.default_rng(0).integers(0, 256, (60, 80, 6), dtype=np.uint8)
    tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig")


def run(*arguments: str) -> int:
    return int(main(list(arguments)))


def test_a_part_has_the_numbers_of_the_same_picture_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    six_bands(tmp_path / "six.tif")
    options = ("--channels", "3,2,1", "--region", "10,5,64,48")
    picture = load_image("six.tif", channels="3,2,1", region="10,5,64,48")
    picture.image().save("hand.png")
    assert run("stats", "six.tif", "--json", *options) == 0
    part = json.loads(capsys.readouterr().out)
    assert run("stats", "hand.png", "--json") == 0
    hand = json.loads(capsys.readouterr().out)
    assert part["heads"] == hand["heads"]
    assert part["image"] == {
        "path": "six.tif",
        "width": 64,
        "height": 48,
        "channels": [3, 2, 1],
        "region": [10, 5, 64, 48],
    }
    assert run("batch", "six.tif", "-o", "out", "--pictures", "none", *options) == 0
    record = json.loads(Path("out/stats.jsonl").read_text())
    assert record["image"] == part["image"]
    assert record["heads"] == part["heads"]


def test_an_array_by_name_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", one=np.zeros((40, 40), np.uint8), two=np.ones((9, 40, 40), np.float32))
    assert run("show", "a.npz:two:DHW", "--slice", "3", "-o", "out", "--quiet") == 0
    assert all(Path(line).is_file() for line in capsys.readouterr().out.splitlines())
    assert run("stats", "a.npz") == 1
    assert "name one: a.npz:one" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [("--channels", "1,2"), ("--region", "1,2,3"), ("--slice", "-1")]
)
def test_wrong_parts_are_wrong_usage(
    capsys: pytest.CaptureFixture[str], options: tuple[str, str]
) -> None:
    assert run("stats", "x.png", *options) == 2
    assert options[0] in capsys.readouterr().err
