"""Every case of docs/cases.md: its files are made as it says, and its lines are run."""

import re
import shlex
import warnings
from pathlib import Path

import pytest

from attnviz.cli import main

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own words about quantisation
PAGE = (Path(__file__).parents[1] / "docs" / "cases.md").read_text(encoding="utf-8")
TITLES = re.findall(r"^## (\d+\..*)$", PAGE, re.MULTILINE)


def test_all_cases_of_the_page_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In order, since later cases use files of earlier ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {"__name__": "cases"}
    shown = 0
    for kind, block in re.findall(r"^```(python|sh)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        if block.startswith("# nets.py"):
            Path("nets.py").write_text(block, encoding="utf-8")
        elif kind == "python":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec(compile(block, "cases.md", "exec"), names)
        else:
            for number, line in enumerate(block.splitlines()):
                _, *arguments = shlex.split(line)
                out = f"out{shown}-{number}"
                code = main([*arguments, "-o", out, "--quiet"])
                err = capfd.readouterr().err
                assert code == 0, f"{line}\n{err}"
                assert "assumed from their number" not in err, line
                assert list(Path(out).rglob("*.png")), line
            shown += 1
    assert shown == len(TITLES) == 10


def test_cases_are_numbered() -> None:
    assert [title.partition(".")[0] for title in TITLES] == [str(n) for n in range(1, 11)]
