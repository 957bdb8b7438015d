"""Measures how a model takes clips: how many frames, and along which dimension."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

USUAL = (16, 8, 32, 4)
"""Numbers of frames to try for a model that states none."""
STATED = ("num_frames", "frames_per_clip", "n_frames", "all_frames")
"""Names by which configs and modules state their number of frames."""


@dataclass(frozen=True)
class ClipInput:
    """How a model takes a clip.

    Attributes:
        frames: number of frames.
        dim: the dimension that they lie along: 1 for (B, T, C, h, w), 2 for (B, C, T, h, w), 0 for
            a model that takes the frames as its batch, (T, C, h, w).
    """

    frames: int
    dim: int

    def arranged(self, frames: Tensor) -> Tensor:
        """A clip (B, T, C, h, w) as the model takes it."""
        if self.dim == 0:
            return frames.flatten(0, 1)
        return frames if self.dim == 1 else frames.transpose(1, 2)


def stated_frames(*sources: Any) -> int | None:
    """The number of frames that a config or a module states; None if none does."""
    for source in sources:
        for name in STATED:
            value = getattr(source, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def find_clip_input(
    module: nn.Module, shape: tuple[int, int], counts: Sequence[int] = (), channels: int = 3
) -> ClipInput | None:
    """How a module takes a clip of frames of this (height, width); None if it takes none.

    It runs on blank clips of the given numbers of frames, or the usual ones, in each form. One that
    runs on a picture takes no clips.
    """
    if _runs(module, torch.zeros(1, channels, *shape)):
        return None
    for count in counts or USUAL:
        blank = torch.zeros(1, count, channels, *shape)
        for form in (ClipInput(count, dim) for dim in (1, 2, 0)):
            if _runs(module, form.arranged(blank)):
                return form
    return None


def _runs(module: nn.Module, pixels: Tensor) -> bool:
    """Whether a module runs on such an input.

    A copy without data runs first, which takes no time; what it cannot run may still run in truth.
    """
    tensor = next(module.parameters(), torch.empty(0))
    given = pixels.to(tensor.device, tensor.dtype)
    try:
        same = {id(each): each for each in (*module.parameters(), *module.buffers())}
        copied = copy.deepcopy(module, same)  # it may keep what it computed
        state = {
            name: each.to("meta")
            for name, each in (*module.named_parameters(), *module.named_buffers())
        }
        with torch.no_grad():
            torch.func.functional_call(copied, state, (given.to("meta"),))
    except (Exception, SystemExit):
        try:
            with torch.no_grad():
                module(given)
        except (Exception, SystemExit):  # of any kind: it may be the user's own code
            return False
    return True
