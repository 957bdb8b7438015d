"""What lies outside of a model and its inputs: a plan ends when it changes, and keeps nothing."""

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from planned import PICTURE, Small, assert_same, counted, run
from torch import Tensor, nn
from torch.nn import functional as F

import attnviz
from attnviz.recording import Recording, model_watch

SETTINGS = ModuleType("settings")
NAMESPACE = SimpleNamespace(turned=False, inner=SimpleNamespace(turned=False))


def helper(x: Tensor) -> Tensor:
    return x


def turned(x: Tensor) -> Tensor:
    return x.flip(1)


class Moving(Small):
    """A small ViT that may turn the order of its tokens, by something that tensors do not show."""

    by_class = False

    def __init__(self) -> None:
        super().__init__()
        self.between = self.move
        self.config = SimpleNamespace(vision=SimpleNamespace(turned=False))
        self.orders, self.options = [[list(range(16))]], {"straight": 1}
        self._hidden, self.shift = [False], 0.0

    def move(self, x: Tensor) -> Tensor:
        by_file = SETTINGS.turned or NAMESPACE.turned or NAMESPACE.inner.turned
        by_self = self.by_class or self.config.vision.turned or "turned" in self.options
        x = self.step(helper(x)[:, self.orders[0][0]])
        return x.flip(1) if by_file or by_self or self._hidden[0] else x

    def step(self, x: Tensor) -> Tensor:
        return x.roll(int(self.shift * 10), 1)


class Other(Moving):
    def step(self, x: Tensor) -> Tensor:
        return x.flip(1)


Patch = pytest.MonkeyPatch
CHANGES: dict[str, Callable[[Moving, Patch], object]] = {
    "class of the model": lambda model, _: setattr(model, "__class__", Other),
    "method": lambda _, patch: patch.setattr(Moving, "step", lambda _, x: x.flip(1)),
    "attribute of the class": lambda _, patch: patch.setattr(Moving, "by_class", True),
    "function of the file": lambda _, patch: patch.setitem(globals(), "helper", turned),
    "another file": lambda _, patch: patch.setattr(SETTINGS, "turned", True),
    "object of the file": lambda _, patch: patch.setattr(NAMESPACE, "turned", True),
    "object in an object": lambda _, patch: patch.setattr(NAMESPACE.inner, "turned", True),
    "configuration": lambda model, patch: patch.setattr(model.config.vision, "turned", True),
    "list in a list": lambda model, _: model.orders[0][0].reverse(),
    "key": lambda model, _: model.options.update(turned=model.options.pop("straight")),
    "hidden list": lambda model, _: model._hidden.__setitem__(0, True),
}


@pytest.fixture(autouse=True)
def _straight(monkeypatch: Patch) -> None:
    monkeypatch.setattr(SETTINGS, "turned", False, raising=False)


@torch.no_grad()
@pytest.mark.parametrize("name", CHANGES)
def test_what_the_code_reads_ends_a_plan(name: str, monkeypatch: Patch) -> None:
    model = Moving().eval()
    with counted(monkeypatch) as seen:
        for _ in range(3):
            run(model, PICTURE)
        CHANGES[name](model, monkeypatch)
        run(model, PICTURE)
    assert seen == ["learning", "light", "light", "learning"]


@torch.no_grad()
def test_a_forward_that_the_model_was_given_is_searched(monkeypatch: Patch) -> None:
    model, options = Small().eval(), {"turned": False}

    def forward(pixels: Tensor) -> Tensor:
        x: Tensor = model.patches(pixels).flatten(2).transpose(1, 2)
        for block in model.blocks:
            x = block(x.flip(1) if options["turned"] else x)
        return x

    model.forward = forward  # type: ignore[method-assign, assignment]
    with counted(monkeypatch) as seen:
        for switched in (False, False, False, True):
            options["turned"] = switched
            with attnviz.record(picture=PICTURE) as full:
                model(PICTURE)
            with attnviz.record(model, picture=PICTURE) as found:
                model(PICTURE)
            assert_same(found, full)
    assert seen == ["learning", "light", "light", "learning"]
    assert model.forward is forward


def places(model: nn.Module, *, given: bool) -> Recording:
    with torch.no_grad(), attnviz.record(model if given else None, picture=PICTURE) as found:
        model(PICTURE)
    return found


@pytest.mark.parametrize("of_functions", [False, True])
def test_an_id_that_is_used_again_is_no_old_value(of_functions: bool) -> None:
    def rolled(by: int) -> Callable[[Tensor], Tensor]:
        return lambda x: x.roll(by, 1)

    model = Moving().eval()
    for number in range(40):
        if of_functions:
            model.between = rolled(number % 16)
        else:
            model.shift = float(number % 16) / 10 + 0.001
        for _ in range(2):
            assert_same(places(model, given=True), places(model, given=False))


@contextmanager
def attention_of_others(attention: Callable[..., Tensor]) -> Iterator[None]:
    own = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = own


@torch.no_grad()
@pytest.mark.parametrize("runs_before", [0, 2])
def test_attention_that_somebody_else_replaced_stays(runs_before: int) -> None:
    own, model = F.scaled_dot_product_attention, Small().eval()

    def doubled(*args: Any, **kwargs: Any) -> Tensor:
        return 2 * own(*args, **kwargs)

    for _ in range(runs_before):
        run(model, PICTURE)
    with attention_of_others(doubled):
        expected = model(PICTURE)
        for _ in range(3):
            with attnviz.record(model, picture=PICTURE):
                assert torch.equal(model(PICTURE), expected)
            assert F.scaled_dot_product_attention is doubled
    run(model, PICTURE)


class Recorder(Small):
    """A model that records another one while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Small()

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        with attnviz.record(self.inner):
            found: Tensor = self.inner(pixels) + super().forward(pixels, mask)
        return found


@torch.no_grad()
def test_a_recording_may_be_inside_of_another_one() -> None:
    model = Recorder().eval()
    run(model.inner, PICTURE)
    for _ in range(5):
        run(model, PICTURE)


@torch.no_grad()
def test_a_parameter_of_another_layout_has_no_old_view(monkeypatch: Patch) -> None:
    model = Small().eval()
    run(model, PICTURE, places=False)
    run(model, PICTURE, places=False)
    out = model.blocks[0].attention.out
    out.weight = nn.Parameter(out.weight.mT.contiguous().mT)
    with counted(monkeypatch) as seen:
        run(model, PICTURE, places=False)
    assert seen == ["light", "again"]


class Slotted:
    """Nothing sees a field of this object."""

    __slots__ = ("on",)

    def __init__(self) -> None:
        self.on = False


class Changing(Small):
    """Returns or fails in another way by what nothing shows."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.slotted: Any = Slotted()
        self.way = way

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Any:
        on = self.slotted.on
        result = super().forward(pixels[:, :, 8:] if on and self.way == "fails" else pixels, mask)
        if on and self.way == "fails":
            raise ValueError
        return (result, result) if on else result


@torch.no_grad()
@pytest.mark.parametrize("way", ["fails", "returns two"])
def test_a_run_that_ends_in_another_way_is_recorded_in_full(way: str, monkeypatch: Patch) -> None:
    def recorded(given: nn.Module | None) -> Recording:
        with attnviz.record(given, picture=PICTURE) as found:
            try:
                model(PICTURE)
            except ValueError:
                assert way == "fails"
        return found

    model = Changing(way).eval()
    for _ in range(3):
        recorded(model)
    model.slotted.on = True
    with counted(monkeypatch) as seen:
        assert_same(recorded(model), recorded(None))
    assert seen == ["light", "again"]


@torch.no_grad()
def test_hooks_of_other_recordings_are_no_hooks_of_a_model(monkeypatch: Patch) -> None:
    model, other = Small().eval(), Small().eval()
    opened, done = threading.Event(), threading.Event()

    def elsewhere() -> None:
        with attnviz.record(other, blocks=other):
            opened.set()
            done.wait(60)

    run(model, PICTURE)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    assert opened.wait(60)
    with counted(monkeypatch) as seen:
        run(model, PICTURE)
    done.set()
    thread.join()
    assert seen == ["light"]


def from_a_function() -> tuple[nn.Module, Any]:
    kept = torch.zeros(10)

    class Local(Small):
        def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
            return super().forward(pixels, mask) + kept.sum() * 0

    return Local(), weakref.ref(kept)


def of_a_file() -> tuple[nn.Module, Any]:
    source = """
from planned import Small
SHIFT = [0]
class Local(Small):
    def forward(self, pixels, mask=None):
        return super().forward(pixels.roll(SHIFT[0], 2), mask)
model = Local()
"""
    names: dict[str, Any] = {"__name__": "a_file"}
    exec(source, names)
    return names["model"], weakref.ref(names["model"])


def over_itself() -> tuple[nn.Module, Any]:
    model: Any = Small()
    model.forward = lambda pixels: Small.forward(model, pixels)
    return model, weakref.ref(model)


@pytest.mark.parametrize("make", [from_a_function, of_a_file, over_itself])
def test_a_plan_keeps_nothing_for_ever(make: Callable[[], tuple[nn.Module, Any]]) -> None:
    model, weak = make()
    for _ in range(3):
        places(model, given=True)
    del model
    gc.collect()
    assert weak() is None


def test_a_part_that_is_replaced_is_freed() -> None:
    model = Small()
    for _ in range(2):
        places(model, given=True)
    weak, model.blocks[1] = weakref.ref(model.blocks[1]), copy.deepcopy(model.blocks[1])
    gc.collect()
    assert weak() is None
    assert_same(places(model, given=True), places(model, given=False))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_copy_of_a_model_has_no_plans(
    copied: Callable[[nn.Module], Any], monkeypatch: Patch
) -> None:
    model = Small()
    for _ in range(2):
        places(model, given=True)
    found = copied(model)
    if isinstance(found, bytes):
        assert b"attnviz.recording" not in found
        found = pickle.loads(found)
    with counted(monkeypatch) as seen:
        places(found, given=True)
        places(found, given=True)
        places(model, given=True)
    assert seen == ["learning", "light", "light"]


def test_random_numbers_of_every_card_are_set_back(monkeypatch: Patch) -> None:
    card, state, found = torch.device("cuda", 1), torch.ones(3), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *given: found.append(given))
    model_watch._RandomNumbers([], {card}).restore()
    assert found == [(state, card)]
