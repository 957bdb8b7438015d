"""Loads `timm:NAME`: models of the library timm, PyTorch Image Models."""

import logging
import math
import sys
from dataclasses import replace
from typing import Any

from torch import nn

from attnviz.errors import ModelError, UsageError, did_you_mean
from attnviz.geometry.grid import Patch, patch_of
from attnviz.models.checkpoints import Filling, filling_of, loading
from attnviz.models.class_token_names import has_class_token
from attnviz.models.failures import optional, tried
from attnviz.models.fitting import load_weights
from attnviz.models.model import Model, token_bytes
from attnviz.models.model_request import (
    ModelRequest,
    fixed_size,
    no_class_head,
    no_text_tower,
    refuse_options,
)
from attnviz.models.needs import Reach, checked, does_not_fit, no_place, reach, unfilled_tensors
from attnviz.models.preprocessing import per_channel
from attnviz.models.settings import FILTERS
from attnviz.models.targets import labels_of
from attnviz.models.weights import DTYPES, few, find_device, seeded


def load(request: ModelRequest) -> Model:
    """Load a model of timm; see `attnviz.load_model`."""
    refuse_options(request)
    name = request.spec.removeprefix("timm:")
    if request.head == "text":
        raise no_text_tower(request.spec, "timm has the image encoder alone")
    library = _library(request.spec)
    device, dtype = find_device(request.device), DTYPES[request.dtype]
    pretrained = request.weights is None and not request.random_weights
    _check_name(library, name, pretrained=pretrained)
    hub = name.partition(":")[2] or f"timm/{name}"
    model, filling, error = tried(
        request.spec, hub, lambda: _create(library, name, request.seed, pretrained=pretrained)
    )
    if request.head == "class" and not _classifies(model):
        raise no_class_head(request.spec, "timm says that it has no classes")
    notes: tuple[str, ...] = ()
    if request.weights is not None:
        notes = load_weights(model, request.weights, request.key, antialias=True)
    described = _described(library, request, model)
    if request.weights is not None:
        described = replace(described, loaded=1.0, notes=notes)
    if error is not None:
        raise _refused(described, filling) from error
    if pretrained:
        described = _checked(library, request, described, filling)
    return replace(described, module=model.to(device, dtype), device=device, dtype=dtype)


def _refused(described: Model, filling: Filling) -> ModelError:
    """The error for weights that PyTorch refuses."""
    if filling.unfilled:
        return does_not_fit(described, described.module, filling)
    return no_place(described.spec, filling.unused)


def _checked(library: Any, request: ModelRequest, described: Model, filling: Filling) -> Model:
    """The model, after a check that all weights that maps need are filled.

    If the checkpoint has another number of classes, timm leaves the class head random and does
    not check other weights either.
    """
    model = described.module
    unfilled = unfilled_tensors(described, model, filling)
    reached = reach(described, list(unfilled.values()))
    if reached == Reach.HEAD:
        why = f"its checkpoint has no usable {few(list(unfilled))}"
        reset: Any = getattr(model, "reset_classifier", None)
        if request.head == "class" or reset is None:
            raise no_class_head(request.spec, why)
        reset(0)
        described = replace(_described(library, request, model), notes=(f"no class head ({why})",))
        filling = replace(
            filling, unfilled={n: w for n, w in filling.unfilled.items() if n in model.state_dict()}
        )
        unfilled = unfilled_tensors(described, model, filling)
        reached = reach(described, list(unfilled.values()))
    return checked(described, model, filling, reached)


def _described(library: Any, request: ModelRequest, model: nn.Module) -> Model:
    """The model, described by its own attributes and its data config."""
    config: dict[str, Any] = library.data.resolve_model_data_config(model)
    fixed = _is_fixed(model)
    shape = tuple(config["input_size"][-2:])
    side = round(math.prod(shape) ** 0.5)
    prefix = _prefix(model)
    layers, heads = _layers(model)
    width: Any = getattr(model, "num_features", None)
    features = int(width) if layers and width else None
    return Model(
        spec=request.spec,
        weights=request.weights or ("random" if request.random_weights else "pretrained"),
        module=model.eval().requires_grad_(False),
        layers=layers,
        heads=heads,
        features=features,
        tokens="patches",
        patch=_multiple(request.spec, model),
        size=fixed_size(request, side, fixed=fixed, shape=shape),
        prefix=prefix,
        class_token=prefix > 0 and has_class_token(model),
        own_shape=None if request.size or shape == (side, side) else shape,
        fixed=fixed,
        mean=per_channel(config["mean"], 0.5),
        std=per_channel(config["std"], 0.5),
        resample=FILTERS.get(config["interpolation"], FILTERS["bicubic"]),
        seed=request.seed if request.random_weights else None,
        token_bytes=token_bytes(layers, features) if layers and features else 0,
        head="class" if _classifies(model) else "none",
        labels=_labels(request.spec, model) if _classifies(model) else None,
    )


def _library(spec: str) -> Any:
    """The library timm; download bars show only if stderr is a terminal."""
    library: Any = optional("timm", "timm", spec)
    logging.getLogger("timm").setLevel(logging.ERROR)  # attnviz reports what does not fit
    if not sys.stderr.isatty():
        optional("huggingface_hub.utils", "timm", spec).disable_progress_bars()
    return library


def _check_name(library: Any, name: str, *, pretrained: bool) -> None:
    """Refuse a name that timm does not know, before anything is built or downloaded.

    Raises:
        UsageError: the name is empty.
        ModelError: timm does not know it, or has no weights for it.
    """
    if not name:
        raise UsageError("--model 'timm:' names nothing; give timm:NAME")
    if name.startswith(("hf_hub:", "hf-hub:", "local-dir:")):
        return
    names = [*library.list_models(), *library.list_pretrained()]
    if name not in names:
        raise ModelError(
            f"timm:{name}: timm {library.__version__} has no such model"
            f"{did_you_mean(name, names)}; give a name that timm.list_models() or "
            "timm.list_pretrained() has"
        )
    if pretrained and not library.is_model_pretrained(name):
        raise ModelError(
            f"timm:{name}: timm has no weights for it; give --weights FILE or --random-weights"
        )


def _create(
    library: Any, name: str, seed: int, *, pretrained: bool
) -> tuple[nn.Module, Filling, RuntimeError | None]:
    """The model, its filling, and PyTorch's error if weights do not fit.

    The model takes inputs of any shape if its architecture can. An architecture that does not know
    the argument raises an error before weights are loaded.
    """

    def make(**arguments: bool) -> tuple[nn.Module, Filling, RuntimeError | None]:
        with seeded(seed), loading() as given:
            try:
                model: nn.Module = library.create_model(name, pretrained=pretrained, **arguments)
            except RuntimeError as error:
                if not given:
                    raise
                return given[-1][0], filling_of(*given[-1]), error
        # timm reads NumPy files weight by weight, and raises if one is missing.
        state = next((state for module, state in given if module is model), model.state_dict())
        return model, filling_of(model, state), None

    try:
        return make(dynamic_img_size=True)
    except TypeError:
        return make()


def _classifies(model: nn.Module) -> bool:
    """Whether the model returns logits of classes.

    timm also reports the width of CLIP's projection, such as 512, as a number of classes. Such
    weights have a tag that says what they were fine-tuned for, if they were.
    """
    statements: Any = model.pretrained_cfg
    name, tag = str(statements.get("architecture")), str(statements.get("tag"))
    projects = "clip" in f"{name}.{tag}" and "_ft_" not in tag
    return bool(getattr(model, "num_classes", 0)) and not projects


def _labels(spec: str, model: nn.Module) -> tuple[str, ...] | None:
    """Labels of the checkpoint, else those of the ImageNet that timm chooses by their number."""
    count: Any = model.num_classes
    statements: Any = model.pretrained_cfg
    if statements.get("label_names"):
        return labels_of(statements["label_names"], count)
    data: Any = optional("timm.data", "timm", spec)
    subset = data.infer_imagenet_subset(model)
    names = data.ImageNetInfo(subset).label_descriptions() if subset else None
    return labels_of(names, count)


def _is_fixed(model: nn.Module) -> bool:
    """Whether the model takes its own size only; its patch embedding counts before its config."""
    if getattr(getattr(model, "patch_embed", None), "strict_img_size", None) is False:
        return False
    statements: Any = model.pretrained_cfg
    return bool(statements.get("fixed_input_size"))


def _multiple(spec: str, model: nn.Module) -> Patch:
    """The sides of the input must be multiples of this: of every reduction in the model."""
    info: Any = getattr(model, "feature_info", None) or []
    reductions = {round(stage["reduction"]) for stage in info}
    patch: Any = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    sides = tuple(map(int, patch)) if isinstance(patch, tuple | list) else ()
    if len(sides) == 2 and reductions <= {max(sides)}:  # no pyramid
        return patch_of(*sides)
    if reductions:
        return int(max(reductions))
    if patch is None:
        raise ModelError(
            f"{spec}: timm does not say how large its patches are; give the model as "
            "py:MODULE:FACTORY with --patch"
        )
    return max(sides) if sides else int(patch)


def _prefix(model: nn.Module) -> int:
    """Number of tokens before the grid; PiT has another name for it, most pyramids have none."""
    for name in ("num_prefix_tokens", "num_tokens"):
        count = getattr(model, name, None)
        if isinstance(count, int):
            return count
    return 0


def _layers(model: nn.Module) -> tuple[int | None, int | None]:
    """Layers and heads of a plain vision transformer; for other models only a run shows them."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList):
        return None, None
    heads = {getattr(getattr(block, "attn", None), "num_heads", None) for block in blocks}
    only = heads.pop() if len(heads) == 1 else None
    return (len(blocks), only) if isinstance(only, int) else (None, None)
