"""`attnviz compare 'run/epoch*.ckpt' -i cat.jpg --animate checkpoints`: how attention formed."""

import json
from pathlib import Path

import numpy as np
import pictures
import pytest
import torch
from PIL import Image, ImageSequence

from attnviz.cli import main
from attnviz.models.plain_vit import Design, PlainViT

EPOCHS = (1, 2, 10)


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture, and the checkpoints of a run: the class token's attention grows sharper."""
    monkeypatch.chdir(tmp_path)
    pictures.noise(64, 48).save("cat.png")
    Path("run").mkdir()
    shapes = {
        "cls_token": (1, 1, 64), "pos_embed": (1, 1 + 16, 64), "patch_embed.proj.bias": (64,),
        "patch_embed.proj.weight": (64, 3, 8, 8),
        "norm.weight": (64,), "norm.bias": (64,),
    }  # fmt: skip
    block = {"norm1": (64,), "norm2": (64,), "attn.qkv": (192, 64), "attn.proj": (64, 64),
             "mlp.fc1": (96, 64), "mlp.fc2": (64, 96)}  # fmt: skip
    for name, shape in block.items():
        shapes[f"blocks.0.{name}.weight"] = shape
        shapes[f"blocks.0.{name}.bias"] = shape[:1]
    torch.manual_seed(0)
    state = {name: torch.randn(shape) * 0.1 for name, shape in shapes.items()}
    PlainViT(state, Design(1, (4, 4))).load_state_dict(state)  # nothing is missing
    for epoch in EPOCHS:
        state["blocks.0.attn.qkv.weight"] = state["blocks.0.attn.qkv.weight"] * 1.5
        torch.save({"state_dict": dict(state)}, f"run/epoch{epoch}.ckpt")


@pytest.mark.parametrize(
    "line",
    [
        ["run/epoch*.ckpt", "-i", "cat.png"],
        ["cat.png", "-m", "run/epoch*.ckpt"],
        ["run/epoch1.ckpt", "run/epoch10.ckpt", "run/epoch2.ckpt", "cat.png"],  # as a shell sorts
    ],
)
def test_a_frame_for_each_checkpoint_in_order(
    line: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *line, "--animate", "checkpoints", "--movie", "gif", "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert [side["model"]["spec"] for side in record["sides"]] == [
        f"run/epoch{epoch}.ckpt" for epoch in EPOCHS
    ]
    folder = Path("attnviz-out/cat.png")
    moving = record["animation"]
    assert moving == {"by": "checkpoints", "frames": 3, "rate": 2.0, "file": "checkpoints.gif"}
    with Image.open(folder / moving["file"]) as file:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(file)]
    assert len(frames) == 3
    assert all((frames[0] != frame).any() for frame in frames[1:])
    peaks = [side["map"]["maximum"] for side in record["sides"]]
    assert peaks == sorted(peaks)  # it formed
    # A comparison without a movie takes the movie away.
    assert main(["compare", *line]) == 0
    assert not (folder / moving["file"]).exists()


def test_many_checkpoints_need_a_movie(capfd: pytest.CaptureFixture[str]) -> None:
    for epoch in range(11, 24):
        Path(f"run/epoch{epoch}.ckpt").write_bytes(Path("run/epoch1.ckpt").read_bytes())
    line = ["compare", "cat.png", "-m", "run/epoch*.ckpt"]
    assert main(line) == 2
    assert "16 sides are more than the 12" in capfd.readouterr().err
    assert main([*line, "--animate", "checkpoints", "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert record["animation"]["frames"] == 16
    written = {path.name for path in Path("attnviz-out/cat.png").iterdir()}
    assert written == {
        "compare.json", "compare.csv", "checkpoints.webp", *(f"compare-{n}.png" for n in range(16)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["run/epoch1.ckpt"], "run/epoch1.ckpt is a checkpoint; give a picture too: -i cat.jpg"),
        (["cat.png", "-m", "run/step*.ckpt"], "no file is named run/step*.ckpt"),
        (["cat.png", "-m", "tiny", "--fps", "3"], "add --animate checkpoints"),
    ],
)
def test_wrong_lines(line: list[str], words: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *line]) == 2
    assert words in capfd.readouterr().err
