"""`hf:ORG/NAME[@REV]` and checkpoint folders: vision models of the library transformers."""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from attnviz.errors import ModelError, UsageError
from attnviz.models import Request, configs
from attnviz.models.aliases import Alias
from attnviz.models.devices import DTYPES, find_device
from attnviz.models.failures import optional, tried
from attnviz.models.labels import labels_of
from attnviz.models.model import (
    CLASS_TOKENS,
    Model,
    fixed_size,
    has_class_token,
    is_of_head,
    no_class_head,
    refuse_options,
)
from attnviz.models.preprocessing import FILTERS, STATISTICS, triple
from attnviz.models.texts import Texts, check_complete, check_family, check_towers, find_tokenizer
from attnviz.models.vision import Embedding, Vision, find_vision, no_vision, sees
from attnviz.models.weights import load_weights, seeded

Found = Literal["none", "class", "text"]
PREFIXES = (*CLASS_TOKENS, "distillation_token", "register_tokens")


def load(request: Request) -> Model:
    """Load a vision model from a checkpoint folder or the hub; see `attnviz.load_model`."""
    refuse_options(request)
    name, revision = _name(request.spec)
    library = _library(request.spec)
    device, dtype = find_device(request.device), DTYPES[request.dtype]
    if request.head == "text" and request.alias is not None:
        check_family(request.spec, request.alias)
    # An alias tells of the image encoder alone; what reads its texts lies beside its weights.
    alias = request.alias if request.random_weights and request.head != "text" else None
    if alias is not None:
        config, processing = _known(library, alias)
    else:
        config = tried(request.spec, name, lambda: _config(library, name, revision))
        processing = tried(request.spec, name, lambda: _processing(name, revision))
    _check_kind(library, request.spec, config)
    head = _head(request, config)
    tokenizer = find_tokenizer(library, request.spec, name, revision) if head == "text" else None
    model = tried(request.spec, name, lambda: _model(library, request, config, head))
    if head == "none":
        model = find_vision(request.spec, model)
    if request.weights is not None:
        load_weights(model, request.weights)
    described = _described(request, head, model, processing, device=device, dtype=dtype)
    if head == "text":
        return replace(described, texts=Texts(request.spec, model, tokenizer))
    return described


def _described(
    request: Request,
    head: Found,
    model: nn.Module,
    processing: dict[str, Any],
    *,
    device: Any,
    dtype: Any,
) -> Model:
    """The model, and what its config and its preprocessing say."""
    vision = find_vision(request.spec, model) if head == "text" else model
    config: Any = vision.config
    labels = labels_of(config.id2label) if head == "class" else None
    if head == "class":
        config = getattr(config, "vision_config", config)  # of CLIP with a class head
    patch = configs.multiple(config)
    module = Embedding(model, vision, patch) if head == "text" else Vision(vision, patch)
    fixed = configs.is_fixed(config)
    normalised = processing.get("do_normalize", True)
    return Model(
        spec=request.spec,
        weights=request.weights or ("random" if request.random_weights else "pretrained"),
        module=module.to(device, dtype).eval().requires_grad_(False),
        layers=configs.count(config, "num_hidden_layers"),
        heads=configs.count(config, "num_attention_heads"),
        features=configs.count(config, "hidden_size"),
        tokens="patches",
        patch=patch,
        size=fixed_size(request, configs.own_size(processing, config), fixed=fixed),
        prefix=_prefix(vision),
        class_token=has_class_token(vision),
        least=configs.least(config),
        fixed=fixed,
        mean=triple(processing.get("image_mean"), 0.5) if normalised else (0.0, 0.0, 0.0),
        std=triple(processing.get("image_std"), 0.5) if normalised else (1.0, 1.0, 1.0),
        resample=int(processing.get("resample") or FILTERS["bicubic"]),
        seed=request.seed if request.random_weights else None,
        token_bytes=configs.bytes_of_patch(config),
        head=head,
        labels=labels,
        device=device,
        dtype=dtype,
    )


def _name(spec: str) -> tuple[str, str | None]:
    """`hf:ORG/NAME@REV` → name and revision; a folder → itself."""
    if not spec.startswith("hf:"):
        return spec, None
    name, _, revision = spec.removeprefix("hf:").partition("@")
    if not name:
        raise UsageError(f"--model {spec!r} names nothing; give hf:ORG/NAME")
    return name, revision or None


def _library(spec: str) -> Any:
    """The library transformers, silent; bars of downloads only where stderr is a terminal."""
    library: Any = optional("transformers", "hf", spec)
    library.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries, told at the end
    if not sys.stderr.isatty():
        library.logging.disable_progress_bar()
    return library


def _config(library: Any, name: str, revision: str | None) -> Any:
    """The config of a checkpoint, whose code never runs."""
    return library.AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)


def _known(library: Any, alias: Alias) -> tuple[Any, dict[str, Any]]:
    """Config and preprocessing of an alias, without the hub."""
    mean, std = STATISTICS[alias.statistics]
    said = {"size": alias.size, "image_mean": mean, "image_std": std, "resample": alias.resample}
    return getattr(library, alias.config)(**alias.arguments), said


def _check_kind(library: Any, spec: str, config: Any) -> None:
    """Refuse what cannot be looked at before its weights are downloaded."""
    if config.model_type in ("timm_wrapper", "timm_backbone"):
        raise ModelError(f"{spec}: a model of timm; give it as timm:hf_hub:ORG/NAME")
    known = library.models.auto.modeling_auto.MODEL_MAPPING_NAMES.get(config.model_type)
    names = [known] if isinstance(known, str) else list(known or ())
    blind = names and not any(sees(getattr(library, name)) for name in names)
    if blind and not hasattr(config, "vision_config"):
        raise ModelError(no_vision(spec, config))


def _head(request: Request, config: Any) -> Found:
    """The head to be read; one whose weights the checkpoint lacks would be drawn at random.

    Raises:
        ModelError: the checkpoint has no such head.
    """
    if request.head == "text":
        check_towers(request.spec, config)
        return "text"
    saved = ", ".join(getattr(config, "architectures", None) or ())
    classifies = "ForImageClassification" in saved
    if request.head == "class" and not classifies:
        why = f"its checkpoint is a {saved}" if saved else "its config names none"
        raise no_class_head(request.spec, why)
    return "class" if classifies and request.head != "none" else "none"


def _model(library: Any, request: Request, config: Any, head: Found) -> nn.Module:
    """The model with its weights, or the same architecture with random ones."""
    if hasattr(config, "mask_ratio"):
        config.mask_ratio = 0.0  # MAE: to look, all patches are kept
    kind = library.AutoModelForImageClassification if head == "class" else library.AutoModel
    if request.random_weights:
        with seeded(request.seed):
            fresh: nn.Module = kind.from_config(config)
        return fresh
    name, revision = _name(request.spec)
    model: nn.Module
    model, info = kind.from_pretrained(
        name,
        revision=revision,
        config=config,
        trust_remote_code=False,
        output_loading_info=True,
    )
    if head == "text":
        check_complete(request.spec, info["missing_keys"])
    return model


def _prefix(model: nn.Module) -> int:
    """Number of tokens before the grid: class, distillation, registers.

    Each is a parameter whose last dimension is the width. A token of a pooling head is none: it
    asks, and nothing asks it.
    """
    return sum(
        parameter.numel() // parameter.shape[-1]
        for name, parameter in model.named_parameters()
        if name.rpartition(".")[2] in PREFIXES and not is_of_head(name)
    )


def _processing(name: str, revision: str | None) -> dict[str, Any]:
    """What the checkpoint says of its preprocessing; empty where it says nothing."""
    from transformers.utils.hub import cached_file  # noqa: PLC0415 — imported in `_library`

    for file in ("preprocessor_config.json", "processor_config.json"):
        found = cached_file(
            name, file, revision=revision, _raise_exceptions_for_missing_entries=False
        )
        if found is not None:
            said: dict[str, Any] = json.loads(Path(found).read_text(encoding="utf-8"))
            inner: dict[str, Any] = said.get("image_processor", said)
            return inner
    return {}
