"""`hf:ORG/NAME[@REV]` and checkpoint folders: vision transformers of the library transformers."""

import inspect
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attnviz.errors import AttnvizError, MissingExtraError, ModelError, UsageError
from attnviz.models import Request
from attnviz.models.devices import DTYPES, find_device
from attnviz.models.model import Model
from attnviz.models.weights import check_state, read_state

HALF = (0.5, 0.5, 0.5)


class Vision(nn.Module):
    """A vision model of transformers, called with pixels alone; the model itself is unchanged."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        takes = inspect.signature(model.forward).parameters
        # Positions for another shape than the model was trained on, where they must be asked for.
        self._arguments = {name: True for name in ("interpolate_pos_encoding",) if name in takes}

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, h, w) → the last hidden state, (B, tokens, features)."""
        output = self.model(pixel_values=pixels, **self._arguments)
        state: Tensor = output.last_hidden_state
        return state


def load(request: Request) -> Model:
    """Load a vision transformer from a checkpoint folder or the hub; see `attnviz.load_model`."""
    _check_options(request)
    name, revision = _name(request.spec)
    config = _tried(request.spec, lambda: _auto("AutoConfig", name, revision=revision))
    device, dtype = find_device(request.device), DTYPES[request.dtype]
    whole = _tried(request.spec, lambda: _model(request, name, revision, config))
    model = getattr(whole, "vision_model", whole)
    vision = getattr(config, "vision_config", config)
    patch = _patch(request.spec, vision)
    if request.weights is not None:
        state = read_state(request.weights)
        check_state(model, state, request.weights)
        model.load_state_dict(state)
    processing = _processing(name, revision)
    prefix, class_token = _prefix(model, vision)
    return Model(
        spec=request.spec,
        weights=request.weights or ("random" if request.random_weights else "pretrained"),
        module=Vision(model).to(device, dtype).eval().requires_grad_(False),
        layers=vision.num_hidden_layers,
        heads=vision.num_attention_heads,
        features=vision.hidden_size,
        tokens="patches",
        patch=patch,
        size=request.size or _size(processing, vision),
        prefix=prefix,
        class_token=class_token,
        mean=_triple(processing.get("image_mean")),
        std=_triple(processing.get("image_std")),
        resample=int(processing.get("resample") or 3),
        seed=request.seed if request.random_weights else None,
        # q, k, v and the output of every layer are kept; a dozen more are under way.
        token_bytes=4 * vision.hidden_size * (4 * vision.num_hidden_layers + 16),
        device=device,
        dtype=dtype,
    )


def _check_options(request: Request) -> None:
    """Options that only the model `random` takes are not ignored."""
    for option, value in (("--patch", request.patch), ("--features", request.features)):
        if value is not None:
            raise UsageError(f"{option} {value} is for the model random; leave it out")
    if request.tokens != "patches":
        raise UsageError("--tokens pixels is for the model random; leave it out")


def _name(spec: str) -> tuple[str, str | None]:
    """`hf:ORG/NAME@REV` → name and revision; a folder → itself."""
    if not spec.startswith("hf:"):
        return spec, None
    name, _, revision = spec.removeprefix("hf:").partition("@")
    if not name:
        raise UsageError(f"--model {spec!r} names nothing; give hf:ORG/NAME")
    return name, revision or None


def _auto(kind: str, name: str, **arguments: Any) -> Any:
    """`AutoConfig` or `AutoModel`, from a folder or the hub; code of the checkpoint never runs."""
    try:
        import transformers  # noqa: PLC0415 — the optional part attnviz[hf]
    except ImportError as error:
        raise MissingExtraError(f"{name}: loading it", "hf") from error
    said: Any = transformers.logging
    said.set_verbosity_error()
    if not sys.stderr.isatty():
        said.disable_progress_bar()
    return getattr(transformers, kind).from_pretrained(name, trust_remote_code=False, **arguments)


def _model(request: Request, name: str, revision: str | None, config: Any) -> nn.Module:
    """The model with its weights, or the same architecture with random ones."""
    if not request.random_weights:
        model: nn.Module = _auto("AutoModel", name, revision=revision, config=config)
        return model
    import transformers  # noqa: PLC0415 — `config` came from there

    build: Any = transformers.AutoModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        fresh: nn.Module = build.from_config(config)
    return fresh


def _tried(spec: str, do: Any) -> Any:
    """What `do` gives; its errors in a line, with what to type next."""
    try:
        return do()
    except AttnvizError:
        raise
    except Exception as error:  # of many kinds: hub, json, safetensors, unknown model types …
        reason = " ".join(str(error).split())
        if Path(spec).is_dir():
            advice = "give a folder that transformers' save_pretrained wrote"
        else:
            advice = "check the name, the network, or `hf auth login` for a gated model"
        raise ModelError(f"{spec}: cannot be loaded ({reason[:200]}); {advice}") from error


def _patch(spec: str, vision: Any) -> int:
    patch = getattr(vision, "patch_size", None)
    sides = set(patch) if isinstance(patch, list | tuple) else {patch}
    counts = (getattr(vision, f"num_{what}", None) for what in ("hidden_layers", "attention_heads"))
    known = all(isinstance(count, int) for count in counts)  # pyramids have a list, a stage each
    side = sides.pop()
    if sides or not isinstance(side, int) or not known:
        raise ModelError(
            f"{spec}: model type {vision.model_type!r} has no single grid of square patches; "
            "attnviz reads plain vision transformers (ViT, DeiT, DINOv2, DINOv3, CLIP, SigLIP …)"
        )
    return side


def _prefix(model: nn.Module, vision: Any) -> tuple[int, bool]:
    """Number of tokens before the grid, and whether the first is a class token."""
    names = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    class_token = bool(names & {"cls_token", "class_embedding"})
    registers = int(getattr(vision, "num_register_tokens", 0) or 0)
    return class_token + ("distillation_token" in names) + registers, class_token


def _processing(name: str, revision: str | None) -> dict[str, Any]:
    """What preprocessor_config.json says; empty where there is none."""
    from transformers.utils.hub import cached_file  # noqa: PLC0415

    found = cached_file(
        name,
        "preprocessor_config.json",
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
    )
    if found is None:
        return {}
    said: dict[str, Any] = json.loads(Path(found).read_text(encoding="utf-8"))
    return said


def _size(processing: dict[str, Any], vision: Any) -> int:
    """The side of a square of as many pixels as the model's own input has."""
    said = processing.get("crop_size") or processing.get("size") or vision.image_size
    sides = list(said.values()) if isinstance(said, dict) else np.atleast_1d(said).tolist()
    return round(math.prod(map(float, sides)) ** (1 / len(sides)))


def _triple(values: Any) -> tuple[float, float, float]:
    if not values:
        return HALF
    red, green, blue = (float(value) for value in values)
    return red, green, blue
