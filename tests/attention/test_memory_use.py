"""What a sweep takes: a process of its own, its peak above the inputs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "attention.py"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_16384_tokens_take_far_less_than_their_matrix() -> None:
    command = [sys.executable, str(BENCHMARK), "--peak", "ours", "16384", "8"]
    run = subprocess.run(command, capture_output=True, check=True, text=True)
    assert json.loads(run.stdout)["mb"] < 400  # the matrix: 8 590
