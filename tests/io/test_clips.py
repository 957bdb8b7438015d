"""Clips as a person sees them, and files that are none."""

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import films
import numpy as np
import pytest
from films import Pixels, apart, make_clip, make_song, stripes

from attnviz.errors import ImageError, MissingExtraError
from attnviz.io import clips
from attnviz.io.clips import frames, open_clip
from attnviz.io.picture import load_image


def test_a_clip_is_read_frame_by_frame(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", 12, rate=Fraction(30000, 1001), sound="aac")
    clip = open_clip(path)
    assert (clip.width, clip.height, clip.rate) == (64, 48, Fraction(30000, 1001))
    assert (clip.expected, clip.sounds, clip.name) == (12, ("aac",), "a.mp4")
    found = list(frames(clip))
    assert [frame.number for frame in found] == list(range(12))
    step = Fraction(1001, 30000)
    assert [frame.pts * clip.time_base for frame in found] == [n * step for n in range(12)]
    assert {frame.duration * clip.time_base for frame in found} == {step}
    assert max(apart(frame.picture.pixels, stripes(frame.number)) for frame in found) < 4
    assert found[0].picture.path == str(path)


def test_frames_that_come_unevenly_last_until_the_next(tmp_path: Path) -> None:
    times = [0, 1, 3, 7, 8, 12]
    clip = open_clip(make_clip(tmp_path / "a.mp4", 6, times=times))
    found = list(frames(clip))
    assert [frame.pts * clip.time_base * 25 for frame in found] == times
    assert [frame.duration * clip.time_base * 25 for frame in found][:-1] == [1, 2, 4, 1, 4]


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60)])
@pytest.mark.parametrize("ending", ["mkv", "ts", "mov"])
def test_times_that_a_container_rounds_are_what_was_rounded(
    tmp_path: Path, rate: Fraction, ending: str
) -> None:
    clip = open_clip(make_clip(tmp_path / f"a.{ending}", 50, rate=rate))
    assert clip.rate == rate
    times = [frame.pts * clip.time_base for frame in frames(clip)]
    assert [time - times[0] for time in times] == [n / rate for n in range(50)]


def test_a_frame_that_does_not_say_when_follows_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = open_clip(make_clip(tmp_path / "a.mp4", 4))
    real = clips._decoded

    def untimed(*arguments: Any) -> Iterator[Any]:
        for number, frame in enumerate(real(*arguments)):
            frame.pts = {2: None, 3: 0}.get(number, frame.pts)
            yield frame

    monkeypatch.setattr(clips, "_decoded", untimed)
    times = [frame.pts * clip.time_base * 25 for frame in frames(clip)]
    assert times[:3] == [0, 1, 2]
    assert times[3] == 2 + clip.time_base * 25  # behind it, if only just


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_a_clip_that_was_filmed_sideways_is_turned(
    tmp_path: Path, degrees: int, turns: int
) -> None:
    clip = open_clip(make_clip(tmp_path / "a.mp4", 3, rotation=degrees))
    upright = np.rot90(stripes(0), turns)
    assert (clip.height, clip.width) == upright.shape[:2]
    assert apart(next(frames(clip)).picture.pixels, upright) < 4


def test_pixels_that_are_not_square_are_made_square(tmp_path: Path) -> None:
    clip = open_clip(make_clip(tmp_path / "a.mp4", 3, aspect=Fraction(3, 2)))
    assert (clip.width, clip.height) == (96, 48)
    seen = next(frames(clip)).picture.pixels
    assert apart(seen[:, ::3], stripes(0)[:, ::2]) < 6


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    def half(number: int) -> Pixels:
        alpha = np.full((48, 64, 1), 255, dtype=np.uint8)
        alpha[:, :32], alpha[:, 32:40] = 0, 51
        return np.concatenate([stripes(number), alpha], axis=-1)

    path = tmp_path / "a.png"
    clip = open_clip(make_clip(path, 3, draw=half, codec="apng", pixels="rgba", format="apng"))
    for frame in frames(clip):
        seen, colours = frame.picture.pixels, stripes(frame.number).astype(float)
        assert (seen[:, :32] == 255).all()
        assert np.abs(seen[:, 32:40] - (0.2 * colours[:, 32:40] + 0.8 * 255)).max() <= 1
        assert (seen[:, 40:] == colours[:, 40:]).all()


def test_colours_of_a_high_clip_that_names_none_are_those_of_players(tmp_path: Path) -> None:
    """BT.709 from 720 rows on, BT.601 below: red is another red by the wrong one."""
    red = np.zeros((720, 64, 3), dtype=np.uint8)
    red[..., 0] = 255
    path = make_clip(tmp_path / "a.mp4", 1, draw=lambda _: red)  # which swscale makes by BT.601
    seen = next(frames(open_clip(path))).picture.pixels[100, 30].astype(int)
    y, cb, cr = 81, 90, 240  # what BT.601 makes of red
    r = 255 / 219 * (y - 16) + 1.5748 * 255 / 224 * (cr - 128)
    g = 255 / 219 * (y - 16) - (0.1873 * (cb - 128) + 0.4681 * (cr - 128)) * 255 / 224
    b = 255 / 219 * (y - 16) + 1.8556 * 255 / 224 * (cb - 128)
    assert np.abs(seen - np.clip([r, g, b], 0, 255)).max() <= 3


def test_the_count_is_guessed_where_a_file_has_none(tmp_path: Path) -> None:
    assert open_clip(make_clip(tmp_path / "a.mkv", 20)).expected == 20


# What is no clip


@pytest.mark.parametrize("name", ["text.mp4", "empty.mp4", "gone.mp4", ".", "half.mp4"])
def test_what_is_no_clip_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.mp4").write_text("no clip")
    (tmp_path / "empty.mp4").touch()
    whole = make_clip(tmp_path / "whole.mp4", 30).read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError) as caught:
        open_clip(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cover", [False, True])
def test_a_song_has_no_moving_picture(tmp_path: Path, cover: bool) -> None:
    path = make_song(tmp_path / "song.mp4", cover=cover)
    with pytest.raises(ImageError, match="no moving picture"):
        open_clip(path)


def test_a_playlist_is_no_clip(tmp_path: Path) -> None:
    """It could lead to any address."""
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://localhost:1/a.ts\n")
    with pytest.raises(ImageError, match="cannot be read as a clip"):
        open_clip(playlist)


def test_a_clip_that_is_damaged_says_behind_which_frame(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", 40, options={"g": "1", "threads": "1"})
    data = path.read_bytes()
    start, end = data.index(b"mdat"), data.index(b"moov") - 4
    middle = (start + end) // 2
    path.write_bytes(data[:middle] + b"\xff" * (end - middle) + data[end:])
    clip = open_clip(path)
    with pytest.raises(ImageError, match=r"damaged after frame \d+ "):
        list(frames(clip))


def test_without_pyav_the_line_that_installs_it_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'attnviz\[video\]'"):
        open_clip(tmp_path / "a.mp4")


def test_the_helpers_of_tests_are_of_no_use_to_the_program() -> None:
    """They share no code with what they test."""
    assert "attnviz" not in Path(films.__file__).read_text(encoding="utf-8")


def test_a_clip_that_is_taken_for_a_picture_is_told_where_clips_go(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", 2)
    with pytest.raises(ImageError, match=r"a clip, no picture; try `attnviz video "):
        load_image(path)


@pytest.mark.parametrize(
    ("kind", "largest", "told"),
    [("gray16le", 4095, True), ("gray16le", 65535, False), ("gray", 16, False)],
)
def test_measured_values_that_8_bits_are_too_few_for_are_told(
    tmp_path: Path, kind: str, largest: int, told: bool
) -> None:
    import av  # noqa: PLC0415

    path = tmp_path / "a.mkv"
    type_ = np.uint16 if kind == "gray16le" else np.uint8
    values: Any = np.linspace(0, largest, 48 * 64).reshape(48, 64).astype(type_)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, kind
        frame = av.VideoFrame.from_ndarray(values, format=kind)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    notes = open_clip(path).notes
    assert [note.startswith("its first frame uses 6 % of what its 16 bits") for note in notes] == (
        [True] if told else []
    )
