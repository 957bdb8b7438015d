import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import attnviz
from attnviz.cli import main

SIZE = (32, 24)
CUDA = torch.cuda.is_available()


class Trap:
    """What a hostile .pt file holds: unpickled freely, it makes a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("sprung",)


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a good picture and everything that can be wrong."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save("photo.png")
    Image.fromarray(pixels).save("two\nlines.png")
    Image.new("L", (8, 8), 255).save("small-mask.png")
    Image.new("L", SIZE, 0).save("black-mask.png")
    Path("folder").mkdir()
    Path("empty.jpg").touch()
    Path("page.jpg").write_text("<!doctype html><html>Not found</html>")
    Path("file").touch()
    Path("cut.png").write_bytes(Path("photo.png").read_bytes()[:1000])
    write_weights()
    return tmp_path


def write_weights() -> None:
    good = attnviz.MultiHeadAttention(8, 64).state_dict()
    torch.save(good, "good.pt")
    odd = {key: value for key, value in good.items() if key != "out.bias"}
    torch.save(odd | {"k_linear.weight": torch.zeros(3, 64), "more": torch.zeros(1)}, "odd.pt")
    torch.save(good | {"out.bias": torch.full((64,), torch.nan)}, "nan.pt")
    torch.save([1, 2], "list.pt")
    torch.save(Trap(), "trap.pt")
    Path("trap.pth").write_bytes(pickle.dumps(Trap()))
    Path("empty.pt").touch()
    save_file(good, "good.safetensors")
    Path("cut.safetensors").write_bytes(Path("good.safetensors").read_bytes()[:3000])


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line in this process."""
    code = main(arguments)
    out, err = capfd.readouterr()
    return code, out, err


def only_whole_files(folder: Path) -> bool:
    """Whether a folder is not there, or holds nothing that is half of something."""
    for path in folder.rglob("*"):
        if path.is_dir() or path.suffix == ".csv":
            continue
        if path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".json":
            json.loads(path.read_text())
        else:
            return False
    return True


def told(line: str, *words: str) -> None:
    """One line of error that names what is wrong."""
    assert line.startswith("attnviz: error: ")
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    assert "Traceback" not in line
    for word in words:
        assert word in line


PICTURES = [
    ("no.jpg", "no.jpg: no such file"),
    ("folder", "folder: a folder"),
    ("empty.jpg", "empty.jpg: empty"),
    ("page.jpg", "page.jpg: not a picture"),
    ("cut.png", "cut.png: truncated"),
    ("nul\0.png", "cannot be read"),
    ("", "error: "),
]
FAILURES = [
    # arguments after `show photo.png`, and what must be said
    (["--weights", "no.pt"], ["no.pt", "no such file"]),
    (["--weights", "photo.png"], ["photo.png", ".safetensors"]),
    (["--weights", "folder"], ["folder"]),
    (["--weights", "trap.pt"], ["trap.pt", "pickled code", "state_dict"]),
    (["--weights", "trap.pth"], ["trap.pth"]),
    (["--weights", "list.pt"], ["list.pt", "not a state dict"]),
    (["--weights", "empty.pt"], ["empty.pt"]),
    (["--weights", "nan.pt"], ["nan.pt", "out.bias holds NaN"]),
    (["--weights", "cut.safetensors"], ["cut.safetensors", "damaged"]),
    (["--mask", "small-mask.png"], ["small-mask.png", "8x8", "32x24"]),
    (["--mask", "no.png"], ["no.png: no such file"]),
    (["--query", "no.png"], ["no.png: no such file"]),
    (["--query", "small-mask.png"], ["small-mask.png", "8x8", "32x24"]),
    (["--out", "file"], ["file", "choose another --out"]),
    (["--out", "file/deeper"], ["file/deeper", "choose another --out"]),
]
SLIPS = [
    (["--fit", "stretch"], ["--fit", "stretch", "keep"]),
    (["--heads", "0"], ["--heads 0"]),
    (["--heads", "abc"], ["--heads", "abc"]),
    (["--heads", ""], ["--heads"]),
    (["--heads", "0,99"], ["--heads", "8 heads", "99"]),
    (["--heads", "-1"], ["--heads"]),
    (["--layers", "3"], ["--layers", "1 layer", "3"]),
    (["--layers", "last"], ["--layers", "last"]),
    (["--query", "32,0"], ["--query 32,0", "32x24"]),
    (["--query", "-1,0"], ["--query -1,0", "32x24"]),
    (["--query", "40,40,50,50"], ["--query 40,40,50,50"]),
    (["--query", "1,2,3"], ["1,2,3", "3 numbers"]),
    (["--query", "5,5,5,9"], ["5,5,5,9", "empty box"]),
    (["--query", "middle"], ["middle"]),
    (["--query", "cls"], ["cls", "--query mean"]),
    (["--query", "black-mask.png"], ["black-mask.png", "no token"]),
    (["--mask", "black-mask.png"], ["--mask", "no token"]),
    (["--method", "magic"], ["magic", "attention"]),
    (["--features", "63"], ["63", "8", "64"]),
    (["--device", "nonsense"], ["nonsense", "cpu"]),
    (["--device", "cpu:1"], ["cpu:1"]),
    (["--device", "cuda:x"], ["cuda:x"]),
    (["--dtype", "float8"], ["float8"]),
    (["--colormap", "rainbowish"], ["rainbowish", "did you mean rainbow"]),
    (["--scale", "1:0"], ["--scale", "1:0"]),
    (["--scale", "wide"], ["--scale", "wide"]),
    (["--alpha", "2"], ["--alpha", "2"]),
    (["--alpha", "half"], ["--alpha", "half"]),
    (["--format", "bmp"], ["--format", "bmp"]),
    (["--size", "0"], ["--size", "0"]),
    (["--size", "big"], ["--size", "big"]),
    (["--patch", "0"], ["--patch", "0"]),
    (["--tokens", "pixels", "--patch", "8"], ["--patch 8", "pixels"]),
    (["--seed", "-1"], ["--seed", "-1"]),
    (["--json", "--csv"], ["--json", "--csv"]),
    (["--json", "--quiet"], ["--json", "--quiet"]),
    (["--no-such-option"], ["--no-such-option", "attnviz show --help"]),
    (["--fit"], ["--fit"]),
    (["photo.png"], ["photo.png is named twice"]),
]


@pytest.mark.parametrize(("path", "words"), PICTURES)
@pytest.mark.parametrize("command", ["show", "stats"])
def test_a_picture_that_cannot_be_read_fails_in_one_line(
    capfd: pytest.CaptureFixture[str], command: str, path: str, words: str
) -> None:
    code, out, err = run(capfd, command, path)
    assert (code, out) == (1, "")
    told(err, words)
    assert not Path("attnviz-out").exists()


@pytest.mark.parametrize(("arguments", "words"), FAILURES)
def test_what_cannot_be_done_fails_in_one_line(
    capfd: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    code, out, err = run(capfd, "show", "photo.png", "-m", "random", "--size", "32", *arguments)
    assert (code, out) == (1, "")
    told(err, *words)
    assert only_whole_files(Path("attnviz-out"))
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["odd.pt"],
            [
                "odd.pt does not fit: 6 of 8 weights fit",
                "out.bias is missing; k_linear.weight is 3x64 where 64x64 is needed; more has no",
                "try: give the model",
            ],
        ),
        (["good.pt", "--features", "128"], ["good.pt does not fit", "64x64", "128x128", "try:"]),
    ],
)
def test_weights_that_do_not_fit_are_told_in_three_lines(
    capfd: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    code, out, err = run(
        capfd, "show", "photo.png", "-m", "random", "--size", "32", "--weights", *arguments
    )
    assert (code, out) == (1, "")
    first, *others = err.splitlines()
    assert first.startswith("attnviz: error: ")
    assert len(others) == 2
    assert all(word in err for word in words)


@pytest.mark.parametrize(("arguments", "words"), SLIPS)
def test_what_cannot_be_meant_is_wrong_usage_in_one_line(
    capfd: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    size = [] if "--size" in arguments else ["--size", "32"]
    code, out, err = run(capfd, "show", "photo.png", "-m", "random", *size, *arguments)
    assert (code, out) == (2, "")
    told(err, *words)
    assert not Path("attnviz-out").exists()


def test_the_trap_is_one() -> None:
    """The file that the command line must not unpickle does something when it is."""
    pickle.loads(Path("trap.pth").read_bytes())
    assert Path("sprung").is_dir()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show"], "IMAGE"),
        (["stats"], "IMAGE"),
        (["paint"], "paint"),
        (["--no-such-option"], "--no-such-option"),
        (["models", "extra"], "extra"),
        (["stats", "photo.png", "--npz"], "--out"),
        (["stats", "photo.png", "--quiet"], "--out"),
        (["stats", "photo.png", "--colormap", "magma"], "--colormap"),
    ],
)
def test_a_command_that_cannot_be_meant_is_wrong_usage(
    capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    code, out, err = run(capfd, *arguments)
    assert (code, out) == (2, "")
    told(err, words)


def test_no_command_at_all_shows_the_help(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: attnviz ")


def test_an_unknown_model_is_named_with_those_there_are(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "show", "photo.png", "--model", "wit")
    assert (code, out) == (2, "")
    told(err, "'wit'", "random", "attnviz models")


@pytest.mark.skipif(CUDA, reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_an_error_and_no_fallback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code, out, err = run(
        capfd, "show", "photo.png", "-m", "random", "--size", "32", "--device", "cuda"
    )
    assert (code, out) == (1, "")
    told(err, "--device cuda", "--device cpu")
    assert not Path("attnviz-out").exists()


def test_good_weights_are_taken_from_both_kinds_of_file(capfd: pytest.CaptureFixture[str]) -> None:
    line = ["stats", "photo.png", "-m", "random", "--size", "32", "--csv", "--weights"]
    from_pt = run(capfd, *line, "good.pt")
    from_safetensors = run(capfd, *line, "good.safetensors")
    assert from_pt == from_safetensors
    assert (from_pt[0], from_pt[2]) == (0, "")


def test_a_file_name_with_a_newline_keeps_the_error_on_one_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code, _, err = run(capfd, "stats", "no\nsuch.png")
    assert code == 1
    told(err, "such.png: no such file")


def test_a_file_name_that_is_no_text_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capfd, "stats", os.fsdecode(b"no\xff.jpg"))
    assert code == 1
    told(err, ".jpg: no such file")


@pytest.mark.parametrize("character", ["\x1b", "\r", "\x07", "\x0b", "\x85", "\u2028"])
def test_a_file_name_cannot_steer_the_terminal(
    capfd: pytest.CaptureFixture[str], character: str
) -> None:
    _, _, err = run(capfd, "stats", f"no{character}[2Jsuch.png")
    told(err, "such.png: no such file")
    assert character not in err


def test_a_file_name_with_a_newline_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "show", "two\nlines.png", "-m", "random", "--size", "32", "--json")
    assert code == 0
    assert json.loads(out)["image"]["path"] == "two\nlines.png"
    assert err == ""
    assert Path("attnviz-out/two\nlines.png/sheet.png").is_file()


@pytest.mark.parametrize("command", ["show", "stats"])
def test_one_bad_picture_of_several_does_not_stop_the_others(
    capfd: pytest.CaptureFixture[str], command: str
) -> None:
    Image.new("RGB", SIZE, "red").save("red.png")
    pictures = ["photo.png", "cut.png", "no.jpg", "red.png"]
    code, out, err = run(
        capfd, command, *pictures, "-m", "random", "--size", "32", "--json", "--out", "o"
    )
    assert code == 3
    assert [json.loads(line)["image"]["path"] for line in out.splitlines()] == [
        "photo.png",
        "red.png",
    ]
    errors = [line for line in err.splitlines() if line.startswith("attnviz: error: ")]
    assert [line.split()[2] for line in errors] == ["cut.png:", "no.jpg:"]
    assert sorted(path.name for path in Path("o").iterdir()) == ["photo.png", "red.png"]
    assert only_whole_files(Path("o"))


def test_all_pictures_bad_is_failed(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "stats", "cut.png", "no.jpg")
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 2


def test_debug_shows_the_traceback_before_the_line(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "stats", "no.jpg", "--debug")
    assert (code, out) == (1, "")
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("attnviz: error: no.jpg: no such file")


def test_debug_shows_the_traceback_of_wrong_usage(capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capfd, "stats", "photo.png", "--heads", "abc", "--debug")
    assert code == 2
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("attnviz: error: --heads")


def test_an_out_folder_that_may_not_be_written_fails_in_one_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    locked = Path("locked")
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write everywhere")
    code, out, err = run(
        capfd, "show", "photo.png", "-m", "random", "--size", "32", "--out", "locked"
    )
    assert (code, out) == (1, "")
    told(err, "locked/photo.png", "Permission denied")
    assert list(locked.iterdir()) == []


def test_a_folder_with_the_name_of_an_overlay_fails_and_leaves_nothing_half_done(
    capfd: pytest.CaptureFixture[str],
) -> None:
    blocked = Path("o/photo.png/layer00-head03.png")
    blocked.mkdir(parents=True)
    code, out, err = run(capfd, "show", "photo.png", "-m", "random", "--size", "32", "--out", "o")
    assert (code, out) == (1, "")
    told(err, "layer00-head03.png: cannot be written")
    assert not list(Path("o").rglob("*.part"))
    assert list(blocked.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["show", "photo.png", "cut.png", "--quiet", "--size", "32"], 3, "cut.png"),
        (["show", "photo.png", "--fit", "stretch"], 2, "stretch"),
        (["show", "photo.png", "--model", "wit"], 2, "wit"),
        (["show"], 2, "IMAGE"),
    ],
)
def test_a_real_run_ends_with_the_exit_code_and_one_line(
    arguments: list[str], code: int, words: str
) -> None:
    line = [sys.executable, "-m", "attnviz", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == code
    told(done.stderr, words)
