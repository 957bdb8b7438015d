"""What meets a newcomer: help in panels, completion, suggestions, schemas, no option twice."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import matplotlib as mpl
import pytest
import typer

from attnviz.cli import app, main
from attnviz.cli.lists import RECORDS, schema_of
from attnviz.cli.options.completion import colormap_names, model_names
from attnviz.cli.options.groups import PANELS
from attnviz.methods import METHODS
from attnviz.models.aliases import ALIASES
from attnviz.statistics import MORE, STATISTICS

CAT = str(Path(__file__).parents[2] / "sample_images" / "cat.jpg")
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SINGLE = [
    (name, param)
    for name, command in COMMANDS.items()
    for param in command.params
    if param.param_type_name == "option" and not param.multiple and param.name != "help"
]
HEAVY = {"torch", "numpy", "matplotlib", "transformers"}
# Answers the requests of shells as the program does, one after the other in the environments of its
# argument. Lines that begin with \0 end an answer; they say what was imported.
COMPLETE = """
import json, os, sys
from attnviz.cli import main
for environment in json.loads(sys.argv[1]):
    os.environ.update(environment)
    try:
        main([])
    except SystemExit as end:
        assert not end.code
    print("\\n\\0", *{name.partition(".")[0] for name in sys.modules}, flush=True)
"""
LINES = [
    ("attnviz co", ["compare"]),
    ("attnviz show cat.jpg --method r", ["rollout", "relevance", "received"]),
    ("attnviz show cat.jpg -m dino-", ["dino-vits16", "dino-vits8", "dino-vitb16", "dino-vitb8"]),
    ("attnviz compare cat.jpg --model ti", ["tiny", "tiny-words"]),
    ("attnviz batch photos --colormap mag", ["magma", "magma_r"]),
    ("attnviz stats cat.jpg --device c", ["cpu", "cuda"]),
    ("attnviz stats cat.jpg --stats ", ["basic", "all"]),
    ("attnviz show cat.jpg --fit s", ["squash"]),
    ("attnviz evaluate photos --metrics m", ["masks", "masks,perturbation"]),
    ("attnviz schema ev", ["evaluate"]),
]
SHELLS = ["bash", "zsh", "fish"]


def request(shell: str, line: str) -> dict[str, str]:
    """The variables by which a shell asks for the values of the last word of a line."""
    words = line.split(" ")
    return {
        "_ATTNVIZ_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }


@pytest.fixture(scope="module")
def answers() -> dict[tuple[str, str], tuple[str, set[str]]]:
    """What one process answers to every shell and line, and had imported by then."""
    asked = [(shell, line) for shell in SHELLS for line, _ in LINES]
    requests = json.dumps([request(*each) for each in asked])
    run = subprocess.run(
        [sys.executable, "-c", COMPLETE, requests], capture_output=True, text=True, check=True
    )
    parts = re.findall(r"(.*?)\n\0([^\n]*)\n", run.stdout, re.DOTALL)
    return {
        each: (text, set(imported.split()))
        for each, (text, imported) in zip(asked, parts, strict=True)
    }


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("line", "values"), LINES)
def test_shells_complete_from_the_tables(
    shell: str, line: str, values: list[str], answers: dict[tuple[str, str], tuple[str, set[str]]]
) -> None:
    text, imported = answers[shell, line]
    assert not HEAVY & imported
    if shell == "zsh":
        found = re.findall(r'"([^"]+)"(?::"[^"]*")?$', text.replace("))'", ""), re.MULTILINE)
    else:
        found = [value.partition("\t")[0] for value in text.splitlines()]
    assert found == values


def test_bash_takes_the_script_and_asks_the_program(tmp_path: Path) -> None:
    """The script that is printed, run by bash itself, with the program on its path."""
    program = tmp_path / "attnviz"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m attnviz "$@"\n')
    program.chmod(0o755)
    script = subprocess.run(
        [program, "--show-completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    asked = (
        f"{script}\nCOMP_WORDS=(attnviz show cat.jpg --method leg); COMP_CWORD=4\n"
        '_attnviz_completion attnviz; echo "${COMPREPLY[@]}"\n'
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    found = subprocess.run(
        ["bash", "-c", asked], env={**os.environ, "PATH": path}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert found.stdout.split() == ["legrad"]


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("bash", ".bash_completions/attnviz.sh"),
        ("zsh", ".zfunc/_attnviz"),
        ("fish", ".config/fish/completions/attnviz.fish"),
    ],
)
def test_completion_is_installed_at_home(shell: str, file: str, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "attnviz"]
    home = {**os.environ, "HOME": str(tmp_path)}
    run = subprocess.run(
        [*program, "--install-completion", shell], env=home, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    shown = subprocess.run(
        [*program, "--show-completion", shell], capture_output=True, text=True, check=True
    )
    assert file in run.stdout
    assert (tmp_path / file).read_text().strip() == shown.stdout.strip()
    assert f"_ATTNVIZ_COMPLETE=complete_{shell}" in shown.stdout


def test_what_is_completed_is_there() -> None:
    assert set(colormap_names()) <= set(mpl.colormaps)
    assert {name for name, _ in model_names()} == {"tiny", "tiny-words", "random", *ALIASES}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", CAT, "-m", "dino"], ["unknown model 'dino'", "did you mean dino-vits16"]),
        (["show", CAT, "-m", "dinov2-smal"], ["did you mean dinov2-small", "attnviz models"]),
        (["show", CAT, "--method", "rolout"], ["did you mean rollout", "attnviz methods"]),
        (["show", CAT, "--method", "foo"], ["unknown method 'foo'; choose from attention, rol"]),
        (["show", CAT, "--colormap", "virids"], ["did you mean viridis"]),
        (["show", CAT, "--colrmap", "magma"], ["unknown option --colrmap", "--colormap"]),
        (["show", CAT, "--masks", "m"], ["show has no option --masks; evaluate has it"]),
        (["shwo", CAT], ["unknown command 'shwo'; did you mean show?", "attnviz --help"]),
        (["--verson"], ["unknown option --verson", "attnviz --help"]),
        (["evaluate", CAT, "--metrics", "maks"], ["unknown group 'maks'; did you mean masks?"]),
        (["stats", CAT, "--heads", "99"], ["tiny has 8 heads, numbered 0 to 7; give at most 8"]),
        (["schema", "compar"], ["unknown record 'compar'; did you mean compare?"]),
        (["--show-completion", "tcsh"], ["unknown shell 'tcsh'; choose from bash, zsh, fish"]),
    ],
)
def test_a_wrong_name_is_told_what_it_may_be(
    arguments: list[str], words: list[str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = ["-o", str(tmp_path)] if arguments[0] == "show" else []
    assert main([*arguments, *out]) == 2
    printed, err = capfd.readouterr()
    assert (printed, len(err.splitlines())) == ("", 1)
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("command", "param"), SINGLE, ids=[f"{name} {param.opts[0]}" for name, param in SINGLE]
)
def test_no_option_silently_replaces_itself(
    command: str, param: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever takes one value is given twice: an error that names it, before anything is read."""
    for names in ([param.opts[0]] * 2, [param.opts[0], (param.secondary_opts or param.opts)[-1]]):
        values = [[name] if param.is_flag else [name, "1"] for name in names]
        assert main([command, "nothing.jpg", *values[0], *values[1]]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert "given twice" in err
        assert names[0] in err


def test_help_has_panels_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--help"]) == 0
    out = capfd.readouterr().out
    headings = re.findall(r"^(\S.*):$", out, re.MULTILINE)
    assert headings == [*PANELS, "Help"]
    assert "\x1b" not in out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_stands_in_a_panel_and_is_a_sentence(name: str) -> None:
    for param in COMMANDS[name].params:
        text = param.help.partition("  [")[0]
        assert text[0].isupper() or text[0] in "`-" or param.param_type_name == "argument"
        assert text.endswith(".") or "…" in text
        if param.param_type_name == "option" and param.name not in ("help", "json"):
            assert param.rich_help_panel in PANELS


def test_commands_are_told_whole_in_a_line_each(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capfd.readouterr().out
    assert "..." not in out.partition("Commands:")[2]
    for name in COMMANDS:
        assert re.search(rf"^  {name}  +\S.*\.$", out, re.MULTILINE)


def test_statistics_are_listed_with_references(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["statistics", "--json"]) == 0
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line["name"] for line in lines] == list({**STATISTICS, **MORE})
    assert all(line["summary"] and line["reference"] for line in lines)


RUNS = {
    "record": [
        ["stats", CAT, "--size", "32", "--json"],
        ["stats", CAT, "--size", "32", "--json", "--stats", "all", "--target", "auto"],
        ["show", CAT, "--size", "32", "--json", "--animate", "layers", "-q", "9,9", "-q", "cls"],
        *(["stats", CAT, "--size", "32", "--json", "--method", method] for method in METHODS),
    ],
    "compare": [["compare", CAT, "--size", "32", "--json", "--method", "relevance",
                 "--layers", "4,5"]],
    "evaluate": [["evaluate", CAT, "--size", "32", "--json", "--masks",
                  str(Path(CAT).parent / "masks" / "cat.png")]],
}  # fmt: skip


@pytest.mark.parametrize("which", RUNS)
def test_records_are_as_their_schema_says(
    which: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["schema", which]) == 0
    schema = json.loads(capfd.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    for arguments in RUNS[which]:
        out = ["-o", str(tmp_path)] if arguments[0] in ("show", "compare") else []
        assert main([*arguments, *out]) == 0
        for line in capfd.readouterr().out.splitlines():
            check.validate(json.loads(line))
            with pytest.raises(jsonschema.ValidationError):
                check.validate({**json.loads(line), "more": 1})


def test_an_aggregate_is_as_its_schema_says(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["batch", CAT, "--size", "32", "--quiet", "--aggregate", "-o", str(tmp_path)]) == 0
    capfd.readouterr()
    lines = (tmp_path / "aggregate.jsonl").read_text().splitlines()
    for line in lines:
        jsonschema.validate(json.loads(line), schema_of("aggregate"))
    assert lines


@pytest.mark.parametrize("which", RECORDS)
def test_a_schema_names_its_own(which: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", which, "--json"]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    found = json.loads(line)
    kind = "" if which == "record" else f"{which if which != 'evaluate' else 'evaluation'}/"
    assert found["properties"]["schema"]["const"] == f"attnviz/{kind}1"
    assert found["required"][0] == "schema"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fit", "squas"], "--fit: unknown value 'squas'; did you mean squash?"),
        (["--fit", "z"], "--fit: unknown value 'z'; choose from keep, crop, pad, squash"),
        (["--alpha", "half"], "--alpha 'half' is no number; give a number from 0.0 to 1.0"),
        (["--alpha", "nan"], "--alpha nan: give a number from 0.0 to 1.0"),
        (["--size", "0"], "--size 0: give a whole number from 1 to 16384"),
        (["-m", "wit"], "unknown model 'wit'"),
        (["--scale", "wide"], "--scale 'wide' cannot be read"),
        (["-q", "cls", "-q", "1,2,3"], "1,2,3"),
    ],
)
def test_a_value_that_cannot_be_meant_needs_no_pydantic(options: list[str], words: str) -> None:
    code = (
        "import sys; from attnviz.cli import main; code = main(sys.argv[1:]); "
        "assert code == 2 and 'pydantic' not in sys.modules"
    )
    line = [sys.executable, "-c", code, "show", "nothing.jpg", *options]
    run = subprocess.run(line, capture_output=True, text=True, check=True)
    assert words in run.stderr
    assert len(run.stderr.splitlines()) == 1
