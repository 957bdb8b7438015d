"""What holds for all tests, and what those of recordings begin with."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import attnviz
from attnviz.recording import Recording

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("untimed")

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: one thread for each
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


COUNTED, DIFFERENT = 16, ("/recording/", "/panel/", "/models/test_recorded", "/attribution/")
"""Coverage counts the first so many cases of a test, since the others go the same ways; in these
rooms each case is a model of its own, and all are counted."""
LONG = ("test_habit[mypy", "test_cluster.py", "test_sample_pictures.py")
"""Parts of the names of the longest tests, which begin first: no process waits at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first; leave the further cases of a test uncounted: a third less time."""
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONG))
    cases = Counter[str]()
    for item in items:
        test = item.nodeid.partition("[")[0]
        cases[test] += 1
        if cases[test] > COUNTED and not any(room in test for room in DIFFERENT):
            item.add_marker(pytest.mark.no_cover)


@pytest.fixture(autouse=True)
def _forgotten_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Modules that a test writes and imports are forgotten: others may have files of that name."""
    before, base = set(sys.modules), str(tmp_path_factory.getbasetemp().parent)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(base):
            del sys.modules[name]


@pytest.fixture
def watch() -> Callable[..., tuple[Recording, Any]]:
    """Run something with and without a recording: the results are the same to the last bit."""

    def watch(run: Callable[[], Any], **options: Any) -> tuple[Recording, Any]:
        torch.manual_seed(7)
        expected = run()
        torch.manual_seed(7)
        with attnviz.record(**options) as recording:
            result = run()
        for found, wanted in zip(tree_leaves(result), tree_leaves(expected), strict=True):
            assert type(found) is type(wanted)
            if isinstance(found, Tensor):
                assert torch.equal(found, wanted)
                assert found.stride() == wanted.stride()
        return recording, result

    return watch
