"""Tests `attnviz batch` under stress: killed again and again, with bad files, and on Ray.

    python benchmarks/endurance.py kills [--moments 20] [--pictures 200] [--over]
    python benchmarks/endurance.py hostile [--pictures 1000] [--bad 50]
    python benchmarks/endurance.py ray [--pictures 200] [--workers 2]

    kills    a run that is killed (`kill -9`) at random moments and begun again, beside one that is
             left alone; `--over`: into a folder with a whole run of other settings
    hostile  a folder with files that are not pictures, and with difficult names
    ray      the same folder by the local engine, by workers of a cluster on this machine, and by
             workers of which one is killed midway

Every promise is printed with the result; if one does not hold, the exit code is 1. Arguments after
`--` go to `attnviz batch` unchanged.
"""

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from batch import draw
from hostility import Folder, gallery_shows, without_powers
from wholeness import Watch, apart, entries, files, halves

SMALL = ("-m", "random", "--size", "64")
SCALE = 0.3
"""Of the pictures' sizes to those of `batch.py`."""
PATIENCE = 600.0
"""Seconds that anything may take."""


class Promises:
    """What was promised and what was found, told as it comes."""

    def __init__(self) -> None:
        self._broken = 0

    def __call__(self, held: bool, what: str, found: object) -> None:
        """One promise."""
        self._broken += not held
        print(f"{'holds' if held else 'FAILS'}  {what}: {found}", flush=True)

    def end(self) -> None:
        """Leave with 1 if one is broken."""
        if self._broken:
            sys.exit(f"{self._broken} of the promises do not hold")

    def same(self, out: Path, whole: Path, what: str) -> None:
        """Two folders hold the same."""
        different = apart(out, whole)
        self(not different, what, different[:5] or f"{len(files(whole))} files, the same bytes")

    def nothing_half(self, watch: Watch) -> None:
        """No file was half written at any look."""
        none = f"none at {watch.looks} looks, with {len(watch.temporary)} temporary names among all"
        self(not watch.halves, "nothing is half written", watch.halves[:5] or none)


def command(photos: Path, out: Path, *more: str) -> list[str]:
    """A run of the model that is given, else of a small one."""
    model = () if {"-m", "--model"} & set(more) else SMALL
    return [sys.executable, "-m", "attnviz", "batch", str(photos), "-o", str(out), *model, *more]


def start(line: Sequence[str]) -> "subprocess.Popen[bytes]":
    """A run that says nothing."""
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run(line: Sequence[str]) -> int:
    """The exit code of a run; its time, and the last that it said, are printed."""
    began = time.monotonic()
    done = subprocess.run(line, capture_output=True, check=False)
    said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    print(
        f"       {time.monotonic() - began:.1f} s, exit code {done.returncode}: {said}", flush=True
    )
    return done.returncode


def kills(given: argparse.Namespace, desk: Path, promises: Promises) -> None:
    """Killed at random moments a run comes to the same end."""
    photos, whole, out = desk / "photos", desk / "whole", desk / "out"
    draw(photos, given.pictures, SCALE)
    if given.over:
        run(command(photos, out, "--pictures", "heads", "--colormap", "gray"))
    run(command(photos, whole, *given.more))
    chance, watch, number = random.Random(given.seed), Watch(out), len(files(whole))
    settings = next(entries(whole))["settings"]
    done = []
    for moment in sorted(chance.random() for _ in range(given.moments)):
        with start(command(photos, out, *given.more)) as process:
            wait(watch, process, moment * number, chance)
            process.kill()
        watch.look()
        done.append(watch.settle(settings))
    print(f"       killed when {', '.join(map(str, done))} pictures were done")
    code = run(command(photos, out, *given.more))
    watch.look()
    promises(code == 0, "the last run ends well", f"exit code {code}")
    promises.same(out, whole, "the tree is that of the undisturbed run")
    promises.nothing_half(watch)
    again = sorted(watch.again)
    promises(not again, "what is in the journal is not done again", again[:5] or "none was")
    times = watch.times()
    told = ", ".join(f"{n}: {pictures}" for n, pictures in sorted(times.items()))
    promises(max(times) <= 2, "no picture is written more than twice", f"by times {told}")


def wait(
    watch: Watch, process: "subprocess.Popen[bytes]", number: float, chance: random.Random
) -> None:
    """Until so many files are new, and a moment longer; a run that begins with them: its start."""
    end = time.monotonic() + PATIENCE
    if watch.look() >= number:
        time.sleep(3 * chance.random())
        return
    while watch.look() < number and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(0.2 * chance.random())


def hostile(given: argparse.Namespace, desk: Path, promises: Promises) -> None:
    """What is no picture is told, and all others are done."""
    photos, out = desk / "photos", desk / "out"
    draw(photos, given.pictures - given.bad - Folder.fine, SCALE)
    folder = Folder(photos, given.bad)
    code = run([*without_powers(), *command(photos, out, *given.more)])
    promises(code == 3, "the exit code is 3", code)
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_bytes().splitlines()]
    done = {line["path"] for line in lines if line["status"] == "done"}
    failed = {line["path"]: line["error"] for line in lines if line["status"] == "failed"}
    all_done = len(done) == given.pictures - given.bad and done.issuperset(folder.good)
    promises(all_done, "every picture is done", len(done))
    apart = sorted(failed.keys() ^ folder.bad.keys())
    promises(not apart, "what is none is named in the manifest", apart[:5] or len(failed))
    wrong = [f"{path!r}: {told}" for path, told in failed.items() if not folder.says(path, told)]
    promises(not wrong, "with what is wrong with it", wrong[:5] or "as it was made")
    half = halves(out)
    promises(not half, "nothing is half written", half[:5] or f"{len(files(out))} files")
    shown = gallery_shows(out, folder.good, list(folder.bad))
    promises(not shown, "the gallery shows names as text", shown[:5] or "and nothing in them runs")


def ray(given: argparse.Namespace, desk: Path, promises: Promises) -> None:
    """Workers come to the same as one machine, also when one of them is killed."""
    photos, here, there, killed = (desk / name for name in ("photos", "here", "there", "killed"))
    draw(photos, given.pictures, SCALE)
    run(command(photos, here, *given.more))
    more = [*given.more, "--engine", "ray", "--workers", str(given.workers)]
    code = run(command(photos, there, *more))
    promises(code == 0, "on a cluster it ends well", f"exit code {code}")
    promises.same(there, here, "the tree is that of one machine")
    watch = Watch(killed)
    code, victim = kill_a_worker(command(photos, killed, *more), watch, given.pictures // 2)
    promises(victim is not None, "one of the workers is killed", f"process {victim}")
    times = watch.times()
    promises(times[2] > 0, "its window is done again", f"{times[2]} pictures are written twice")
    promises(code == 0, "then it ends well", f"exit code {code}")
    promises.same(killed, here, "then the tree is that of one machine")
    promises.nothing_half(watch)


def kill_a_worker(line: Sequence[str], watch: Watch, number: int) -> tuple[int, int | None]:
    """The exit code of a run of which the busiest worker is killed after so many files; and who."""
    began, victim = time.monotonic(), None
    with start(line) as process:
        while watch.look() < number and process.poll() is None:
            time.sleep(0.02)
        found = workers(process.pid)
        if found:
            busiest = max(found, key=lambda one: one.cpu_times().user)
            busiest.kill()
            victim = busiest.pid
        while process.poll() is None:
            watch.look()
            time.sleep(0.02)
    watch.look()
    print(f"       {time.monotonic() - began:.1f} s", flush=True)
    return process.returncode, victim


def workers(driver: int) -> list[psutil.Process]:
    """Processes of a driver that hold a model, as Ray names them."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):  # too late
        for process in psutil.Process(driver).children(recursive=True):
            name = " ".join(process.cmdline())
            if name.startswith("ray::") and "Worker" in name:
                found.append(process)
    return found


Trial = Callable[[argparse.Namespace, Path, Promises], None]
TRIALS: dict[str, tuple[Trial, int]] = {
    "kills": (kills, 200),
    "hostile": (hostile, 1000),
    "ray": (ray, 200),
}
"""With how many pictures there are."""


def options(arguments: list[str]) -> argparse.Namespace:
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("trial", choices=TRIALS)
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--over", action="store_true")
    parser.add_argument("--bad", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments[:cut])
    given.pictures = given.pictures or TRIALS[given.trial][1]
    given.more = arguments[cut + 1 :]
    return given


def main() -> None:
    given, promises = options(sys.argv[1:]), Promises()
    with tempfile.TemporaryDirectory() as folder:
        TRIALS[given.trial][0](given, Path(folder), promises)
    promises.end()


if __name__ == "__main__":
    main()
