"""Why a model did not run: what its exception is, and what trials on blank pictures tell."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from attnviz.errors import AttnvizError, MemoryLimitError, ModelError, RecordingError, UsageError
from attnviz.models.code_errors import describe, message, place
from attnviz.models.input_size import Shape, position_count
from attnviz.models.model import Model, takes_only

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
"""Numbers of channels that are tried."""


class ForwardError(Exception):
    """The model raised an exception on an input of this shape, or on several pictures at once.

    Attributes:
        shape: height and width of the input.
    """

    def __init__(self, line: str, shape: Shape) -> None:
        super().__init__(line)
        self.shape = shape

    @property
    def error(self) -> BaseException:
        """What the model raised; itself, where it raised nothing."""
        return self.__cause__ or self


class UnevenError(ForwardError):
    """What the model did cannot be told apart into what it did with each picture."""


def explain(
    model: Model, failures: Sequence[ForwardError], *, gradients: bool = False
) -> AttnvizError:
    """What went wrong with a model that ran on none of some inputs, in a line with what to do.

    Args:
        model: raised the errors.
        failures: one for each shape that it was shown, the first for the one asked for.
        gradients: whether it was to keep its graph.
    """
    first = failures[0]
    error, shapes = first.error, [each.shape for each in failures]
    if _trial(model, first.shape, gradients=gradients) is None:
        return RecordingError(
            f"{model.spec}: runs, but not while it is recorded: {describe(error)}; see the traceback "
            "with --debug, and report it"
        )
    line = _of_device(model, error) or _of_type(model, error)
    if line is None:
        line = _of_channels(model, error, shapes) or _of_code(model, failures)
    return ModelError(f"{model.spec}: {line}")


def out_of_memory(model: Model, shape: Shape) -> MemoryLimitError:
    """What is said where memory ran out."""
    return MemoryLimitError(
        f"{model.spec}: out of memory on {_size(shape)} pixels; take a smaller --size, or another "
        "--device"
    )


def refused_size(model: Model, shape: Shape) -> UsageError:
    """What is said where --size asked for another shape than the model was seen to take."""
    return UsageError(takes_only(model.spec, model.size, shape))


def _of_device(model: Model, error: BaseException) -> str | None:
    """Tensors that lie elsewhere."""
    if not _DEVICE.search(str(error)):
        return None
    elsewhere = "" if model.device.type == "cpu" else "take --device cpu, or "
    return (
        f"its forward uses another device than {model.device}: {describe(error)}; {elsewhere}have "
        "it make tensors with device=pixels.device, and keep others by register_buffer"
    )


def _of_type(model: Model, error: BaseException) -> str | None:
    """Numbers of two types."""
    if not _DTYPE.search(str(error)):
        return None
    name = str(model.dtype).removeprefix("torch.")
    half = "" if model.dtype == torch.float32 else "take --dtype float32, or "
    return (
        f"its forward mixes {name} with another number type: {describe(error)}; {half}have it make "
        "tensors with dtype=pixels.dtype, and keep others by register_buffer"
    )


def _of_channels(model: Model, error: BaseException, shapes: Sequence[Shape]) -> str | None:
    """Another number of channels, as a trial shows, or the exception says."""
    found = _CHANNELS.search(str(error))
    said = int(found[3]) if found and (int(found[1]), int(found[2])) in shapes else None
    wanted = said or _channels_by_trial(model, shapes)
    if wanted is None:
        return None
    makes = "pixels.mean(1, keepdim=True)"
    if wanted > 1:
        makes = f"pixels[:, {[channel % 3 for channel in range(wanted)]}]"
    if wanted > 12:
        makes = f"pixels[:, torch.arange({wanted}) % 3]"
    return (
        f"it wants pictures of {wanted} channel{'s' * (wanted > 1)} and is given 3: red, green and "
        f"blue; give py:FILE.py:FACTORY, whose module calls it with {makes}"
    )


def _channels_by_trial(model: Model, shapes: Sequence[Shape]) -> int | None:
    for channels in dict.fromkeys([*_own_channels(model.module), *_USUAL]):
        for shape in [*shapes, *model.other_shapes]:
            if channels != 3 and _trial(model, shape, channels=channels) is None:
                return channels
    return None


def _own_channels(module: nn.Module) -> Iterator[int]:
    """Channels that a module says it takes, or whose first layer does."""
    for owner in module.modules():
        for name in ("in_chans", "in_channels", "num_channels", "channels"):
            channels = getattr(owner, name, None)
            if type(channels) is int and 0 < channels < 1000:
                yield channels
                return
    first = next((part for part in module.modules() if isinstance(part, nn.Linear)), None)
    for side in (4, 8, 14, 16, 32):
        if first is not None and first.in_features % side**2 == 0:
            yield first.in_features // side**2


def _of_code(model: Model, failures: Sequence[ForwardError]) -> str:
    """Sizes that it does not take, or a fault that they have no part in."""
    first, error = failures[0], failures[0].error
    advice = "mend it, or see the traceback with --debug"
    other = _another(model, failures)
    again = _trial(model, other)
    if again is None:
        side = f"--size {other[0]}" if other[0] == other[1] else f"{_size(other)} pixels"
        return f"cannot take {_size(first.shape)} pixels: {describe(error)}; give {side}"
    if _same(error, again) and all(_same(error, each.error) for each in failures):
        return f"its forward raised {describe(error)}; {advice}"
    sizes = list(dict.fromkeys(_size(shape) for shape in (*(f.shape for f in failures), other)))
    tried = f"{', '.join(sizes[:-1])} or {sizes[-1]}"
    known = position_count(model.module)
    where = f" its {known[0]} is of {known[1]} tokens;" if known else ""
    return (
        f"cannot take {tried} pixels: {describe(error)};{where} if it has a size of its own, give "
        "--size N, or the module an attribute image_size = (height, width); else mend it"
    )


def _another(model: Model, failures: Sequence[ForwardError]) -> Shape:
    """A shape that was not tried, of about half the sides."""
    height, width = failures[0].shape
    patch = model.patch
    smaller = (max(patch, side // 2 // patch * patch) for side in (height, width))
    found = next(smaller), next(smaller)
    return found if found != (height, width) else (2 * height, 2 * width)


def _same(one: BaseException, other: BaseException) -> bool:
    """Whether two runs failed alike: of a matter of shape the numbers differ."""
    return (
        type(one) is type(other) and message(one) == message(other) and place(one) == place(other)
    )


def takes_other_shapes(model: Model, shape: Shape) -> bool:
    """Whether a model runs on twice as many tokens as it has for a shape."""
    return _trial(model, (2 * shape[0], shape[1])) is None


def _trial(
    model: Model, shape: Shape, *, channels: int = 3, gradients: bool = False
) -> BaseException | None:
    """Run a model on a blank picture, and give what it raised."""
    blank = torch.zeros(1, channels, *shape, device=model.device, dtype=model.dtype)
    try:
        with torch.set_grad_enabled(gradients), _uncompiled():
            model.module(blank.requires_grad_(gradients))
    except (Exception, SystemExit) as error:
        return error
    return None


def _uncompiled() -> AbstractContextManager[Any]:
    """Nothing is compiled for a trial, as for a recording."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _size(shape: Shape) -> str:
    return f"{shape[1]}x{shape[0]}"
