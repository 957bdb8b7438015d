"""Wraps vision models of transformers so that they are called with pixels alone."""

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnviz.errors import ModelError
from attnviz.geometry.grid import Patch, sides
from attnviz.models import configs
from attnviz.models.class_token_names import has_class_token
from attnviz.models.clip_input import ClipInput, find_clip_input, stated_frames
from attnviz.models.predictions import OF_OBJECTS
from attnviz.models.sound_input import SoundInput

# Arguments beside pixels that a vision model may need, and that it gets.
GIVEN = ("pixel_attention_mask", "spatial_shapes")
PIXELS, VIDEOS = "pixel_values", "pixel_values_videos"
SOUNDS = ("input_values", "input_features")
"""First arguments of models of sounds."""
_PICTURES = (PIXELS, VIDEOS, "image_embeds")


class Pooled(NamedTuple):
    """The output of a model that has no class token and pools its tokens itself.

    Attributes:
        last_hidden_state: (B, tokens, features) or (B, features, h', w').
        pooler_output: (B, features).
    """

    last_hidden_state: Tensor
    pooler_output: Tensor


class Vision(nn.Module):
    """A vision model of transformers; the model itself is unchanged.

    `pools` says whether to return the pooled vector too, if there is no class token; `detects`
    whether the model's predictions of objects count, which need all weights of its head;
    `whole_output` whether its whole output is returned, for scores of places or objects. For an
    input of the attribute `shape`, (height, width), positions are not interpolated.
    """

    def __init__(self, model: nn.Module, patch: Patch, *, pools: bool = True) -> None:
        super().__init__()
        self.shape: tuple[int, int] | None = None
        self.model = model
        self.patch = patch
        self.pools = pools
        self.detects = True
        self.whole_output = False
        self._takes = set(inspect.signature(model.forward).parameters)
        self.name = VIDEOS if VIDEOS in self._takes else PIXELS
        self._has_class_token = has_class_token(model)

    def forward(self, pixels: Tensor) -> Any:
        """(B, 3, h, w) → the last hidden state, (B, tokens, features) or (B, features, h', w').

        A model that has no class token and pools its tokens itself returns `Pooled`. A model with
        its class head returns the logits, (B, classes). A model of another task, as depth, returns
        its prediction as a vector, (B, numbers); a backbone its last feature map. With
        `whole_output` it is what the model returns.
        """
        output = self.model(**self.arguments(pixels))
        if self.whole_output:
            return output
        logits, state, pooled = (
            getattr(output, name, None) for name in ("logits", "last_hidden_state", "pooler_output")
        )
        if self.pools and logits is None and pooled is not None and not self._has_class_token:
            return Pooled(output[0] if state is None else state, pooled)
        if isinstance(logits, Tensor) and logits.ndim == 2:
            return logits
        return _tokens(output) if state is None else state

    def arguments(self, pixels: Tensor) -> dict[str, Any]:
        """The keyword arguments of the model.

        They ask for interpolated positions if the model needs that. MAE, which otherwise drops
        random patches, keeps all of them in order. SigLIP 2 gets patches and the grid's shape.
        """
        if "spatial_shapes" in self._takes:
            return self._patches(pixels)
        arguments: dict[str, Any] = {self.name: pixels}
        if "interpolate_pos_encoding" in self._takes:
            arguments["interpolate_pos_encoding"] = tuple(pixels.shape[-2:]) != self.shape
        if "noise" in self._takes and hasattr(self.model.config, "mask_ratio"):
            patch = sides(self.patch)
            rows, columns = (a // b for a, b in zip(pixels.shape[2:], patch, strict=True))
            # The smallest noise is kept first, so ascending noise keeps the order.
            order = torch.arange(rows * columns, device=pixels.device, dtype=torch.float32)
            arguments["noise"] = order.expand(len(pixels), -1)
        return arguments

    def interpolates(self, shape: tuple[int, int]) -> bool:
        """Whether interpolated positions of an input of its own (height, width) stay as they are.

        A model of transformers may take its grid for a square.
        """
        if "interpolate_pos_encoding" not in self._takes:
            return True
        pixels = torch.zeros(1, getattr(self.model.config, "num_channels", 3), *shape)
        arguments = self.arguments(pixels)
        try:
            with torch.no_grad():
                adapted, plain = (
                    self.model(**{**arguments, "interpolate_pos_encoding": interpolated})[0]
                    for interpolated in (True, False)
                )
        except Exception:  # it cannot lay its positions into a square
            return False
        return torch.equal(adapted, plain)

    def _patches(self, pixels: Tensor) -> dict[str, Any]:
        """(B, 3, h, w) → (B, rows·columns, patch·patch·3), row by row, channels last."""
        side = max(sides(self.patch))  # squares
        rows, columns = pixels.shape[2] // side, pixels.shape[3] // side
        patches = F.unfold(pixels, side, stride=side)  # (B, 3·side·side, rows·columns)
        patches = patches.reshape(len(pixels), 3, side * side, -1).permute(0, 3, 2, 1).flatten(2)
        shape = torch.tensor([[rows, columns]] * len(pixels), device=pixels.device)
        everything = torch.ones(patches.shape[:2], device=pixels.device, dtype=torch.long)
        return {
            "pixel_values": patches,
            "pixel_attention_mask": everything,
            "spatial_shapes": shape,
        }


def inside(module: nn.Module) -> nn.Module:
    """The model of transformers in a `Vision`; any other module itself."""
    return module.model if isinstance(module, Vision) else module


def _tokens(output: Any) -> Tensor:
    """The last feature map or the first tokens of an output, else its first tensor as a vector.

    Predictions of objects are not looked at.
    """
    for name, value in output.items():
        of_tokens = any(part in name for part in ("hidden_state", "feature_map", "embeds"))
        if name in OF_OBJECTS:
            continue
        tensors = [t for t in (value if isinstance(value, tuple | list) else [value])
                   if isinstance(t, Tensor) and t.is_floating_point()]  # fmt: skip
        if tensors:
            return tensors[-1] if of_tokens else tensors[0].flatten(1)
    raise ModelError("its output has no tensor of floats; give a model that predicts from pixels")


class Hearing(Vision):
    """A model of transformers that takes spectrograms; its input is their picture."""

    def __init__(self, model: nn.Module, patch: Patch, sound: SoundInput) -> None:
        super().__init__(model, patch)
        self.sound = sound

    def arguments(self, pixels: Tensor) -> dict[str, Any]:
        """(B, 1, rows, columns), highest frequency first → the keyword arguments of the model."""
        sound = self.sound
        features = (pixels.flip(2) if sound.rising else pixels)[:, 0]
        features = features.transpose(1, 2) if sound.time_first else features
        for _ in range(sound.leading):
            features = features.unsqueeze(1)
        return {sound.name: features}


class Embedding(Vision):
    """The image encoder of a model of pictures and texts, up to the embedding space of both."""

    def __init__(self, whole: Any, vision: nn.Module, patch: Patch) -> None:
        super().__init__(vision, patch)
        self.whole = whole

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, h, w) → (B, features) float32, of length 1; the text tower does not run.

        It includes the projection, or the pool, that the model compares texts with.
        """
        return unit(self.whole.get_image_features(**self.arguments(pixels)))


def unit(features: Any) -> Tensor:
    """Features that a model of transformers returns, scaled to length 1, (B, features) float32."""
    pooled: Tensor = getattr(features, "pooler_output", features)
    return F.normalize(pooled.float(), dim=-1)


def find_vision(spec: str, model: nn.Module) -> nn.Module:
    """The part of a model that takes pixels: all of it, or the image encoder beside a text one.

    Raises:
        ModelError: there is no such part, or it takes more than pixels.
    """
    config: Any = model.config
    part: nn.Module | None = _encoder(model) or model
    if hasattr(config, "vision_config") or not takes_pixels(part):
        parts = (part for part in model.modules() if part is not model)
        part = next((part for part in parts if sees(part)), None)
    if part is None:
        raise ModelError(no_vision(spec, config, model))
    parameters = inspect.signature(part.forward).parameters.values()
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.name not in ("pixel_values", VIDEOS, *GIVEN)
    ]
    if needed:
        raise ModelError(f"{spec}: {needs_more(config, ' and '.join(needed))}")
    return part


def find_hearing(spec: str, model: nn.Module, name: str) -> nn.Module:
    """The part of a model that takes spectrograms as its argument `name`: all of it, or an encoder.

    Raises:
        ModelError: there is no such part.
    """
    parts = [_encoder(model, name), *model.modules()]
    part = next((part for part in parts if part is not None and sees(part, name)), None)
    if part is None:
        raise ModelError(f"{spec}: none of its parts takes {name} alone; give an encoder of sounds")
    return part


def _encoder(model: Any, name: str = PIXELS) -> nn.Module | None:
    """The encoder of a model whose decoder says words; None for other models."""
    if not (sees(model, name) and getattr(model.config, "is_encoder_decoder", False)):
        return None
    encoder = model.get_encoder()
    return encoder if encoder is not model and sees(encoder, name) else None


def needs_more(config: Any, needs: str) -> str:
    """The error text for a model that needs inputs beside pixels."""
    return (
        f"model type {config.model_type!r} takes more than a picture ({needs}); give a model of "
        "single pictures (see `attnviz models`), or a module that fills in the rest, "
        "py:FILE.py:FACTORY"
    )


def no_vision(spec: str, config: Any, model: Any) -> str:
    """The error text for a model, or a model class, that takes no pixels as its first input."""
    names = [] if model is None else [n for n in parameters_of(model) if n in _PICTURES]
    if names or getattr(model, "main_input_name", "") == "pixel_values":
        return f"{spec}: {needs_more(config, parameters_of(model)[0])}"
    if model is not None and parameters_of(model)[:1] in ([name] for name in SOUNDS):
        return (
            f"{spec}: hears sounds, and no preprocessor_config.json with its sampling rate is "
            "there; save its feature extractor beside it"
        )
    return (
        f"{spec}: model type {config.model_type!r} takes no pictures; give a vision model, such "
        "as dinov2-small (see `attnviz models`)"
    )


def parameters_of(module: Any) -> list[str]:
    """Names of the arguments of a module, or a module class."""
    return [name for name in inspect.signature(module.forward).parameters if name != "self"]


def takes_pixels(module: Any) -> bool:
    """Whether a module, or a module class, of transformers runs on pixels alone: by their name."""
    if sees(module):
        return True
    parameters = inspect.signature(module.forward).parameters.values()
    names = [each.name for each in parameters if each.name != "self"]
    required = [each for each in parameters if each.default is each.empty and each.name in names
                and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]  # fmt: skip
    return "pixel_values" in names and "input_ids" not in names and not required


def sees(module: Any, name: str = PIXELS) -> bool:
    """Whether a module, or a module class, of transformers takes pixels as its first input.

    `name` is that of another input, as of a spectrogram.
    """
    if not hasattr(module, "main_input_name"):
        return False
    names = (PIXELS, VIDEOS) if name == PIXELS else (name,)
    return parameters_of(module)[:1] in ([each] for each in names)


def clip_input_of(spec: str, module: Vision, config: Any) -> ClipInput | None:
    """How a model takes clips; None if it takes pictures.

    A model of several kinds of input, as Perceiver, may state frames and take pictures.

    Raises:
        ModelError: it takes none of the clips that were tried.
    """
    stated = stated_frames(config)
    if stated is None and module.name != VIDEOS:
        return None
    shape = configs.own_shape(config) or (configs.own_size({}, config),) * 2
    found = find_clip_input(module, shape, () if stated is None else (stated,))
    if found is None and module.name == VIDEOS:
        raise ModelError(
            f"{spec}: it takes no clip of {stated or 'a usual number of'} frames of {shape[1]}x"
            f"{shape[0]} pixels; state num_frames and image_size in its config.json"
        )
    return found
