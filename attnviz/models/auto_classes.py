"""Finds the model class of transformers for a config, in the mappings of its Auto classes."""

import copy
from collections.abc import Iterator
from typing import Any

from attnviz.errors import ModelError
from attnviz.models.vision import PIXELS, needs_more, no_vision, parameters_of, sees, takes_pixels

DETECTING = (
    "ObjectDetection", "InstanceSegmentation", "UniversalSegmentation", "ImageSegmentation",
)  # fmt: skip
"""Ends of the names of Auto classes whose models may predict objects."""


def find_class(library: Any, spec: str, config: Any) -> Any:
    """The model class of a config that takes pictures.

    This is the class of `AutoModel`, if that takes pixels or has an image encoder. If not, it is a
    class of another Auto class that takes pixels: the one that the checkpoint was saved from, else
    the first.

    Raises:
        ModelError: no class takes pixels as its first input.
    """
    kinds = list(_classes(library, config))
    plain = class_of(library.AutoModel, config)
    if plain is not None and (sees(plain) or hasattr(config, "vision_config")):
        return plain
    seeing = [kind for kind in kinds if sees(kind)] or list(filter(takes_pixels, kinds))
    classifier = class_of(library.AutoModelForImageClassification, config)
    if not seeing and classifier is not None:
        needs = "its own preprocessing, which makes input_ids of pixels"
        if "pixel_values" in (names := parameters_of(classifier)):
            needs = names[0]
        raise ModelError(f"{spec}: {needs_more(config, needs)}")
    if not seeing:
        raise ModelError(no_vision(spec, config, plain or next(iter(kinds), None)))
    saved = getattr(config, "architectures", None) or ()
    return next((kind for kind in seeing if kind.__name__ in saved), seeing[0])


def find_sound_class(library: Any, spec: str, config: Any, name: str) -> Any:
    """The model class of a config that takes spectrograms as its argument `name`, or holds one.

    Raises:
        ModelError: there is no such class.
    """
    plain = class_of(library.AutoModel, config)
    if plain is not None and (sees(plain, name) or hasattr(config, "audio_config")):
        return plain
    kind = next((each for each in _classes(library, config) if sees(each, name)), None)
    if kind is None:
        raise ModelError(
            f"{spec}: model type {config.model_type!r} takes more than the spectrogram of its "
            "feature extractor; give a model of sounds, such as an Audio Spectrogram Transformer"
        )
    return kind


def saved_class(library: Any, config: Any, name: str = PIXELS) -> Any:
    """The class that the checkpoint was saved from, if it takes pixels first; None if not."""
    saved = getattr(config, "architectures", None) or ()
    kinds = (kind for kind in _classes(library, config) if kind.__name__ in saved)
    return next((kind for kind in kinds if sees(kind, name)), None)


def detecting_class(library: Any, config: Any) -> Any:
    """The class that a checkpoint was saved from, if it predicts objects from pixels; or None."""
    saved = getattr(config, "architectures", None) or ()
    autos = (getattr(library, f"AutoModelFor{ending}", None) for ending in DETECTING)
    kinds = (class_of(auto, config) for auto in autos if auto is not None)
    return next((kind for kind in kinds if kind and kind.__name__ in saved and sees(kind)), None)


def class_of(auto: Any, config: Any) -> Any:
    """The model class that an Auto class chooses for a config; None if it has none."""
    from transformers.models.auto import auto_factory  # noqa: PLC0415 — not for other sources

    choose: Any = auto_factory._get_model_class  # noqa: SLF001
    mapping = auto._model_mapping  # noqa: SLF001 — the only way without a name on the hub
    if getattr(config, "architectures", None) is None:  # as of a config that no model was saved by
        config = copy.copy(config)
        config.architectures = []
    return choose(config, mapping) if type(config) in mapping else None


def _classes(library: Any, config: Any) -> Iterator[Any]:
    """Model classes of a config, in the order of the Auto classes; backbones come last."""
    autos = library.models.auto.modeling_auto
    names = [name for name in dir(autos) if name.startswith("AutoModelFor")]
    for name in ("AutoModel", *names, "AutoBackbone"):
        auto = getattr(autos, name)
        kind = class_of(auto, config) if hasattr(auto, "_model_mapping") else None
        if kind is not None:
            yield kind
