"""Explains why a model did not run, from its exception and from trials on blank pictures."""

import linecache
import math
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attnviz.errors import AttnvizError, MemoryLimitError, ModelError, RecordingError, UsageError
from attnviz.explanation.trials import run_blank, trial, with_clips
from attnviz.geometry.grid import TokenGrid, sides
from attnviz.models.configs import own_shape
from attnviz.models.failures import describe, message, place
from attnviz.models.input_size import Shape, linear_patches
from attnviz.models.model import Model
from attnviz.models.model_request import takes_only
from attnviz.models.vision import Vision, needs_more

_DEVICE = re.compile(
    r"same device|expected device|at least two devices|compiled with CUDA|CUDA GPUs are available"
    r"|NVIDIA driver|invalid device|Expected .* (on|to be on) (cpu|cuda|mps|meta)",
)
_DTYPE = re.compile(
    r"same dtype|scalar type|same type|should be the same|not implemented for '|dtype mismatch"
    r"|[Ee]xpected .*dtype|must have dtype|unsupported dtype"
)
_CHANNELS = re.compile(r"input\[\d+, 3, (\d+), (\d+)\] to have (\d+) channels")
_USUAL = (1, 4, 6, 2)
"""Numbers of channels that trials use."""
_LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "pixels.permute(0, 2, 3, 1)": lambda pixels: pixels.permute(0, 2, 3, 1),
    "pixels[0]": lambda pixels: pixels[0],
    "pixels[:, None]": lambda pixels: pixels[:, None],  # frames before channels
    "pixels[:, :, None]": lambda pixels: pixels[:, :, None],
}
"""Other orders of axes that models take, as code."""
_PAIR = "torch.stack([pixels, pixels], 1)"
_KEYS = ("image", "images", "pixel_values", "x", "img", "input", "inputs", "pixels")
"""Keys of the pixels in a dict that trials use."""
_OF_NO_SIZE = (TypeError, AttributeError, NameError, ImportError)
_STATE_IT = "the module an attribute image_size = (height, width)"


class ForwardError(Exception):
    """The model raised an exception on an input of this shape, or on several pictures at once.

    Attributes:
        pixels: the input, (batch, 3, height, width).
    """

    def __init__(self, line: str, pixels: Tensor) -> None:
        super().__init__(line)
        self.pixels = pixels

    @property
    def shape(self) -> Shape:
        """Height and width of the input."""
        return self.pixels.shape[2], self.pixels.shape[3]

    @property
    def error(self) -> BaseException:
        """The model's exception; this error itself if the model raised none."""
        return self.__cause__ or self


class UnevenError(ForwardError):
    """The recorded calls of a batch cannot be split into those of each picture."""


def explain(
    model: Model, failures: Sequence[ForwardError], *, gradients: bool = False
) -> AttnvizError:
    """The error for a model that ran on none of its inputs, with what to do next.

    Args:
        model: the model that raised the errors.
        failures: one for each shape that was tried; the first is for the requested shape.
        gradients: whether the run was to keep its graph.
    """
    first = failures[0]
    model = replace(model, channels=first.pixels.shape[1])  # trials get as many
    error, shapes = first.error, [each.shape for each in failures]
    if run_blank(model, first.pixels, gradients=gradients) is None:
        return RecordingError(
            f"{model.spec}: runs, but not while it is recorded: {describe(error)}; see the "
            "traceback with --debug, and report it"
        )
    inputs = (_of_inputs(model, each.error) for each in failures)
    line = next(filter(None, inputs), None) or _of_device(model, error) or _of_type(model, error)
    if line is None:
        line = _of_channels(model, error, shapes) or _of_layout(model, shapes)
    if line is None:
        line = _of_code(model, failures, gradients=gradients)
    return ModelError(f"{model.spec}: {line}")


def out_of_memory(model: Model, grid: TokenGrid) -> MemoryLimitError:
    """The error for a run that exhausted memory."""
    return MemoryLimitError(
        f"{model.spec}: out of memory on {grid.input_width}x{grid.input_height} pixels; take a "
        "smaller --size, or another --device"
    )


def refused_size(model: Model, grid: TokenGrid) -> UsageError:
    """The error for a --size that the model refused, where it ran at another size."""
    return UsageError(takes_only(model.spec, model.size, (grid.input_height, grid.input_width)))


def unknown_shape(model: Model, grid: TokenGrid, table: tuple[str, int]) -> ModelError:
    """The error if tokens may get wrong positions; `table` is the embedding's name and length."""
    return ModelError(
        f"{model.spec}: its {table[0]} is of {table[1]} tokens in rows and columns that are not "
        f"known, and it takes no more: {grid.columns}x{grid.rows} may be others; give {_STATE_IT}"
    )


def _of_inputs(model: Model, error: BaseException) -> str | None:
    """The line for a model of transformers that needs inputs beside pixels; None if it does not.

    These are arguments of a `forward` that are None, and that the line that failed or the message
    names.
    """
    if not isinstance(model.module, Vision):
        return None
    absent, last = list[str](), ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_name == "forward":
            names = code.co_varnames[1 : code.co_argcount]
            absent += [name for name in names if frame.f_locals.get(name, "") is None]
        if "transformers" in code.co_filename:
            last = linecache.getline(code.co_filename, number)
    found = [name for name in dict.fromkeys(absent) if re.search(rf"\b{name}\b", str(error) + last)]
    return needs_more(model.module.model.config, " or ".join(found)) if found else None


def _of_device(model: Model, error: BaseException) -> str | None:
    """The line for tensors on another device; None if that is not the fault."""
    if not _DEVICE.search(str(error)):
        return None
    elsewhere = "" if model.device.type == "cpu" else "take --device cpu, or "
    return (
        f"its forward uses another device than {model.device}: {describe(error)}; {elsewhere}have "
        "it make tensors with device=pixels.device, and keep others by register_buffer"
    )


def _of_type(model: Model, error: BaseException) -> str | None:
    """The line for mixed number types; None if that is not the fault."""
    if not _DTYPE.search(str(error)):
        return None
    name = str(model.dtype).removeprefix("torch.")
    half = "" if model.dtype == torch.float32 else "take --dtype float32, or "
    return (
        f"its forward mixes {name} with another number type: {describe(error)}; {half}have it make "
        "tensors with dtype=pixels.dtype, and keep others by register_buffer"
    )


def _of_channels(model: Model, error: BaseException, shapes: Sequence[Shape]) -> str | None:
    """The line for another number of channels, found by a trial or in the exception; or None."""
    found = _CHANNELS.search(str(error))
    named = int(found[3]) if found and (int(found[1]), int(found[2])) in shapes else None
    channels = named or _channels_by_trial(model, shapes)
    if channels is None or model.channels != 3:
        return None
    makes = "pixels.mean(1, keepdim=True)"
    if channels > 1:
        makes = f"pixels[:, {[channel % 3 for channel in range(channels)]}]"
    if channels > 12:
        makes = f"pixels[:, torch.arange({channels}) % 3]"
    return (
        f"it wants pictures of {channels} channel{'s' * (channels > 1)} and is given 3: red, green "
        f"and blue; give a TIFF or an array of {channels} bands, or py:FILE.py:FACTORY, whose "
        f"module calls it with {makes}"
    )


def _channels_by_trial(model: Model, shapes: Sequence[Shape]) -> int | None:
    for channels in dict.fromkeys([*_own_channels(model.module), *_USUAL]):
        for shape in [*shapes, *model.other_shapes]:
            if channels != 3 and trial(model, shape, channels=channels) is None:
                return channels
    return None


def _of_layout(model: Model, shapes: Sequence[Shape]) -> str | None:
    """The line for a dict, a list, other axes, or clips, found by a trial; or None."""
    for key in ("", *_KEYS):
        pixels = model.blank(shapes[0])
        given = {key: pixels} if key else list(pixels)
        if run_blank(model, given, gradients=False) is None:
            what = "a dict" if key else "a list of pictures"
            return f"it takes {what}, not one tensor; give --input [{key}]"
    for code, layout in _LAYOUTS.items():
        for shape in shapes:
            if run_blank(model, layout(model.blank(shape)), gradients=False) is None:
                return (
                    "it takes no (batch, 3, height, width) but other axes; give "
                    f"py:FILE.py:FACTORY, whose module calls it with {code}"
                )
    if model.clip is None and (clip := with_clips(model, None).clip) is not None:
        return f"it takes clips of {clip.frames} frames; give `attnviz video CLIP -m {model.spec}`"
    return _of_pairs(model, shapes)


def _of_pairs(model: Model, shapes: Sequence[Shape]) -> str | None:
    """The line for a model that compares two pictures, found by a trial; or None."""
    # A small one first: a blank picture may be all points that a model matches.
    height, width = sides(model.patch)
    for shape in ((2 * height, 2 * width), shapes[0]):
        pair = model.blank(shape)[:, None].expand(-1, 2, -1, -1, -1)
        if run_blank(model, pair, gradients=False) is None:
            return (
                "it takes pairs of pictures, (batch, 2, 3, height, width); give "
                f"py:FILE.py:FACTORY, whose module calls it with {_PAIR}"
            )
    return None


def _own_channels(module: nn.Module) -> Iterator[int]:
    """Numbers of channels that a module states, or that its first layer takes."""
    for owner in module.modules():
        for name in ("in_chans", "in_channels", "num_channels", "channels"):
            channels = getattr(owner, name, None)
            if type(channels) is int and 0 < channels < 1000:
                yield channels
                return
    yield from (channels for channels, _ in linear_patches(module))


def _of_code(model: Model, failures: Sequence[ForwardError], *, gradients: bool) -> str:
    """The line for sizes that the model does not take, or for a fault that no size changes."""
    first, error = failures[0], failures[0].error
    side = _another(model, first.shape)
    again = trial(model, (side, side), gradients=gradients)
    if again is None and trial(model, first.shape, gradients=gradients) is not None:
        return f"cannot take {_size(first.shape)} pixels: {describe(error)}; give --size {side}"
    # If a blank picture runs, the fault depends on pixel values.
    alike = again is None or all(
        _same(error, each) for each in (again, *(f.error for f in failures))
    )
    if alike or isinstance(error, _OF_NO_SIZE):
        mend = "correct its config" if isinstance(model.module, Vision) else "mend it"
        return f"its forward raised {describe(error)}; {mend}, or see the traceback with --debug"
    advice = f"if it has a size of its own, give --size N, or {_STATE_IT}; else mend it"
    if isinstance(model.module, Vision):
        advice = _of_config(model)
    table = model.position_table
    if table is not None:
        advice = f"its {table[0]} is of {table[1]} tokens; give {_STATE_IT}"
    sizes = f"{_size(first.shape)} or {side}x{side}"
    return f"cannot take {sizes} pixels: {describe(error)}; {advice}"


def _of_config(model: Model) -> str:
    """What to do about a model of transformers that takes none of the sizes that were tried."""
    module: Any = model.module
    own = own_shape(module.model.config)
    if own is None or model.fixed:
        return "give --size N, if its documentation names a size"
    return (
        f"its config has pictures of {_size(own)}, and transformers lays their positions into a "
        "square; give a model whose image_size is square"
    )


def _another(model: Model, shape: Shape) -> int:
    """Side of a square with about a quarter of the pixels."""
    side = max(sides(model.patch))
    patches = int(math.sqrt(math.prod(shape)) / 2 / side)
    return patches * side if patches else 2 * side


def _same(one: BaseException, other: BaseException) -> bool:
    """Whether two runs failed alike; a fault of shape has other numbers in its message."""
    return (
        type(one) is type(other) and message(one) == message(other) and place(one) == place(other)
    )


def _size(shape: Shape) -> str:
    return f"{shape[1]}x{shape[0]}"
