"""Models that see several frames of a clip at once: tubes, divided attention, strips, queries."""

import io
import json
import re
from pathlib import Path
from typing import Any

import av
import checkpoints
import films
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import attnviz
from attnviz.cli import main
from attnviz.io.clip_frames import load_clip
from attnviz.video import clip_film, film

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 48, "image_size": 32, "patch_size": 8, "num_frames": 8}  # fmt: skip
JEPA = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "crop_size": 32,
        "patch_size": 8, "frames_per_clip": 8, "tubelet_size": 2, "pred_hidden_size": 48,
        "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1,
        "pred_num_mask_tokens": 2}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "videomae": ("VideoMAEModel", {**SMALL, "tubelet_size": 2}),
    "timesformer": ("TimesformerModel", SMALL),
    "vivit": ("VivitModel", {**SMALL, "tubelet_size": [2, 8, 8]}),
    "vjepa2": ("VJEPA2Model", JEPA),
}
NETS = '''
import torch
from torch import nn
from torch.nn import functional as F


class White(nn.Module):
    """Every token attends to the brightest tube of a clip (B, 3, T, H, W)."""

    num_frames, img_size = 8, (32, 48)

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv3d(3, 4, (2, 8, 8), (2, 8, 8))
        nn.init.constant_(self.embed.weight, 4 / self.embed.weight[0].numel())
        nn.init.zeros_(self.embed.bias)

    def forward(self, clip):
        tokens = self.embed(clip).flatten(2).mT
        query = (0 * tokens + 2.0)[:, None]
        out = F.scaled_dot_product_attention(query, tokens[:, None], tokens[:, None])
        return out[:, 0].mean(1)
'''


def stripes(number: int) -> Any:
    return films.stripes(number, 48, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers: Any = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models")
    size = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    for name, (kind, settings) in KINDS.items():
        checkpoints.build(transformers, kind, folder / name, **settings)
        (folder / name / "preprocessor_config.json").write_text(json.dumps(size))
    films.make_clip(folder / "clip.mp4", 40, draw=stripes)
    return folder


@pytest.mark.parametrize("name", ["videomae", "vivit", "vjepa2"])
def test_tubes_equal_eager_attention_and_lie_at_their_places(folder: Path, name: str) -> None:
    transformers: Any = pytest.importorskip("transformers")
    kind = getattr(transformers, KINDS[name][0])
    given = {"attn_implementation": "eager"}
    eager = kind.from_pretrained(folder / name, **given).eval()
    clip = torch.rand(1, 8, 3, 32, 32, generator=torch.manual_seed(1))
    with torch.no_grad():
        attentions = eager(clip, output_attentions=True).attentions
        with attnviz.record(picture=clip) as recording:
            kind.from_pretrained(folder / name).eval()(clip)
    y, x = np.mgrid[0:4, 0:4] * 8 + 4
    places = np.tile(np.stack([x.ravel(), y.ravel()], 1), (4, 1))
    for call, expected in zip(recording, attentions[:2], strict=False):
        assert torch.allclose(call.matrix(), expected, atol=1e-5)
        prefix = call.shape[3] - 64
        assert call.key_positions is not None
        assert call.key_pictures is not None
        assert np.allclose(call.key_positions[0, prefix:], places)
        assert np.array_equal(call.key_pictures[0, prefix:], np.repeat([0.5, 2.5, 4.5, 6.5], 16))
        assert (call.key_pictures[0, :prefix] == -1).all()


def test_divided_attention_is_two_kinds_of_calls(folder: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    model = transformers.TimesformerModel.from_pretrained(folder / "timesformer").eval()
    clip = torch.rand(1, 8, 3, 32, 32, generator=torch.manual_seed(1))
    with torch.no_grad():
        spatial = model(clip, output_attentions=True).attentions
        with attnviz.record(picture=clip) as recording:
            model(clip)
    in_time, in_space = recording[0], recording[1]
    in_time_places, in_space_places = in_time.key_positions, in_space.key_positions
    in_time_frames, in_space_frames = in_time.key_pictures, in_space.key_pictures
    assert in_time_places is not None and in_space_places is not None  # noqa: PT018
    assert in_time_frames is not None and in_space_frames is not None  # noqa: PT018
    assert in_time.shape == (16, 2, 8, 8)  # a window for each place
    assert in_space.shape == (8, 2, 17, 17)  # a window for each frame
    assert torch.allclose(in_space.matrix(), spatial[0], atol=1e-5)
    assert np.array_equal(in_time_frames, np.tile(np.arange(8), (16, 1)))
    assert np.array_equal(in_space_frames[:, 1:], np.repeat(np.arange(8), 16).reshape(8, 16))
    y, x = np.mgrid[0:4, 0:4] * 8 + 4
    places = np.stack([x.ravel(), y.ravel()], 1)
    assert np.allclose(in_time_places, places[:, None].repeat(8, 1))
    assert np.allclose(in_space_places[:, 1:], places[None])


def test_divided_attention_is_drawn_as_what_it_is(folder: Path) -> None:
    seen = attnviz.observe(
        load_clip(folder / "clip.mp4", "::8"),
        attnviz.load_model(str(folder / "timesformer")),
        fit="squash",
    )
    maps = attnviz.explain(seen, layers="0,1", query="20,12@0.0").maps  # row 1, column 1
    assert maps.shape == (2, 2, 8, 4, 4)
    alone = np.zeros((4, 4), dtype=bool)
    alone[1, 1] = True
    assert (maps[0][..., alone] > 0).all()  # the same place, in all frames
    assert (maps[0][..., ~alone] == 0).all()
    assert (maps[1][:, 0] > 0).all()  # all places of the same frame
    assert (maps[1][:, 1:] == 0).all()


@pytest.mark.parametrize(("row", "column", "tube"), [(1, 4, 2), (3, 0, 0), (0, 5, 3)])
def test_a_white_tube_is_found_at_its_place_and_time(  # noqa: PLR0917
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    row: int,
    column: int,
    tube: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS, encoding="utf-8")

    def frame(number: int) -> Any:
        pixels = np.zeros((64, 96, 3), dtype=np.uint8)
        if number // 2 == tube:
            pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 255
        return pixels

    films.make_clip(Path("clip.mp4"), 8, draw=frame, rate=10)
    args = ["video", "clip.mp4", "-m", "py:nets.py:White", "-o", "out", "--json", "-q", "mean"]
    assert main(args) == 0
    record = json.loads(capsys.readouterr().out)
    heads = record["heads"]
    heaviest = max(heads, key=lambda head: head["map"]["maximum"])
    assert heaviest["view"] == tube
    assert heaviest["moment"] == {"frame": 2 * tube, "time": pytest.approx(0.2 * tube)}
    assert abs(heaviest["map"]["peak_x"] - 16 * (column + 0.5)) <= 8
    assert abs(heaviest["map"]["peak_y"] - 16 * (row + 0.5)) <= 8
    assert sum(head["view_mass"] for head in heads) == pytest.approx(1, abs=1e-5)
    assert [(v["frame0"], v["frame1"]) for v in record["views"]] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    with Image.open("out/clip-strip.png") as strip:
        assert strip.width == 4 * (150 + 14) + 14


def test_numbers_equal_formulas(folder: Path) -> None:
    """Entropy of all keys of all frames; distances within a frame's plane."""
    seen = attnviz.observe(
        load_clip(folder / "clip.mp4", "::8"),
        attnviz.load_model(str(folder / "vivit")),
        fit="squash",
    )
    explanation = attnviz.explain(seen, layers="1")
    a = seen.layers[1].call.matrix()[0].double().numpy()
    entropy = -(a * np.log(a)).sum(-1)[:, 1:].mean(-1)
    y, x = np.mgrid[0:4, 0:4] * 8.0 + 4
    places = np.tile(np.stack([x.ravel(), y.ravel()], 1), (4, 1))
    far = np.linalg.norm(places[:, None] - places[None], axis=-1)
    on_grid = a[:, 1:, 1:] / a[:, 1:, 1:].sum(-1, keepdims=True)
    assert np.allclose(explanation.numbers["entropy"][0], entropy, rtol=1e-5)
    assert np.allclose(explanation.numbers["distance_px"][0], (on_grid * far).sum(-1).mean(-1))
    assert np.allclose(explanation.maps[0].reshape(2, -1), a[:, 0, 1:], rtol=1e-5)


def test_a_point_at_a_time_is_the_row_of_its_tube(folder: Path) -> None:
    model = attnviz.load_model(str(folder / "videomae"))
    seen = attnviz.observe(load_clip(folder / "clip.mp4", "::8"), model, fit="squash")
    times = seen.clip.times if seen.clip else ()
    a = seen.layers[0].call.matrix()[0].numpy()
    for frame in (0, 3, 7):
        query = f"40,3@{times[frame] + 0.001}"  # row 0, column 3
        maps = attnviz.explain(seen, layers="0", query=query).maps[0].reshape(2, -1)
        assert np.allclose(maps, a[:, 16 * (frame // 2) + 3], atol=1e-7)
    everywhere = attnviz.explain(seen, layers="0", query="40,3").maps[0].reshape(2, -1)
    assert np.allclose(everywhere, a[:, [3, 19, 35, 51]].mean(1), atol=1e-7)
    box = attnviz.explain(seen, layers="0", query="24,0,48,8@0").maps[0].reshape(2, -1)
    assert np.allclose(box, a[:, [2, 3]].mean(1), atol=1e-7)


def test_gradients_and_localized_heads_go_through_clips(folder: Path) -> None:
    model = attnviz.load_model(str(folder / "videomae"))
    clip = load_clip(folder / "clip.mp4", "::8")
    seen = attnviz.observe(clip, model, gradients=True)
    found = attnviz.explain(seen, method="gradient-attention", target="norm", layers="all")
    assert found.maps.shape == (2, 1, 4, 4, 4)  # heads are merged
    assert np.isfinite(found.maps).all()
    rollout = attnviz.explain(seen, method="rollout").maps[0, 0]
    assert rollout.shape == (4, 4, 4)
    assert rollout.sum() == pytest.approx(1, abs=1e-5)
    chosen = attnviz.explain(seen, heads="localized:2", layers="all")
    assert len(chosen.answers) == 3 * 4  # two heads and their mean, in four views
    means = np.stack([each.values for each in chosen.answers[8:]])
    heads = np.stack([each.values for each in chosen.answers[:8]]).reshape(2, 4, 4, 4)
    assert np.allclose(means, heads.mean(0))


def test_maps_of_a_clip_are_drawn_on_no_single_picture(folder: Path) -> None:
    model = attnviz.load_model(str(folder / "videomae"))
    seen = attnviz.observe(load_clip(folder / "clip.mp4", "::8"), model)
    whole = attnviz.explain(seen, layers="all")
    for draw in (attnviz.render, lambda maps: attnviz.compare(maps, maps)):
        with pytest.raises(attnviz.AttnvizError, match=r"take one of them: explanation.at_frame"):
            draw(whole)
    with pytest.raises(attnviz.AttnvizError, match="a page shows one picture"):
        attnviz.explore(seen)
    with Image.open(io.BytesIO(whole._repr_png_())) as strip:  # a notebook's
        assert strip.width == 4 * (150 + 14) + 14
    third = whole.at_frame(5)
    assert np.array_equal(third.maps[:, :, 0], whole.maps[:, :, 2])  # frames 4 and 5
    assert third.numbers["entropy"].shape == (2, 2)
    assert attnviz.render(third)[1, 0].size == (48, 32)
    with pytest.raises(attnviz.AttnvizError, match="frames 0 to 7"):
        whole.at_frame(8)
    picture = attnviz.explain(attnviz.observe(load_clip_picture(folder), attnviz.load_model()))
    with pytest.raises(attnviz.AttnvizError, match="the model saw a picture"):
        picture.at_frame(0)


def load_clip_picture(folder: Path) -> attnviz.Picture:
    return load_clip(folder / "clip.mp4", "::1").frames[0].picture


def test_a_run_that_fails_leaves_no_film_and_no_strip(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = film.write_film
    films_made: list[Path] = []

    def fails_second(path: Path, *given: Any, **options: Any) -> Any:
        if films_made:
            raise attnviz.AttnvizError("no room")
        films_made.append(path)
        return real(path, *given, **options)

    monkeypatch.setattr(clip_film, "write_film", fails_second)
    args = ["video", str(folder / "clip.mp4"), "-m", str(folder / "videomae"), "-o", str(tmp_path)]
    assert main([*args, "--method", "attention", "--method", "rollout"]) == 1
    assert films_made
    assert not list(tmp_path.iterdir())


def test_frames_are_spread_evenly_over_what_is_chosen(folder: Path) -> None:
    clip = str(folder / "clip.mp4")
    assert [frame.number for frame in load_clip(clip, "::4").frames] == [0, 13, 26, 39]
    seen = load_clip(clip, "10:20:4")
    assert [frame.number for frame in seen.frames] == [10, 13, 16, 19]
    assert seen.times == pytest.approx((0.4, 0.52, 0.64, 0.76))
    assert seen.end == pytest.approx(0.8)
    assert np.abs(seen.frames[1].picture.pixels.astype(int) - stripes(13)).mean() < 6


def test_a_film_and_a_strip_are_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = ["video", str(folder / "clip.mp4"), "-m", str(folder / "timesformer"), "-o", str(out)]
    assert main([*args, "--layers", "1", "--frames", "0:30:8", "--quiet"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["clip-strip.png", "clip.mp4"]
    with av.open(str(out / "clip.mp4")) as made:
        times = [float(frame.time) for frame in made.decode(video=0)]
    assert times == pytest.approx([number / 25 for number in (0, 4, 8, 12, 17, 21, 25, 29)])
    with Image.open(out / "clip-strip.png") as strip:
        assert strip.width == 8 * (150 + 14) + 14


def test_rows_of_csv_name_frame_and_time(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["video", str(folder / "clip.mp4"), "-m", str(folder / "vivit"), "-o", str(tmp_path)]
    assert main([*args, "--csv", "--heads", "1", "--method", "attention", "--method", "mass"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    names = head.split(",")
    assert len(rows) == 8  # two methods, four views
    first = dict(zip(names, rows[1].split(","), strict=True))
    assert (first["frame"], first["time"], first["view"]) == ("11", "0.44", "1")


def test_the_python_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers: Any = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    settings = {**SMALL, "num_frames": 16, "tubelet_size": 2}
    checkpoints.build(transformers, "VideoMAEModel", tmp_path / "videomae-checkpoint", **settings)
    films.make_clip(Path("clip.mp4"), 50, draw=lambda n: films.stripes(n, 640, 360))
    page = (Path(__file__).parents[2] / "docs" / "moving.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    exec("import attnviz\n" + code, {})
    assert capsys.readouterr().out == "(2, 2, 8, 4, 4)\n"
    with Image.open("frame3-head0.png") as image:
        assert image.size == (640, 360)


FAULTS: list[tuple[list[str], str]] = [
    (["video", "clip.mp4", "-m", "tiny", "--frames", "::8"], "leave it out"),
    (["video", "clip.mp4", "-m", "tiny", "-q", "3,4@0.1"], "leave @0.1 out"),
    (["video", "clip.mp4", "-m", "vivit", "-q", "3,4@7"], "give a time between"),
    (["video", "clip.mp4", "-m", "vivit", "--frames", "8"], "give A:B:N"),
    (["video", "clip.mp4", "-m", "vivit", "--frames", "5:9:8"], "the model takes 8"),
    (["video", "clip.mp4", "-m", "vivit", "--frames", "30:99:8"], "ends before frame 98"),
    (["video", "clip.mp4", "-m", "vivit", "--frames", "::4"], "takes no clip of 4 frames"),
    (["video", "clip.mp4", "-m", "vivit", "--frames", "9:9:4"], "has no frame"),
    (["show", "cat.png", "-m", "vivit"], "give `attnviz video CLIP -m vivit`"),
    (["stats", "cat.png", "-m", "timesformer"], "give `attnviz video CLIP"),
    (["explore", "cat.png", "-m", "timesformer"], "give `attnviz video CLIP"),
    (["show", "cat.png", "-m", "py:nets.py:White"], "clips of 8 frames; give `attnviz video"),
]


@pytest.mark.parametrize(("args", "expected"), FAULTS)
def test_faults_say_what_to_type(  # noqa: PLR0917
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(folder)
    Image.fromarray(stripes(0)).save("cat.png")
    Path("nets.py").write_text(NETS, encoding="utf-8")
    assert main([*args, "-o", str(tmp_path / "out")]) in (1, 2)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "fault of attnviz" not in error
    assert expected in error


def test_a_model_that_takes_frames_as_its_batch() -> None:
    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 8, 8)

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            tokens = self.embed(frames).flatten(2).mT
            tokens = tokens.reshape(1, -1, 8)  # of all frames together
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    clip = torch.rand(4, 3, 16, 24)
    with attnviz.record(picture=clip, time=0) as recording:
        Frames()(clip)
    assert recording[0].key_pictures is not None
    assert recording[0].key_pictures[0].tolist() == [n for n in range(4) for _ in range(6)]
