import json
import os
from pathlib import Path

import pytest

from attnviz.errors import OutputError, UsageError
from attnviz.output.line_files import append, whole_lines
from attnviz.output.whole_files import (
    earlier_comparison,
    earlier_files,
    folder_names,
    make_folder,
    remove,
    write_whole,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Whole files


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "a.bin", b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


def test_a_file_is_replaced_and_never_written_into(tmp_path: Path) -> None:
    """Another name of the old file keeps its content: the new one was renamed into place."""
    old = tmp_path / "a.bin"
    old.write_bytes(b"old")
    os.link(old, tmp_path / "kept.bin")
    write_whole(old, b"new")
    assert (old.read_bytes(), (tmp_path / "kept.bin").read_bytes()) == (b"new", b"old")
    assert names(tmp_path) == ["a.bin", "kept.bin"]


def test_a_folder_in_the_way_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(OutputError, match=r"a\.bin: cannot be written"):
        write_whole(tmp_path / "a.bin", b"new")
    assert names(tmp_path) == ["a.bin"]
    assert names(tmp_path / "a.bin") == []


@pytest.mark.parametrize("name", ["no/a.bin", "file/a.bin", "x" * 300])
def test_a_path_that_cannot_be_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_whole(tmp_path / name, b"new")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("mode", [0o500, 0])
def test_a_folder_that_may_not_be_written_is_an_error(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(mode)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(OutputError, match=r"a\.bin: cannot be written"):
            write_whole(folder / "a.bin", b"new")
    finally:
        folder.chmod(0o700)
    assert names(folder) == []


# Folders


def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b").is_dir()
    assert make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"


@pytest.mark.parametrize("name", ["file", "file/a"])
def test_a_file_where_a_folder_must_be_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file.*choose another --out"):
        make_folder(tmp_path / name)


def test_where_nothing_may_be_written_another_folder_is_proposed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match=r"Permission denied\); choose another --out"):
        make_folder(tmp_path / "a")


def test_pictures_are_filed_under_their_names() -> None:
    assert folder_names(["photos/cat.jpg", "/tmp/dog.png", "-"]) == ["cat.jpg", "dog.png", "stdin"]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a/cat.jpg", "b/cat.jpg"], ["a/cat.jpg", "b/cat.jpg"]),
        (["p/a/cat.jpg", "p/b/cat.jpg", "p/dog.jpg"], ["a/cat.jpg", "b/cat.jpg", "dog.jpg"]),
        (["cat.jpg", "a/cat.jpg"], ["cat.jpg", "a/cat.jpg"]),
        (["../cat.jpg", "/x/cat.jpg"], None),
    ],
)
def test_equal_names_take_their_path_along(paths: list[str], expected: list[str] | None) -> None:
    found = folder_names(paths)
    assert len(set(found)) == len(paths)
    assert not any(Path(name).is_absolute() or ".." in Path(name).parts for name in found)
    assert expected is None or found == expected


@pytest.mark.parametrize(
    "paths", [["cat.jpg", "cat.jpg"], ["cat.jpg", "./cat.jpg"], ["a/../cat.jpg", "cat.jpg"]]
)
def test_a_picture_named_twice_is_wrong_usage(paths: list[str]) -> None:
    with pytest.raises(UsageError, match=r"cat\.jpg is named twice"):
        folder_names(paths)


def test_standard_input_named_twice_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="standard input is named twice"):
        folder_names(["-", "-"])


def test_a_symbolic_link_is_a_picture_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").touch()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "cat.jpg")
    paths = [str(tmp_path / "cat.jpg"), str(tmp_path / "link.jpg")]
    assert folder_names(paths) == ["cat.jpg", "link.jpg"]


# Files of an earlier run


OURS = ["layer00-head00.png", "layer11-head123.webp", "layer03.jpg"]
BESIDE = ["sheet.png", "sheet.webp", "maps.npz"]
FOREIGN = ["notes.txt", "my-sheet.png", "layer00-head01.png", "maps.npy", "layer00-head00.gif"]


def record(*files: object) -> str:
    return json.dumps({"schema": "attnviz/1", "heads": [{"file": name} for name in files]})


def test_files_of_an_earlier_run_are_those_that_its_record_names(tmp_path: Path) -> None:
    (tmp_path / "stats.json").write_text(record(*OURS, "notes.txt", "layer09-head00.png", None, 5))
    for name in OURS + BESIDE + FOREIGN:
        (tmp_path / name).touch()
    assert earlier_files(tmp_path) == {*OURS, *BESIDE}


@pytest.mark.parametrize(
    "name", ["../layer00-head00.png", "/etc/passwd", "layer00-head00.png/../notes.txt", "a\n"]
)
def test_a_record_that_was_tampered_with_names_nothing_outside(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    for path in (tmp_path / "layer00-head00.png", tmp_path / "in" / "notes.txt"):
        path.touch()
    (tmp_path / "in" / "stats.json").write_text(record(name))
    assert earlier_files(tmp_path / "in") == set()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", "null", '{"schema": "other/1"}', "{}", "\udcff"]
)
def test_in_a_folder_without_a_record_of_ours_nothing_is_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "stats.json").write_bytes(text.encode(errors="surrogateescape"))
    (tmp_path / "sheet.png").touch()
    assert earlier_files(tmp_path) == set()


def test_an_empty_folder_has_no_earlier_files(tmp_path: Path) -> None:
    assert earlier_files(tmp_path) == set()
    assert earlier_files(tmp_path / "no") == set()


def compared(*files: object, schema: str = "attnviz/compare/1") -> str:
    half = len(files) // 2
    sides, pairs = ([{"file": name} for name in part] for part in (files[:half], files[half:]))
    return json.dumps({"schema": schema, "sides": sides, "pairs": [*pairs, {"first": 1}]})


def test_files_of_an_earlier_comparison_are_those_that_its_record_names(tmp_path: Path) -> None:
    ours = ["compare-0.png", "compare-11.webp", "difference-1.jpg"]
    beside = ["compare.png", "compare.webp", "compare.npz"]
    foreign = ["compare-1.png", "compare-0.gif", "sheet.png", "stats.json", "difference.png"]
    text = compared(*ours, "sheet.png", "compare-9.png", "../compare-0.png", None, "stats.json")
    (tmp_path / "compare.json").write_text(text)
    for name in ours + beside + foreign:
        (tmp_path / name).touch()
    assert earlier_comparison(tmp_path) == {*ours, *beside}
    assert earlier_files(tmp_path) == set()


@pytest.mark.parametrize("text", ["{", compared("compare-0.png", schema="attnviz/1"), record()])
def test_in_a_folder_without_a_comparison_of_ours_nothing_is_ours(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "compare.json").write_text(text)
    for name in ("compare-0.png", "compare.png"):
        (tmp_path / name).touch()
    assert earlier_comparison(tmp_path) == set()


def test_removing_leaves_everything_else(tmp_path: Path) -> None:
    for name in ("layer00-head00.png", "layer00-head01.png", "notes.txt"):
        (tmp_path / name).touch()
    remove(tmp_path, ["layer00-head01.png", "layer00-head02.png"])
    assert names(tmp_path) == ["layer00-head00.png", "notes.txt"]


def test_a_folder_with_the_name_of_a_surplus_file_stays(tmp_path: Path) -> None:
    (tmp_path / "layer00-head01.png").mkdir()
    remove(tmp_path, ["layer00-head01.png"])
    assert names(tmp_path) == ["layer00-head01.png"]


# Lines


def test_lines_are_added_and_one_that_was_broken_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert whole_lines(path) == []
    append(path, "first")
    append(path, "zweite Zeile: ü")
    assert whole_lines(path) == ["first", "zweite Zeile: ü"]
    path.write_bytes(path.read_bytes()[:-3])
    assert whole_lines(path) == ["first"]


def test_lines_that_cannot_be_written_or_read_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        append(tmp_path, "line")
    with pytest.raises(OutputError, match="cannot be read"):
        whole_lines(tmp_path)
