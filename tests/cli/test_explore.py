"""`attnviz explore` as it is typed: files, streams, exit codes, errors in a line."""

import io
import json
import sys
from pathlib import Path

import pictures
import pytest
from page_decoder import Decoded

import attnviz
from attnviz.cli import main

FEW = ("--size", "48", "--layers", "-1")


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with pictures."""
    monkeypatch.chdir(tmp_path)
    pictures.noise(60, 40).save("cat.png")
    pictures.noise(60, 40).convert("L").point(lambda v: 255 * (v > 128)).save("mask.png")
    Path("folder").mkdir()
    Path("file").touch()
    Path("mine.html").write_text("<!doctype html><title>Mine</title>")
    return tmp_path


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["explore", *arguments])
    return code, *capfd.readouterr()


@pytest.mark.parametrize(
    ("out", "path"),
    [
        ([], "attnviz-out/cat.png.html"),
        (["-o", "page.html"], "page.html"),
        (["-o", "a/b/page.HTM"], "a/b/page.HTM"),
        (["-o", "folder"], "folder/cat.png.html"),
        (["-o", "new"], "new/cat.png.html"),
    ],
)
def test_where_the_page_lies(out: list[str], path: str, capfd: pytest.CaptureFixture[str]) -> None:
    before = set(Path().rglob("*"))
    for _ in range(2):  # an earlier page is replaced
        assert run(capfd, "cat.png", "--quiet", *FEW, *out) == (0, f"{path}\n", "")
    written = {file for file in set(Path().rglob("*")) - before if file.is_file()}
    assert written == {Path(path)}
    page = Decoded(Path(path).read_text(encoding="utf-8"))
    assert list(page.layers) == [5]


def test_all_layers_are_the_default_and_the_size_is_said(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capfd, "cat.png", "--size", "48", "-o", "page.html")
    size = Path("page.html").stat().st_size
    assert (code, out) == (0, f"page.html: {size / 1e6:.1f} MB, 6 layers, 48 heads, rollout\n")


def test_json(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "cat.png", "--json", "--heads", "0,3", *FEW, "-o", "page.html")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["schema"] == "attnviz/explore/1"
    assert data["file"] == "page.html"
    assert data["bytes"] == Path("page.html").stat().st_size
    assert data["image"] == {"path": "cat.png", "width": 60, "height": 40}
    assert data["model"]["spec"] == "tiny"
    assert data["check"]["verified"]
    assert data["layers"] == [{"layer": 5, "heads": [0, 3], "encoding": "weights8"}]
    assert data["rollout"] == [5]


def test_a_model_with_words(capfd: pytest.CaptureFixture[str]) -> None:
    line = ["cat.png", "-m", "tiny-words", "--answer", "a black mug", "-q", "word:mug"]
    code, out, err = run(capfd, *line, "--json", "--layers", "1", "-o", "page.html")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert (data["prompt"], data["answer"]) == ("", "a black mug")
    page = Decoded(Path("page.html").read_text(encoding="utf-8"))
    assert list(page.layers) == [1]
    assert page.about["start"]["query"] == {"kind": "prefix", "index": 2}
    code, out, _ = run(capfd, *line, "-o", "page.html")
    assert out.endswith("MB, 3 layers, 12 heads, 3 words\n")
    code, out, err = run(capfd, *line[:-1], "word:dog")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--query word:dog: not in the answer; its words are a, black, mug" in err


def test_standard_input(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(Path("cat.png").read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run(capfd, "-", "--quiet", *FEW) == (0, "attnviz-out/stdin.html\n", "")


def test_what_it_begins_with_and_who_takes_part(capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--mask", "mask.png", "-q", "register1", "--scale", "log", "--colormap", "gray",
               "--alpha", "0.25", "--interpolation", "nearest"]  # fmt: skip
    assert run(capfd, "cat.png", *FEW, *options, "-o", "page.html")[0] == 0
    page = Decoded(Path("page.html").read_text(encoding="utf-8"))
    start = page.about["start"]
    assert start["query"] == {"kind": "prefix", "index": 2}
    assert (start["scale"], start["alpha"], start["interpolation"]) == ("log", 0.25, "nearest")
    assert next(iter(page.about["colormaps"])) == "gray"
    assert not page.taking_part(page.layers[5], "keys").all()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["cat.png", "mask.png"], 2, "explore takes one picture, not 2; run it once for each"),
        (["cat.png", "-q", "cls", "-q", "mean"], 2, "explore takes one --query"),
        (["cat.png", "-q", "0,0,9,9"], 2, "single tokens; give X,Y, mean, cls or registerN"),
        (["cat.png", "-q", "mask.png"], 2, "single tokens; give X,Y, mean, cls or registerN"),
        (["cat.png", "-q", "60,3"], 2, "outside the picture, which is 60x40"),
        (["cat.png", "-q", "register4"], 2, "registers"),
        (["cat.png", "--layers", "6"], 2, "the model has 6 layers"),
        (["cat.png", "--answer", "a mug"], 1, "tiny does not answer in words"),
        (["cat.png", "-q", "word:cat"], 1, "tiny does not answer in words"),
        (["cat.png", "--threshold", "2"], 2, "--threshold 2 is no score"),
        (["cat.png", "--heads", "9"], 2, "has 8 heads, numbered 0 to 7"),
        (["cat.png", "--scale", "x"], 2, "--scale 'x' cannot be read"),
        (["cat.png", "--colormap", "x"], 2, "--colormap: unknown colour map 'x'"),
        (["cat.png", "--json", "--quiet"], 2, "exclude one another"),
        (["cat.png", "--csv"], 2, "explore has no option --csv"),
        (["nothing.png"], 1, "nothing.png: no such file; check the path"),
        (["file"], 1, "file: empty"),
        (["cat.png", "-o", "mine.html"], 1, "mine.html: is there, and no page of attnviz explore"),
        (["cat.png", "-o", "file/page.html"], 1, "a file is where a folder must be"),
        (["cat.png", "-o", "file"], 1, "a file is where a folder must be"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    found, out, err = run(capfd, *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1
    assert Path("mine.html").read_text() == "<!doctype html><title>Mine</title>"


def test_what_is_too_large_says_what_would_fit(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnviz.page.explore.LIMIT", 1_500_000)
    code, out, err = run(capfd, "cat.png")
    assert (code, out) == (1, "")
    assert "over the limit of 2 MB; take --layers 5, --heads 1 or --size" in err
    assert not Path("attnviz-out").exists()


def test_in_python(tmp_path: Path) -> None:
    model = attnviz.load_model("tiny", size=48)
    seen = attnviz.observe(attnviz.load_image("cat.png"), model)
    path = attnviz.explore(seen, layers="-1").save(tmp_path / "page.html")
    assert Decoded(path.read_text(encoding="utf-8")).about["image"]["path"] == "cat.png"
