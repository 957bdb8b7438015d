"""Measures the whole time of `attnviz show` with the embedded model, beside a minimal script.

    python benchmarks/embedded.py

`attnviz show cat.jpg --heads 8` runs as a whole process, in turn with a process that imports torch,
loads the same weights and runs the forward pass on the same number of pixels. The median of the
ratios is printed. The promise is at most 1.4.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 9
CAT = Path(__file__).parents[1] / "sample_images" / "cat.jpg"
LEAST = """
import torch
from safetensors.torch import load_file
from attnviz.models.tiny import WEIGHTS, VisionTransformer
model = VisionTransformer()
model.load_state_dict(load_file(WEIGHTS))
with torch.no_grad():
    model.eval()(torch.zeros(1, 3, 120, 176))
"""


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        show = [sys.executable, "-m", "attnviz", "show", str(CAT), "--heads", "8", "-o", folder]
        least = [sys.executable, "-c", LEAST]
        seconds(show), seconds(least)  # warm the file cache
        pairs = [(seconds(show), seconds(least)) for _ in range(ROUNDS)]
    ratios = [a / b for a, b in pairs]
    shown, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"show {shown:.2f} s, least {bare:.2f} s")
    print(
        f"ratio {statistics.median(ratios):.2f}x  ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"{ROUNDS} pairs"
    )


if __name__ == "__main__":
    main()
