"""Lists with prompts: rows, errors, several questions about one picture, shards, the gallery."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import batches
import numpy as np
import pytest

from attnviz.batch.gallery import write_gallery
from attnviz.batch.jobs import Job, Settings
from attnviz.batch.ledger import PendingPart
from attnviz.batch.shares import windows
from attnviz.batch.sources import find
from attnviz.batch.worker import WindowTask, Worker, pack
from attnviz.cli import main
from attnviz.errors import AttnvizError, ExitCode
from attnviz.explanation.prompting import Prompting
from attnviz.explanation.request import Questions
from attnviz.output.write_pictures import Drawing

pytest_plugins = ["browsing"]
SCENE = Path(__file__).parents[2] / "sample_images" / "scene.png"
OUT = Path("out")
ASKED = [
    {"path": "a.png", "answer": "a black mug"},
    {"path": "a.png", "prompt": "a bird", "answer": "an orange bird"},
    {"path": "a.png", "prompt": "a mug", "answer": "a black mug"},
    {"path": "b.png", "prompt": "a mug", "answer": "a black mug"},
    {"path": "gone.png", "prompt": "a mug"},
    {"path": "sub/c.png"},
]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    for name in ("a.png", "b.png", "sub/c.png"):
        shutil.copy(SCENE, name)
    return tmp_path


def write(rows: list[dict[str, Any]], name: str = "list.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def batch(*arguments: str) -> int:
    line = ["batch", *arguments, "-m", "tiny-words", "--pictures", "none"]
    return main([*line, "--max-words", "3"])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_picture_asked_twice_has_two_folders() -> None:
    plan = find([write(ASKED)], OUT)
    assert plan.asks
    found = [(item.folder, item.prompt, item.answer, item.place) for item in plan.items]
    assert found == [
        ("a.png", None, "a black mug", "list.jsonl, row 1"),
        ("a.png-2", "a bird", "an orange bird", "list.jsonl, row 2"),
        ("a.png-3", "a mug", "a black mug", "list.jsonl, row 3"),
        ("b.png", "a mug", "a black mug", "list.jsonl, row 4"),
        ("gone.png", "a mug", None, "list.jsonl, row 5"),
        ("sub/c.png", None, None, "list.jsonl, row 6"),
    ]
    assert len({item.key for item in plan.items}) == len(plan.items)
    again = find([write([*ASKED, *ASKED], "twice.jsonl"), "a.png", "./b.png"], OUT)
    assert [item.folder for item in again.items if item.path == "a.png"] == [
        "a.png", "a.png-2", "a.png-3", "a.png-4",  # of no list, then of its rows
    ]  # fmt: skip
    assert {item for window in windows(again.items) for item in window} == set(again.items)
    taken = [*ASKED, {"path": "a.png-2", "prompt": "x"}]
    folders = [item.folder for item in find([write(taken)], OUT).items]
    assert len(set(folders)) == len(folders)


def test_a_csv_list_may_come_from_a_spreadsheet() -> None:
    text = '\ufeffpath;prompt;answer\r\na.png;"What; ""now""?\r\nWell?";\r\nb.png;;"a mug"\r\n\r\n'
    Path("list.CSV").write_bytes(text.encode())
    plan = find(["list.CSV"], OUT)
    assert [(item.path, item.prompt, item.answer) for item in plan.items] == [
        ("a.png", 'What; "now"?\r\nWell?', None),
        ("b.png", None, "a mug"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("l.csv", "path,promt\na.png,What?\n", "l.csv, row 1: no list has a column 'promt'"),
        ("l.csv", "prompt\nWhat?\n", "l.csv, row 1: the column path is missing"),
        ("l.csv", "path,path\na,b\n", "l.csv, row 1: the column path is there twice"),
        ("l.csv", "path,prompt\na.png,x\nb.png,  \n", "l.csv, row 3: its prompt is empty"),
        ("l.csv", "path,prompt\n,What?\n", "l.csv, row 2: its path is empty"),
        ("l.csv", "path,prompt\na.png,one, two\n", "l.csv, row 2: has 3 cells for 2 columns"),
        ("l.csv", 'path,prompt\na.png,"open\n', "l.csv, row 2: cannot be read as CSV"),
        ("l.jsonl", '{"path": "a.png"}\n{"path": \n', "l.jsonl, row 2: is no JSON"),
        ("l.jsonl", '\n["a.png"]\n', "l.jsonl, row 2: is no object"),
        ("l.jsonl", '{"path": "a.png", "prompt": ""}', "l.jsonl, row 1: its prompt is empty"),
        ("l.jsonl", '{"path": "a.png", "prompt": 3}', "l.jsonl, row 1: its prompt is 3, which"),
        ("l.jsonl", '{"path": "a.png", "question": "?"}', "row 1: no list has a column 'question'"),
        ("l.jsonl", '{"path": "a.png", "answer": "\\ud800"}', "row 1: its answer is not UTF-8"),
        ("l.jsonl", '{"path": "a\\u0000.png"}', "l.jsonl, row 1: its path is empty"),
        ("l.jsonl", "\n", "l.jsonl: no picture found"),
    ],
)
def test_a_wrong_row_is_named(name: str, text: str, told: str) -> None:
    Path(name).write_text(text, encoding="utf-8")
    with pytest.raises(AttnvizError) as error:
        find([name], OUT)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_picture_without_a_prompt_needs_one(capsys: pytest.CaptureFixture[str]) -> None:
    name = write([{"path": "a.png", "prompt": "a mug"}, {"path": "b.png"}])
    assert main(["batch", name, "-m", "tiny"]) == ExitCode.USAGE
    assert "list.jsonl, row 2: has no prompt" in capsys.readouterr().err
    assert main(["batch", name, "a.png", "-m", "tiny"]) == ExitCode.USAGE
    assert "a.png: has no prompt" in capsys.readouterr().err
    assert main(["batch", name, "-m", "tiny", "--tile", "64", "--prompt", "x"]) == ExitCode.USAGE
    assert main(["batch", write(ASKED[3:4]), "-m", "tiny"]) == ExitCode.FAILED
    assert "tiny does not answer in words" in capsys.readouterr().err


def test_every_question_has_an_entry_and_a_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    name = write(ASKED[:5])
    assert batch(name, "-o", "out", "--prompt", "a mug", "--csv") == ExitCode.SOME_FAILED
    told = capsys.readouterr()
    header, *rows = [line.split(",") for line in told.out.splitlines()]
    prompts = [row[header.index("prompt")] for row in rows if row[0] == "a.png"]
    assert set(prompts) == {"a mug", "a bird"}
    assert "gone.png: no such file" in told.err
    assert "(list.jsonl, row 5)" in told.err
    records, manifest = lines(Path("out/stats.jsonl")), lines(Path("out/manifest.jsonl"))
    found = [(r["image"]["path"], r["text"]["prompt"], r["text"]["answer"]) for r in records]
    assert found == [
        ("a.png", "a mug", "a black mug"),  # the default
        ("a.png", "a bird", "an orange bird"),
        ("a.png", "a mug", "a black mug"),
        ("b.png", "a mug", "a black mug"),
    ]
    assert [line.get("prompt") for line in manifest] == [None, "a bird", *["a mug"] * 3]
    before = batches.tree(Path("out"))
    assert batch(name, "-o", "out", "--prompt", "a mug", "--json") == ExitCode.SOME_FAILED
    assert not capsys.readouterr().out  # nothing is done again
    assert batches.tree(Path("out")) == before
    asked = [{**ASKED[1], "prompt": "a fish"}, *ASKED[2:4]]  # one question is another one
    assert batch(write(asked), "-o", "out", "--prompt", "a mug", "--json") == ExitCode.DONE
    done = [json.loads(line)["text"]["prompt"] for line in capsys.readouterr().out.splitlines()]
    assert done == ["a fish"]
    assert [line["prompt"] for line in lines(Path("out/manifest.jsonl"))] == [
        "a fish", "a mug", "a mug",
    ]  # fmt: skip


def test_shards_of_a_list_merge_to_one_run() -> None:
    rows = [{"path": p, "prompt": q, "answer": f"a {q[2:]}"} for p in ("a.png", "b.png", "no.png")
            for q in ("a mug", "a bird", "a fish", "a key")]  # fmt: skip
    name = write(rows)
    assert batch(name, "-o", "one") == ExitCode.SOME_FAILED
    codes = [batch(name, "-o", "out", "--shard", f"{i}/3") for i in (1, 2, 3)]
    assert ExitCode.SOME_FAILED in codes or ExitCode.FAILED in codes
    assert len(lines(Path("one/stats.jsonl"))) == 8
    assert main(["merge", "out"]) == ExitCode.SOME_FAILED
    assert batches.tree(Path("out")) == batches.tree(Path("one"))


def test_a_worker_tells_the_questions_about_one_picture_apart() -> None:
    questions = Questions(prompting=Prompting("", None, 3), heads="localized")
    settings = Settings(questions, Drawing(), "digest", pictures="none")
    model = {"spec": "tiny-words", "head": "words"}
    worker = Worker(WindowTask(model, settings, str(Path.cwd()), OUT, None, None, 1))
    items = find([write(ASKED[:4])], OUT).items
    window = np.empty(1, dtype=object)
    window[0] = pack(
        [PendingPart(Job(i.path, i.folder, (), i.prompt, i.answer), None) for i in items]
    )
    OUT.joinpath(".attnviz", "cluster").mkdir(parents=True)
    found = [
        pickle.loads(row) for row in worker({"number": np.zeros(1, int), "window": window})["row"]
    ]
    assert [outcome.entry.key for outcome in found] == [item.key for item in items]
    answers = [outcome.records[0].text.answer for outcome in found]
    assert answers == ["a black mug", "an orange bird", "a black mug", "a black mug"]


EVIL = "<img src=x onerror=alert(1)> \u202e</script>\n&lt;what?"


@pytest.fixture
def gallery(desk: Path) -> Path:
    """A gallery with an evil prompt, as if a model had been asked so."""
    assert batch(write(ASKED[1:3]), "-o", "out") == ExitCode.DONE
    found = lines(desk / "out" / "stats.jsonl")
    found[0]["text"]["prompt"] = found[0]["text"]["answer"] = EVIL
    found[0]["text"]["cut"] = True
    text = "".join(json.dumps(line) + "\n" for line in found)
    (desk / "out" / "stats.jsonl").write_text(text, encoding="utf-8")
    return write_gallery(desk / "out")[0]


def test_the_gallery_shows_and_searches_prompts_and_answers(
    gallery: Path, new_page: Callable[..., Any]
) -> None:
    page = new_page(viewport={"width": 1000, "height": 800})
    page.goto(gallery.as_uri())
    shown = "<img src=x onerror=alert(1)> \ufffd</script> &lt;what?"
    assert page.locator("#pictures .prompt").all_inner_texts() == [shown, "a mug"]
    assert page.locator("#pictures .answer").all_inner_texts() == [f"{shown} …", "a black mug"]
    assert page.locator("#pictures img").count() == 0
    page.get_by_label("Name, prompt or answer contains").fill("BLACK m")
    assert page.locator("#pictures .answer").all_inner_texts() == ["a black mug"]


def test_prompts_are_data_in_the_page(gallery: Path) -> None:
    text = gallery.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert text.count("</script>") == 2
