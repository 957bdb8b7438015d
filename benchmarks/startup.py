"""Measures how long the command line takes to answer `--help` and a usage error.

    python benchmarks/startup.py

Each run alternates with `python -c "import typer, rich"`; the median of the ratios is printed. The
promise is at most 1.5.
"""

import os
import statistics
import subprocess
import sys
import time

ROUNDS = 15
BASE = [sys.executable, "-c", "import typer, rich"]
CASES = {
    "attnviz --help": [sys.executable, "-m", "attnviz", "--help"],
    "attnviz show --help": [sys.executable, "-m", "attnviz", "show", "--help"],
    "attnviz show --fti crop": [sys.executable, "-m", "attnviz", "show", "a.jpg", "--fti", "crop"],
    "attnviz shew": [sys.executable, "-m", "attnviz", "shew"],
    "attnviz show -q 1,2,3": [sys.executable, "-m", "attnviz", "show", "a.jpg", "-q", "1,2,3"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    return time.perf_counter() - start


def main() -> None:
    for name, command in CASES.items():
        seconds(command), seconds(BASE)  # warm the file cache
        ratios = [seconds(command) / seconds(BASE) for _ in range(ROUNDS)]
        low, high = min(ratios), max(ratios)
        print(f"{name:<28} {statistics.median(ratios):.2f}x  ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
