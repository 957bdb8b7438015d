"""Packages that add to the tables, and one in which everything is wrong, as they are installed."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forks
import pytest

from attnviz.cli.doctor import EXTRAS
from attnviz.registry import Table

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CAT = ROOT / "sample_images" / "cat.jpg"
MASK = ROOT / "sample_images" / "masks" / "cat.png"
Run = Callable[..., subprocess.CompletedProcess[str]]


def install(package: str, site: Path) -> None:
    """What `pip install --no-deps` leaves of a package: its modules, and its `dist-info`."""
    folder = HERE / package
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module = project["name"].replace("-", "_")
    shutil.copytree(folder / module, site / module, ignore=shutil.ignore_patterns("__pycache__"))
    info = site / f"{module}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))


@pytest.fixture(scope="module")
def processes() -> Iterator[forks.Forks]:
    parts = [*EXTRAS, "transformers.modeling_utils"]  # what the doctor would import each time
    with forks.Forks("torch", "PIL.Image", "pydantic", "rich.console", *parts) as opened:
        yield opened


def runner(site: Path, folder: Path, processes: forks.Forks) -> Run:
    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        found = processes.run(
            arguments, cwd=folder, paths=[site, ROOT], COLUMNS="200", NO_COLOR="1"
        )
        assert found.returncode == code, found.stderr
        return found

    return run


@pytest.fixture
def example(tmp_path: Path, processes: forks.Forks) -> Run:
    """`attnviz` where the package `attnviz-example` is installed."""
    install("example", tmp_path / "site")
    return runner(tmp_path / "site", tmp_path, processes)


@pytest.fixture
def broken(tmp_path: Path, processes: forks.Forks) -> Run:
    """`attnviz` where both packages are installed, the broken one too."""
    install("example", tmp_path / "site")
    install("broken", tmp_path / "site")
    return runner(tmp_path / "site", tmp_path, processes)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def flat(text: str) -> str:
    """Help without the breaks of its lines."""
    return " ".join(text.split())


def test_lists_and_help_have_the_entries(example: Run) -> None:
    methods = {line["name"]: line for line in lines(example("methods", "--json").stdout)}
    assert methods["sharpened"]["package"] == "attnviz-example 1.0"
    assert "package" not in methods["attention"]
    assert "attnviz-example 1.0" in example("methods").stdout
    assert "checkers:HEADS" in example("models").stdout
    for command in ("show", "stats", "batch", "video", "compare", "evaluate"):
        said = flat(example(command, "--help").stdout)
        assert re.search(r"--power <float range> Power of the weights in sharpened\. "
                         r"\[default: 2\] \[x>=0\.1\]", said), said  # fmt: skip
    assert "--contents Also write the names of all pictures" in flat(
        example("batch", "--help").stdout
    )
    assert "png|jpg|webp|bmp" in example("show", "--help").stdout


def test_declarations_cost_no_heavy_import(tmp_path: Path) -> None:
    install("example", tmp_path / "site")
    code = (
        "import sys; from attnviz.cli import main; main(['show', '--help']); "
        "print(sorted({n.partition('.')[0] for n in sys.modules} & {'torch', 'numpy', 'PIL', "
        "'matplotlib', 'transformers', 'pydantic'}), 'attnviz_example' in sys.modules)"
    )
    paths = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.splitlines()[-1] == "[] True"


def test_a_picture_is_shown_by_the_method_in_the_format(example: Run, tmp_path: Path) -> None:
    example("show", str(CAT), "--size", "32", "--method", "sharpened", "--power", "3",
            "--format", "bmp", "--heads", "2", "-o", "out", "--quiet")  # fmt: skip
    folder = tmp_path / "out" / "cat.jpg"
    record = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    assert record["method"] == "sharpened"
    assert record["options"] == {"sharpness": 1.0, "power": 3.0}
    files = [head["file"] for head in record["heads"]]
    assert files == ["layer05-head00.bmp", "layer05-head01.bmp"]
    for name in (*files, "sheet.bmp"):
        assert (folder / name).read_bytes()[:2] == b"BM"
    example("show", str(CAT), "--size", "32", "--heads", "1", "-o", "out", "--quiet")
    assert not list(folder.glob("*.bmp"))  # an earlier run's files are known as ours


def test_numbers_are_in_json_csv_and_tables(example: Run) -> None:
    record = json.loads(example("stats", str(CAT), "--size", "32", "--json").stdout)
    for head in record["heads"]:
        assert head["concentration"] == pytest.approx(1 - head["entropy_ratio"], abs=1e-6)
        low, high = head["map"]["minimum"], head["map"]["maximum"]
        assert head["map"]["contrast"] == pytest.approx((high - low) / (high + low))
        assert "tokens_seen" not in head
        *before, last = head
        assert last == "concentration"  # behind all that was there before
        assert before[:3] == ["layer", "head", "entropy"]
    full = json.loads(example("stats", str(CAT), "--size", "32", "--json", "--stats", "all").stdout)
    assert all(isinstance(head["tokens_seen"], int) for head in full["heads"])
    header = example("stats", str(CAT), "--size", "32", "--csv").stdout.splitlines()[0]
    assert {"concentration", "map_contrast"} <= set(header.split(","))
    said = example("stats", str(CAT), "--size", "32", "--stats", "all").stdout
    assert {"conc.", "contrast", "tokens_seen"} <= set(said.split())


def test_the_option_changes_the_map_and_is_checked(example: Run) -> None:
    peaks = []
    for power in ("1", "4"):
        text = example("stats", str(CAT), "--size", "32", "--json", "--method", "sharpened",
                       "--power", power).stdout  # fmt: skip
        peaks.append(json.loads(text)["heads"][0]["map"]["maximum"])
    assert peaks[1] > peaks[0]
    error = example("stats", str(CAT), "--power", "2", code=2).stderr
    assert "it is for sharpened: add --method sharpened" in error
    assert "--power" in example("stats", str(CAT), "--power", "0", code=2).stderr


def test_the_option_of_a_statistic_changes_its_number_and_is_checked(example: Run) -> None:
    def record(*arguments: str) -> Any:
        text = example("stats", str(CAT), "--size", "32", "--json", *arguments).stdout
        return json.loads(text)

    cubed = record("--sharpness", "3")
    assert cubed["options"] == {"sharpness": 3.0}
    for head in cubed["heads"]:
        assert head["concentration"] == pytest.approx((1 - head["entropy_ratio"]) ** 3, abs=1e-6)
    one, two = (record("--stats", "all", "--share", share)["heads"] for share in ("1", "2"))
    assert all(b["tokens_seen"] <= a["tokens_seen"] for a, b in zip(one, two, strict=True))
    assert one != two
    for words, arguments in (
        ("--sharpness", ("--sharpness", "0")),
        ("--share is for --stats all; add it", ("--share", "2")),
        ("--sharpness is no option of rollout", ("--sharpness", "2", "--method", "rollout")),
    ):
        assert words in example("stats", str(CAT), *arguments, code=2).stderr
    said = flat(example("show", "--help").stdout)
    assert "Power of the concentration. [default: 1] [x>=0.1]" in said
    assert "--sharpness" not in example("evaluate", "--help").stdout


def test_options_of_a_statistic_are_asked_of_one_observation(tmp_path: Path) -> None:
    install("example", tmp_path / "site")
    code = (
        "import attnviz\n"
        f"seen = attnviz.observe(attnviz.load_image({str(CAT)!r}), attnviz.load_model(size=32))\n"
        "for power in (None, 2.0, 1.0):\n"
        "    found = attnviz.explain(seen, sharpness=power)\n"
        "    print(found.settings, found.numbers['concentration'][0, 0])\n"
        "try: attnviz.explain(seen, sharpness=0)\n"
        "except attnviz.AttnvizError as error: print(error)\n"
    )
    paths = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *numbers, error = found.stdout.splitlines()
    plain, squared, again = (float(line.rpartition(" ")[2]) for line in numbers)
    assert squared == pytest.approx(plain**2)
    assert again == plain
    assert numbers[0].startswith("{'sharpness': 1.0} ")
    assert error == "--sharpness 0: give a value from 0.1"


def test_the_python_interface_checks_the_option_too(tmp_path: Path) -> None:
    install("example", tmp_path / "site")
    code = (
        "import attnviz\n"
        f"seen = attnviz.observe(attnviz.load_image({str(CAT)!r}), attnviz.load_model(size=32))\n"
        "for options in ({'power': 0}, {'power': 'two'}, {'power': float('nan')}):\n"
        "    try: attnviz.explain(seen, method='sharpened', **options)\n"
        "    except attnviz.AttnvizError as error: print(error)\n"
        "print(attnviz.explain(seen, method='sharpened').settings)\n"
    )
    paths = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.splitlines() == [
        "--power 0: give a value from 0.1",
        "--power 'two': give a value of type float",
        "--power nan: give a value from 0.1",
        "{'sharpness': 1.0, 'power': 2.0}",
    ]


def test_a_batch_has_the_numbers_in_gallery_parquet_and_csv(example: Run, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(CAT, tmp_path / "photos" / name)
    example("batch", "photos", "--size", "32", "--stats", "all", "--aggregate", "--parquet",
            "--contents", "-o", "out", "--quiet")  # fmt: skip
    out = tmp_path / "out"
    assert (out / "contents.txt").read_text() == "photos/a.jpg\nphotos/b.jpg\n"
    page = (out / "index.html").read_text(encoding="utf-8")
    for name, words in (
        ("concentration", "how far a row is from uniform"),
        ("tokens_seen", "number of tokens that receive"),
        ("map_contrast", "largest less smallest weight"),
    ):
        assert f'"{name}"' in page
        assert words in page
        assert name in (out / "aggregate.csv").read_text().splitlines()[0]
    table = parquet.read_table(out / "stats.parquet")
    records = lines((out / "stats.jsonl").read_text(encoding="utf-8"))
    heads = [head for record in records for head in record["heads"]]
    for name in ("concentration", "tokens_seen"):
        assert table.column(name).to_pylist() == [head[name] for head in heads]
    assert str(table.schema.field("tokens_seen").type) == "int64"
    assert table.column("map_contrast").to_pylist() == [head["map"]["contrast"] for head in heads]


def test_a_source_gives_a_model(example: Run) -> None:
    record = json.loads(
        example("stats", str(CAT), "-m", "checkers:4", "--size", "64", "--json").stdout
    )
    assert record["model"]["spec"] == "checkers:4"
    assert len(record["heads"]) == 4
    error = example("stats", str(CAT), "-m", "checkers:5", code=1).stderr
    assert len(error.splitlines()) == 1
    assert "attnviz-example 1.0: attnviz_example.sources:load fails" in error
    assert "checkers has 4 heads, not 5" in error
    assert "checkers:HEADS" in example("stats", str(CAT), "-m", "wit", code=2).stderr


def test_metrics_are_evaluated(example: Run, tmp_path: Path) -> None:
    rows = lines(
        example("evaluate", str(CAT), "--masks", str(MASK), "--size", "48", "--json",
                "--metrics", "masks,perturbation", "-o", "out").stdout
    )  # fmt: skip
    own = next(row for row in rows if row["baseline"] is None and row["head"] == "mean")
    assert 0 < own["metrics"]["outside"]["mean"] < 1
    gap = own["metrics"]["gap"]["mean"]
    areas = own["metrics"]["insertion"]["mean"] - own["metrics"]["deletion"]["mean"]
    assert gap == pytest.approx(areas, abs=0.05)
    header = (tmp_path / "out" / "evaluation.csv").read_text().splitlines()[0].split(",")
    assert {"outside", "gap", "gap_low"} <= set(header)


def test_agreements_are_compared(example: Run, tmp_path: Path) -> None:
    text = example("compare", str(CAT), "--size", "32", "--layers", "0,5", "-o", "out", "--json")
    (pair,) = json.loads(text.stdout)["pairs"]
    assert 0 < pair["difference"] < 1
    assert "difference" in (tmp_path / "out" / "cat.jpg" / "compare.csv").read_text()
    assert "diff." in example("compare", str(CAT), "--size", "32", "--layers", "0,5").stdout


def test_a_broken_package_is_named_and_the_rest_works(broken: Run) -> None:
    found = broken("stats", str(CAT), "--size", "32", "--json")
    record = json.loads(found.stdout)
    for head in record["heads"]:
        assert head["concentration"] == pytest.approx(1 - head["entropy_ratio"], abs=1e-6)
        assert head["raises"] is None
        assert head["misshapen"] is None
        assert head["rows"] == record["tokens"]["rows"]
        assert head["map"]["unnumbered"] is None
    warnings = found.stderr.splitlines()
    assert all(line.startswith("attnviz: warning: attnviz-broken 0.1: ") for line in warnings)
    assert len(warnings) == len(set(warnings))
    for words in ("No module named 'attnviz_broken.absent'", "the name 'attention' is taken",
                  "the name 'rows' is taken", "it returns (1,), not (8,)", "no such",
                  "option --layers is left out"):  # fmt: skip
        assert sum(words in line for line in warnings) >= 1, words
    assert "attention" in broken("methods").stdout
    assert "sharpened" in broken("methods").stdout
    assert "absent" not in broken("methods").stdout


def test_what_is_broken_and_chosen_by_name_is_an_error_that_names_the_package(
    broken: Run,
) -> None:
    for arguments in (["--method", "fails"], ["--format", "empty"]):
        found = broken("show", str(CAT), "--size", "32", "-o", "out", *arguments, code=1)
        error = found.stderr.splitlines()[-1]
        assert error.startswith("attnviz: error: ")
        assert "attnviz-broken 0.1" in error
    unknown = broken("stats", str(CAT), "-m", "nothing:1", code=2).stderr
    assert "unknown model 'nothing:1'" in unknown
    assert "NOT_AN_ENTRY is no Source" in unknown


def test_a_broken_finalizer_or_metric_leaves_batch_and_evaluation_whole(
    broken: Run, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(CAT, tmp_path / "photos" / "a.jpg")
    found = broken("batch", "photos", "--size", "32", "-o", "out", "--quiet")
    assert (tmp_path / "out" / "index.html").is_file()
    assert sum("attnviz_broken:fail fails" in line for line in found.stderr.splitlines()) == 1
    rows = lines(
        broken("evaluate", str(CAT), "--masks", str(MASK), "--size", "48", "--json").stdout
    )
    assert all(row["metrics"]["unmeasured"] is None for row in rows)
    assert any(row["metrics"]["pointing"] is not None for row in rows)


def test_without_packages_nothing_is_added() -> None:
    code = "from attnviz.methods import METHODS; print(METHODS.added, list(METHODS)[-1])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split("\n")[0] == "{} mass"


def test_the_page_about_extending_shows_the_package_as_it_is() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^`([\w/.]+)`\n\n```\w+\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    package = HERE / "example"
    files = {str(p.relative_to(package)) for p in package.rglob("*.py")} | {"pyproject.toml"}
    assert dict(blocks).keys() == files
    for name, text in blocks:
        assert text == (package / name).read_text(encoding="utf-8")


def test_the_page_about_extending_names_every_table() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    project = tomllib.loads((HERE / "example" / "pyproject.toml").read_text(encoding="utf-8"))
    groups = {
        table.group
        for module in ("methods", "models", "statistics", "output", "evaluation", "comparison",
                       "batch.finalizers")
        for table in vars(importlib.import_module(f"attnviz.{module}")).values()
        if isinstance(table, Table)
    }  # fmt: skip
    assert len(groups) == 8
    assert groups == set(project["project"]["entry-points"])
    assert all(f"`{group}`" in page for group in groups)


def test_the_doctor_lists_plugins_by_package_and_table(example: Run) -> None:
    text = example("doctor").stdout
    assert "plugin        attnviz-example 1.0: attnviz.methods sharpened\n" in text
    parts = [part for part in lines(example("doctor", "--json").stdout) if part["name"] == "plugin"]
    assert {part["package"] for part in parts} == {"attnviz-example 1.0"}
    assert {part["state"] for part in parts} == {"ok"}
    found = {part["group"]: part["names"] for part in parts}
    project = tomllib.loads((HERE / "example" / "pyproject.toml").read_text(encoding="utf-8"))
    points = project["project"]["entry-points"]
    assert found == {group: sorted(names) for group, names in points.items()}


def test_the_doctor_names_what_is_broken_by_its_error(broken: Run) -> None:
    parts = [part for part in lines(broken("doctor", "--json").stdout) if part["name"] == "plugin"]
    faults = {part["names"][0]: part["value"] for part in parts if part["state"] == "broken"}
    before = "attnviz-broken 0.1: attnviz."
    assert faults["absent"].startswith(f"{before}methods absent (ModuleNotFoundError: ")
    assert "NOT_AN_ENTRY is no Source" in faults["nothing"]
    assert "is taken" in faults["attention"]
    assert "fails" not in faults  # it can be loaded; its function fails when it is called
    assert "broken: attnviz-broken 0.1: attnviz.methods absent" in broken("doctor").stdout
