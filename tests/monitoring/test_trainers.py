"""Real loggers and trainers; they are installed where timm is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import attnviz
from attnviz.models.tiny import VisionTransformer

pytestmark = pytest.mark.filterwarnings("ignore")  # those libraries warn about this machine
STEPS = 5


def pictures() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def read(folder: Path) -> Any:
    """What TensorBoard's own reader finds in a folder."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    return found


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 — where it is installed

    torch.manual_seed(0)
    model = VisionTransformer(features=32, layers=2, heads=4)
    with SummaryWriter(str(tmp_path)) as writer:
        for step in (0, 10):
            assert attnviz.log(model, pictures(), step=step, to=writer)
    found = read(tmp_path)
    assert [event.step for event in found.Images("attention")] == [0, 10]
    assert found.Images("attention")[0].width > 100
    assert [event.step for event in found.Scalars("attention/layer01/entropy")] == [0, 10]
    assert found.Scalars("attention/layer01/entropy")[0].value > 0


def test_lightning_trains_to_the_same_bits(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    pytest.importorskip("tensorboard")
    from attnviz.monitoring.lightning import AttentionLogger  # noqa: PLC0415

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        """A classifier with dropout."""

        def __init__(self) -> None:
            super().__init__()
            self.model = VisionTransformer(features=32, layers=2, heads=4, labels=3)
            self.dropout = nn.Dropout(0.3)

        def forward(self, pixels: torch.Tensor) -> Any:
            return self.dropout(self.model(pixels))

        def training_step(self, batch: torch.Tensor) -> Any:
            return self(batch).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    def trained(folder: Path, *callbacks: Any) -> dict[str, torch.Tensor]:
        lightning.seed_everything(3, verbose=False)
        module = Module()
        trainer = lightning.Trainer(
            max_steps=STEPS, accelerator="cpu", callbacks=list(callbacks), default_root_dir=folder,
            logger=lightning.loggers.TensorBoardLogger(folder), enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip
        examples: Any = torch.randn(STEPS * 2, 3, 32, 32)
        trainer.fit(module, DataLoader(examples, batch_size=2))
        return dict(module.state_dict())

    plain = trained(tmp_path / "plain")
    callback = AttentionLogger(pictures(), every=2, part="model")
    logged = trained(tmp_path / "logged", callback)
    assert all(torch.equal(tensor, logged[name]) for name, tensor in plain.items())
    events = read(next((tmp_path / "logged").rglob("events*")).parent)
    assert [event.step for event in events.Images("attention")] == [2, 4]


def test_transformers_trains_to_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    from attnviz.monitoring.trainer import AttentionCallback  # noqa: PLC0415

    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        image_size=32, patch_size=8, hidden_dropout_prob=0.2,
    )  # fmt: skip
    examples = [{"pixel_values": torch.randn(3, 32, 32), "labels": n % 2} for n in range(STEPS * 2)]

    def trained(*callbacks: Any) -> dict[str, torch.Tensor]:
        transformers.set_seed(3)
        model = transformers.ViTForImageClassification(config)
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / "out"), max_steps=STEPS, per_device_train_batch_size=2,
            report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        transformers.Trainer(
            model, arguments, train_dataset=examples, callbacks=list(callbacks)
        ).train()
        return dict(model.state_dict())

    plain = trained()
    logged = trained(AttentionCallback(pictures(), to=tmp_path / "log", every=2))
    assert all(torch.equal(tensor, logged[name]) for name, tensor in plain.items())
    names = sorted(path.name for path in (tmp_path / "log").iterdir())
    assert names == ["attention-00000002.png", "attention-00000004.png", "attention.jsonl"]
