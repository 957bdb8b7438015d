"""Loads `hf:ORG/NAME[@REV]` and checkpoint folders: vision models of transformers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from attnviz.errors import ModelError
from attnviz.models import configs
from attnviz.models.adapters import Adapter, adapted, merge
from attnviz.models.auto_classes import (
    class_of,
    detecting_class,
    find_class,
    find_sound_class,
    saved_class,
)
from attnviz.models.checkpoints import Filling, read_checkpoint
from attnviz.models.class_token_names import has_class_token, prefix_tokens
from attnviz.models.failures import tried
from attnviz.models.hub import extractor_of, known_config, library_of, name_of, processing_of
from attnviz.models.model import Model
from attnviz.models.model_request import (
    ModelRequest,
    fixed_size,
    no_class_head,
    no_dense_head,
    no_text_tower,
    refuse_options,
)
from attnviz.models.needs import (
    Reach,
    checked,
    misplaced,
    reach,
    spoils_predictions,
    unfilled_tensors,
)
from attnviz.models.preprocessing import scaled_statistics
from attnviz.models.pretrained import load_pretrained
from attnviz.models.separate_weights import check_fits, resized_positions
from attnviz.models.settings import FILTERS
from attnviz.models.sound_input import SoundInput
from attnviz.models.sound_measures import measured
from attnviz.models.state_dicts import read_state_dict
from attnviz.models.targets import labels_of
from attnviz.models.texts import Texts, check_complete, check_family, check_towers, find_tokenizer
from attnviz.models.vision import (
    PIXELS,
    Embedding,
    Hearing,
    Vision,
    clip_input_of,
    find_hearing,
    find_vision,
)
from attnviz.models.weights import DTYPES, few, find_device, seeded
from attnviz.models.word_models import load_words

Found = Literal["none", "class", "text", "dense"]


@dataclass(frozen=True)
class Checkpoint:
    """What was read from a checkpoint before a model is built.

    Attributes:
        config: config of transformers.
        processing: the checkpoint's preprocessing config.
        state: its weights, or those of a separate file; None if weights are random.
        notes: sentences for the user on how the weights were read.
        adapter: an adapter that is merged into the weights.
        kind: the class to load it as; None finds one.
        sound: how it is given sounds; None for a model of pictures.
    """

    library: Any
    config: Any
    processing: dict[str, Any]
    state: dict[str, Tensor] | None
    notes: tuple[str, ...] = ()
    adapter: Adapter | None = None
    kind: Any = None
    sound: SoundInput | None = None

    @property
    def argument(self) -> str:
        """The argument of its `forward` that takes the picture, or the spectrogram."""
        return PIXELS if self.sound is None else self.sound.name

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Ends of the names of classes with a class head."""
        if self.sound is not None:
            return ("AudioClassification",)
        return "ImageClassification", "VideoClassification"


def load(request: ModelRequest) -> Model:
    """Load a vision model from a checkpoint folder or the hub; see `attnviz.load_model`."""
    refuse_options(request)
    name, revision = name_of(request.spec)
    library = library_of(request.spec)
    device, dtype = find_device(request.device), DTYPES[request.dtype]
    if request.head == "text" and request.alias is not None:
        check_family(request.spec, request.alias)
    adapter, name, revision = adapted(request, name, revision)
    # An alias describes the image encoder only; the tokenizer lies beside the weights.
    alias = request.alias if request.random_weights and request.head != "text" else None
    if alias is not None:
        config, processing = known_config(library, alias)
    else:
        known = {"revision": revision, "trust_remote_code": False}  # its code never runs
        read = library.AutoConfig.from_pretrained
        config = tried(request.spec, name, lambda: read(name, **known))
        processing = tried(request.spec, name, lambda: processing_of(name, revision))
    sound = None
    if "sampling_rate" in processing and not {"image_mean", "image_std"} & processing.keys():
        sound = tried(
            request.spec,
            name,
            lambda: measured(request.spec, extractor_of(library, name, revision)),
        )
    if request.head == "words":
        return load_words(request, library, config, (name, revision), adapter)
    checkpoint = Checkpoint(library, config, processing, None, adapter=adapter, sound=sound)
    _check_kind(request.spec, checkpoint)
    if adapter is not None and (of_classes := adapter.head.get("classifier.weight")) is not None:
        config.num_labels = len(of_classes)
    head = _head(request, checkpoint)
    tokenizer = find_tokenizer(library, request.spec, name, revision) if head == "text" else None
    state: dict[str, Tensor] | None = None
    notes: tuple[str, ...] = ()
    if request.weights is not None:
        found = read_state_dict(request.weights, request.key)
        state, note = resized_positions(library, config, found.tensors)
        notes = (*found.notes, *([note] if note else []))
    elif not request.random_weights:
        state = read_checkpoint(request.spec, name, revision)
        if adapter is not None:
            state |= adapter.head
    if alias is None:
        tried(request.spec, name, lambda: configs.check_heads(request.spec, name, revision, config))
    library.logging.disable_progress_bar()  # local files load at once
    kind = detecting_class(library, config) if head == "none" and sound is None else None
    kind = saved_class(library, config) if head == "dense" else kind
    checkpoint = replace(checkpoint, state=state, notes=notes, kind=kind)
    model, whole = _build(request, checkpoint, head)
    module = model.module.to(device, dtype)
    model = replace(model, module=module, device=device, dtype=dtype)
    return replace(model, texts=Texts(request.spec, whole, tokenizer)) if head == "text" else model


def _build(request: ModelRequest, checkpoint: Checkpoint, head: Found) -> tuple[Model, nn.Module]:
    """The model, with all weights filled that maps need, and the module that it is a part of."""
    name, _ = name_of(request.spec)
    whole, filling = tried(request.spec, name, lambda: _model(request, checkpoint, head))
    merged: tuple[str, ...] = ()
    if checkpoint.adapter is not None and checkpoint.state is not None:
        merged = (merge(request.spec, checkpoint.adapter, whole),)
    part = whole
    if head == "none" and checkpoint.sound is not None:
        part = find_hearing(request.spec, whole, checkpoint.sound.name)
    elif head in ("none", "dense"):
        part = find_vision(request.spec, whole)
    model = _described(request, head, part, checkpoint)
    if filling is None:
        return model, whole
    if head == "none" and checkpoint.kind is None and filling.unexpected:
        saved = saved_class(checkpoint.library, checkpoint.config, checkpoint.argument)
        lost = misplaced(model, whole, filling) if saved not in (None, type(whole)) else []
        if lost and {*lost} <= {*filling.unexpected}:  # a head that is a part of layers: of boxes
            return _build(request, replace(checkpoint, kind=saved), head)
    unfilled = unfilled_tensors(model, whole, filling)
    reached = reach(model, list(unfilled.values()))
    if request.weights is not None:
        check_fits(request.weights, model, whole, filling, reached)
        model = replace(model, notes=checkpoint.notes)
    if head == "text" and reached != Reach.MAPS:
        check_complete(request.spec, filling.unfilled)
    if head in ("class", "dense") and reached == Reach.HEAD:
        why = f"its checkpoint has no usable {few(list(unfilled))}"
        if request.head in ("class", "dense"):
            raise (no_class_head if head == "class" else no_dense_head)(request.spec, why)
        bare, whole = _build(request, checkpoint, "none")
        return replace(bare, notes=(f"no class head ({why})", *bare.notes)), whole
    if isinstance(model.module, Vision) and spoils_predictions(model, unfilled):
        model.module.detects = False
        why = f"its checkpoint has no usable {few(list(unfilled))}"
        model = replace(model, notes=(*model.notes, f"it predicts no objects: {why}"))
    if reached == Reach.HEAD and isinstance(model.module, Vision):
        model.module.pools = False
        note = "it pools its tokens by weights that its checkpoint has not: its norm is their mean"
        model = replace(model, notes=(note,))
    model = checked(model, whole, filling, reached)
    return replace(model, notes=(*merged, *model.notes)), whole


def _described(
    request: ModelRequest, head: Found, model: nn.Module, checkpoint: Checkpoint
) -> Model:
    """The model, described by its config and its preprocessing."""
    processing, sound = checkpoint.processing, checkpoint.sound
    vision = find_vision(request.spec, model) if head == "text" else model
    config: Any = vision.config
    labels = labels_of(config.id2label) if head in ("class", "dense") else None
    if head == "class":
        config = getattr(config, "vision_config", config)  # for CLIP with a class head
    patch = configs.multiple(config)
    module = Embedding(model, vision, patch) if head == "text" else Vision(vision, patch)
    if sound is not None:
        module = Hearing(vision, patch, sound)
    module = module.float().eval().requires_grad_(False)
    module.whole_output = head == "dense"
    fixed, shape = configs.is_fixed(config), configs.own_shape(config)
    if shape is not None and not fixed and not module.interpolates(shape):
        fixed, module.shape = True, shape
    mean, std = scaled_statistics(request.spec, processing)
    if sound is not None:
        fixed, shape, mean, std = True, sound.shape, (0.0,) * 3, (1.0,) * 3
    return Model(
        spec=request.spec,
        weights=request.weights or ("random" if request.random_weights else "pretrained"),
        module=module,
        layers=configs.count(config, "num_hidden_layers"),
        heads=configs.count(config, "num_attention_heads"),
        features=configs.count(config, "hidden_size"),
        tokens="patches",
        patch=patch,
        size=fixed_size(
            request,
            configs.own_size(processing, config),
            fixed=fixed,
            shape=(fixed and shape) or None,
        ),
        prefix=prefix_tokens(vision),
        class_token=has_class_token(vision),
        least=configs.least(config),
        own_shape=shape if fixed else None,
        other_shapes=() if fixed or shape is None else (shape,),
        fixed=fixed,
        channels=3 if sound is None else 1,
        mean=mean,
        std=std,
        resample=_filter(processing.get("resample")),
        seed=request.seed if request.random_weights else None,
        token_bytes=configs.bytes_of_patch(config),
        head=head,
        labels=labels,
        sound=sound,
        clip=None if sound is not None else clip_input_of(request.spec, module, config),
    )


def _filter(number: Any) -> int:
    """Pillow's number of a filter; 0, nearest, is one, and None stands for bicubic."""
    return FILTERS["bicubic"] if number is None else int(number)


def _check_kind(spec: str, checkpoint: Checkpoint) -> None:
    """Refuse a model that cannot be used, before its weights are downloaded."""
    config = checkpoint.config
    if config.model_type in ("timm_wrapper", "timm_backbone"):
        name = spec.removeprefix("hf:")
        source = "local-dir" if Path(name).is_dir() else "hf_hub"
        raise ModelError(f"{spec}: a model of timm; give timm:{source}:{name}")
    _found_class(spec, checkpoint)


def _found_class(spec: str, checkpoint: Checkpoint) -> Any:
    """The model class of a checkpoint that takes pictures, or its sounds."""
    library, config = checkpoint.library, checkpoint.config
    if checkpoint.sound is not None:
        return find_sound_class(library, spec, config, checkpoint.sound.name)
    return find_class(library, spec, config)


def _head(request: ModelRequest, checkpoint: Checkpoint) -> Found:
    """The head to load; a head whose weights the checkpoint lacks would be random.

    Raises:
        ModelError: the checkpoint has no such head.
    """
    config = checkpoint.config
    if request.head == "text":
        if checkpoint.sound is not None:
            raise no_text_tower(request.spec, "it hears sounds")
        check_towers(request.spec, config)
        return "text"
    saved = ", ".join(getattr(config, "architectures", None) or ())
    classifies = any(f"For{ending}" in saved for ending in checkpoint.classifiers)
    if request.head == "class" and not classifies:
        why = f"its checkpoint is a {saved}" if saved else "its config names none"
        raise no_class_head(request.spec, why)
    if request.head == "dense":
        if (
            checkpoint.sound is not None
            or saved_class(checkpoint.library, config) is None
            or classifies
        ):
            raise no_dense_head(
                request.spec, f"its checkpoint is a {saved or 'model without a head'}"
            )
        return "dense"
    return "class" if classifies and request.head != "none" else "none"


def _model(
    request: ModelRequest, checkpoint: Checkpoint, head: Found
) -> tuple[nn.Module, Filling | None]:
    """The model with its weights and what they filled, or with random weights.

    The seed determines all random numbers, also those of heads that the checkpoint lacks.
    """
    library, config = checkpoint.library, checkpoint.config
    if hasattr(config, "mask_ratio"):
        config.mask_ratio = 0.0  # MAE: keep all patches
    kind = checkpoint.kind or _found_class(request.spec, checkpoint)
    if head == "class":
        autos = (getattr(library, f"AutoModelFor{ending}") for ending in checkpoint.classifiers)
        kind = next(filter(None, (class_of(auto, config) for auto in autos)), None)
    with seeded(request.seed):
        if checkpoint.state is not None:
            return load_pretrained(request.spec, kind, config, checkpoint.state)
        fresh: nn.Module = kind._from_config(config)  # noqa: SLF001 — as Auto classes do
        return fresh, None
