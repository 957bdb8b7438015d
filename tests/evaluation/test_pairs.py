from pathlib import Path

import pytest

from attnviz.errors import AttnvizError, UsageError
from attnviz.evaluation.run import Pair, find_masks, find_pictures


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def test_a_folder_is_the_pictures_in_it_sorted() -> None:
    touch("p/b.jpg", "p/a.PNG", "p/notes.md", "p/.hidden.png", "p/sub/c.jpg", "z.webp")
    assert find_pictures(["z.webp", "p"]) == (["z.webp", "p/a.PNG", "p/b.jpg"], [])


def test_a_folder_without_pictures_is_told_and_the_rest_is_found() -> None:
    touch("empty/notes.md", "a.png")
    found, failed = find_pictures(["empty", "a.png"])
    assert found == ["a.png"]
    assert [str(error) for error in failed] == [
        "empty: no picture in it; name a folder with .png, .jpg, .jpeg, .webp …"
    ]


def test_twice_and_standard_input_are_wrong_usage() -> None:
    touch("p/a.png")
    with pytest.raises(UsageError, match="named twice"):
        find_pictures(["p", "p/a.png"])
    with pytest.raises(UsageError, match="name a file, not -"):
        find_pictures(["-"])


def test_a_mask_has_the_name_of_its_picture_and_any_ending() -> None:
    touch("a.jpg", "b.jpg", "c.v2.webp", "m/a.png", "m/a.jpg", "m/b.TIFF", "m/c.v2.png")
    pairs, missing = find_masks(["a.jpg", "b.jpg", "c.v2.webp"], "m")
    assert [pair.mask for pair in pairs] == ["m/a.png", "m/b.TIFF", "m/c.v2.png"]
    assert missing == []


def test_pictures_of_one_name_have_masks_in_folders_of_the_same_names() -> None:
    touch("p/x/a.jpg", "p/y/a.jpg", "m/x/a.png", "m/y/a.jpg.png", "m/a.png")
    pairs, _ = find_masks(["p/x/a.jpg", "p/y/a.jpg"], "m")
    assert [pair.mask for pair in pairs] == ["m/x/a.png", "m/y/a.jpg.png"]


def test_masks_may_lie_beside_pictures() -> None:
    touch("a.jpg", "a.png", "b.png")
    Path("a.png").write_text("another")
    pairs, _ = find_masks(["a.jpg"], ".")
    assert pairs == [Pair("a.jpg", "a.png")]
    assert find_masks(["b.png"], ".")[0] == []


def test_a_picture_without_a_mask_names_the_file_that_is_expected() -> None:
    touch("a.jpg", "b.jpg", "m/b.png")
    pairs, missing = find_masks(["a.jpg", "b.jpg"], "m")
    assert [pair.image for pair in pairs] == ["b.jpg"]
    assert [str(error) for error in missing] == [
        "a.jpg: no mask m/a.png, nor one with another ending; add it"
    ]


def test_a_picture_that_is_not_there_is_told() -> None:
    touch("a.jpg")
    found, failed = find_pictures(["a.jpg", "gone.jpg", "nul\0.png"])
    assert found == ["a.jpg"]
    assert str(failed[0]) == "gone.jpg: no such file; check the path"
    assert len(failed) == 2


def test_one_file_is_the_mask_of_one_picture() -> None:
    touch("a.jpg", "b.jpg", "m.png")
    assert find_masks(["a.jpg"], "m.png")[0] == [Pair("a.jpg", "m.png")]
    with pytest.raises(AttnvizError, match=r"one file for 2 pictures"):
        find_masks(["a.jpg", "b.jpg"], "m.png")
