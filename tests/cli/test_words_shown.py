"""`--prompt` on the command line: pictures, tables, records, folders, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from word_models import llava_next

from attnviz.cli import main

ANSWER = ["--prompt", "What is it?", "--answer", "a red mat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("words") / "llava_next"
    llava_next(made)
    return str(made)


def test_show_draws_a_map_for_each_word(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["show", "sample_images/cat.jpg", "-m", folder, *ANSWER, "--animate", "words"]
    assert main([*line, "-o", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    firsts = [line.split()[0] for line in said.splitlines() if line.strip()]
    assert [first for first in firsts if first in ("a", "red", "mat")] == ["a", "red", "mat"]
    made = tmp_path / "cat.jpg"
    maps = sorted(path.name for path in made.glob("localized-query*.png"))
    assert maps == [f"localized-query{n}.png" for n in range(3)]
    with Image.open(made / maps[0]) as image:
        assert image.size == (480, 320)
    with Image.open(made / "sheet.png") as sheet:
        assert sheet.width < 1000  # the original and three words, not all heads
    with Image.open(made / "words.webp") as film:
        assert film.n_frames == 3  # type: ignore[attr-defined]
    record = json.loads((made / "stats.json").read_text())
    assert [view["kind"] for view in record["views"]] == ["whole", "tiles"]
    scales = {tuple(head["scale"].values()) for head in record["heads"] if head["head"] is None}
    assert len(scales) == 1  # words are compared


def test_a_chosen_layer_has_all_heads(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["stats", "sample_images/cat.jpg", "-m", folder, *ANSWER, "-q", "word:mat", "--layers"]
    assert main([*line, "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [(head["layer"], head["head"]) for head in record["heads"]] == [(1, n) for n in range(4)]
    assert record["query"] == {"kind": "word", "word": "mat", "index": 2,
                               "token": record["text"]["words"][2]["tokens"][0]}  # fmt: skip
    assert main([*line, "1", "--csv", "--query", "prompt:it"]) == 0
    rows = capsys.readouterr().out.splitlines()
    names = rows[0].split(",")
    words = [row.split(",")[names.index("query_word")] for row in rows[1:]]
    assert words == ["mat"] * 4 + ["it"] * 4


def test_a_method_of_gradients_takes_the_word(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["stats", "sample_images/cat.jpg", "-m", folder, *ANSWER, "--method", "relevance"]
    assert main(line) == 0
    assert "its logit" in capsys.readouterr().out


def test_a_generated_answer_is_cut_at_so_many_words(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["stats", "sample_images/cat.jpg", "-m", folder, "--prompt", "What is it?", "--json"]
    assert main([*line, "--max-words", "1", "-q", "token:90"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["text"]["agrees"] is True
    assert len(record["text"]["words"]) <= 1


def test_a_folder_is_asked(folder: str, tmp_path: Path) -> None:
    pictures = tmp_path / "in"
    pictures.mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy("sample_images/cat.jpg", pictures / name)
    line = ["batch", str(pictures), "-o", str(tmp_path / "out"), "-m", folder, "--quiet"]
    assert main([*line, *ANSWER]) == 0
    lines = tmp_path / "out" / "stats.jsonl"
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [record["text"]["answer"] for record in records] == ["a red mat"] * 2
    assert (tmp_path / "out" / "a.jpg" / "sheet.png").exists()
    assert main([*line, *ANSWER[:-1], "a blue mug"]) == 0  # another answer is another question
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {record["text"]["answer"] for record in records} == {"a blue mug"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["-m", "tiny", "--prompt", "x"], "tiny does not answer in words"),
        (["--max-words", "3"], "tiny does not answer in words"),
        (["-q", "word:"], "--query 'word:' cannot be read"),
        (["-q", "words"], "tiny does not answer in words"),
        (["--baseline-prompt", "x"], "add --prompt TEXT"),
        (["--prompt", "x", "--tile", "64"], "a prompt is about the whole picture"),
    ],
)
def test_what_cannot_be_asked_is_told(
    line: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stats", "sample_images/cat.jpg", *line]) != 0
    assert said in capsys.readouterr().err
