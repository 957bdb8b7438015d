"""Loads vision-language models and captioners of transformers, with their processors."""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from attnviz.errors import ModelError, UsageError
from attnviz.models.adapters import Adapter, merge
from attnviz.models.auto_classes import class_of
from attnviz.models.checkpoints import Filling, read_checkpoint
from attnviz.models.failures import tried
from attnviz.models.model import Model
from attnviz.models.model_request import ModelRequest, no_words
from attnviz.models.needs import Reach, checked
from attnviz.models.pretrained import load_pretrained
from attnviz.models.state_dicts import read_state_dict
from attnviz.models.weights import DTYPES, find_device, seeded
from attnviz.models.words import WordInput

_AUTOS = ("AutoModelForImageTextToText", "AutoModelForVision2Seq")
"""Auto classes of models that answer in words, the newer first."""


def load_words(
    request: ModelRequest,
    library: Any,
    config: Any,
    named: tuple[str, str | None],
    adapter: Adapter | None = None,
) -> Model:
    """A model that answers in words, by its config; `named` are its name and revision.

    An adapter is merged into its weights.

    Raises:
        ModelError: it does not, its processor cannot be read, or its weights are incomplete.
    """
    spec, (name, revision) = request.spec, named
    if request.size is not None:
        raise UsageError(
            f"--size {request.size}: the processor of a model with words chooses; leave it out"
        )
    autos = (getattr(library, auto, None) for auto in _AUTOS)
    kind = next((k for a in autos if a is not None and (k := class_of(a, config))), None)
    if kind is None:
        raise no_words(spec, f"its model type is {config.model_type!r}")
    options = {"revision": revision, "trust_remote_code": False}
    processor = tried(spec, name, lambda: _processor(library, spec, name, options))
    if not hasattr(processor, "tokenizer"):
        raise ModelError(
            f"{spec}: no processor with a tokenizer lies beside its weights; save the model's own "
            "there with save_pretrained"
        )
    library.logging.disable_progress_bar()  # local files load at once
    module, filling, notes = tried(spec, name, lambda: _module(request, kind, config, named))
    if adapter is not None and not request.random_weights:
        notes = (*notes, merge(spec, adapter, module, heads=True))
    with contextlib.suppress(OSError):  # without one, the config's numbers hold
        module.generation_config = library.GenerationConfig.from_pretrained(name, revision=revision)
    device, dtype = find_device(request.device), DTYPES[request.dtype]
    module = module.to(device, dtype).eval().requires_grad_(False)
    model = Model(
        spec=spec,
        weights=request.weights or ("random" if request.random_weights else "pretrained"),
        module=module,
        layers=None,
        heads=None,
        features=None,
        tokens="patches",
        patch=1,
        size=0,
        seed=request.seed if request.random_weights else None,
        head="words",
        notes=notes,
        device=device,
        dtype=dtype,
        words=WordInput(spec, module, processor),
    )
    if filling is None:
        return model
    return checked(model, module, filling, Reach.MAPS if filling.unfilled else Reach.NOTHING)


def _processor(library: Any, spec: str, name: str, options: Mapping[str, Any]) -> Any:
    """The checkpoint's processor.

    Raises:
        ModelError: a library that it needs is not installed.
    """
    try:
        return library.AutoProcessor.from_pretrained(name, **options)
    except ImportError as error:
        needed = re.search(r"requires? (?:the )?(\w+)", str(error))
        if needed is None:
            raise
        raise ModelError(
            f"{spec}: its processor needs {needed[1]}, which is not installed; type pip install "
            f"{needed[1].lower()}"
        ) from error


def _module(
    request: ModelRequest, kind: Any, config: Any, named: tuple[str, str | None]
) -> tuple[Any, Filling | None, tuple[str, ...]]:
    """The model with its weights, or with random ones; what was filled; notes on the weights."""
    if request.random_weights:
        with seeded(request.seed):
            return kind._from_config(config), None, ()  # noqa: SLF001 — as Auto classes do
    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    if request.weights is not None:
        found = read_state_dict(request.weights, request.key)
        state, notes = dict(found.tensors), tuple(found.notes)
    else:
        state = read_checkpoint(request.spec, *named)
    return *load_pretrained(request.spec, kind, config, state), notes
