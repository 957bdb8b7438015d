"""A clip from file to file: as many frames, one scale, the same sound."""

import io
import json
import weakref
from fractions import Fraction
from pathlib import Path

import films
import numpy as np
import pictures
import pytest
from films import Pixels, apart, make_clip, read_film, sound_packets, stripes
from PIL import Image

import attnviz
from attnviz.cli import main
from attnviz.drawing.overlay import colour_table
from attnviz.errors import OutputError, UsageError
from attnviz.explanation.request import Questions
from attnviz.io import clips
from attnviz.output.records import Record
from attnviz.output.write_pictures import Drawing
from attnviz.video.clip_maps import ClipRequest
from attnviz.video.film import make_films

SIZE = 64
PATCH = (16, 16, 32, 32)


def glowing(number: int) -> Pixels:
    """A dark picture that rests, but for one patch that becomes brighter and darker again."""
    light = 40 + round(200 * np.sin(np.pi * number / 99) ** 2)
    image = pictures.bright_square(SIZE, SIZE, (0, 0, 0, 0))
    image.paste((light, light, light), PATCH)
    return np.asarray(image)


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict[str, object]]]:
    """A clip of 100 frames with sound, the film that is made of it, and its records."""
    folder = tmp_path_factory.mktemp("hundred")
    weights = pictures.brightness_layer(folder / "layer.safetensors", heads=1, gain=4)
    source = make_clip(folder / "in.mp4", 100, draw=glowing, sound="aac")
    out = folder / "out.mp4"
    line = [
        "video", str(source), "-o", str(out), "--json", "-m", "random", "--weights", str(weights),
        "--heads", "1", "--size", str(SIZE), "-q", "mean", "--alpha", "1",
        "--interpolation", "nearest",
    ]  # fmt: skip
    stdout = io.TextIOWrapper(io.BytesIO())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", stdout)
        assert main(line) == 0
    stdout.seek(0)
    return source, out, [json.loads(each) for each in stdout]


def test_a_hundred_frames_in_and_out_at_one_rate(
    hundred: tuple[Path, Path, list[dict[str, object]]],
) -> None:
    source, out, records = hundred
    before, after = read_film(source), read_film(out)
    assert len(records) == len(before.pictures) == len(after.pictures) == 100
    assert after.rate == before.rate == 25
    assert after.times == before.times == [Fraction(n, 25) for n in range(100)]
    assert {pixels.shape for pixels in after.pictures} == {(SIZE, SIZE, 3)}


def test_its_sound_is_the_same_packets(
    hundred: tuple[Path, Path, list[dict[str, object]]],
) -> None:
    source, out, _ = hundred
    assert sound_packets(out) == sound_packets(source)


def test_every_record_says_which_frame_it_is_of_and_one_scale(
    hundred: tuple[Path, Path, list[dict[str, object]]],
) -> None:
    _, _, records = hundred
    moments = [record["moment"] for record in records]
    assert moments == [{"frame": n, "time": pytest.approx(n / 25), "rate": 25} for n in range(100)]
    heads = [record["heads"][0] for record in records]  # type: ignore[index]
    (scale,) = {json.dumps(head["scale"]) for head in heads}
    found = json.loads(scale)
    assert found["minimum"] == min(head["map"]["minimum"] for head in heads)
    assert found["maximum"] == max(head["map"]["maximum"] for head in heads)
    assert found["maximum"] > 2 * min(head["map"]["maximum"] for head in heads)
    assert {head["file"] for head in heads} == {"out.mp4"}


def test_the_scale_read_back_from_the_film_is_the_same_in_every_frame(
    hundred: tuple[Path, Path, list[dict[str, object]]],
) -> None:
    """The colour in the middle of the patch, by the one scale, is the weight that was recorded."""
    _, out, records = hundred
    table = colour_table("viridis").astype(float)
    x, y = (PATCH[0] + PATCH[2]) // 2, (PATCH[1] + PATCH[3]) // 2
    for pixels, record in zip(read_film(out).pictures, records, strict=True):
        head = record["heads"][0]  # type: ignore[index]
        scale = head["scale"]
        seen = pixels[y - 3 : y + 3, x - 3 : x + 3].reshape(-1, 3).mean(0)
        place = np.abs(table - seen).sum(1).argmin() / (len(table) - 1)
        weight = scale["minimum"] + place * (scale["maximum"] - scale["minimum"])
        brightest = head["map"]["maximum"]
        assert abs(weight - brightest) <= 0.03 * (scale["maximum"] - scale["minimum"])


# What is drawn


def film(
    source: Path, out: Path, drawing: Drawing | None = None, **questions: object
) -> tuple[films.Film, list[attnviz.Explanation]]:
    """The film of a clip by a small model, and each frame asked by itself."""
    model = attnviz.load_model("random", heads=3, size=48)
    asked = Questions(**questions)  # type: ignore[arg-type]
    make_films(
        ClipRequest(clips.open_clip(source), model, asked),
        [out],
        drawing or Drawing(),
        on_record=lambda _: None,
    )
    alone = [
        attnviz.explain(attnviz.observe(frame.picture, model), heads=asked.heads)
        for frame in clips.frames(clips.open_clip(source))
    ]
    return read_film(out), alone


@pytest.mark.parametrize("scale", ["head", "all", "0:0.2"])
def test_one_head_is_drawn_as_render_draws_it_by_the_range_of_the_clip(
    tmp_path: Path, scale: str
) -> None:
    source = make_clip(tmp_path / "a.mp4", 20, draw=lambda n: stripes(n, 96, 64))
    drawn, alone = film(source, tmp_path / "b.mp4", Drawing(scale=scale), heads="2,")
    maps = np.stack([one.maps for one in alone])
    low, high = (0, 0.2) if ":" in scale else (maps.min(), maps.max())
    for pixels, one in zip(drawn.pictures, alone, strict=True):
        expected = attnviz.render(one, Drawing(scale=f"{low}:{high}"))[0, 2]
        assert apart(pixels, expected) < 3


def test_several_heads_are_a_sheet_whose_bars_rest(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 8, draw=lambda n: stripes(n, 256, 128))
    drawn, _ = film(source, tmp_path / "b.mp4")
    height = drawn.pictures[0].shape[0]
    assert {pixels.shape for pixels in drawn.pictures} == {drawn.pictures[0].shape}
    first = drawn.pictures[0].astype(int)
    still = np.max([np.abs(each.astype(int) - first).max(-1) for each in drawn.pictures], axis=0)
    # all that moves lies in the four places of pictures, and in the line that counts frames
    rows = np.flatnonzero((still > 24).mean(1) > 0.02)
    assert len(rows) < height - 2 * (8 + 19)
    bars = [y for y in range(height) if _is_bar(first[y])]
    assert bars
    assert still[bars].max() <= 24


def _is_bar(row: Pixels) -> bool:
    """Whether a row of pixels goes from the lowest colour to the highest."""
    table = colour_table("viridis", 256)
    return any(
        len(row) >= start + 256 and apart(row[start : start + 256], table) < 6
        for start in range(10, 20)
    )


def test_heads_have_a_scale_each_unless_one_is_asked_for(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 5)
    model, seen = attnviz.load_model("random", heads=3, size=48), {}
    for scale in ("head", "layer", "all", "log"):
        records: list[object] = []
        make_films(
            ClipRequest(clips.open_clip(source), model, Questions()),
            [tmp_path / "b.mp4"],
            Drawing(scale=scale),
            on_record=records.append,
        )
        of_frames = [[head.scale for head in record.heads] for record in records]  # type: ignore[attr-defined]
        assert all(each == of_frames[0] for each in of_frames)
        seen[scale] = {(each.minimum, each.maximum) for each in of_frames[0]}
    assert [len(seen[scale]) for scale in ("head", "layer", "all", "log")] == [3, 1, 1, 3]


def test_points_are_pixels_of_the_frame_as_seen(tmp_path: Path) -> None:
    """Also of one that was filmed sideways: the place lies beside the frame as it is stored."""
    source = make_clip(tmp_path / "a.mp4", 3, draw=lambda n: stripes(n, 96, 48), rotation=90)
    line = ["video", str(source), "-o", str(tmp_path / "b.mp4"), "-m", "random", "--size", "32"]
    assert main([*line, "-q", "20,90", "--quiet"]) == 0
    assert main([*line, "-q", "90,20", "--quiet"]) == 2


def test_a_target_that_is_predicted_may_be_another_in_every_frame(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 3)
    clip, model = clips.open_clip(source), attnviz.load_model(head="class", size=32)
    records: list[object] = []
    asked = Questions(methods=("gradient-attention",))
    request = ClipRequest(clip, model, asked)
    make_films(request, [tmp_path / "b.mp4"], Drawing(), on_record=records.append)
    alone = [
        attnviz.explain(
            attnviz.observe(frame.picture, model, gradients=True), method="gradient-attention"
        )
        .questions[0]
        .target
        for frame in clips.frames(clip)
    ]
    found = [(record.target.label, record.target.score) for record in records]  # type: ignore[attr-defined]
    assert found == [
        (one.target.label, pytest.approx(float(one.value), rel=1e-3)) for one in alone if one
    ]


# What goes wrong, and what it takes


def test_frames_that_are_held_at_once_do_not_grow_with_the_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnviz.video.clip_maps.TOGETHER", 4)
    alive: weakref.WeakSet[clips.Frame] = weakref.WeakSet()
    real, most = clips.Frame.__init__, {"count": 0}

    def made(self: clips.Frame, *args: object, **values: object) -> None:
        real(self, *args, **values)  # type: ignore[arg-type]
        alive.add(self)
        most["count"] = max(most["count"], len(alive))

    monkeypatch.setattr(clips.Frame, "__init__", made)
    counts = []
    for count in (30, 90):
        most["count"] = 0
        film_of = make_clip(tmp_path / f"{count}.mp4", count)
        model = attnviz.load_model("random", heads=1, size=32)
        asked = ClipRequest(clips.open_clip(film_of), model, Questions())
        make_films(asked, [tmp_path / "b.mp4"], Drawing(), on_record=lambda _: None)
        counts.append(most["count"])
    assert max(counts) <= 40
    assert counts[1] <= counts[0] + 4


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    model = attnviz.load_model("random", heads=1, size=32)
    asked = ClipRequest(clips.open_clip(make_clip(tmp_path / "a.mp4", 2)), model, Questions())
    with pytest.raises(attnviz.AttnvizError, match=r"b\.mp4: cannot be written"):
        make_films(asked, [tmp_path / "gone" / "b.mp4"], Drawing(), on_record=lambda _: None)


def test_a_query_beside_the_frame_is_found_before_the_model_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = attnviz.load_model("random", heads=1, size=32)
    monkeypatch.setattr(model.module, "forward", lambda *_: pytest.fail("it ran"))
    clip = clips.open_clip(make_clip(tmp_path / "a.mp4", 2))
    asked = ClipRequest(clip, model, Questions(queries=("500,500",)))
    with pytest.raises(UsageError, match="outside the picture, which is 64x48"):
        make_films(asked, [tmp_path / "b.mp4"], Drawing(), on_record=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_a_frame_looks_like_the_clip_where_nothing_is_laid_over_it(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 6)
    drawn, _ = film(source, tmp_path / "b.mp4", Drawing(alpha=0), heads="0,")
    for pixels, frame in zip(drawn.pictures, read_film(source).pictures, strict=True):
        assert apart(pixels, frame) < 5


@pytest.mark.parametrize("count", [3, 8])
def test_a_clip_that_is_changed_meanwhile_is_an_error(tmp_path: Path, count: int) -> None:
    source = make_clip(tmp_path / "a.mp4", 5)
    model = attnviz.load_model("random", heads=1, size=32)
    asked = ClipRequest(clips.open_clip(source), model, Questions())

    def progress(done: int, _: int) -> None:
        if done == 5:
            make_clip(source, count)

    with pytest.raises(attnviz.AttnvizError, match="changed while it was looked at"):
        make_films(
            asked, [tmp_path / "b.mp4"], Drawing(), on_record=lambda _: None, progress=progress
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_what_is_masked_takes_no_part_in_any_frame(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 3)
    mask = np.full((48, 64), 255, dtype=np.uint8)
    mask[:, :32] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    records: list[object] = []
    model = attnviz.load_model("random", heads=1, size=64)
    asked = ClipRequest(
        clips.open_clip(source), model, Questions(), mask=str(tmp_path / "mask.png")
    )
    make_films(asked, [tmp_path / "b.mp4"], Drawing(), on_record=records.append)
    assert len({record.tokens.masked for record in records}) == 1  # type: ignore[attr-defined]
    for record, pixels in zip(records, read_film(tmp_path / "b.mp4").pictures, strict=True):
        assert record.tokens.masked > 0  # type: ignore[attr-defined]
        assert record.heads[0].map.peak_x > 32  # type: ignore[attr-defined]
        grey = pixels[:, :28].astype(int)
        assert np.abs(grey - grey.mean(-1, keepdims=True)).mean() < 6


@pytest.mark.parametrize("end", ["stop", "error"])
def test_an_end_during_a_later_method_leaves_no_film_of_this_run(tmp_path: Path, end: str) -> None:
    source = make_clip(tmp_path / "a.mp4", 4, sound="aac")
    paths = [tmp_path / "b-attention.mp4", tmp_path / "b-rollout.mp4"]
    paths[0].write_bytes(b"a film of an earlier run")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    methods: list[str] = []

    def on_record(record: Record) -> None:
        methods.append(record.method)
        if end == "error" and methods.count("rollout") == 2:
            raise OutputError("the reader is gone")

    request = ClipRequest(
        clips.open_clip(source),
        attnviz.load_model("random", heads=2, size=32),
        Questions(methods=("attention", "rollout")),
    )
    with pytest.raises(KeyboardInterrupt if end == "stop" else OutputError):
        make_films(
            request, paths, Drawing(), on_record=on_record,
            stopped=lambda: end == "stop" and "rollout" in methods,
        )  # fmt: skip
    assert methods[:5] == ["attention"] * 4 + ["rollout"]  # the first film was drawn whole
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    make_films(request, paths, Drawing(), on_record=lambda _: None)
    assert [len(read_film(path).pictures) for path in paths] == [4, 4]
