import inspect
import json
import subprocess
import sys
from pathlib import Path

import pictures
import pytest

import attnviz

HEAVY = ("torch", "numpy", "matplotlib", "transformers", "PIL")
# Runs the command line with its arguments and adds what was imported as the last line of stdout.
RUN = """
import json, sys
from attnviz.cli import main
code = main(sys.argv[1:])
roots = sorted({name.partition(".")[0] for name in sys.modules})
print("\\n" + json.dumps([code, roots]))
"""
# Runs the command lines of its argument one after the other; lines that begin with \0 are its own.
RUN_ALL = """
import json, sys
from attnviz.cli import main
for arguments in json.loads(sys.argv[1]):
    code = main(arguments)
    roots = sorted({name.partition(".")[0] for name in sys.modules})
    print("\\n\\0" + json.dumps([code, roots]), flush=True)
"""
LIGHT = [
    (["--help"], 0),
    (["-h"], 0),
    (["--version"], 0),
    (["show", "--help"], 0),
    (["stats", "--help"], 0),
    (["models"], 0),
    (["methods"], 0),
    (["doctor", "--help"], 0),
    (["models", "--json"], 0),
    (["methods", "--json"], 0),
    ([], 0),
    (["paint"], 2),
    (["show"], 2),
    (["show", "cat.jpg", "--no-such-option"], 2),
    (["show", "cat.jpg", "--fit", "stretch"], 2),
    (["show", "cat.jpg", "--query", "1,2,3"], 2),
    (["show", "cat.jpg", "--heads", "abc"], 2),
    (["show", "cat.jpg", "--layers", "abc"], 2),
    (["show", "cat.jpg", "--scale", "1:0"], 2),
    (["show", "cat.jpg", "--range", "5:5"], 2),
    (["batch", "photos", "--range", "a:b"], 2),
    (["evaluate", "photos", "--masks", "m", "--range", "10:2"], 2),
    (["show", "cat.jpg", "--alpha", "2"], 2),
    (["show", "cat.jpg", "--method", "magic"], 2),
    (["show", "cat.jpg", "--json", "--csv"], 2),
    (["show", "cat.jpg", "--model", "wit"], 2),
    (["stats", "cat.jpg", "--npz"], 2),
    (["stats", "cat.jpg", "--quiet"], 2),
    (["evaluate", "--help"], 0),
    (["evaluate"], 2),
    (["evaluate", "photos", "--metrics", "beauty"], 2),
    (["evaluate", "photos", "--metrics", "masks"], 2),
    (["evaluate", "photos", "--masks", "m", "--metrics", "perturbation"], 2),
    (["evaluate", "photos", "--masks", "m", "--method", "magic"], 2),
    (["evaluate", "photos", "--masks", "m", "-m", "random", "-m", "wit"], 2),
    (["evaluate", "photos", "--masks", "m", "--limit", "0"], 2),
    (["evaluate", "photos", "--masks", "m", "--quiet"], 2),
    (["evaluate", "photos", "--weights", "w.pt", "-m", "random", "-m", "hf:a/b"], 2),
    (["batch", "--help"], 0),
    (["batch"], 2),
    (["batch", "photos", "--batch-size", "none"], 2),
    (["batch", "photos", "--pictures", "none", "--force", "--force"], 2),
    (["show", "cat.jpg", "--size", "32", "--size", "64"], 2),
    (["shwo", "cat.jpg"], 2),
    (["--verzion"], 2),
    (["schema", "no-record"], 2),
    (["schema"], 0),
    (["statistics"], 0),
    (["statistics", "--json"], 0),
    (["--show-completion", "bash"], 0),
    (["--show-completion", "tcsh"], 2),
    (["batch", "photos", "--pictures", "all"], 2),
    (["batch", "photos", "-m", "wit"], 2),
    (["batch", "photos", "--method", "magic"], 2),
    (["video", "--help"], 0),
    (["video"], 2),
    (["video", "clip.mp4", "-o", "film.gif"], 2),
    (["video", "clip.mp4", "--scale", "1:0"], 2),
    (["video", "clip.mp4", "--format", "png"], 2),
    (["show", "cat.jpg", "--movie", "gif"], 2),
    (["show", "cat.jpg", "--animate", "heads", "--fps", "0"], 2),
    (["compare", "--help"], 0),
    (["compare"], 2),
    (["compare", "cat.jpg"], 2),
    (["compare", "cat.jpg", "-m", "random", "-m", "wit"], 2),
    (["compare", "cat.jpg", "-m", "random", "--random-weights"], 2),
    (["compare", "cat.jpg", "--layers", "0-12"], 2),
    (["compare", "cat.jpg", "--method", "attention", "--method", "magic"], 2),
    (["compare", "cat.jpg", "--weights", "w.pt", "-m", "random", "-m", "tiny"], 2),
]


def python(*arguments: str) -> list[str]:
    """Lines that a fresh interpreter prints."""
    line = [sys.executable, "-c", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture(scope="module")
def light() -> list[tuple[int, list[str]]]:
    """Exit codes of LIGHT, and what the process that ran them all had imported after each."""
    lines = python(RUN_ALL, json.dumps([arguments for arguments, _ in LIGHT]))
    own = [json.loads(line[1:]) for line in lines if line.startswith("\0")]
    return [(code, roots) for code, roots in own]


@pytest.mark.parametrize(
    "number", range(len(LIGHT)), ids=[f"{' '.join(line)}-{code}" for line, code in LIGHT]
)
def test_help_and_slips_of_the_pen_import_nothing_heavy(
    number: int, light: list[tuple[int, list[str]]]
) -> None:
    returned, roots = light[number]
    assert returned == LIGHT[number][1]
    assert set(roots) & set(HEAVY) == set()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], [], ["models"], ["show", "--help"], ["paint"]]
)
def test_help_imports_no_pydantic(arguments: list[str]) -> None:
    """Typer itself imports it to read the values of options, and not before."""
    assert "pydantic" not in json.loads(python(RUN, *arguments)[-1])[1]


@pytest.mark.parametrize("statement", ["import attnviz", "import attnviz; dir(attnviz)"])
def test_importing_the_package_imports_nothing_heavy(statement: str) -> None:
    script = f"{statement}\nimport sys\nprint(*{{n.partition('.')[0] for n in sys.modules}})"
    roots = set(python(script)[0].split())
    assert roots & {*HEAVY, "pydantic", "typer", "rich"} == set()


def test_the_version_is_the_package_s() -> None:
    assert python(RUN, "--version")[0] == f"attnviz {attnviz.__version__}"


def test_public_names_are_sorted_and_once_each() -> None:
    assert list(attnviz.__all__) == sorted(set(attnviz.__all__))


@pytest.mark.parametrize("name", attnviz.__all__)
def test_every_public_name_resolves_and_is_explained(name: str) -> None:
    value = getattr(attnviz, name)
    assert name in dir(attnviz)
    assert inspect.getdoc(value)


def test_a_star_import_gives_the_public_names() -> None:
    script = "from attnviz import *\nprint(*sorted(n for n in globals() if n[0] != '_'))"
    assert python(script)[0].split() == list(attnviz.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'attnviz' has no attribute 'nothing'"):
        attnviz.nothing  # noqa: B018 — looking it up is the test


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(inspect.getfile(attnviz)).with_name("py.typed").is_file()


@pytest.mark.parametrize(
    ("colours", "imported"), [("viridis", "False False"), ("magma", "False True")]
)
def test_drawing_does_without_pyplot(colours: str, imported: str, tmp_path: Path) -> None:
    """The default colours do without matplotlib at all, since importing it takes 0.4 s."""
    pictures.noise(40, 30).save(tmp_path / "a.png")
    arguments = ["show", str(tmp_path / "a.png"), "-o", str(tmp_path / "o"), "--colormap", colours]
    code = (
        "import sys; from attnviz.cli import main; "
        f"assert main({arguments!r}) == 0; "
        "print('matplotlib.pyplot' in sys.modules, 'matplotlib' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == imported
