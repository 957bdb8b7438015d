"""`py:MODULE:FACTORY`: the user's own module."""

from pathlib import Path

import pictures
import pytest
import torch

import attnviz
from attnviz.cli import main

NETS = """
import torch
from torch import nn
from helper import PATCH

class Net(nn.Module):
    def __init__(self, patch=PATCH, width=8, cls=False):
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        if cls:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.cls = cls

    def forward(self, pixels):
        x = self.embed(pixels).flatten(2).mT
        if self.cls:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x[:, None]
        return nn.functional.scaled_dot_product_attention(x, x, x)

class Said(Net):
    mean = (0.1, 0.2, 0.3)
    pretrained_cfg = {"mean": (9, 9, 9), "std": 0.5, "input_size": (3, 96, 96),
                      "interpolation": "bilinear"}
    patch_size = (8, 8)

class Overlapping(Net):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 7, 4)

class Sizes:
    large = Net(patch=32)

    @staticmethod
    def small():
        return Net(patch=4, cls=True)

ready = Net()
number = 3

def text():
    return "a net"

def broken():
    return Net(width=1 // 0)

def hungry(size):
    return Net(size)
"""


@pytest.fixture(autouse=True)
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "helper.py").write_text("PATCH = 16\n")
    (tmp_path / "wrong.py").write_text("import does_not_exist_at_all\n")
    (tmp_path / "slip.py").write_text("def (:\n")
    monkeypatch.chdir(tmp_path)
    for name in ("nets", "helper", "wrong", "slip"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "patch", "size", "prefix"),
    [
        ("Net", 16, 224, 0),
        ("ready", 16, 224, 0),
        ("Sizes.small", 4, 224, 1),
        ("Sizes.large", 32, 224, 0),
        ("Said", 8, 96, 0),
        ("Overlapping", 32, 224, 0),
    ],
)
@pytest.mark.parametrize("where", ["nets", "nets.py"])
def test_it_is_imported_made_and_asked(
    where: str, name: str, patch: int, size: int, prefix: int
) -> None:
    model = attnviz.load_model(f"py:{where}:{name}")
    assert (model.patch, model.size, model.prefix) == (patch, size, prefix)
    assert model.class_token == (prefix == 1)
    assert (model.layers, model.heads, model.features) == (None, None, None)
    assert (model.weights, model.spec) == ("own", f"py:{where}:{name}")


def test_its_own_attributes_go_before_those_of_its_config() -> None:
    model = attnviz.load_model("py:nets:Said")
    assert model.mean == (0.1, 0.2, 0.3)
    assert model.std == (0.5, 0.5, 0.5)
    assert model.resample == 2


def test_options_go_before_what_it_says() -> None:
    model = attnviz.load_model("py:nets:Said", patch=4, size=64)
    assert (model.patch, model.size) == (4, 64)


def test_the_seed_is_set_before_it_is_made_and_given_back() -> None:
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    states = [
        attnviz.load_model("py:nets:Net", seed=seed).module.state_dict()["embed.weight"]
        for seed in (1, 1, 2)
    ]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert torch.rand(1) == expected


def test_the_search_path_is_given_back() -> None:
    import sys  # noqa: PLC0415

    before = list(sys.path)
    for where in ("nets", "nets.py"):
        attnviz.load_model(f"py:{where}:Net")
    assert sys.path == before


def test_weights_come_from_a_file(nets: Path) -> None:
    state = attnviz.load_model("py:nets:Net", seed=9).module.state_dict()
    torch.save(state, nets / "net.pt")
    model = attnviz.load_model("py:nets:Net", weights="net.pt")
    assert torch.equal(model.module.state_dict()["embed.weight"], state["embed.weight"])
    assert model.weights == "net.pt"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("py:", "give py:MODULE:FACTORY"),
        ("py:nets", "give py:MODULE:FACTORY"),
        ("py::Net", "give py:MODULE:FACTORY"),
        ("py:no_such_module:Net", "no module 'no_such_module' here .* py:FILE.py:FACTORY"),
        ("py:nets.deeper:Net", "no module 'nets.deeper'"),
        ("py:none.py:Net", "no such file none.py"),
        ("py:nets:Nett", "nets has no 'Nett'; did you mean Net"),
        ("py:nets:Sizes.tiny", "Sizes has no 'tiny'"),
        ("py:nets:number", "number is a value of type int, neither an nn.Module nor callable"),
        ("py:nets:text", r"text\(\) returned a value of type str, not an nn.Module"),
        ("py:nets:broken", r"calling broken\(\) raised ZeroDivisionError: .*\(nets.py, line \d+\)"),
        (
            "py:nets:hungry",
            r"hungry needs arguments \(size\); give --set size=VALUE, or a function",
        ),
        ("py:wrong:Net", "importing wrong raised ModuleNotFoundError: .*does_not_exist_at_all"),
        ("py:slip:Net", "importing slip raised SyntaxError"),
        ("py:slip.py:Net", "importing slip.py raised SyntaxError"),
    ],
)
def test_every_slip_is_a_line_with_what_to_type(spec: str, told: str) -> None:
    with pytest.raises(attnviz.AttnvizError, match=told) as caught:
        attnviz.load_model(spec)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(";") >= 1


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"random_weights": True}, "--random-weights: only the factory"),
        ({"features": 64}, "--features 64 is for the model random"),
        ({"tokens": "pixels"}, "--tokens pixels is for the model random"),
    ],
)
def test_options_that_cannot_be_meant(option: dict[str, object], told: str) -> None:
    with pytest.raises(attnviz.AttnvizError, match=told):
        attnviz.load_model("py:nets:Net", **option)  # type: ignore[arg-type]


def test_what_it_attends_to_is_drawn(nets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures.noise(120, 80).save(nets / "a.png")
    model = attnviz.load_model("py:nets:Sizes.small", size=32)
    seen = attnviz.observe(attnviz.load_image("a.png"), model)
    assert seen.recording[0].shape[2] == seen.placement.grid.tokens
    assert main(["show", "a.png", "-m", "py:nets:nothing", "-o", "out"]) == 1
    assert "nets has no 'nothing'" in capsys.readouterr().err
