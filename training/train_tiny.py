"""Trains the embedded model `tiny` on drawn scenes, from a seed, on a CPU or a GPU.

    python training/train_tiny.py --out run            # starts, or continues after an interruption
    python training/train_tiny.py --out run --steps 400 --device cuda

Writes `run/checkpoint.pt` every few minutes, `run/log.jsonl`, and at the end
`run/tiny.safetensors`, the weights in half precision.
"""

import argparse
import itertools
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from lessons import USES, Lesson, Lessons, normalised, truth_of
from objective import Teacher, Truth, loss
from safetensors.torch import save_file
from scenes import Scenes
from torch import nn
from torch.utils.data import DataLoader

from attnviz.evaluation import objects
from attnviz.models.tiny import PATCH

STEPS, RATE, WARMUP, DECAY = 4800, 2e-3, 200, 0.05
HELD_OUT = 900_001
"""Seed of the scenes that measure the progress."""


def main() -> None:
    """Start or continue the training."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=STEPS, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--rate", type=float, default=RATE, help="learning rate at its peak")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    Training(options).run()


class Training:
    """A training that can stop at any moment and continues from its last checkpoint."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.step, self.seconds = options, 0, 0.0
        torch.manual_seed(options.seed)
        self.teacher = Teacher().to(options.device)
        self.optimizers = make_optimizers(self.teacher)
        self.checkpoint: Path = options.out / "checkpoint.pt"
        if self.checkpoint.exists():
            kept = torch.load(self.checkpoint, map_location=options.device, weights_only=True)
            self.teacher.load_state_dict(kept["teacher"])
            for optimizer, state in zip(self.optimizers, kept["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            self.step, self.seconds = kept["step"], kept["seconds"]

    def run(self) -> None:
        """Run the remaining steps."""
        running: dict[str, float] = {}
        began, told = time.monotonic() - self.seconds, time.monotonic()
        for lesson in itertools.islice(self._lessons(), self.options.steps - self.step):
            for name, value in self._learn(lesson).items():
                running[name] = running.get(name, value) * 0.98 + value * 0.02
            self.seconds = time.monotonic() - began
            if self.step % 200 == 0:
                figures = measure(self.teacher, self.options.device)
                self._log({**figures, **running})
            if time.monotonic() - told > 120:
                told = time.monotonic()
                self._save()
        self._save()
        self._ship()

    def _lessons(self) -> Iterator[Lesson]:
        """The lessons from this step on."""
        items = math.ceil(self.options.steps / USES)
        data = Lessons(self.options.seed, items)
        loader = DataLoader(
            data,
            batch_size=None,
            sampler=range(self.step // USES, items),
            num_workers=self.options.workers,
            prefetch_factor=3 if self.options.workers else None,
            worker_init_fn=_alone,
        )
        for item in loader:
            yield from item[self.step % USES :]

    def _learn(self, lesson: Lesson) -> dict[str, float]:
        device = self.options.device
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = self.options.rate * rate(self.step, self.options.steps)
        truth = lesson.truth
        truth = Truth(truth.cover.to(device), truth.details.to(device), truth.label.to(device))
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            total, parts = loss(self.teacher, normalised(lesson.pixels.to(device)), truth)
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(self.teacher.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        return parts

    def _log(self, figures: dict[str, float]) -> None:
        line: dict[str, float] = {"step": self.step, "seconds": round(self.seconds)}
        line |= {name: round(value, 4) for name, value in figures.items()}
        with (self.options.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def _save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        kept = {
            "teacher": self.teacher.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.checkpoint.with_suffix(".part")
        torch.save(kept, temporary)
        temporary.replace(self.checkpoint)

    def _ship(self) -> None:
        state = self.teacher.model.state_dict()
        half = {name: value.to("cpu", torch.float16) for name, value in state.items()}
        save_file(half, self.options.out / "tiny.safetensors")


def _alone(_: int) -> None:
    """Let a drawing process use one thread; the others are for the training."""
    torch.set_num_threads(1)


def make_optimizers(module: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of blocks, AdamW for the rest; biases and tokens have no weight decay.

    Jordan et al. 2024 (kellerjordan.github.io/posts/muon), scaled to AdamW's steps as by Liu et al.
    2025 (2502.16982); Loshchilov and Hutter 2019 (1711.05101).
    """
    inner = {n: p for n, p in module.named_parameters() if p.ndim == 2 and "model" in n}
    matrices = [p for n, p in inner.items() if "head" not in n]
    known = {id(p) for p in matrices}
    rest = [p for p in module.parameters() if id(p) not in known]
    decaying = [p for p in rest if p.ndim in (2, 4)]
    others = [p for p in rest if p.ndim not in (2, 4)]
    groups = [{"params": decaying, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    return (
        torch.optim.Muon(matrices, lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), fused=True),
    )


def rate(step: int, steps: int) -> float:
    """The factor of the learning rate: a linear warm-up, then a cosine decay to 1/50."""
    return min(1, (step + 1) / WARMUP) * (0.51 + 0.49 * math.cos(math.pi * step / steps))


@torch.no_grad()
def measure(teacher: Teacher, device: str, side: int = 96) -> dict[str, float]:
    """Metrics of the heads' mean map on held-out scenes: pointing, and Jaccard at the true area."""
    drawn = Scenes(HELD_OUT, unseen=0.15).draw(128, height=side, width=side)
    attention, scores, _ = teacher(normalised(drawn.pictures).to(device))
    truth = truth_of(drawn, (side // PATCH, side // PATCH))
    maps = attention.mean(1)[:, teacher.model.prefix :].cpu().double().numpy()
    inside = (truth.cover.flatten(1) >= 0.5).numpy()
    rows = [row for row, tokens in enumerate(inside) if tokens.any()]
    hits = [objects.pointing(maps[row], inside[row]) for row in rows]
    shares = [objects.jaccard_area(maps[row], inside[row]) for row in rows]
    known = truth.label >= 0
    right = (scores.cpu().argmax(1) == truth.label)[known].float().mean()
    figures = torch.tensor([hits, shares]).mean(1).tolist()
    return {"pointing": figures[0], "jaccard": figures[1], "kind_right": float(right)}


if __name__ == "__main__":
    main()
