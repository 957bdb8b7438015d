import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import attnviz
from attnviz.models.tiny import VisionTransformer
from attnviz.monitoring.interval import LogInterval
from attnviz.monitoring.log import stretched, undisturbed
from attnviz.monitoring.writers import loggers_of


class Classifier(nn.Module):
    """A small transformer with what a training changes: dropout, batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.body = VisionTransformer(features=32, layers=2, heads=4, labels=3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, h, w) → (B, 3)."""
        scores: torch.Tensor = self.dropout(self.body(self.norm(pixels)))
        return scores


class Board:
    """Has the methods of TensorBoard's writer, and keeps what it is given."""

    def __init__(self) -> None:
        self.images: dict[str, np.ndarray[Any, Any]] = {}
        self.scalars: dict[str, float] = {}
        self.steps: set[int] = set()

    def add_image(self, tag: str, image: Any, step: int, dataformats: str) -> None:
        """Keep an image."""
        assert dataformats == "HWC"
        self.images[tag] = image
        self.steps.add(step)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Keep a number."""
        self.scalars[tag] = value
        self.steps.add(step)


def build() -> Classifier:
    torch.manual_seed(0)
    return Classifier()


@pytest.fixture
def model() -> Classifier:
    return build()


@pytest.fixture
def batch() -> torch.Tensor:
    return torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))


def test_a_folder_gets_a_sheet_and_a_line_per_step(
    model: Classifier, batch: torch.Tensor, tmp_path: Path
) -> None:
    for step in (0, 20):
        assert attnviz.log(model, batch, step=step, to=tmp_path / "log")
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == [
        "attention-00000000.png", "attention-00000020.png", "attention.jsonl",
    ]  # fmt: skip
    lines = [json.loads(x) for x in (tmp_path / "log" / "attention.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 20]
    first, second = ({k: v for k, v in line.items() if k != "step"} for line in lines)
    assert first == second  # the model did not change in between
    with Image.open(tmp_path / "log" / "attention-00000000.png") as sheet:
        assert sheet.height > 200  # two pictures below each other


def test_numbers_are_those_of_the_weights_in_evaluation_mode(
    model: Classifier, batch: torch.Tensor
) -> None:
    board = Board()
    assert attnviz.log(model.train(), batch, step=7, to=board, layers="all")
    assert board.steps == {7}
    assert set(board.images) == {"attention"}
    model.eval()
    with torch.no_grad():
        x = model.body.tokens(model.norm(batch))
        for number, block in enumerate(model.body.blocks):
            x, weights = block(x, need_weights=True)
            rows = weights[:, :, model.body.prefix :].double()  # from the grid's tokens
            entropy = -torch.xlogy(rows, rows).sum(3).mean()
            logged = board.scalars[f"attention/layer{number:02d}/entropy"]
            assert logged == pytest.approx(float(entropy), rel=1e-5)
            registers = rows[..., : model.body.prefix].sum(3).mean()
            logged = board.scalars[f"attention/layer{number:02d}/prefix_mass"]
            assert logged == pytest.approx(float(registers), rel=1e-5)


def trained(batch: torch.Tensor, *, logged: bool) -> tuple[Classifier, list[float]]:
    """A model after five steps, and the numbers that the generators give then."""
    model = build().train()
    model.body.embed.eval()  # a part that its owner keeps in evaluation mode
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002 — the generator that a training may use
    for step in range(5):
        optimizer.zero_grad()
        model(batch + torch.randn_like(batch)).square().sum().backward()
        if logged:
            assert attnviz.log(model, batch, step=step, to=Board())
        optimizer.step()
    draws = [float(torch.rand(())), random.random(), float(np.random.rand())]  # noqa: NPY002
    return model, draws


def test_a_training_is_the_same_to_the_bit(batch: torch.Tensor) -> None:
    (plain, draws), (logged, same) = (trained(batch, logged=each) for each in (False, True))
    assert draws == same
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, logged.state_dict()[name]), name
    assert [m.training for m in plain.modules()] == [m.training for m in logged.modules()]
    for one, other in zip(plain.parameters(), logged.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]  # both have gradients


def test_hooks_stay_as_they_were(model: Classifier, batch: torch.Tensor) -> None:
    handle = model.body.register_forward_hook(lambda *_: None)

    def hooks() -> list[Any]:
        return [
            list(kind.items())
            for module in model.modules()
            for kind in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        ]

    before = hooks()
    assert attnviz.log(model, batch, step=0, to=Board())
    assert hooks() == before
    handle.remove()


@pytest.mark.parametrize(
    ("pictures", "to", "line"),
    [
        (
            torch.zeros(3, 48, 64),
            Board(),
            r"1 to 8 inputs .*batch\[:4\]",
        ),
        (torch.zeros(9, 3, 48, 64), Board(), "pictures is not a tensor of 1 to 8 inputs"),
        ("cat.jpg", Board(), "pictures is not a tensor of 1 to 8 inputs"),
        (torch.zeros(1, 3, 48, 64), 3, "to is a int; give a SummaryWriter"),
        (torch.zeros(1, 4, 48, 64), Board(), "RuntimeError|channels"),
    ],
)
def test_an_error_is_a_warning_and_the_training_goes_on(
    model: Classifier, pictures: Any, to: Any, line: str
) -> None:
    model.train()
    with pytest.warns(RuntimeWarning, match=f"attnviz.log at step 3: .*({line})"):
        assert not attnviz.log(model, pictures, step=3, to=to)
    assert all(module.training for module in model.modules())


def test_what_the_logger_raises_is_a_warning_too(model: Classifier, batch: torch.Tensor) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    broken = SimpleNamespace(add_image=fail, add_scalar=fail)
    with pytest.warns(RuntimeWarning, match="step 3: ZeroDivisionError"):
        assert not attnviz.log(model, batch, step=3, to=broken)


def test_other_loggers_are_known_by_their_methods(
    model: Classifier, batch: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    module = SimpleNamespace(Image=lambda pixels: ("image", pixels.shape[2]))
    for name in ("aim", "wandb"):
        monkeypatch.setitem(__import__("sys").modules, name, module)
    aim = SimpleNamespace(track=lambda value, name, step: calls.append((name, value, step)))
    wandb = SimpleNamespace(log=lambda values, step: calls.append((values, step)))
    mlflow = SimpleNamespace(
        log_image=lambda image, key, step: calls.append((key, image.shape[2], step)),
        log_metrics=lambda values, step: calls.append((min(values), step)),
    )
    assert attnviz.log(model, batch, step=1, to=aim)
    assert calls[0] == ("attention", ("image", 3), 1)
    assert ("attention/layer01/entropy", pytest.approx(calls[1][1]), 1) in calls
    calls.clear()
    assert attnviz.log(model, batch, step=2, to=mlflow, name="run/val")
    assert calls == [("run-val", 3, 2), ("run/val/layer01/confidence", 2)]
    calls.clear()
    assert attnviz.log(model, batch, step=3, to=wandb)
    ((values, step),) = calls
    assert step == 3
    assert values["attention"] == ("image", 3)
    assert values["attention/layer01/entropy"] > 0


def test_loggers_without_pictures_get_a_folder() -> None:
    board = Board()
    csv = SimpleNamespace(experiment=object(), log_dir=None, save_dir="logs")
    assert loggers_of([SimpleNamespace(experiment=board), csv]) == [board, "logs"]


def test_the_sheet_shows_the_inputs_from_black_to_white() -> None:
    values = torch.tensor([-2.0, 0.0, 2.0]).view(3, 1, 1).expand(3, 4, 4)
    assert stretched(values)[0, 0].tolist() == [0, 128, 255]
    one = torch.tensor([[[0.0, 1.0]]])
    assert stretched(one).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    assert stretched(torch.ones(6, 2, 2)).max() == 0  # a flat input of six channels


def test_an_error_within_leaves_the_model_as_it_was(model: Classifier) -> None:
    model.train()
    state = torch.get_rng_state()

    def fail() -> None:
        with undisturbed(model):
            assert not model.training
            assert not torch.is_grad_enabled()
            torch.rand(4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(module.training for module in model.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_logging_takes_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    interval = LogInterval(share=0.01)
    assert interval.due(5)
    interval.took(2.0)
    now += 199
    assert not interval.due(6)
    now += 1
    assert interval.due(7)


def test_a_step_of_several_batches_is_logged_once() -> None:
    interval = LogInterval(every=2)
    assert [interval.due(step) for step in (1, 1, 2, 2, 3, 3, 4, 4)] == [
        False, False, True, False, False, False, True, False,
    ]  # fmt: skip
