"""`attnviz batch --tile`: the numbers and pictures of `show --tile`, for many pictures."""

import json
from pathlib import Path

import batches
import numpy as np
import pictures
import pytest
import tifffile

import attnviz
from attnviz.batch.jobs import Job, Settings
from attnviz.batch.work import ask, do, prepare
from attnviz.cli import main
from attnviz.errors import ExitCode
from attnviz.explanation.request import Questions
from attnviz.explanation.tile_request import Tiling
from attnviz.output.write_pictures import Drawing

OPTIONS = ("-m", "random", "--heads", "2", "--tile", "80", "--overlap", "0.5", "--size", "32")


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    pictures.noise(300, 200).save("in/a.png")
    pictures.noise(60, 40).save("in/small.png")
    tiles = np.asarray(pictures.noise(260, 200, seed=1))
    tifffile.imwrite("in/b.svs", tiles, tile=(128, 128), photometric="rgb")


@pytest.mark.parametrize("how", ["sheet", "heads", "none"])
def test_a_batch_of_tiled_pictures_is_what_show_gives(how: str) -> None:
    assert main(["batch", "in", *OPTIONS, "--pictures", how, "--npz", "-o", "out"]) == ExitCode.DONE
    records = {
        Path(one["image"]["path"]).name: one for one in batches.lines(Path("out/stats.jsonl"))
    }
    assert sorted(records) == ["a.png", "b.svs", "small.png"]
    for name, record in records.items():
        arguments = ["show", f"in/{name}", *OPTIONS, "--npz", "-o", "alone", "--no-preview"]
        assert main([*arguments, "--quiet"]) == ExitCode.DONE
        alone = json.loads(Path(f"alone/{name}/stats.json").read_text())
        assert record["tiles"] == alone["tiles"]
        assert record["tokens"] == alone["tokens"]
        for one, other in zip(record["heads"], alone["heads"], strict=True):
            assert one["map"] == pytest.approx(other["map"], rel=1e-5)
        here, there = (np.load(f"{out}/{name}/maps.npz")["maps"] for out in ("out", "alone"))
        np.testing.assert_allclose(here, there, rtol=1e-5)
        drawn = sorted(path.name for path in Path(f"out/{name}").glob("*.png"))
        assert (
            drawn
            == {
                "sheet": ["sheet.png"],
                "heads": sorted(path.name for path in Path(f"alone/{name}").glob("*.png")),
                "none": [],
            }[how]
        )
    assert records["a.png"]["tiles"]["columns"] == 7


def test_it_goes_on_and_another_tile_is_another_batch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "in", *OPTIONS, "-o", "out"]) == ExitCode.DONE
    before = batches.tree(Path("out"))
    capsys.readouterr()
    assert main(["batch", "in", *OPTIONS, "-o", "out"]) == ExitCode.DONE
    assert "3 done (3 before)" in capsys.readouterr().err
    assert batches.tree(Path("out")) == before
    assert main(["batch", "in", *OPTIONS[:-4], *OPTIONS[-2:], "-o", "out"]) == ExitCode.DONE
    assert "(" not in capsys.readouterr().err.splitlines()[-1]


def test_bad_files_do_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in/bad.png").write_text("no")
    Path("in/empty.tif").touch()
    tifffile.imwrite("in/float.tif", np.linspace(-3, 900, 256 * 256).reshape(256, 256))
    code = main(["batch", "in", *OPTIONS, "--pictures", "none", "-o", "out"])
    assert code == ExitCode.SOME_FAILED
    lines = batches.lines(Path("out/manifest.jsonl"))
    failed = {Path(one["path"]).name: one["error"] for one in lines if one["status"] == "failed"}
    assert "not a picture" in failed["bad.png"]
    assert "empty" in failed["empty.tif"]
    assert "--range LO:HI" in failed["float.tif"]
    assert "3 done, 3 failed" in capsys.readouterr().err


def test_a_picture_that_changes_between_the_stages_fails() -> None:
    model = attnviz.load_model("random", size=32, heads=2)
    settings = Settings(Questions(), Drawing(), "digest", tiling=Tiling(80))
    ready = prepare(Job("in/a.png", "a"), model, settings)
    pictures.noise(300, 201).save("in/a.png")
    (outcome,) = ask([ready], model, settings)  # type: ignore[list-item]  # it is prepared
    assert "was changed" in str(outcome.entry.error)  # type: ignore[union-attr]
    (outcome,) = do([Job("in/a.png", "a")], model, settings, Path("out"))
    assert outcome.entry.status == "done"
    assert outcome.entry.size == (300, 201)


def test_python_joins_tiles_as_the_command_line_does() -> None:
    arguments = ["show", "in/a.png", *OPTIONS, "--npz", "-o", "out", "--no-preview"]
    assert main(arguments) == ExitCode.DONE
    model = attnviz.load_model("random", heads=2, size=32)
    found = attnviz.explain_tiled("in/a.png", model, tile=80, overlap=0.5)
    np.testing.assert_array_equal(found.maps, np.load("out/a.png/maps.npz")["maps"])
    picture = attnviz.load_image("in/a.png")
    drawn = attnviz.render(found, on=picture)
    assert {image.size for image in drawn.values()} == {(300, 200)}
    with pytest.raises(attnviz.AttnvizError, match="read the picture again"):
        attnviz.render(found)
    for wrong in ({"tile": 8}, {"overlap": 1.0}, {"query": "3,4"}, {"heads": "localized"}):
        with pytest.raises(attnviz.AttnvizError):
            attnviz.explain_tiled("in/a.png", model, **wrong)
