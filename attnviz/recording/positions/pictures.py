"""Where the pictures lie that a model is given, and where the content of each ends."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.recording.positions.position_math import NOWHERE, lost_at, same_memory, step_of

_OUTSIDE = 0.25
"""Input pixels: a token whose cell overlaps the picture by less than this lies nowhere."""


class Contents:
    """Where content begins and ends along one side of the picture, for each cell size.

    A token's centre may lie beside the middle of its cell (a convolution with stride puts it to the
    left). So the picture's border alone does not separate the last token from padding after it.
    """

    def __init__(self, side: int) -> None:
        self._side = float(side)
        self._ends = {0.0: (0.0, float(side))}  # by the distance between cells

    def note(self, step: float, first: float, last: float) -> None:
        """Note that tokens at distance `step`, from `first` to `last`, are padded."""
        if not (first - step < step / 2 and last + step > self._side - step / 2):
            return  # a part of the picture: its padding may be content elsewhere
        step = round(step * 4) / 4
        if step in self._ends:  # padded again, or another part of the picture
            low, high = self._ends[step]
            first = first if first >= 0 else low + step / 2
            last = last if last <= self._side else high - step / 2
            first, last = min(first, low + step / 2), max(last, high - step / 2)
        self._ends[step] = first - step / 2, last + step / 2

    def ends(self, step: float) -> tuple[float, float]:
        """Where content begins and ends for cells at distance `step`."""
        return self._ends[max(known for known in self._ends if known <= step + 0.125)]

    def holds(self, low: float, high: float) -> bool:
        """Whether low … high is content for every distance between cells."""
        return all(first <= low and high <= last for first, last in self._ends.values())


class Pictures:
    """Pictures in a row: the second lies to the right of the first, with a wide gap.

    The frames of a clip lie in such a row, too. A token of two frames lies half-way between them.

    Attributes:
        positions: the positions of each picture's pixels, expanded to its shape.
        frames: number of frames of a clip; 0 for pictures.
        height, width: of the largest picture.
    """

    def __init__(
        self, pictures: Sequence[Tensor], time: int | None = None, places: Tensor | None = None
    ) -> None:
        """Lay pictures (B, C, H, W), or one clip whose frames lie along the dimension `time`.

        `places` are the known places of the elements of one tensor that is no lattice.
        """
        self.frames = 0 if time is None else pictures[0].shape[time]
        if places is not None:
            x, y = places.real.nan_to_num(0.0), places.imag.nan_to_num(0.0)
            self.height, self.width = math.ceil(float(y.max())), math.ceil(float(x.max()))
            self._apart = 4.0 * self.width
            self._contents = [(Contents(self.width), Contents(self.height))]
            self._lattices: list[Tensor] = []
            self.positions = [places]
            return
        self.height, self.width = (max(p.shape[dim] for p in pictures) for dim in (-2, -1))
        width = max(picture.shape[-1] for picture in pictures)
        gap = 2.5 * width if time is None else 5.0 * width
        self._apart = 2.0 ** math.ceil(math.log2(gap))  # of the pictures' left sides
        self._contents = [(Contents(p.shape[-1]), Contents(p.shape[-2])) for p in pictures]
        if time is None:
            self._lattices = [_lattice(p, n * self._apart) for n, p in enumerate(pictures)]
            each = zip(self._lattices, pictures, strict=True)
            self.positions = [lattice.expand(picture.shape) for lattice, picture in each]
        else:
            (clip,) = pictures
            self._lattices = []
            of_frames = [_lattice(clip, number * self._apart) for number in range(self.frames)]
            shape = [self.frames if dim == time else 1 for dim in range(clip.ndim - 2)]
            lattice = torch.stack(of_frames).reshape(*shape, *clip.shape[-2:])
            self.positions = [lattice.expand(clip.shape)]

    @property
    def _alone(self) -> bool:
        """Whether there is one picture, whose positions are as they are."""
        return len(self._contents) == 1 and not self.frames

    def are_pixels(self, positions: Tensor) -> bool:
        """Whether positions are those of a picture's own pixels, in their order."""
        return any(
            positions.shape[-2:] == lattice.shape and same_memory(positions, lattice)
            for lattice in self._lattices
        )

    def named(self, call: AttentionCall) -> AttentionCall:
        """A call with the numbers of the pictures that its tokens lie in, and positions in these.

        With one picture, or if they are named already, the call stays as it is. Of a clip these
        are numbers of frames, and halves: of a token of frames 0 and 1, 0.5.
        """
        named = call.query_pictures is not None or call.key_pictures is not None
        if named or self._alone:
            return call
        found: dict[str, Any] = {}
        for side in ("query", "key"):
            positions = getattr(call, f"{side}_positions")
            if positions is not None:
                at, number = self.apart(positions)
                assert number is not None  # there are several pictures
                found[f"{side}_positions"] = at
                found[f"{side}_pictures"] = number if self.frames else number.long()
        if call.points is not None:
            x = self._by_picture(call.points[..., 0])[1]
            found["points"] = torch.stack([x, call.points[..., 1]], -1)
        return replace(call, **found)

    def apart(self, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Positions (…, 2) in the pictures that they lie in, and numbers of these, −1 for nowhere.

        There are no numbers of one picture.
        """
        if self._alone:
            return positions, None
        number, x = self._by_picture(positions[..., 0])
        return torch.stack([x, positions[..., 1]], -1), number.nan_to_num(-1.0)

    def _by_picture(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of pictures and x in them, of x in the row of pictures; both NaN for nowhere."""
        if self.frames:
            number = (2 * x / self._apart + 0.25).floor() / 2
        else:
            number = (x / self._apart + 0.25).floor().clamp(0, len(self._contents) - 1)
        return number, x - number * self._apart

    def in_picture(self, positions: Tensor) -> Tensor:
        """Positions in the picture or frame that they lie in; without a row, as they are."""
        if self._alone:
            return positions
        lost = lost_at(positions)
        x = self._by_picture(positions.real)[1]
        return torch.complex(torch.where(lost, positions.real, x), positions.imag)

    def inside(self, positions: Tensor) -> Tensor:
        """Positions of tokens; `NOWHERE` for tokens whose cell does not touch their picture."""
        if self._alone:
            return self._inside_of(0, positions)
        numbers, x = self._by_picture(positions.real)
        local = torch.complex(x, positions.imag)
        nowhere = torch.full((), NOWHERE, device=positions.device)
        if self.frames:
            beyond = (numbers < 0) | (numbers > self.frames - 1)  # padding in time
            outside = self._inside_of(0, local).real.isnan() | beyond
            return torch.where(outside & ~lost_at(positions), nowhere, positions)
        found = positions
        for number in range(len(self._contents)):
            of_picture = torch.where(numbers == number, local, nowhere)
            outside = self._inside_of(number, of_picture).real.isnan() & (numbers == number)
            found = torch.where(outside, nowhere, found)
        return found

    def _inside_of(self, number: int, positions: Tensor) -> Tensor:
        """The same for positions in one picture."""
        inside = None
        contents = self._contents[number]
        for part, content in zip((positions.real, positions.imag), contents, strict=True):
            low, high = (float(end) for end in part.nan_to_num(0.0, 0.0, 0.0).aminmax())
            if content.holds(low, high):
                continue
            step = step_of(part)
            left, right = content.ends(step)
            margin = max(step / 2 - _OUTSIDE, _OUTSIDE)
            entries = (part >= left - margin) & (part <= right + margin)
            inside = entries if inside is None else inside & entries
        if inside is None:
            return positions
        nowhere = torch.full((), NOWHERE, device=positions.device)
        return torch.where(inside | lost_at(positions), positions, nowhere)

    def note_padding(self, positions: Tensor, dim: int) -> None:
        """Note where the content of a picture ends that is padded along a dimension."""
        numbers, x = self._by_picture(positions.real)
        number = float(numbers.nan_to_num(0.0).max())
        if self.frames:
            number = 0.0
        elif number != float(numbers.nan_to_num(number).min()):
            return  # parts of several pictures
        contents = self._contents[int(number)]
        for part, content in zip((x, positions.imag), contents, strict=True):
            step = abs(float((part.select(dim, 1) - part.select(dim, 0)).flatten()[0]))
            if step > 0:
                content.note(step, *(float(end) for end in part.aminmax()))


def _lattice(picture: Tensor, left: float) -> Tensor:
    """Positions of a picture's pixels, (H, W), if its left side lies at `left`."""
    height, width = picture.shape[-2:]
    y = torch.arange(height, device=picture.device) + 0.5
    x = torch.arange(width, device=picture.device) + 0.5 + left
    return torch.complex(x.expand(height, -1), y[:, None].expand(-1, width))
