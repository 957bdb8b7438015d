"""Models as people write them, through the command line: each works, or a line says what to do."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import own_models
import pictures
import pytest
import tifffile
import torch
from PIL import Image
from safetensors.torch import save_file

import attnviz
from attnviz.cli import main
from attnviz.errors import UsageError

pytestmark = [  # torch's own words about what it no longer likes
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]
WIDTH, HEIGHT = 150, 90
KEPT, CUT = (22, 36, 8, "keep"), "takes {} pixels only: it is shown the centre of the picture"
WORKING: dict[str, tuple[tuple[int, int, int, str], str]] = {
    # name: rows, columns, side of a cell, fit; what is said
    "Net": (KEPT, ""),
    "Tall": ((16, 8, 16, "crop"), CUT.format("128x256")),
    "TallConfig": ((16, 8, 16, "crop"), CUT.format("128x256")),
    "Map": ((16, 8, 8, "crop"), CUT.format("64x128")),
    "Silent": ((8, 8, 8, "crop"), CUT.format("64x64")),
    "WithClass": ((6, 6, 8, "crop"), CUT.format("48x48")),
    "Hidden": ((7, 7, 8, "crop"), CUT.format("56x56")),
    "Remembers": (KEPT, ""),  # trials leave no trace
    "Sliced": ((9, 9, 8, "crop"), CUT.format("72x72")),
    "Unfolded": ((10, 10, 4, "crop"), CUT.format("40x40")),
    "Asserting": ((12, 6, 8, "crop"), CUT.format("48x96")),
    "Interpolated": ((9, 15, 8, "keep"), ""),
    "ByName": (KEPT, ""),
    "SecondPlace": (KEPT, ""),
    "OnlyKeyword": (KEPT, ""),
    "Anything": (KEPT, ""),
    "GivesNone": (KEPT, ""),
    "GivesText": (KEPT, ""),
    "GivesDict": (KEPT, ""),
    "GivesNumber": (KEPT, ""),
    "GivesPair": (KEPT, ""),
    "GivesNest": (KEPT, ""),
    "Grey": (KEPT, ""),
    "GreyFixed": ((8, 8, 8, "crop"), CUT.format("64x64")),
    "AlwaysFloat": (KEPT, ""),
    "exported": ((8, 8, 8, "crop"), CUT.format("64x64")),
    "exported_module": ((8, 8, 8, "crop"), CUT.format("64x64")),
    "exported_tall": ((12, 6, 8, "crop"), CUT.format("48x96")),
    "exported_any": (KEPT, ""),
    "Int8": (KEPT, ""),
    "scripted": ((20, 36, 8, "keep"), ""),  # it does not say how large its patches are
    "compiled": ((8, 8, 8, "crop"), CUT.format("64x64")),
    "compiled_in_place": ((8, 8, 8, "crop"), CUT.format("64x64")),
    "parallel": ((16, 8, 16, "crop"), CUT.format("128x256")),
    "averaged": ((16, 8, 16, "crop"), CUT.format("128x256")),
    "its_class": (KEPT, ""),
    "in_training": (KEPT, ""),
    "Stubborn": (KEPT, ""),
    "half_frozen": (KEPT, ""),
    "of_inference": (KEPT, ""),
    "Complex": (KEPT, ""),
    "talkative": (KEPT, "loading ..."),
    "size_text_number": ((6, 10, 8, "keep"), ""),
    "size_one_of_a_list": ((6, 10, 8, "keep"), ""),
    "size_numpy": ((6, 10, 8, "keep"), ""),
    "size_tensor": ((4, 7, 8, "keep"), ""),
    "size_dict": ((4, 7, 8, "keep"), ""),
    "size_edge": ((6, 10, 8, "keep"), ""),
    "size_last": ((4, 7, 8, "keep"), ""),
    "patch_two": (KEPT, ""),
}
FILE = r"\(own_models.py, line \d+\)"
REFUSED = {
    # name: what the line must say
    "GreyPatches": "wants pictures of 1 channel and is given 3",
    "Six": "wants pictures of 6 channels and is given 3.*pixels[:, [0, 1, 2, 0, 1, 2]]",
    "ChannelsLast": "but other axes; give .* calls it with pixels.permute(0, 2, 3, 1)",
    "Unbatched": "but other axes; give .* calls it with pixels[0]",
    "Frames": "but other axes; give .* calls it with pixels[:, None]",
    "TakesDict": "it takes a dict, not one tensor; give --input [image]",
    "TakesList": "it takes a list of pictures, not one tensor; give --input []",
    "Ages": "its forward needs more than pixels (image); say which argument .* by --input NAME",
    "NeedsText": "its forward needs more than pixels (text, mask); say .* by --input NAME",
    "NeedsKeyword": "its forward needs more than pixels (text); say .* by --input NAME",
    "Nothing": "its forward takes no argument; give a module",
    "InnerArguments": "TypeError: InnerArguments.attend() missing 1 .* 'mask' FILE; mend it",
    "OtherDevice": "uses another device than cpu: .*meta.* FILE; have it .*device=pixels.device",
    "NeedsCuda": "uses another device than cpu: .* FILE; have it .*device=pixels.device",
    "Double": "mixes float32 with another number type: .*Double.* FILE; have it .*pixels.dtype",
    "Broken": "its forward raised KeyError: 'y' FILE; mend it, or see the traceback with --debug",
    "Strange": "its forward raised AssertionError FILE; mend it",
    "OfPixels": "its forward raised ValueError: not blank: torch.float32 FILE; mend it",
    "Leaves": "its forward raised SystemExit: 1 FILE; mend it",
    "Widths": "(792x16 and 17x48) FILE; .*image_size = (height, width); else mend it",
    "SilentTall": "its pos_embed is of 128 tokens; give .* image_size = (height, width)",
    "SlicedTall": "its pos_embed is of 1280 tokens in rows and columns .*; give the module an",
    "Greedy": "out of memory on 288x176 pixels; take a smaller --size",
    "Rooms": 'its forward raised NotImplementedError: .*"forward"',
    "parts": 'its forward raised NotImplementedError: .*"forward"',
    "meta": "weights are on the meta device (embed.weight and 5 more); give --weights FILE",
    "partly_meta": "weights are on the meta device (head.weight and 1 more); give --weights FILE",
    "exported_in_training": "was exported as it is trained.*model.eval()",
    "lazy": "some layers are lazy (0.weight and 3 more); have the factory run it once",
    "with_transform": "returned a tuple of Net, str, .*; have it return the model alone",
    "its_maker": "returned a value of type function, not an nn.Module",
    "its_weights": "returned a state dict (save it and give it as --weights FILE)",
    "weights": "is a state dict (save it and give it as --weights FILE)",
    "with_size": "with_size needs arguments (size); give --set size=VALUE, .*`def build(): return",
    "later": "returned a value of type coroutine, not an nn.Module",
    "ends": "raised SystemExit: usage: train.py --data DATA FILE; put .*__name__ == '__main__'",
    "mean_two": "its mean has 2 numbers; give one, or three",
    "mean_six": "its mean has 6 numbers; give one, or three",
    "mean_text": "its mean is 'imagenet'; make it one number, or three",
    "mean_empty": "its mean has 0 numbers; give one, or three",
    "mean_nan": "its mean is nan; make it one number, or three",
    "mean_words": "its mean is ('a', 'b', 'c'); make it one number, or three",
    "mean_mixed": "is of pixel values 0 to 255, and the other is not; give both",
    "std_zero": "its std is [0.5, 0.0, 0.5]; give numbers over 0",
    "std_negative": "its std is -0.5; give numbers over 0",
    "size_text": "its image_size is 'large'; make it a number or (height, width), in pixels",
    "size_zero": "its image_size is 0; make it",
    "size_negative": "its image_size is (-64, 64); make it",
    "size_fraction": "its image_size is 64.5; make it",
    "patch_text": "its patch_size is 'p16'; make it",
    "patch_zero": "its patch_size is 0; make it",
    "prefix_text": "its num_prefix_tokens is 'one'; make it a number of tokens",
}


def pattern(words: str) -> str:
    """What must be said as a regular expression: `.*` and FILE stand for what may differ."""
    escaped = words
    for character in "()[]+?":
        escaped = escaped.replace(character, f"\\{character}")
    return escaped.replace("FILE;", f"{FILE};")


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(own_models.__file__, "own_models.py")
    pictures.noise(WIDTH, HEIGHT).save("photo.png")
    return tmp_path


def run(capfd: pytest.CaptureFixture[str], name: str, *options: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `attnviz stats photo.png` with a model of the file."""
    code = main(["stats", "photo.png", "-m", f"py:own_models.py:{name}", "--json", *options])
    out, err = capfd.readouterr()
    return code, out, err


def record(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out)
    return found


def refused(err: str, words: str) -> None:
    """One line of error that says so, and names no fault of attnviz."""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("attnviz: error: ")
    assert "fault of attnviz" not in err
    assert re.search(pattern(words), err), err


@pytest.mark.parametrize("name", WORKING)
def test_what_can_be_shown_is_shown_as_the_model_takes_it(
    capfd: pytest.CaptureFixture[str], name: str
) -> None:
    (rows, columns, cell, fit), words = WORKING[name]
    code, out, err = run(capfd, name)
    assert code == 0, err
    tokens = record(out)["tokens"]
    assert (tokens["rows"], tokens["columns"], tokens["patch"], tokens["fit"]) == (
        rows, columns, cell, fit,
    )  # fmt: skip
    assert (tokens["input_width"], tokens["input_height"]) == (columns * cell, rows * cell)
    assert record(out)["check"]["verified"]
    assert words in err
    assert bool(words) == bool(err)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_shown_says_why_in_one_line(
    capfd: pytest.CaptureFixture[str], name: str
) -> None:
    code, out, err = run(capfd, name)
    assert (code, out) == (1, "")
    refused(err, REFUSED[name])


WRAPPER = """
import torch
from torch import nn
from own_models import {name}

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = {name}()

    def forward(self, pixels):
        return self.net({code})
"""


@pytest.mark.parametrize("name", ["GreyPatches", "Six", "ChannelsLast", "Unbatched", "Frames"])
def test_what_the_line_says_to_write_works(capfd: pytest.CaptureFixture[str], name: str) -> None:
    _, _, err = run(capfd, name)
    code = err.rstrip("\n").partition("whose module calls it with ")[2]
    Path("wrapped.py").write_text(WRAPPER.replace("{name}", name).replace("{code}", code))
    assert main(["stats", "photo.png", "-m", "py:wrapped.py:Wrapped", "--json"]) == 0, code
    assert record(capfd.readouterr().out)["check"]["verified"]


@pytest.mark.parametrize("name", ["traced", "quantised"])
def test_modules_whose_operators_are_their_own_are_shown_or_refused_by_name(
    capfd: pytest.CaptureFixture[str], name: str
) -> None:
    code, out, err = run(capfd, name)
    if code == 0:
        assert record(out)["tokens"]["rows"] in (8, 22)
    else:
        assert code == 1
        refused(err, f"py:own_models.py:{name} made no attention call over the picture, but")


def test_places_are_measured_through_quantised_layers(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "quantised")
    assert code == 0, err
    assert record(out)["check"]["places"] == "measured"
    assert (record(out)["tokens"]["rows"], record(out)["tokens"]["columns"]) == (22, 36)


# Outputs and channels.


@pytest.mark.parametrize("name", ["GivesDict", "GivesPair", "GivesNest"])
def test_logits_inside_of_an_output_serve_targets(
    capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """The same gradients as of the module that returns them alone."""
    line = ["--method", "gradient-rollout", "--target", "2", "--layers", "all"]
    code, out, err = run(capfd, name, *line)
    assert code == 0, err
    plain = record(run(capfd, "Net", *line)[1])
    assert record(out)["target"] == plain["target"]
    assert record(out)["target"]["index"] == 2
    assert record(out)["heads"][0]["map"] == pytest.approx(plain["heads"][0]["map"], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("TakesDict", ["--input", "[image]"]),
        ("TakesDict", ["--input", "batch[image]"]),
        ("TakesList", ["--input", "[]"]),
        ("Ages", ["--input", "image", "--set", "age=1"]),
        ("OnlyKeyword", ["--input", "image"]),
    ],
)
def test_input_says_where_pixels_go(
    capfd: pytest.CaptureFixture[str], name: str, line: list[str]
) -> None:
    code, out, err = run(capfd, name, *line)
    assert code == 0, err
    plain = record(run(capfd, "Net")[1])
    assert record(out)["heads"][0]["map"] == pytest.approx(plain["heads"][0]["map"], rel=1e-5)


def test_output_says_where_logits_are(capfd: pytest.CaptureFixture[str]) -> None:
    line = ["--method", "gradient-rollout", "--target", "2", "--layers", "all"]
    plain = record(run(capfd, "Net", *line)[1])
    code, out, err = run(capfd, "GivesDeep", "--output", "heads.1.species", *line)
    assert code == 0, err
    assert record(out)["target"] == plain["target"]
    assert record(out)["heads"][0]["map"] == pytest.approx(plain["heads"][0]["map"], rel=1e-5)
    code, out, err = run(capfd, "GivesDeep", "--output", "heads.-1.genus", *line)
    assert (code, out) == (1, "")
    refused(err, "--output heads.-1.genus: no 'genus': a dict of the model has species")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--input", "img"], "--input img: the forward of .* takes no argument of that name; "),
        (["--input", "[image"], "--input '[image': give the argument of forward"),
        (["--output", "a..b"], "--output 'a..b': give the part"),
        (["--resize", "cubic"], "unknown --resize 'cubic'; choose from nearest"),
    ],
)
def test_wrong_forms_are_refused(
    capfd: pytest.CaptureFixture[str], line: list[str], words: str
) -> None:
    assert main(["stats", "photo.png", "-m", "py:own_models.py:Net", *line]) == 2
    refused(capfd.readouterr().err, words)


def test_forms_are_for_own_modules(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "photo.png", "--output", "out"]) == 2
    refused(capfd.readouterr().err, "--output out: tiny takes no settings; .* is --out")


@pytest.mark.parametrize("name", ["nearest", "lanczos"])
def test_resize_is_the_filter(name: str) -> None:
    model = attnviz.load_model("tiny", resize=name)
    picture = attnviz.load_image("photo.png")
    placement = model.place(picture)
    size = placement.grid.input_width, placement.grid.input_height
    filters = {"nearest": Image.Resampling.NEAREST, "lanczos": Image.Resampling.LANCZOS}
    expected = picture.image().resize(size, filters[name], box=placement.source)
    assert (model.lay(picture, placement) == np.asarray(expected)).all()


def test_a_model_of_one_channel_gets_the_picture_in_grey() -> None:
    model = attnviz.load_model("py:own_models.py:Grey", mean="0.25", std="half")
    assert model.channels == 1
    picture = attnviz.load_image("photo.png")
    placement = model.place(picture, fit="squash")
    pixels = model.pixels(picture, placement)
    laid = torch.from_numpy(model.lay(picture, placement).copy()).double() / 255
    grey = 0.299 * laid[..., 0] + 0.587 * laid[..., 1] + 0.114 * laid[..., 2]
    assert pixels.shape == (1, 1, *laid.shape[:2])
    assert torch.allclose(pixels[0, 0].double(), (grey - 0.25) / 0.5, atol=1e-6)


def test_a_model_of_one_channel_is_evaluated(capfd: pytest.CaptureFixture[str]) -> None:
    line = ["-m", "py:own_models.py:Grey", "--method", "attention", "--json"]
    assert main(["evaluate", "photo.png", *line]) == 0, capfd.readouterr().err
    assert capfd.readouterr().out


def test_a_module_of_several_channels_says_how_many() -> None:
    assert attnviz.load_model("py:own_models.py:Six").channels == 6
    assert attnviz.load_model("py:own_models.py:Net").channels == 3


def test_a_model_of_six_channels_gets_six_bands(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its input is each band resized alone and normalised by its own numbers."""
    bands = np.random.default_rng(0).integers(0, 256, (64, 64, 6), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "six.tif", bands, photometric="minisblack", planarconfig="contig")
    means = ",".join(str(band / 10) for band in range(6))
    model = attnviz.load_model("py:own_models.py:Six", mean=means, std="0.25", size=32)
    picture = attnviz.load_image(tmp_path / "six.tif", channels="5,4,3")
    assert (picture.pixels == bands[..., [5, 4, 3]]).all()
    pixels = model.pixels(picture, model.place(picture))
    assert pixels.shape == (1, 6, 32, 32)
    for band in range(6):
        small = Image.fromarray(bands[..., band]).resize((32, 32), Image.Resampling.BICUBIC)
        expected = (torch.from_numpy(np.asarray(small).copy()) / 255 - band / 10) / 0.25
        assert torch.allclose(pixels[0, band], expected, atol=1e-6)
    file, out = str(tmp_path / "six.tif"), str(tmp_path / "out")
    assert main(["show", file, "-m", "py:own_models.py:Six", "-o", out]) == 0
    capfd.readouterr()
    assert main(["stats", file, "-m", "py:own_models.py:Six", "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["preprocessing"]["channels"] == 6
    heads = shown["heads"]
    one = ["batch", file, "-m", "py:own_models.py:Six", "-o", out, "--pictures", "none"]
    assert main(one) == 0, capfd.readouterr().err
    stats = json.loads((tmp_path / "out" / "stats.jsonl").read_text())
    assert [head["map"] for head in stats["heads"]] == [
        pytest.approx(head["map"], rel=1e-4) for head in heads
    ]


def test_padding_of_six_bands_is_their_mean(tmp_path: Path) -> None:
    np.save(tmp_path / "six.npy", np.zeros((40, 64, 6), np.uint8))
    model = attnviz.load_model("py:own_models.py:Six", mean="0,.2,.4,.6,.8,1", size=32)
    picture = attnviz.load_image(tmp_path / "six.npy")
    laid = model.lay(picture, model.place(picture, fit="pad"))
    assert laid[0, 0].tolist() == [0, 51, 102, 153, 204, 255]
    assert not laid[16].any()


def test_statistics_fit_the_channels() -> None:
    with pytest.raises(UsageError, match=r"--mean has 2 numbers, and .* takes 6 channels"):
        attnviz.load_model("py:own_models.py:Six", mean="0.1,0.2")


# Settings and statistics.


def test_a_factory_takes_settings(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "with_size", "--set", "size=48")
    assert code == 0, err
    assert (record(out)["tokens"]["rows"], record(out)["tokens"]["columns"]) == (6, 6)


@pytest.mark.parametrize("name", ["NeedsText", "NeedsKeyword"])
def test_a_forward_takes_settings_that_its_factory_does_not(
    capfd: pytest.CaptureFixture[str], name: str
) -> None:
    settings = {"text": 40.0} | ({"mask": 2.0} if name == "NeedsText" else {})
    line = [part for each, value in settings.items() for part in ("--set", f"{each}={value}")]
    code, out, err = run(capfd, name, *line)
    assert code == 0, err
    assert record(out)["check"]["verified"]
    model = attnviz.load_model(f"py:own_models.py:{name}", settings=settings)
    pixels = torch.rand(1, 3, 32, 48)
    plain = own_models.Net()
    plain.load_state_dict(
        {key.removeprefix("model."): each for key, each in model.module.state_dict().items()}
    )
    assert torch.allclose(model.module(pixels), plain(pixels) + sum(settings.values()))


@pytest.mark.parametrize(
    ("name", "settings", "code", "words"),
    [
        ("with_size", ["sise=48"], 1, "with_size needs arguments (size); give --set size=VALUE"),
        ("Net", ["depth=6"], 2, "--set depth: neither the factory of py:own_models.py:Net nor"),
        ("traced", ["depth=6"], 2, "--set depth: neither the factory of py:own_models.py:traced"),
        ("Net", ["pixels=6"], 2, "--set pixels: neither the factory of py:own_models.py:Net nor"),
        ("Net", ["depth"], 2, "--set 'depth' is not NAME=VALUE; give it such as --set depth=6"),
        ("Net", ["patch=8", "patch=4"], 2, "--set patch is given twice; give it once"),
    ],
)
def test_settings_that_nothing_takes_are_refused(
    capfd: pytest.CaptureFixture[str], name: str, settings: list[str], code: int, words: str
) -> None:
    given = [part for each in settings for part in ("--set", each)]
    assert run(capfd, name, *given)[:2] == (code, "")
    main(["stats", "photo.png", "-m", f"py:own_models.py:{name}", *given])
    refused(capfd.readouterr().err, words)


def test_other_models_take_no_settings(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "photo.png", "-m", "tiny", "--set", "depth=6"]) == 2
    refused(capfd.readouterr().err, "--set depth: tiny takes no settings; give it with py: or")


def test_given_statistics_replace_those_of_the_module(capfd: pytest.CaptureFixture[str]) -> None:
    """`half` after a mean and deviation of 0.25: the same numbers as a module that states it."""
    numbers = {}
    for name, line in {
        "mean_number": ["--mean", "half", "--std", "0.5,0.5,0.25"],
        "mean_tensor": ["--mean", "0.5", "--std", "0.5,0.5,0.25"],
        "own": [],
    }.items():
        spec = f"py:own_models.py:{'mean_number' if name == 'own' else name}"
        assert main(["stats", "photo.png", "-m", spec, "--json", *line]) == 0
        numbers[name] = record(capfd.readouterr().out)["heads"][0]["entropy"]
    assert numbers["mean_number"] == pytest.approx(numbers["mean_tensor"], rel=1e-6)
    assert numbers["mean_number"] != pytest.approx(numbers["own"], rel=1e-6)
    model = attnviz.load_model("tiny", mean="imagenet", std="none")
    assert (model.mean, model.std) == ((0.485, 0.456, 0.406), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--mean", "0.5,0.5"], "--mean has 2 numbers, and .* takes 3 channels; give one, or 3"),
        (["--mean", "nan"], "--mean 'nan': give one number, or one for each channel"),
        (["--std", "imagnet"], "--std 'imagnet': give one number, or one for each channel"),
        (["--std", "0,1,1"], "--std 0,1,1: give numbers over 0"),
        (["--mean", "127.5"], "--mean 127.5: pixel values are from 0 to 1; divide by 255"),
    ],
)
def test_wrong_statistics_are_refused(
    capfd: pytest.CaptureFixture[str], line: list[str], words: str
) -> None:
    assert run(capfd, "Net", *line)[:2] == (2, "")
    main(["stats", "photo.png", "-m", "py:own_models.py:Net", *line])
    refused(capfd.readouterr().err, words)


def test_all_models_of_the_file_are_in_a_table() -> None:
    """No model is there that no test runs."""
    others = {"GivesDeep", "Scripted", "Square", "traced", "quantised"}
    statistics = {name for name in vars(own_models) if name.startswith("mean_")}
    made = {
        name
        for name, value in vars(own_models).items()
        if getattr(value, "__module__", None) == own_models.__name__ and not name.startswith("_")
    }
    assert made == {*WORKING, *REFUSED, *others, *statistics} - {"weights"}


# Sizes.


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("name", ["Tall", "Map", "exported_tall"])
def test_every_fit_fills_the_models_own_shape(
    capfd: pytest.CaptureFixture[str], name: str, fit: str
) -> None:
    code, out, err = run(capfd, name, "--fit", fit)
    assert (code, err) == (0, "")
    tokens, (rows, columns, cell, _) = record(out)["tokens"], WORKING[name][0]
    assert tokens["fit"] == fit
    assert (tokens["rows"], tokens["columns"], tokens["patch"]) == (rows, columns, cell)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("Tall", "128x256"), ("Silent", "64x64"), ("Map", "64x128"), ("Hidden", "56x56"),
        ("exported_tall", "48x96"), ("exported", "64x64"),
    ],
)  # fmt: skip
def test_a_size_that_it_does_not_take_is_refused_and_never_replaced(
    capfd: pytest.CaptureFixture[str], name: str, own: str
) -> None:
    code, out, err = run(capfd, name, "--size", "96")
    assert (code, out) == (2, "")
    refused(err, f"--size 96: py:own_models.py:{name} takes {own} pixels only; leave it out")


@pytest.mark.parametrize(("name", "size"), [("Silent", 64), ("Interpolated", 48), ("exported", 64)])
def test_a_size_that_it_takes_is_taken(
    capfd: pytest.CaptureFixture[str], name: str, size: int
) -> None:
    code, out, _ = run(capfd, name, "--size", str(size), "--fit", "squash")
    assert code == 0
    tokens = record(out)["tokens"]
    assert (tokens["input_width"], tokens["input_height"]) == (size, size)


def test_as_many_tokens_in_another_shape_are_not_taken_for_its_own(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """16×4 tokens would get the positions of 8×8, and no error would say so."""
    pictures.noise(160, 40).save("photo.png")
    code, out, err = run(capfd, "Square")
    assert code == 0
    assert CUT.format("64x64") in err
    tokens = record(out)["tokens"]
    assert (tokens["rows"], tokens["columns"], tokens["fit"]) == (8, 8, "crop")
    code, out, err = run(capfd, "Net", "--size", "64")  # which takes any shape
    assert (code, err) == (0, "")
    assert (record(out)["tokens"]["rows"], record(out)["tokens"]["columns"]) == (4, 16)


@pytest.mark.parametrize("options", [("--size", "64"), ("--size", "48", "--fit", "pad")])
def test_fewer_tokens_than_it_has_positions_are_not_given_those_of_others(
    capfd: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    code, _, err = run(capfd, "Sliced", *options)
    assert code == 2
    refused(err, f"{' '.join(options[:2])}: py:own_models.py:Sliced takes 72x72 pixels only")
    code, out, _ = run(capfd, "Sliced", "--size", "72", "--fit", "pad")
    assert code == 0
    assert (record(out)["tokens"]["rows"], record(out)["tokens"]["columns"]) == (9, 9)


def test_a_folder_of_shapes_is_shown_the_same_as_each_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    shapes = {"a.png": (150, 90), "b.png": (90, 150), "c.png": (150, 90), "d.png": (64, 128)}
    Path("folder").mkdir()
    for name, shape in shapes.items():
        pictures.noise(*shape, seed=len(name)).save(Path("folder") / name)
    line = ["-m", "py:own_models.py:Tall", "--json"]
    assert main(["batch", "folder", "-o", "out", "--pictures", "none", *line]) == 0
    out, err = capfd.readouterr()
    assert "the model was shown the centre" in err
    together = {Path(r["image"]["path"]).name: r for r in map(json.loads, out.splitlines())}
    assert set(together) == set(shapes)
    for name in shapes:
        assert main(["stats", f"folder/{name}", *line]) == 0
        alone = json.loads(capfd.readouterr().out)
        assert together[name]["tokens"] == alone["tokens"]
        for one, other in zip(together[name]["heads"], alone["heads"], strict=True):
            assert one["entropy"] == pytest.approx(other["entropy"], rel=1e-5)
            assert one["map"]["peak_x"] == other["map"]["peak_x"]


@pytest.mark.parametrize("name", ["Six", "Broken", "NeedsText"])
def test_a_folder_is_refused_as_one_picture_is(
    capfd: pytest.CaptureFixture[str], name: str
) -> None:
    Path("folder").mkdir()
    for number in range(2):
        pictures.noise(WIDTH, HEIGHT).save(f"folder/{number}.png")
    code = main(["batch", "folder", "-o", "out", "-m", f"py:own_models.py:{name}"])
    err = capfd.readouterr().err
    assert code == 1
    assert "fault of attnviz" not in err
    refused(err.splitlines()[0] + "\n", REFUSED[name])


# Number types, gradients, weights.


@pytest.mark.parametrize("name", ["Net", "Tall", "Int8", "of_inference", "exported"])
def test_half_precision_works(capfd: pytest.CaptureFixture[str], name: str) -> None:
    code, _, err = run(capfd, name, "--dtype", "bfloat16")
    assert code == 0, err


@pytest.mark.parametrize("name", ["AlwaysFloat", "Complex"])
def test_what_is_right_in_float32_only_says_so(
    capfd: pytest.CaptureFixture[str], name: str
) -> None:
    code, out, err = run(capfd, name, "--dtype", "bfloat16")
    assert (code, out) == (1, "")
    refused(err, "mixes bfloat16 with another number type: .* FILE; take --dtype float32, or")


@pytest.mark.parametrize("name", ["Tall", "exported", "of_inference", "half_frozen", "compiled"])
def test_gradients_can_be_asked(capfd: pytest.CaptureFixture[str], name: str) -> None:
    code, out, err = run(capfd, name, "--method", "relevance", "--target", "2")
    assert code == 0, err
    assert record(out)["target"]["index"] == 2


@pytest.mark.parametrize("name", ["GivesNone", "GivesText"])
def test_an_output_that_has_no_score_is_said(capfd: pytest.CaptureFixture[str], name: str) -> None:
    code, out, err = run(capfd, name, "--method", "relevance")
    assert (code, out) == (1, "")
    refused(err, "its output is a .*, and no tensor of 2 to 4 dimensions; have the module return")


def test_a_fault_of_the_code_is_one_with_gradients_too(capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capfd, "Broken", "--method", "relevance", "--target", "1")
    assert code == 1
    refused(err, REFUSED["Broken"])


@pytest.mark.parametrize("name", ["meta", "partly_meta"])
def test_what_is_on_the_meta_device_is_filled_from_a_file(
    capfd: pytest.CaptureFixture[str], name: str
) -> None:
    torch.manual_seed(3)
    state = own_models.Net().state_dict()
    save_file(state, "net.safetensors")
    options = ("--weights", "net.safetensors", "--seed", "1")
    code, out, err = run(capfd, name, *options)
    assert (code, err) == (0, "")
    _, expected, _ = run(capfd, "Net", *options)
    assert record(out)["heads"] == record(expected)["heads"]


# What modules say of pixel values.

NUMBERS = [
    "mean_number", "mean_list_of_one", "mean_tensor", "mean_scalar_tensor", "mean_numpy",
    "mean_numpy_scalar", "mean_nested", "mean_levels",
]  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_every_kind_normalise_alike(
    capfd: pytest.CaptureFixture[str], name: str
) -> None:
    model = attnviz.load_model(f"py:own_models.py:{name}")
    assert (model.mean, model.std) == ((0.25,) * 3, (0.5,) * 3)
    picture = attnviz.load_image("photo.png")
    placement = model.place(picture)
    levels = torch.from_numpy(model.lay(picture, placement).copy()).double() / 255
    expected = ((levels - 0.25) / 0.5).permute(2, 0, 1)[None]
    torch.testing.assert_close(model.pixels(picture, placement).double(), expected)
    assert run(capfd, name)[0] == 0


@pytest.mark.parametrize("name", ["mean_none", "mean_method"])
def test_what_says_nothing_is_a_half(name: str) -> None:
    model = attnviz.load_model(f"py:own_models.py:{name}")
    assert (model.mean, model.std) == ((0.5,) * 3, (0.5,) * 3)


# What is typed.


@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        ("py:own_models.py:Net()", 2, "give the name alone, .*: py:own_models.py:Net"),
        ("py:photo.png:Net", 1, "photo.png is no Python file; give py:FILE.py:FACTORY"),
        ("py:pkg/:Net", 1, "pkg/ is no Python file"),
        ("py:own_models.py:nn", 1, "nn is torch.nn, neither an nn.Module nor callable"),
        ("py:own_models.py:Net.forward", 1, "Net.forward needs arguments (self, pixels)"),
        ("py:slip.py:Net", 1, "SyntaxError: .* (slip.py, line 2); mend it"),
        ("py:slip:Net", 1, "SyntaxError: .* (slip.py, line 2); mend it"),
        ("py:pkg/inner.py:Net", 1, "relative import.*; give the module by its name: py:PACKAGE"),
        ("py:stops.py:Net", 1, "importing stops.py raised SystemExit: 7 (stops.py, line 1); put"),
        ("py:~/no_such_file.py:Net", 1, "no such file .*no_such_file.py"),
    ],
)
def test_slips_are_said_with_what_to_type(
    capfd: pytest.CaptureFixture[str], spec: str, code: int, words: str
) -> None:
    Path("slip.py").write_text("x = 1\ndef (:\n")
    Path("stops.py").write_text("raise SystemExit(7)\n")
    Path("pkg").mkdir()
    Path("pkg/inner.py").write_text("from .outer import Net\n")
    assert main(["stats", "photo.png", "-m", spec]) == code
    out, err = capfd.readouterr()
    assert not out
    refused(err, words)


def test_a_package_is_imported_by_its_name(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pkg", "pkg.inner", "pkg.outer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    Path("pkg").mkdir()
    Path("pkg/__init__.py").touch()
    shutil.copy(own_models.__file__, "pkg/outer.py")
    Path("pkg/inner.py").write_text("from .outer import Net\n")
    assert main(["stats", "photo.png", "-m", "py:pkg.inner:Net", "--json"]) == 0
    assert record(capfd.readouterr().out)["tokens"]["rows"] == 22


@pytest.mark.parametrize("name", ["types", "random", "torch"])
def test_a_file_with_the_name_of_a_library_leaves_the_library_alone(
    capfd: pytest.CaptureFixture[str], name: str
) -> None:
    before = sys.modules[name]
    Path("mine").mkdir()
    shutil.copy(own_models.__file__, f"mine/{name}.py")
    assert main(["stats", "photo.png", "-m", f"py:mine/{name}.py:Net", "--json"]) == 0
    assert record(capfd.readouterr().out)["tokens"]["rows"] == 22
    assert sys.modules[name] is before


def test_what_a_factory_prints_is_no_result(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "talkative")
    assert code == 0
    assert len(out.splitlines()) == 1
    assert json.loads(out)
    assert err == "loading ...\n"


def test_debug_shows_where_it_was_raised(capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capfd, "Broken", "--debug")
    assert code == 1
    assert "Traceback (most recent call last)" in err
    assert 'return {"x": super().tokens(pixels)}["y"]  # the fault' in err
