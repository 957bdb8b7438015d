"""Moving pictures read back: how many frames, how long, and what is on them."""

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from films import apart, make_clip, read_film, sound_packets, stripes
from numpy.typing import NDArray
from PIL import Image

from attnviz.cli.options.results import FILMS
from attnviz.drawing.overlay import colour_table
from attnviz.errors import ImageError, MissingExtraError, OutputError
from attnviz.io import clips
from attnviz.io.sound import Sound
from attnviz.output import movies
from attnviz.output.movies import Film, Kind

VIRIDIS = colour_table("viridis", 256)


def bars(count: int = 4) -> list[Image.Image]:
    """A moving picture over the colours that stand for numbers."""
    found = []
    for number in range(count):
        pixels = np.concatenate([stripes(9 * number, 256, 60), np.tile(VIRIDIS, (12, 1, 1))])
        found.append(Image.fromarray(pixels))
    return found


def played(path: Path) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """Each frame of a picture that Pillow reads, and how many milliseconds it is shown."""
    with Image.open(path) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            pixels = np.asarray(image.convert("RGB"))
            yield pixels, image.info["duration"]


@pytest.mark.parametrize(("kind", "loss"), [("apng", 0), ("webp", 5), ("gif", 6)])
def test_frames_are_read_back_as_they_were(tmp_path: Path, kind: Kind, loss: float) -> None:
    path = tmp_path / f"a.{movies.SUFFIXES[kind]}"
    movies.write(path, bars(), kind, 4, colours=VIRIDIS)
    found = list(played(path))
    assert [duration for _, duration in found] == [250] * 4
    for (pixels, _), frame in zip(found, bars(), strict=True):
        assert apart(pixels, frame) <= loss
    with Image.open(path) as image:
        assert image.info.get("loop") == 0  # for ever
    assert sorted(tmp_path.iterdir()) == [path]


def test_colours_of_a_gif_that_stand_for_numbers_are_exact(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    movies.write(path, bars(), "gif", 4, colours=VIRIDIS)
    step = np.abs(np.diff(VIRIDIS.astype(int), axis=0)).sum(1).max()
    for pixels, _ in played(path):
        seen = pixels[64].astype(int)
        assert np.abs(seen - VIRIDIS).sum(1).max() <= 4 * step  # 64 of 256


def test_a_film_of_drawings_has_as_many_frames_and_their_rate(tmp_path: Path) -> None:
    path = movies.write(tmp_path / "a.mp4", bars(), "mp4", 2.5, colours=VIRIDIS)
    film = read_film(path)
    assert film.rate == Fraction(5, 2)
    assert film.times == [Fraction(2 * n, 5) for n in range(4)]
    assert max(apart(a, b) for a, b in zip(film.pictures, bars(), strict=True)) < 4


def test_an_mp4_without_pyav_is_said_before_anything_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    movies.check("mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    movies.check("gif")
    with pytest.raises(MissingExtraError, match=r"pip install 'attnviz\[video\]'"):
        movies.check("mp4")


def test_a_picture_that_is_too_large_for_its_kind_is_an_error(tmp_path: Path) -> None:
    wide = [Image.new("RGB", (17000, 2), colour) for colour in ("red", "blue")]
    with pytest.raises(OutputError, match="webp cannot hold 17000x2 pixels; take --movie apng"):
        movies.write(tmp_path / "a.webp", wide, "webp", 2, colours=VIRIDIS)
    assert list(tmp_path.iterdir()) == []


# Films, frame by frame


def copy(source: Path, target: Path, size: tuple[int, int] | None = None) -> Path:
    """A clip as a film, with its sound."""
    clip = clips.open_clip(source)
    with (
        Sound.of(clip) as sound,
        Film.writing(
            target,
            size or (clip.width, clip.height),
            rate=clip.rate,
            time_base=clip.time_base,
            sound=sound,
        ) as film,
    ):
        for frame in clips.frames(clip):
            film.add(frame.picture.image(), pts=frame.pts, duration=frame.duration)
    return target


def test_the_endings_that_options_name_are_those_that_can_be_written() -> None:
    assert tuple(movies.FILMS) == FILMS


@pytest.mark.parametrize("ending", FILMS)
def test_a_clip_comes_out_as_it_went_in(tmp_path: Path, ending: str) -> None:
    source = make_clip(tmp_path / "a.mp4", 20, draw=lambda n: stripes(n, 128, 96))
    before, after = read_film(source), read_film(copy(source, tmp_path / f"b{ending}"))
    assert (after.rate, after.times) == (before.rate, before.times)
    pairs = zip(before.pictures, after.pictures, strict=True)
    assert max(apart(a, b) for a, b in pairs) < 4


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(50), Fraction(7, 3)])
def test_odd_rates_are_kept(tmp_path: Path, rate: Fraction) -> None:
    source = make_clip(tmp_path / "a.mp4", 9, rate=rate)
    before, after = read_film(source), read_film(copy(source, tmp_path / "b.mp4"))
    assert (after.rate, after.times) == (rate, before.times)


def test_frames_that_come_unevenly_keep_their_times(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 8, times=[0, 1, 3, 7, 8, 12, 13, 20])
    before, after = read_film(source), read_film(copy(source, tmp_path / "b.mov"))
    assert after.times == before.times == [Fraction(n, 25) for n in (0, 1, 3, 7, 8, 12, 13, 20)]


def test_an_odd_side_gets_one_more_row_of_the_same(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mkv", 4, draw=lambda n: stripes(n, 95, 63), pixels="yuv444p")
    film = read_film(copy(source, tmp_path / "b.mp4"))
    for number, pixels in enumerate(film.pictures):
        assert pixels.shape == (64, 96, 3)
        assert apart(pixels[:63, :95], stripes(number, 95, 63)) < 5
        assert apart(pixels[63], pixels[62]) < 3


def test_players_are_told_which_red_is_red(tmp_path: Path) -> None:
    colours = np.zeros((64, 64, 3), dtype=np.uint8)
    colours[:32], colours[32:] = (253, 231, 37), (68, 1, 84)  # the ends of viridis
    path = tmp_path / "a.mp4"
    with Film.writing(path, (64, 64), rate=Fraction(25), time_base=Fraction(1, 25)) as film:
        film.add(Image.fromarray(colours), pts=0, duration=1)
    (pixels,) = read_film(path).pictures
    assert np.abs(pixels[4:28].astype(int) - colours[4:28]).max() <= 4
    assert np.abs(pixels[36:60].astype(int) - colours[36:60]).max() <= 4


# Sound


@pytest.mark.parametrize(
    ("ending", "sound"),
    [(".mp4", "aac"), (".mov", "pcm_s16le"), (".webm", "libopus")],
)
def test_sound_is_the_same_packets(tmp_path: Path, ending: str, sound: str) -> None:
    codec = "libvpx-vp9" if ending == ".webm" else "libx264"
    source = make_clip(tmp_path / f"a{ending}", 30, sound=sound, codec=codec)
    before = sound_packets(source)
    assert before
    assert sound_packets(copy(source, tmp_path / f"b{ending}")) == before


def test_sound_that_a_film_cannot_hold_is_encoded_anew(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 25, sound="aac")
    clip = clips.open_clip(source)
    with (
        Sound.of(clip) as sound,
        Film.writing(
            tmp_path / "b.webm", (64, 48), rate=clip.rate, time_base=clip.time_base, sound=sound
        ) as film,
    ):
        for frame in clips.frames(clip):
            film.add(frame.picture.image(), pts=frame.pts, duration=frame.duration)
    assert sound is not None
    assert sound.encoded == {"aac": "opus"}
    found = clips.open_clip(tmp_path / "b.webm")
    assert found.sounds == ("opus",)
    last = sound_packets(tmp_path / "b.webm")[-1]
    assert 960 <= last[0] + last[2] <= 1080  # milliseconds


def test_a_clip_without_sound_has_none(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", 3)
    assert clips.open_clip(copy(source, tmp_path / "b.mp4")).sounds == ()


# Whole or not at all


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_film_that_is_broken_off_is_not_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def broken_off() -> None:
        with Film.writing(path, (64, 48), rate=Fraction(25), time_base=Fraction(1, 25)) as film:
            film.add(Image.fromarray(stripes(0)), pts=0, duration=1)
            raise error

    with pytest.raises(error):
        broken_off()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_film_where_none_can_be_is_an_error(tmp_path: Path) -> None:
    writing = Film.writing(
        tmp_path / "no" / "a.mp4", (64, 48), rate=Fraction(25), time_base=Fraction(1, 25)
    )
    with pytest.raises(OutputError, match=r"a\.mp4: cannot be written"), writing as film:
        film.add(Image.fromarray(stripes(0)), pts=0, duration=1)


def test_sound_that_is_damaged_is_a_fault_of_the_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_clip(tmp_path / "a.mp4", 5, sound="aac")
    clip = clips.open_clip(source)

    def packets(*_: object) -> Iterator[object]:
        raise av.error.InvalidDataError(1, "bad bytes")
        yield

    with Sound.of(clip) as sound:
        assert sound is not None
        monkeypatch.setattr(sound, "_packets", packets())
        with pytest.raises(ImageError, match=r"a\.mp4: its sound is damaged \(bad bytes\)"):
            sound.until(Fraction(1))


def test_what_is_wrong_with_the_film_is_said_and_not_that_it_cannot_be_closed(
    tmp_path: Path,
) -> None:
    def write() -> None:
        with Film.writing(
            tmp_path / "a.mp4", (64, 48), rate=Fraction(25), time_base=Fraction(1, 25)
        ):
            raise ImageError("damaged")

    with pytest.raises(ImageError, match="damaged"):
        write()
    assert list(tmp_path.iterdir()) == []
