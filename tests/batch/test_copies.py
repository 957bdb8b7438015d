"""A model that runs several times at once: copies compute what it does, and share only weights."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import batches
import method_models
import pytest
import torch
from torch import Tensor, nn

import attnviz
from attnviz.batch.jobs import Job, Outcome, Settings
from attnviz.batch.ledger import PendingPart
from attnviz.batch.local import AT_ONCE, LocalEngine, copies
from attnviz.batch.work import do
from attnviz.explanation.request import Questions
from attnviz.output.write_pictures import Drawing


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", method_models.NAMES)
def test_copies_compute_the_same_with_the_same_weights(name: str) -> None:
    module = method_models.build(name, "sdpa")
    model = replace(attnviz.load_model("random", heads=2), module=module)
    pixels = torch.rand(2, 3, method_models.ROWS * 8, method_models.COLUMNS * 8)
    more = {"interpolate_pos_encoding": True} if name == "siglip" else {}
    with copies(model) as models, torch.no_grad():
        first, second = (each.module for each in models)
        assert first is module
        assert second is not module
        shared = zip(first.parameters(), second.parameters(), strict=True)
        assert all(one is other for one, other in shared)
        assert not {id(b) for b in first.buffers()} & {id(b) for b in second.buffers()}
        one, other = (each(pixels, **more).last_hidden_state for each in (first, second))
    assert torch.equal(one, other)


class Locked(nn.Module):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_what_cannot_be_copied_runs_alone() -> None:
    model = replace(attnviz.load_model("random", heads=2), module=Locked())
    with copies(model) as models:
        assert models == [model]


@pytest.mark.parametrize(("threads", "number"), [(1, 1), (3, 3), (64, AT_ONCE)])
def test_there_are_as_many_as_cores_and_not_too_many(threads: int, number: int) -> None:
    torch.set_num_threads(threads)
    with copies(attnviz.load_model("random", heads=2)) as models:
        assert len(models) == number
        torch.set_num_threads(1)  # as those do that run them
    assert torch.get_num_threads() == threads


BOTH = threading.Barrier(2)


class Keeper(nn.Module):
    """Notes down what it is given, and reads it again when another run has come as far."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixels: Tensor, *mask: Tensor) -> Tensor:
        self.kept = pixels
        BOTH.wait(timeout=60)
        result: Tensor = self.inner(self.kept, *mask)
        return result


def test_runs_at_once_do_not_see_each_other(tmp_path: Path) -> None:
    paths = batches.photos(tmp_path / "photos", 8)
    jobs = [Job(str(path), f"{number}") for number, path in enumerate(paths)]
    plain = attnviz.load_model("random", size=32, heads=2)
    settings = Settings(Questions(), Drawing(), "digest", pictures="none")
    torch.set_num_threads(1)
    expected = [one for job in jobs for one in do([job], plain, settings, tmp_path)]
    torch.set_num_threads(2)
    found: dict[str, Outcome] = {}
    LocalEngine(
        replace(plain, module=Keeper(plain.module)),
        settings,
        tmp_path,
        batch=None,
        stop=threading.Event(),
        on_outcome=lambda outcome: found.update({outcome.entry.path: outcome}),
    ).run([[PendingPart(job, None) for job in jobs]])
    assert len(found) == len(jobs)
    for one in expected:
        record = found[one.entry.path].record
        assert record is not None, found[one.entry.path].entry.error
        assert one.record is not None
        assert record.data() == one.record.data()
