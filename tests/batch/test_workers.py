"""What a cluster is told and gives back, without one."""

import sys
from pathlib import Path

import batches
import pytest

from attnviz.batch.connection import Pool, pool_of
from attnviz.batch.jobs import Job
from attnviz.batch.ledger import PendingPart
from attnviz.batch.worker import pack, unpack
from attnviz.cli import main
from attnviz.errors import DeviceError, ExitCode, UsageError

BIG, SMALL = {"CPU": 16.0, "GPU": 4.0}, {"CPU": 8.0}


@pytest.mark.parametrize(
    ("workers", "device", "pool"),
    [
        (None, "auto", Pool(4, 4, 1)),
        (2, "cuda", Pool(2, 8, 1)),
        (None, "cpu", Pool(2, 8, 0)),
        (3, "cpu", Pool(3, 8, 0)),
        (24, "cpu", Pool(24, 1, 0)),
    ],
)
def test_workers_share_what_the_nodes_have(workers: int | None, device: str, pool: Pool) -> None:
    assert pool_of([BIG, SMALL], workers, device=device) == pool


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "kind", "said"),
    [
        ([SMALL], 9, "auto", UsageError, "at most 8"),
        ([BIG], 5, "cuda", UsageError, "4 GPUs"),
        ([SMALL], None, "cuda", DeviceError, "--device cpu"),
        ([BIG], None, "cuda:1", UsageError, "--device cuda"),
    ],
)
def test_what_does_not_fit_is_told(
    nodes: list[dict[str, float]], workers: int | None, device: str, kind: type, said: str
) -> None:
    with pytest.raises(kind, match=said):
        pool_of(nodes, workers, device=device)


def test_windows_travel_as_they_are() -> None:
    window = [
        PendingPart(Job(f"photos/p{i}\udcff\n.png", f"p{i}", ("sheet.png",)), None)
        for i in range(9)
    ]
    assert unpack(pack(window)) == window


def test_without_ray_the_line_that_installs_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    batches.photos(tmp_path / "photos", 3)
    for name in [name for name in sys.modules if name == "ray" or name.startswith("ray.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "out"
    code = main(["batch", str(tmp_path / "photos"), "--engine", "ray", "-o", str(out)])
    assert code == ExitCode.FAILED
    assert "pip install 'attnviz[ray]'" in capfd.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ray-address", "auto"], "add --engine ray"),
        (["--engine", "ray", "--ray-address", "ray://head:10001"], "give HOST:6379"),
    ],
)
def test_slips_in_the_options_are_told(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["batch", "photos", *arguments]) == ExitCode.USAGE
    assert said in capfd.readouterr().err
