"""Loads `py:MODULE:FACTORY`: the user's own nn.Module, or a function that makes one."""

import contextlib
import inspect
import math
import sys
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from attnviz.errors import AttnvizError, ModelError, UsageError
from attnviz.models.class_token_names import has_class_token
from attnviz.models.fitting import load_weights
from attnviz.models.forward_arguments import accepted, required, takes_pixels
from attnviz.models.input_size import (
    channel_count,
    exported_shape,
    fitting_shapes,
    multiple,
    position_count,
    position_shape,
    stated_shape,
)
from attnviz.models.model import Model, patch_in
from attnviz.models.model_request import ModelRequest, fixed_size, no_text_tower, refuse_options
from attnviz.models.module_kinds import allocate, as_module, check_filled, check_made, ready, unwrap
from attnviz.models.preprocessing import (
    first,
    labels,
    may_classify,
    normalisation,
    prefix_count,
    stated,
)
from attnviz.models.python_code import (
    find_attribute,
    here,
    import_module,
    raised,
    split_spec,
    title_of,
)
from attnviz.models.settings import FILTERS, parse_input, parse_output
from attnviz.models.weights import DTYPES, find_device, seeded

SIZE = 224
_OUTSIDE = (
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "tensorrt",
    "coremltools",
    "tensorflow",
)
"""Packages that run a model outside of PyTorch."""


def load(request: ModelRequest) -> Model:
    """Load the user's own model by running its code; see `attnviz.load_model`."""
    refuse_options(request, patch=True)
    if request.random_weights:
        raise UsageError(
            f"--random-weights: only the factory of {request.spec} knows how weights are drawn; "
            "give a factory that draws them (--seed is set before it is called)"
        )
    if request.head == "text":
        raise no_text_tower(request.spec, "a module of yours is shown pictures alone")
    device, dtype = find_device(request.device), DTYPES[request.dtype]
    where, name = split_spec(request.spec)
    # The user's code may print; this must not mix with results.
    with here(), contextlib.redirect_stdout(sys.stderr):
        with seeded(request.seed):
            value = find_attribute(request.spec, import_module(request.spec, where), name)
        # Draw again: a module that was imported before drew its numbers then.
        with seeded(request.seed):
            made, others = _made(request, name, value)
            model = unwrap(made)
    notes = _fill(request, model)
    module = takes_pixels(
        request.spec,
        ready(request.spec, model, device, dtype),
        others,
        parse_input(request.input),
        parse_output(request.output),
    )
    try:
        return _described(request, model, module, notes, device=device, dtype=dtype)
    except ModelError as error:
        raise ModelError(f"{request.spec}: {error}") from error


def describe_in_training(module: nn.Module, *, shape: tuple[int, int]) -> Model:
    """Describe a module in the middle of its training; the module itself does not change.

    Args:
        module: the module; its parameters stay where and what they are.
        shape: (height, width) of the inputs that it takes.

    >>> describe_in_training(model.module, shape=(120, 176)).own_shape
    (120, 176)

    Raises:
        ModelError: it cannot be recorded; the line says why.
    """
    inner = unwrap(module)
    tensor = next(inner.parameters(), torch.empty(0))
    spec = type(inner).__name__
    model = _described(
        ModelRequest(spec), inner, takes_pixels(spec, inner, {}), (),
        device=tensor.device, dtype=tensor.dtype,
    )  # fmt: skip
    return replace(
        model, patch=patch_in(model.patch, shape), own_shape=shape, fixed=True, position_shape=shape
    )


def _fill(request: ModelRequest, model: nn.Module) -> tuple[str, ...]:
    """Load the requested weights, check that none is missing, and return notes for the user."""
    check_made(request.spec, model)
    if request.weights is not None:
        allocate(request.spec, model)
    notes = () if request.weights is None else load_weights(model, request.weights, request.key)
    check_filled(request.spec, model)
    return notes


def _described(
    request: ModelRequest,
    model: nn.Module,
    module: nn.Module,
    notes: tuple[str, ...],
    *,
    device: Any,
    dtype: Any,
) -> Model:
    """The model, described by what it states and is made of; `module` is its callable form."""
    statements = stated(model)
    classifies = request.head == "class" or may_classify(model)
    prefix = prefix_count(model, statements)
    patch = request.patch or multiple(model, statements)
    exported = exported_shape(model)
    stated_size = exported or stated_shape(statements)
    side = SIZE if stated_size is None else round(math.sqrt(math.prod(stated_size)))
    shapes = [*([stated_size] if stated_size else ()), *fitting_shapes(model, patch, prefix)]
    fixed = exported is not None
    channels = channel_count(model)
    mean, std = normalisation(
        first(statements, "mean", "image_mean"),
        first(statements, "std", "image_std"),
        channels=channels,
    )
    return Model(
        spec=request.spec,
        weights=request.weights or "own",
        module=module,
        layers=None,
        heads=None,
        features=None,
        tokens="patches",
        patch=patch,
        size=fixed_size(request, side, fixed=fixed, shape=stated_size),
        prefix=prefix,
        class_token=prefix > 0 and has_class_token(model),
        own_shape=None if request.size or stated_size == (side, side) else stated_size,
        other_shapes=tuple(dict.fromkeys(shapes)),
        position_shape=stated_size or position_shape(model, patch, prefix),
        position_table=position_count(model),
        fixed=fixed,
        channels=channels,
        mean=mean,
        std=std,
        resample=FILTERS.get(str(statements.get("interpolation")), FILTERS["bicubic"]),
        seed=request.seed,
        head="class" if classifies else "none",
        head_assumed=True,  # assumed to return logits unless it states otherwise
        labels=labels(model) if classifies else None,
        loaded=None if request.weights is None else 1.0,
        notes=notes,
        device=device,
        dtype=dtype,
    )


def _made(request: ModelRequest, name: str, value: Any) -> tuple[nn.Module, dict[str, Any]]:
    """The module, or what the factory returns, and the settings that the factory does not take."""
    spec, others = request.spec, dict(request.settings)
    module = as_module(value)
    if module is not None:
        return module, others
    if not callable(value):
        raise ModelError(
            f"{spec}: {name} is {title_of(value)}, neither an nn.Module nor callable; give what is "
            "one, or returns one"
        )
    made = _called(spec, name, value, others)
    if isinstance(made, type) and issubclass(made, nn.Module):
        made = _called(spec, made.__name__, made, others)
    module = as_module(made)
    if module is None:
        if inspect.iscoroutine(made):
            made.close()
        advice = "have it return the model alone"
        if type(made).__module__.partition(".")[0] in _OUTSIDE:
            advice = (
                "it runs outside of PyTorch, where attention cannot be watched: have it return the "
                "PyTorch module that was exported"
            )
        raise ModelError(f"{spec}: {name}() returned {title_of(made)}, not an nn.Module; {advice}")
    return module, others


def _called(spec: str, name: str, factory: Any, settings: dict[str, Any]) -> Any:
    """The result of a factory; the settings that it takes are removed from `settings`."""
    taken = {each: settings.pop(each) for each in accepted(factory, settings)}
    needed = [each for each in required(factory) if each not in taken]
    if needed:
        raise ModelError(
            f"{spec}: {name} needs arguments ({', '.join(needed)}); give "
            f"{' '.join(f'--set {each}=VALUE' for each in needed)}, or a function that calls it, "
            f"such as `def build(): return {name}(...)`"
        )
    try:
        return factory(**taken)
    except AttnvizError:
        raise
    except (Exception, SystemExit) as error:
        raise raised(spec, f"calling {name}()", error) from error
