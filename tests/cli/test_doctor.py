"""`attnviz doctor`, in a program of its own and with broken parts."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import attnviz
from attnviz.cli import main
from attnviz.cli.doctor import EXTRAS


def test_it_says_versions_devices_parts_and_where_checkpoints_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blob").write_bytes(b"x" * 2_000_000)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    line = [sys.executable, "-m", "attnviz", "doctor", "--json"]
    run = subprocess.run(line, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    found = {part["name"]: part for part in map(json.loads, run.stdout.splitlines())}
    assert found["attnviz"]["value"] == attnviz.__version__
    assert found["torch"]["value"].startswith(torch.__version__)
    assert "threads" in found["torch"]["value"]
    assert {"python", "memory", "cpu", "triton", *EXTRAS} <= found.keys()
    assert found["hub cache"]["value"] == f"{tmp_path}, 2.0 MB"
    assert "HF_HUB_OFFLINE is set" in found["network"]["value"]
    for name, extra in EXTRAS.items():
        if found[name]["state"] == "missing":
            assert found[name]["value"] == f"pip install 'attnviz[{extra}]'"
        else:
            assert found[name]["value"]


@pytest.mark.parametrize(
    ("installed", "cuda", "reason", "compiler", "told"),
    [
        (True, True, None, "/usr/bin/cc", ("ok", "3.5.0, statistics on CUDA use its kernels")),
        (True, True, None, None, ("broken", "3.5.0 finds no C compiler")),
        (True, True, "too old", "/usr/bin/cc", ("ok", "3.5.0, not used: too old")),
        (True, False, None, None, ("ok", "3.5.0, not used: there is no CUDA device")),
        (False, True, None, None, ("missing", "pip install triton")),
        (False, False, None, None, ("missing", "not needed, since there is no CUDA device")),
    ],
)
def test_it_says_whether_the_kernels_can_be_used(
    monkeypatch: pytest.MonkeyPatch,
    *,
    installed: bool,
    cuda: bool,
    reason: str | None,
    compiler: str | None,
    told: tuple[str, str],
) -> None:
    doctor = sys.modules["attnviz.cli.doctor"]
    library = SimpleNamespace(__version__="3.5.0") if installed else None
    monkeypatch.setattr(doctor, "_import", lambda _: (library, ""))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr("attnviz.attention.kernel.missing_on", lambda _: reason)
    monkeypatch.setattr("shutil.which", lambda _: compiler)
    finding = doctor._triton(torch)
    assert (finding.state, finding.value) == told


def test_a_broken_part_is_named_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchvision.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    (tmp_path / "timm.py").write_text("1 / 0\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(attnviz.__file__).parent.parent}")
    line = [sys.executable, "-m", "attnviz", "doctor"]
    run = subprocess.run(line, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    lines = dict(line.split(None, 1) for line in run.stdout.splitlines())
    assert lines["torchvision"].startswith("broken: ")
    assert "operator torchvision::nms does not exist" in lines["torchvision"]
    assert "pip install --force-reinstall --no-deps torchvision" in lines["torchvision"]
    assert "ZeroDivisionError" in lines["timm"]


def test_only_a_broken_torch_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in EXTRAS:
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.count("missing: pip install") == len(EXTRAS)
    doctor = sys.modules["attnviz.cli.doctor"]  # the name in the package is the command
    real = doctor._import
    monkeypatch.setattr(
        doctor, "_import", lambda name: (None, "OSError: bad") if name == "torch" else real(name)
    )
    assert main(["doctor"]) == 1
    assert "broken: OSError: bad" in capsys.readouterr().out
