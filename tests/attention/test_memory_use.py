"""What a sweep takes: its peak above the inputs in a process of its own; the script for cards."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_16384_tokens_take_far_less_than_their_matrix() -> None:
    command = [sys.executable, str(BENCHMARKS / "attention.py"), "--peak", "ours", "16384", "8"]
    run = subprocess.run(command, capture_output=True, check=True, text=True)
    assert json.loads(run.stdout)["mb"] < 400  # the matrix: 8 590


def test_the_script_for_cards_runs_without_one(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="pip install 'attnviz[hf]'")
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cpu", "--quick"]
    run = subprocess.run(
        [*command, "--json", str(out)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert set(found) == {"machine", "exactness", "table", "record", "batch", "show"}
    for row in found["exactness"]:
        assert all(row[name] < 2e-6 for name in ("lse", "entropy", "distance", "received"))
    assert {row["N"] for row in found["table"]} == {17, 130}
    assert all(row["ours / fused"] > 0 for row in found["table"])
    assert [row["pictures"] for row in found["batch"]] == ["none", "sheet"]
    assert found["show"][0]["tokens"] == 144
