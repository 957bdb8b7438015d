"""Trains the decoder of the embedded model `tiny-words` on drawn scenes, from a seed.

    python training/train_words.py --out run --until 18:30
    python training/train_words.py --out run --until 18:30     # continues after an interruption

The vision tower is that of `tiny` and stays as it is, so what it makes of a scene is computed once:
`run/scenes-0000.pt` and so on, of 512 scenes each. Then the decoder learns to say the sentence, and
each word of a thing to look at it. Writes `run/checkpoint.pt` after each pass over the scenes,
`run/log.jsonl`, and at the end `run/tiny_words.safetensors` in half precision.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from word_scenes import HELD_OUT, Scene, scenes

from attnviz.models import tiny
from attnviz.models.state_dicts import read_state_dict
from attnviz.models.tiny_words import (
    COLOURS,
    END,
    KINDS,
    START,
    VOCABULARY,
    DecoderBlock,
    SceneDescriber,
    SceneProcessor,
    WordDecoder,
)

CHUNK, BATCH, RATE, LOOKING = 512, 64, 1.5e-3, 0.3
"""Scenes of a file, scenes of a step, the highest learning rate, the weight of the second loss."""
HELD_OUT_SCENES = 200
"""Scenes that measure the progress; no training sees them."""
NOTHING = -100
"""The number of a word that is none, which `cross_entropy` leaves out."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """Scenes with equally many tokens.

    Attributes:
        tokens: (B, M, 448) float16, what the decoder sees.
        inside: (B, 2, M) whether a token lies in the first, or in the second thing.
        ids: (B, N) words from the start on; `NOTHING` behind the end.
        things: (B, N) which thing the next word is of: 0 the first, 1 the second, −1 none.
    """

    tokens: Tensor
    inside: Tensor
    ids: Tensor
    things: Tensor

    def __getitem__(self, rows: Any) -> "Lesson":
        return Lesson(self.tokens[rows], self.inside[rows], self.ids[rows], self.things[rows])


def tower() -> SceneDescriber:
    """The model with the vision tower of `tiny`; its decoder is random."""
    model = SceneDescriber()
    weights = read_state_dict(str(tiny.WEIGHTS), None).tensors
    model.vision.load_state_dict({name: each.float() for name, each in weights.items()})
    return model.eval().requires_grad_(False)


def lessons(model: SceneDescriber, drawn: Sequence[Scene]) -> list[Lesson]:
    """What the tower makes of scenes, for each shape of the input."""
    groups: dict[tuple[int, ...], list[tuple[Tensor, Scene]]] = {}
    process = SceneProcessor()
    for scene in drawn:
        pixels = process([Image.fromarray(scene.pixels)])["pixel_values"]
        groups.setdefault(tuple(pixels.shape), []).append((pixels, scene))
    found = []
    for group in groups.values():
        parts = [
            model.tokens(torch.cat([pixels for pixels, _ in group[n : n + 32]])).half()
            for n in range(0, len(group), 32)
        ]
        rows, columns = (side // tiny.PATCH for side in group[0][0].shape[2:])
        inside = torch.stack([_inside(scene, rows, columns) for _, scene in group])
        spoken = [_spoken(scene.sentence) for _, scene in group]
        ids, things = (torch.tensor(each) for each in zip(*spoken, strict=True))
        found.append(Lesson(torch.cat(parts), inside, ids, things))
    return found


def _inside(scene: Scene, rows: int, columns: int) -> Tensor:
    """Whether a quarter of a token's cell lies in each thing, (2, prefix + rows·columns)."""
    masks = torch.from_numpy(np.stack([scene.objects == 1, scene.objects == 2])).float()
    share = F.adaptive_avg_pool2d(masks, (rows, columns)).flatten(1)
    cells = share >= share.amax(1, keepdim=True).clamp(max=0.25)
    return torch.cat([torch.zeros(2, 1 + tiny.REGISTERS, dtype=torch.bool), cells & (share > 0)], 1)


def _spoken(sentence: str, length: int = 11) -> tuple[list[int], list[int]]:
    """The words of a sentence as numbers with start and end, and the thing of each next word."""
    words = sentence.split()
    ids = [START, *(VOCABULARY.index(word) for word in words), END]
    things, thing = [], -1
    for word in words:
        thing += word in ("a", "an")
        things.append(thing if word in (*COLOURS, *KINDS) else -1)
    return (
        [*ids, *[NOTHING] * (length - len(ids))],
        [*things, *[-1] * (length - len(things))],
    )


class Looking:
    """Weights of the attention to the picture, in the upper blocks, while the decoder runs."""

    def __init__(self, decoder: WordDecoder) -> None:
        self.weights: list[Tensor] = []
        for block in list(decoder.blocks)[1:]:
            assert isinstance(block, DecoderBlock)
            block.picture_attention.register_forward_pre_hook(self._watch)

    def _watch(self, attention: Any, inputs: tuple[Tensor, Tensor]) -> None:
        x, seen = inputs
        q, k = (
            linear(each).unflatten(2, (attention.heads, -1)).transpose(1, 2)
            for linear, each in ((attention.q_linear, x), (attention.k_linear, seen))
        )
        self.weights.append((q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1))

    def loss(self, lesson: Lesson) -> Tensor:
        """−ln of the weight inside the thing that the next word is of, the mean over heads."""
        things = lesson.things[:, : self.weights[0].shape[2]]
        batch, places = (things >= 0).nonzero(as_tuple=True)
        inside = lesson.inside[batch, things[batch, places]]  # (words, M)
        rows = torch.stack([each[batch, :, places] for each in self.weights])
        self.weights.clear()
        return -(rows * inside[:, None]).sum(-1).clamp(min=1e-6).log().mean()


class Training:
    """A training that continues from its last checkpoint."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.options, self.passes, self.steps = options, 0, 0
        self.decoder = WordDecoder()
        self.looking = Looking(self.decoder)
        self.optimizer = torch.optim.AdamW(
            self.decoder.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.02
        )
        self.files = prepare(options.out, options.scenes, options.seed)
        drawn = list(islice(scenes(HELD_OUT), HELD_OUT_SCENES))
        self.held_out = lessons(tower(), drawn)
        path = options.out / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.decoder.load_state_dict(state["decoder"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.passes, self.steps = state["passes"], state["steps"]

    def run(self, ended: Callable[[], float]) -> None:
        """Train until the share that is done is 1; the rate falls to 0 over the last half."""
        while ended() < 1:
            began, losses = time.perf_counter(), []
            for lesson in self._batches():
                if (share := ended()) >= 1:
                    break
                rate = RATE * min(1.0, (self.steps + 1) / 100, 2 * (1 - share))
                losses.append(self._step(lesson, rate))
            self.passes += 1
            words, looks = np.mean(losses, axis=0).tolist() if losses else (math.nan, math.nan)
            line = {
                "passes": self.passes, "steps": self.steps, "words": round(words, 4),
                "looking": round(looks, 4), "right": self.right(),
                "seconds": round(time.perf_counter() - began),
            }  # fmt: skip
            with (self.options.out / "log.jsonl").open("a", encoding="utf-8") as log:
                print(json.dumps(line), file=log)
            self._save()
        half = {f"decoder.{n}": each.half() for n, each in self.decoder.state_dict().items()}
        save_file(half, self.options.out / "tiny_words.safetensors")

    def counted(self, steps: int) -> Callable[[], float]:
        """A function that tells which share of this many steps is done."""
        return lambda: self.steps / steps

    def _step(self, lesson: Lesson, rate: float) -> tuple[float, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        ids = lesson.ids[:, :-1].clamp(min=0)
        tokens = lesson.tokens.float()
        tokens = tokens + 0.02 * torch.randn_like(tokens)
        logits = self.decoder(tokens, ids)
        words = F.cross_entropy(
            logits.flatten(0, 1), lesson.ids[:, 1:].flatten(), ignore_index=NOTHING
        )
        looks = self.looking.loss(lesson)
        self.optimizer.zero_grad()
        torch.autograd.backward(words + LOOKING * looks)
        torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), 1.0)
        self.optimizer.step()
        self.steps += 1
        return float(words.detach()), float(looks.detach())

    def _batches(self) -> Iterator[Lesson]:
        """All scenes in another order for each pass."""
        for file in torch.randperm(len(self.files)).tolist():
            found = [Lesson(**each) for each in torch.load(self.files[file], weights_only=True)]
            parts = [
                (lesson, rows)
                for lesson in found
                for rows in torch.split(torch.randperm(len(lesson.ids)), BATCH)
            ]
            for number in torch.randperm(len(parts)).tolist():
                lesson, rows = parts[number]
                yield lesson[rows]

    def right(self) -> float:
        """The share of held-out scenes whose sentence is said word for word."""
        count = 0
        with torch.no_grad():
            for lesson in self.held_out:
                ids = torch.full((len(lesson.ids), 1), START)
                tokens = lesson.tokens.float()
                for _ in range(lesson.ids.shape[1] - 1):
                    ids = torch.cat([ids, self.decoder(tokens, ids)[:, -1:].argmax(-1)], 1)
                wanted = lesson.ids
                count += int(((ids == wanted) | (wanted == NOTHING)).all(1).sum())
        self.looking.weights.clear()
        return count / sum(len(each.ids) for each in self.held_out)

    def _save(self) -> None:
        state = {
            "decoder": self.decoder.state_dict(), "optimizer": self.optimizer.state_dict(),
            "passes": self.passes, "steps": self.steps,
        }  # fmt: skip
        path = self.options.out / "checkpoint.pt"
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)


def prepare(out: Path, count: int, seed: int) -> list[Path]:
    """Files of lessons of `count` scenes; those that are there stay."""
    files, model = [], tower()
    drawn = scenes(seed)
    for number in range(math.ceil(count / CHUNK)):
        path = out / f"scenes-{number:04}.pt"
        files.append(path)
        chunk = list(islice(drawn, CHUNK)) if not path.exists() else None
        if chunk is None:
            drawn = scenes(seed, (number + 1) * CHUNK)
            continue
        found = [vars(lesson) for lesson in lessons(model, chunk)]
        torch.save(found, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
    return files


def main() -> None:
    """Start or continue the training."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--scenes", type=int, default=12_288)
    parser.add_argument("--until", metavar="HH:MM", help="the end, within a day")
    parser.add_argument("--steps", type=int, default=2500, help="the end, if no time is given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    training = Training(options)
    training.run(until(options.until) if options.until else training.counted(options.steps))


def until(moment: str) -> Callable[[], float]:
    """A function that tells which share of the time from now to a moment (HH:MM) has passed."""
    start, (hour, minute) = datetime.now(), map(int, moment.split(":"))
    end = start.replace(hour=hour, minute=minute, second=0, microsecond=0)
    end = end if end > start else end + timedelta(days=1)
    return lambda: (datetime.now() - start) / (end - start)


if __name__ == "__main__":
    main()
