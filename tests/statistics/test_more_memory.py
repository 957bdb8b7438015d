"""What more statistics take: a process of its own, its peak above the inputs."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import re, torch, attnviz
from pathlib import Path
from attnviz import statistics
from attnviz.attention.layer_input import LayerInput

def ask(n):
    q, k, v, g = torch.randn(4, 1, 2, n, 16).unbind()
    w = torch.randn(2, 16, 32)
    call = attnviz.AttentionCall(q, k, v, 0.25, gradient=g, projection=w)
    places = torch.arange(2 * n).view(1, n, 2).float()
    side = attnviz.attention.layer_input.LayerTokens(
        torch.arange(n)[None], places, torch.ones(1, n, dtype=torch.bool)
    )
    weights = torch.full((1, 1, n), 1 / n)
    statistics.more(LayerInput(call, side, side, weights, n, torch.randn(1, n, 8)))

def status(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

ask(64)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
ask(8192)
print((status("VmHWM") - before) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_8192_tokens_take_far_less_than_their_matrix() -> None:
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, check=True, text=True)
    assert int(run.stdout) < 200  # MB; the matrix: 537
