"""Trains the embedded model `tiny` on composites, drawn scenes and photographs, from a seed.

    python training/train_tiny.py --out run --material material.npz --teacher deit-tiny
    python training/train_tiny.py --out run …           # continues after an interruption
    python training/train_tiny.py --out run … --until 18:30            # ends at this time today

The material comes from `training/cutouts.py`; without it, all pictures are drawn scenes. The
teacher is a folder of transformers with DeiT-tiny; without it, the masks alone teach. The rate
rises, stays, and falls to 0 over the last part, so the end can be moved until it falls. Writes
`run/checkpoint.pt` every two minutes, `run/log.jsonl`, and at the end `run/tiny.safetensors`, the
weights in half precision.
"""

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from composites import Composites
from guide import Guide, Seen
from lessons import USES, Lesson, Lessons, normalised, truth_of
from material import read
from objective import Teacher, Truth, loss
from safetensors.torch import load_file, save_file
from scenes import Scenes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from attnviz.evaluation import objects
from attnviz.models.tiny import PATCH

STEPS, RATE, WARMUP, DECAY = 4000, 2e-3, 200, 0.05
COOLDOWN = 0.5
"""The last share of a training, in which the rate falls to 0."""
GUIDED = 0.25
"""The share of a lesson's other pictures that the guide sees too."""
HELD_OUT = 900_001
"""Seed of the pictures that measure the progress."""


def main() -> None:
    """Start or continue the training."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--material", type=Path, metavar="NPZ", help="from cutouts.py")
    parser.add_argument("--teacher", type=Path, metavar="FOLDER", help="DeiT-tiny")
    parser.add_argument("--init", type=Path, metavar="SAFETENSORS", help="weights to start from")
    parser.add_argument("--steps", type=int, default=STEPS, help="in all")
    parser.add_argument("--until", metavar="HH:MM", help="the end, in place of --steps")
    parser.add_argument("--no-half", action="store_true", help="float32 in place of bfloat16")
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
        self.held_out: HeldOut | None = None
        torch.manual_seed(options.seed)
        self.teacher = Teacher().to(options.device)
        if options.init is not None:
            weights = {name: value.float() for name, value in load_file(options.init).items()}
            self.teacher.model.load_state_dict(weights)
        self.guide = None if options.teacher is None else Guide(options.teacher, options.device)
        self.material = None if options.material is None else read(options.material)
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
        lessons = self._lessons()
        while (left := self._left()) > 0:
            for name, value in self._learn(next(lessons), left).items():
                running[name] = running.get(name, value) * 0.98 + value * 0.02
            self.seconds = time.monotonic() - began
            if self.step % 50 == 0:
                self.held_out = self.held_out or HeldOut(self.options.material)
                figures = self.held_out.measure(self.teacher, self.options.device)
                self._log({"rate": rate(self.step, left), **figures, **running})
            if time.monotonic() - told > 120:
                told = time.monotonic()
                self._save()
        self._save()
        self._ship()

    def _left(self) -> float:
        """The share of the training that is still to come; 0 at its end."""
        if self.options.until is None:
            return 1 - self.step / float(self.options.steps)
        end = time.strptime(f"{time.strftime('%Y-%m-%d')} {self.options.until}", "%Y-%m-%d %H:%M")
        seconds = time.mktime(end) - time.time()
        return max(0.0, seconds / (seconds + self.seconds + 1))

    def _lessons(self) -> Iterator[Lesson]:
        """The lessons from this step on, without end."""
        data = Lessons(self.options.seed, self.material)
        loader = DataLoader(
            data,
            batch_size=None,
            sampler=itertools.count(self.step // USES),
            num_workers=self.options.workers,
            prefetch_factor=2 if self.options.workers else None,
            worker_init_fn=_alone,
        )
        skipped = self.step % USES
        for item in loader:
            yield from item[skipped:]
            skipped = 0

    def _learn(self, lesson: Lesson, left: float) -> dict[str, float]:
        device = self.options.device
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = self.options.rate * rate(self.step, left)
        truth = Truth(*(value.to(device) for value in vars(lesson.truth).values()))
        pixels, seen = self._seen(lesson)
        with torch.autocast(
            torch.device(device).type, torch.bfloat16, enabled=not self.options.no_half
        ):
            total, parts = loss(self.teacher, pixels, truth, seen)
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(self.teacher.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        return parts

    def _seen(self, lesson: Lesson) -> tuple[Tensor, Seen | None]:
        """The input, and what the guide sees in some pictures and in all photographs."""
        pixels = lesson.pixels.to(self.options.device)
        if self.guide is None:
            return normalised(pixels), None
        some = pixels[len(pixels) - round(GUIDED * len(pixels)) :].float()
        shown = [F.interpolate(some, scale_factor=2.0, mode="bicubic").clamp(0, 255)]
        inputs = [normalised(pixels)]
        if lesson.photographs is not None:
            photographs = lesson.photographs.to(self.options.device).float()
            shown.append(photographs)
            inputs.append(normalised(F.avg_pool2d(photographs, 2)))
        return torch.cat(inputs), self.guide.see(torch.cat(shown))

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


def rate(step: int, left: float) -> float:
    """The factor of the learning rate: a linear warm-up, a plateau, a linear fall (2405.18392)."""
    return min(1, (step + 1) / WARMUP, left / COOLDOWN)


class HeldOut:
    """Held-out pictures, drawn once, that measure the progress."""

    def __init__(self, file: Path | None, side: int = 96) -> None:
        drawn = {"scenes": Scenes(HELD_OUT, unseen=0.15).draw(64, height=side, width=side)}
        if file is not None:
            composites = Composites(read(file, held_out=True), HELD_OUT)
            drawn["composites"] = composites.draw(128, height=side, width=side)
        self._drawn = drawn
        self._grid = (side // PATCH, side // PATCH)

    @torch.no_grad()
    def measure(self, teacher: Teacher, device: str) -> dict[str, float]:
        """Pointing, and Jaccard at the true area, of the heads' mean map; how often kinds fit."""
        figures: dict[str, float] = {}
        for name, drawn in self._drawn.items():
            taught = teacher(normalised(drawn.pictures).to(device))
            truth = truth_of(drawn, self._grid)
            maps = taught.attention.mean(1)[:, teacher.model.prefix :].cpu().double().numpy()
            inside = (truth.cover.flatten(1) >= 0.5).numpy()
            rows = [row for row, tokens in enumerate(inside) if tokens.any()]
            hits = [objects.pointing(maps[row], inside[row]) for row in rows]
            shares = [objects.jaccard_area(maps[row], inside[row]) for row in rows]
            means = torch.tensor([hits, shares]).mean(1).tolist()
            figures |= {f"{name}_pointing": means[0], f"{name}_jaccard": means[1]}
            if name == "composites":
                best = taught.scores.cpu().argmax(1, keepdim=True)
                right = (truth.kinds.gather(1, best)[:, 0] > 0)[truth.kinds.sum(1) > 0]
                figures["kind_right"] = float(right.float().mean())
        return figures


if __name__ == "__main__":
    main()
