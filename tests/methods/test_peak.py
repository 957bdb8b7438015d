"""What methods through the layers take: a process of their own, its peak above the inputs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "methods.py"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize("method", ["rollout", "rollout, max, discard 0.9", "relevance"])
def test_16384_tokens_take_far_less_than_a_matrix(method: str) -> None:
    small = ["--layers", "2", "--heads", "2"]
    command = [sys.executable, str(BENCHMARK), *small, "--peak", "ours", "16384", method]
    run = subprocess.run(command, capture_output=True, check=True, text=True)
    assert json.loads(run.stdout)["mb"] < 200  # one matrix: 1 074
