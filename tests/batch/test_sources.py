"""Which pictures are found, and where their files go."""

import os
from pathlib import Path

import pytest

from attnviz.batch.sources import find
from attnviz.errors import AttnvizError, ImageError, UsageError

OUT = Path("out")


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree of files, as the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "photos/a.jpg", "photos/b.PNG", "photos/note.md", "photos/.hidden.jpg", "photos/.git/c.jpg",
        "photos/sub/a.jpg", "photos/sub/deep/d.webp", "photos/x.jpg/y.png", "more/a.jpg", "one.tif",
    ):  # fmt: skip
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(*sources: str, recursive: bool = True) -> dict[str, str]:
    plan = find(sources, OUT, recursive=recursive)
    return {item.path: item.folder for item in plan.items}


def test_a_folder_is_mirrored() -> None:
    assert found("photos") == {
        f"photos/{name}": name
        for name in ("a.jpg", "b.PNG", "sub/a.jpg", "sub/deep/d.webp", "x.jpg/y.png")
    }
    assert list(found("photos")) == sorted(found("photos"))


def test_what_is_left_aside_is_counted() -> None:
    plan = find(["photos"], OUT)
    assert (plan.hidden, plan.others) == (2, 1)
    plan = find(["photos"], OUT, recursive=False)
    assert [item.folder for item in plan.items] == ["a.jpg", "b.PNG"]


def test_several_sources_are_mirrored_below_their_common_parent() -> None:
    assert found("photos/sub", "more", "photos/sub/a.jpg") == {
        "more/a.jpg": "more/a.jpg",
        "photos/sub/a.jpg": "photos/sub/a.jpg",
        "photos/sub/deep/d.webp": "photos/sub/deep/d.webp",
    }


def test_patterns() -> None:
    assert found("photos/*.jpg") == {"photos/a.jpg": "a.jpg", "photos/x.jpg/y.png": "x.jpg/y.png"}
    assert found("*/a.jpg") == {"more/a.jpg": "more/a.jpg", "photos/a.jpg": "photos/a.jpg"}
    assert set(found("photos/**/*.jpg")) == {"photos/a.jpg", "photos/sub/a.jpg"}
    assert find(["photos/*"], OUT).others == 1


def test_a_name_that_looks_like_a_pattern_is_a_name() -> None:
    Path("a[1].png").touch()
    assert found("a[1].png") == {"a[1].png": "a[1].png"}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0"])
def test_lists(end: bytes) -> None:
    names = [b"photos/a.jpg", b"more", b"photos/note.md", b"gone.png", b"photos/a.jpg"]
    Path("list.txt").write_bytes(end.join(names) + end)
    # What a list names is taken as it is: that it is no picture, or not there, is told of it.
    assert found("list.txt") == {
        "gone.png": "gone.png", "more/a.jpg": "more/a.jpg", "photos/a.jpg": "photos/a.jpg",
        "photos/note.md": "photos/note.md",
    }  # fmt: skip


def test_odd_names() -> None:
    names = ["-v.png", "two\nlines.png", "🐈.png", os.fsdecode(b"\xff\xfe.png"), "x" * 251 + ".png"]
    for name in names:
        (Path("odd") / name).parent.mkdir(exist_ok=True)
        (Path("odd") / name).touch()
    assert set(found("odd").values()) == set(names)


def test_links_that_lead_back_are_no_loop() -> None:
    Path("photos/sub/up").symlink_to("..")
    Path("photos/self").symlink_to("self")
    Path("photos/again").symlink_to("sub")
    Path("photos/linked").symlink_to("../more")
    assert set(found("photos").values()) == {
        "a.jpg", "b.PNG", "sub/a.jpg", "sub/deep/d.webp", "x.jpg/y.png", "linked/a.jpg",
    }  # fmt: skip


def test_files_that_were_written_are_no_pictures() -> None:
    Path("photos/out/a.jpg").mkdir(parents=True)
    Path("photos/out/a.jpg/sheet.png").touch()
    plan = find(["photos"], Path("photos/out"))
    assert not any("out" in item.path for item in plan.items)


def test_a_folder_in_the_place_of_a_picture_is_told_of_like_a_file_that_is_none() -> None:
    for name in ("lost.jpg", "notes.PNG", "deep.jpg/er.jpg", "plain", ".later.jpg"):
        Path("photos", name).mkdir(parents=True)
    Path("photos/notes.PNG/note.md").touch()
    Path("photos/again.jpg").symlink_to("sub")
    assert set(found("photos")) - {f"photos/{name}" for name in ("a.jpg", "b.PNG")} == {
        "photos/lost.jpg", "photos/notes.PNG", "photos/deep.jpg/er.jpg", "photos/sub/a.jpg",
        "photos/sub/deep/d.webp", "photos/x.jpg/y.png",
    }  # fmt: skip
    assert "photos/lost.jpg" in found("photos/*.jpg")
    assert "photos/lost.jpg" not in found("photos", recursive=False)


def test_a_folder_that_cannot_be_read_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert set(found("photos")) == {
        "photos/a.jpg", "photos/b.PNG", "photos/sub", "photos/x.jpg/y.png",
    }  # fmt: skip
    with pytest.raises(ImageError, match="photos/sub: cannot be read"):
        find(["photos/sub"], OUT)


@pytest.mark.parametrize(
    ("sources", "kind", "told"),
    [
        (["-"], UsageError, "not -"),
        (["gone"], ImageError, "gone: no such file"),
        (["gone/*.jpg"], ImageError, "nothing fits"),
        (["photos/.git"], None, ""),
        (["empty"], ImageError, "empty: no picture found"),
    ],
)
def test_errors(sources: list[str], kind: type[AttnvizError] | None, told: str) -> None:
    Path("empty").mkdir()
    if kind is None:
        assert found(*sources)
        return
    with pytest.raises(kind, match=told):
        find(sources, OUT)
