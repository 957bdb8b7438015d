"""Runs a model once on pictures of one shape and records it; repeats if positions were lost."""

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from attnviz.errors import AttnvizError, RecordingError
from attnviz.explanation.forward_errors import ForwardError, UnevenError
from attnviz.explanation.inspection import CallReport, Calls, Inspector, without_objects
from attnviz.explanation.merged_tokens import measure_merged
from attnviz.explanation.object_queries import inner_outputs, predicted
from attnviz.explanation.observation import Run
from attnviz.explanation.selection import parse_layers
from attnviz.geometry.grid import TokenGrid
from attnviz.models import memory
from attnviz.models.failures import describe
from attnviz.models.model import Model
from attnviz.models.weights import seeded
from attnviz.recording import Recording, record

_LOSES_PLACES: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Models for which PyTorch's fast paths lose the positions of tokens, as a run has shown."""
_DEPEND: weakref.WeakKeyDictionary[nn.Module, dict[int, bool]] = weakref.WeakKeyDictionary()
"""For each model, whether calls without a trace to the picture depend on it; found once."""


@dataclass(frozen=True)
class RunRequest:
    """The request for one run.

    Attributes:
        model: the model.
        inputs: inputs of the model: pixels (pictures, 3, height, width), and a mask if there is
            one.
        grid: the grid of the pixels.
        layers: layers to keep: `-1`, `all`, `0,5-11`.
        gradients: whether to keep the graph.
        blocks: whether to keep inputs and outputs of blocks.
        pictures: number of pictures, or of clips.
    """

    model: Model
    inputs: tuple[torch.Tensor, ...]
    grid: TokenGrid
    layers: str
    gradients: bool
    blocks: bool
    pictures: int = 1


def run_recorded(request: RunRequest) -> tuple[Run, Calls]:
    """Run a model and keep the requested layers.

    If PyTorch's fast paths lose the positions of tokens, the model runs again without them. If
    tokens have no trace to the picture, it runs with another picture to see whether they depend on
    the picture. If tokens may be merged ones, it runs with its graph to see of what.

    Raises:
        ForwardError: the model does not run on this shape, or on several pictures.
        RecordingError: the model made no attention call that can be drawn.
    """
    module = request.model.module
    with _without_fast_paths(module in _LOSES_PLACES):
        run, reports = _run(request, parse_layers(request.layers))
    hidden = any("nested" in line for line in run.recording.unread)
    lost = hidden or any(report.cause is not None for report in reports)
    if lost and not request.model.plain and _may_take_fast_paths(module):
        _LOSES_PLACES.add(module)
        with _without_fast_paths(True):
            run, reports = _run(request, parse_layers(request.layers))
    if run.predictions is not None:
        reports = without_objects(reports, run.predictions.count)
    merged = measure_merged(request.model, request.inputs, request.grid, reports)
    calls = Calls.of(reports, _depend(request, reports), merged)
    if not calls.drawn:
        reason = _nothing_drawn(request.model, calls, run.recording)
        raise RecordingError(f"{request.model.spec} {reason}")
    chosen = calls.choose(request.layers)
    if any(run.recording.is_kept(number) is False for number in chosen):
        # The last call is not drawn, so another one must be kept.
        with _without_fast_paths(module in _LOSES_PLACES):
            run, _ = _run(request, chosen)
    return replace(run, again=partial(_again, request, parse_layers(request.layers))), calls


def _again(request: RunRequest, layers: Sequence[int] | None) -> Run:
    with _without_fast_paths(request.model.module in _LOSES_PLACES):
        return _run(request, layers, reporting=False)[0]


def _run(
    request: RunRequest, layers: Sequence[int] | None, *, reporting: bool = True
) -> tuple[Run, Sequence[CallReport]]:
    """One run, and, with `reporting`, the report on each of its calls."""
    model, pixels = request.model, request.inputs[0]
    inspector = Inspector(request.grid, request.pictures, plain=model.plain)
    watching = record(
        model.module,
        calls=layers,
        describe=inspector if reporting else None,
        picture=None if model.plain else pixels,  # the trace starts here
        time=None if model.clip is None else model.clip.dim,
        gradients=request.gradients,
        blocks=model.module if request.blocks else None,
    )
    try:
        # Random numbers that a model draws while it runs are the same every time.
        with (
            seeded(model.seed or 0),
            torch.set_grad_enabled(request.gradients),
            inner_outputs(model.module) as inner,
            watching as recording,
        ):
            inspector.operators = recording.operators
            output = model.module(*request.inputs)
    except (AttnvizError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # explained later, if no shape is left
        if memory.is_exhausted(error):
            raise
        raise ForwardError(f"{model.spec}: {describe(error)}", pixels.detach()) from error
    if inspector.uneven:
        line = f"{model.spec} cannot take several pictures at once"
        raise UnevenError(line, pixels.detach())
    predictions = predicted(model.module, output, inner)
    return Run(recording, request.inputs, output, predictions), recording.descriptions


def _depend(request: RunRequest, reports: Sequence[CallReport]) -> Mapping[int, bool]:
    """For each call without a trace to the picture, whether it changes with the picture."""
    numbers = [n for n, report in enumerate(reports) if not report.traced and report.fits]
    if not numbers or request.model.plain:
        return {}
    results = _DEPEND.setdefault(request.model.module, {})
    if not set(numbers) <= set(results):
        results |= _compare(request, numbers)
    return results


def _compare(request: RunRequest, numbers: Sequence[int]) -> Mapping[int, bool]:
    """Whether queries or keys of calls differ for another picture: the mirrored negative."""
    pixels, *rest = request.inputs
    keys = []
    for each in (pixels.detach(), -pixels.detach().flip(-1)):
        seed = request.model.seed or 0
        with seeded(seed), torch.no_grad(), record(calls=numbers) as recording:
            request.model.module(each, *rest)
        keys.append([(recording[n].query, recording[n].key) for n in numbers])
    return {
        number: not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        for number, before, after in zip(numbers, *keys, strict=True)
    }


def _may_take_fast_paths(module: nn.Module) -> bool:
    """Whether a model has layers of PyTorch with fast paths, and may take these paths."""
    kinds = nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.MultiheadAttention
    return torch.backends.mha.get_fastpath_enabled() and any(
        isinstance(part, kinds) for part in module.modules()
    )


class _FastPaths:
    """PyTorch's switch for its fast paths; all threads share it."""

    def __init__(self) -> None:
        self._lock, self._users, self._before = threading.Lock(), 0, True

    @contextmanager
    def off(self) -> Iterator[None]:
        """Switch fast paths off until the last user of this context leaves it."""
        with self._lock:
            if not self._users:
                self._before = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    torch.backends.mha.set_fastpath_enabled(self._before)


_FAST_PATHS = _FastPaths()


def _without_fast_paths(without: bool) -> AbstractContextManager[None]:
    return _FAST_PATHS.off() if without else nullcontext()


def _nothing_drawn(model: Model, calls: Calls, recording: Recording) -> str:
    """The error text for a model that made no attention call over the picture."""
    reasons = list(dict.fromkeys([*calls.not_drawn.values(), *recording.unread]))[:3]
    scripted = any(isinstance(part, torch.jit.ScriptModule) for part in model.module.modules())
    if not reasons and scripted:
        return (
            "made no attention call that is seen: it is TorchScript, which runs its own fused "
            "code, or it is convolutional; give the Python module that it was made of: "
            "py:FILE.py:FACTORY"
        )
    if not reasons:
        what = "made no attention call: it is convolutional, or its attention has no softmax"
        return what + _rest_of_class(model.module)
    return f"made no attention call over the picture, but {'; '.join(reasons)}"


def _rest_of_class(module: nn.Module) -> str:
    """A clause on the class that a checkpoint of transformers is of, if a part of it ran."""
    part = getattr(module, "model", None)
    ran, saved = type(part).__name__, getattr(getattr(part, "config", None), "architectures", None)
    if not saved or ran in saved:
        return ""
    return f" ({ran} ran, without the rest of {saved[0]})"
