"""The documentation against the program."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from attnviz.cli import app, main
from attnviz.methods import METHODS
from attnviz.models import SOURCES
from attnviz.statistics import LAYER, MORE, STATISTICS

ROOT = Path(__file__).parent.parent
CLI = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OPTIONS = sorted({o for c in COMMANDS.values() for p in c.params for o in p.opts if o[0] == "-"})


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_documented(name: str) -> None:
    assert re.search(rf"^attnviz {name}\b", CLI, re.MULTILINE)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_documented(option: str) -> None:
    assert re.search(rf"`[^`]*(?<![\w-]){option}(?![\w-])[^`]*`", CLI)


def test_no_option_is_documented_that_is_not_there() -> None:
    written = set(re.findall(r"^\| (?:`-\w`, )?`(--[\w-]+)`", CLI, re.MULTILINE))
    assert written
    assert written <= set(OPTIONS)


@pytest.mark.parametrize("name", [*SOURCES, *METHODS, *STATISTICS, *MORE, *LAYER])
def test_every_entry_of_a_table_is_documented_and_can_be_loaded(name: str) -> None:
    for table in (SOURCES, METHODS, STATISTICS, MORE, LAYER):
        if name in table:
            assert callable(table[name].load())
            assert table[name].summary
            assert table[name].reference
    text = CLI + (ROOT / "docs" / "formulas.md").read_text(encoding="utf-8")
    assert f"`{name}`" in text


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", *Path(ROOT).glob("docs/*.md")])
def test_links_lead_somewhere(path: str | Path) -> None:
    page = ROOT / path
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_readmes_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `attnviz …` line of the tour, as it stands, but into a folder of this test.

    Lines with a pipe or a file run in a shell.
    """
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    examples = [line.split("#")[0] for line in lines if line.startswith("attnviz")]
    assert len(examples) >= 8
    for line in examples:
        if any(
            name in line for name in ("photo.jpg", "clip.mp4", "ct.tif", "field.tif", "slide.svs")
        ):
            continue  # the reader's own files
        command = line.replace("heads.csv", f"'{tmp_path / 'heads.csv'}'")
        command = re.sub(r"-o (\w+\.html)", rf"-o '{tmp_path}/\1'", command)
        if re.match(r"attnviz (show|compare|batch)\b", line):
            folder = "batch" if " batch " in line else "out"
            command = re.sub(r" -o \S+", "", command) + f" -o '{tmp_path / folder}'"
            own = "--size" in line or "tiny-words" in line
            command += "" if own else " --size 96"
        if not set("|>") & set(command):
            assert main(shlex.split(command)[1:]) == 0, command
            continue
        program = command.replace("attnviz", f"'{sys.executable}' -m attnviz", 1)
        run = subprocess.run(program, shell=True, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found is not None
    monkeypatch.chdir(ROOT)
    code = found[1].replace('"head3.png"', repr(str(tmp_path / "head3.png")))
    before = (
        "import torch\npixels = torch.zeros(1, 4, 6)\n"
        "def my_model(x): torch.nn.functional.scaled_dot_product_attention(x, x, x)\n"
    )
    exec(before + code, {})
    assert (tmp_path / "head3.png").exists()


def test_the_python_of_the_page_of_methods_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(ROOT)
    before = (
        "import attnviz, torch\n"
        "picture = attnviz.load_image('sample_images/cat.jpg')\n"
        "tiny = attnviz.load_model(head='class').module\n"
        "pixels = torch.rand(2, 3, 64, 48)\n"
        "def my_model(x): return torch.cat([tiny(x), torch.zeros(2, 270)], 1).flip(1)\n"
    )
    names: dict[str, Any] = {}
    exec(before + "\n".join(blocks), names)
    assert names["relevance"](names["layers"]).shape == (2, 1, 1, 5 + 8 * 6)


def test_the_python_of_the_page_of_moving_pictures_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "moving.md").read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```", page, re.DOTALL)  # the first needs a model of clips
    monkeypatch.chdir(ROOT)
    exec(found[-1], {})


def test_the_python_of_the_page_of_pictures_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec("import attnviz\n" + found[1], names)
    assert names["picture"].range == (20, 180)


def test_the_record_is_documented_field_by_field(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = re.search(r"```json\n(.*?)```", CLI, re.DOTALL)
    assert found is not None
    picture = str(ROOT / "sample_images" / "cat.jpg")
    assert main(["show", picture, "--size", "32", "--json", "-o", str(tmp_path)]) == 0
    documented, real = json.loads(found[1]), json.loads(capfd.readouterr().out)
    assert _names(documented) == _names(real)


def test_the_manifest_is_documented_field_by_field(tmp_path: Path) -> None:
    found = re.search(r"```jsonl\n(.*?)```", CLI, re.DOTALL)
    assert found is not None
    picture = str(ROOT / "sample_images" / "cat.jpg")
    assert main(["batch", picture, "--size", "32", "--quiet", "-o", str(tmp_path)]) == 0
    real = json.loads((tmp_path / "manifest.jsonl").read_text(encoding="utf-8"))
    assert _names(json.loads(found[1])) == _names(real)


def _names(part: Any) -> Any:
    """The fields of a record, of a list those of its first entry."""
    if isinstance(part, list):
        return _names(part[0]) if part else []
    return {name: _names(each) for name, each in part.items()} if isinstance(part, dict) else None


def test_the_error_tree_is_drawn_as_it_is() -> None:
    from attnviz import errors  # noqa: PLC0415

    drawn = dict(re.findall(r"(\w+Error) +(\d)", errors.__doc__ or ""))
    real = {
        name: str(int(kind.exit_code))
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.AttnvizError)
    }
    assert drawn == real
