"""The pages of documentation: they build, their code runs, and what they name is there."""

import ast
import doctest
import importlib
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import attnviz
from attnviz.cli import main
from attnviz.methods import METHODS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (DOCS / "architecture.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built as strictly as MkDocs can: a dead link or name is an error."""
    pytest.importorskip("mkdocs", reason="pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def test_the_pages_ask_nothing_of_the_network(site: Path) -> None:
    """Links for people may lead away; what a browser loads by itself may not."""
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    loads = r"<(?:link|script|img|iframe|source|video|audio)\b[^>]*?\b(?:href|src|srcset)=[\"']?"
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(rf"{loads}(?:https?:)?//", text), page
    for style in site.rglob("*.css"):
        found = re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text("utf-8"))
        assert not found, style


def test_no_mark_of_markdown_is_left_in_the_pages(site: Path) -> None:
    """A fence, a row of a table or a doctest that was not understood shows its marks."""
    for page in site.rglob("*.html"):
        text = re.sub(
            r"<(pre|code)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL
        )
        for mark in ("```", "|---", "&gt;&gt;&gt;", "**", "](", "{ #"):
            assert mark not in text, f"{page.name}: {mark}"


def test_every_public_name_is_on_the_page_of_python(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    for name in attnviz.__all__:
        assert f'id="attnviz.{name}"' in page, name


def test_the_page_of_options_has_those_of_the_program(site: Path) -> None:
    page = (site / "options.html").read_text(encoding="utf-8")
    for option in ("--model", "--random-weights", "--query", "--fit", "--masks", "--diverging"):
        assert f"<code>{option}</code>" in page
    assert "<code>squash</code>" in page  # a choice of --fit


def test_the_page_of_the_schema_has_the_fields_of_the_record(site: Path) -> None:
    page = (site / "schema.html").read_text(encoding="utf-8")
    for field in ("entropy_ratio", "not_drawn", "peak_x", "schema", "width"):
        assert f"<code>{field}</code>" in page


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell in one namespace, as Jupyter does; what the last line of a cell is, is shown."""
    monkeypatch.chdir(DOCS)
    notebook = json.loads((DOCS / "quickstart.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    shown = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            shown.append(_run_cell("".join(cell["source"]), names))
    assert shown[0] == (480, 320)
    assert [hasattr(each, "_repr_html_") for each in shown[1:4]] == [True] * 3
    assert shown[4] == (1, 8, 15, 22)
    assert shown[-1] == (1, 4, 1, 10)


def _run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; returns what its last line is."""
    tree = ast.parse(source)
    last = tree.body.pop()
    assert isinstance(last, ast.Expr)
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def test_the_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (DOCS / "quickstart.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(code.replace('"head3.png"', repr(str(tmp_path / "head3.png"))), {})
    assert (tmp_path / "head3.png").exists()


def test_the_module_of_the_page_of_checkpoints_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    page = (DOCS / "checkpoint.md").read_text(encoding="utf-8")
    module, saving = re.findall(r"```python[^\n]*\n(.*?)```", page, re.DOTALL)
    commands = re.findall(r"^attnviz (?!show photo.jpg -m (?!py:)).*$", page, re.MULTILINE)
    assert len(commands) == 3
    shutil.copy(ROOT / "sample_images" / "cat.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(module, encoding="utf-8")
    names: dict[str, Any] = {}
    exec(module + saving, names)
    exec(saving.replace("mine.pt", "before.pt"), names)
    for command in commands:
        assert main(command.split()[1:]) == 0, capfd.readouterr().err
    assert '"loaded":1.0' in capfd.readouterr().out.replace(" ", "")
    assert len(list((tmp_path / "attnviz-out" / "photo.jpg").glob("layer*"))) == 3 * 4


def test_the_readme_names_every_entry_of_the_repository() -> None:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("no clone of git")
    run = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {line.split("/")[0] for line in run.stdout.splitlines()}
    table = README.partition("## What is in this repository")[2]
    named = {name.rstrip("/") for name in re.findall(r"`([^`]+)`", table)}
    assert tracked == {name for name in named if "/" not in name}


def test_the_readme_works_without_the_repository_beside_it() -> None:
    """On a package index there are no files beside it: a path would lead nowhere."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    hook = settings["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = README
    for each in hook["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    assert len(text) < len(README)
    assert not re.findall(r"\]\((?!https?://)[^)]*\)", text)
    assert not re.search(r"(?:src|href)=", text)


def test_paths_of_the_page_of_architecture_are_there() -> None:
    paths = set(re.findall(r"`([\w/.]+(?:\.py|/))`", ARCHITECTURE))
    assert len(paths) > 50
    folders = (ROOT / "attnviz", ROOT, ROOT / "attnviz" / "recording" / "positions")
    for path in paths:
        assert any((folder / path).exists() for folder in folders), path


def test_the_page_of_architecture_names_every_package_on_its_floor() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    floors = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    names = [name for floor in reversed(floors) for name in floor.split(" | ")]
    rows = re.findall(r"^\| `(\w+)(?:\.py)?`", ARCHITECTURE, re.MULTILINE)
    assert [name for name in rows if name in names] == names


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_modules_that_pages_name_are_there(page: Path) -> None:
    """`attnviz.x.y`, and imports in examples."""
    text = page.read_text(encoding="utf-8")
    for module, names in re.findall(r"from (attnviz[\w.]*) import ([\w, ]+)", text):
        if module == "attnviz.monitoring.lightning":
            pytest.importorskip("lightning")
        wanted = [name.strip() for name in names.split(",")]
        imported = __import__(module, fromlist=wanted)  # submodules, too, as the example does
        for name in wanted:
            assert hasattr(imported, name), f"{module}.{name}"
    for path in re.findall(r"`(attnviz/[\w/.]+)(?<!/\d)`", text):  # no schema
        assert (ROOT / path).exists(), path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    script = ROOT / "tools" / "method_pictures.py"
    subprocess.run(
        [sys.executable, str(script), "--out", str(folder)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_picture(drawn: Path, name: str) -> None:
    """As the script draws it; another processor may round a pixel otherwise."""
    assert f"images/methods/{name}.webp" in (DOCS / "methods.md").read_text(encoding="utf-8")
    here, now = (
        np.asarray(Image.open(folder / f"{name}.webp").convert("RGB"), dtype=float)
        for folder in (DOCS / "images" / "methods", drawn)
    )
    assert np.abs(here - now).mean() < 2


def test_the_glossary_names_code_that_is_there() -> None:
    page = (DOCS / "glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w -]+) \| .* \| `(attnviz[\w.]+)` \|$", page, re.MULTILINE)
    words = re.findall(r"^\| ([\w -]+) \| ", page, re.MULTILINE)[1:]
    assert len(rows) > 30
    assert words == sorted(words)
    for word, path in rows:
        assert _is_there(path), f"{word}: {path}"


def _is_there(path: str) -> bool:
    """Whether a dotted path leads to a module, a name in it, or a field of a dataclass."""
    try:
        pkgutil.resolve_name(path)
    except AttributeError:
        owner, _, name = path.rpartition(".")
        return name in getattr(pkgutil.resolve_name(owner), "__dataclass_fields__", {})
    return True


def test_the_example_of_the_extension_for_doctests_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("griffe", reason="pip install -e '.[dev]'")
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    found = doctest.testmod(importlib.import_module("doctest_fences"))
    assert (found.failed, found.attempted) == (0, 1)
