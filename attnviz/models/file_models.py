"""Loads a checkpoint file alone: a plain vision transformer is read off its tensors."""

import math
import re
from dataclasses import replace

import torch

from attnviz.errors import ModelError, UsageError
from attnviz.geometry.grid import patch_of
from attnviz.models.fitting import misfit, size
from attnviz.models.layouts import Translation, translate
from attnviz.models.model import Model, token_bytes
from attnviz.models.model_request import ModelRequest, no_class_head, no_text_tower, refuse_options
from attnviz.models.plain_vit import Design, PlainViT
from attnviz.models.preprocessing import STATISTICS
from attnviz.models.state_dicts import StateDict, read_state_dict
from attnviz.models.targets import labels_of
from attnviz.models.vit_shapes import (
    BESIDE,
    OWN_MODEL,
    check_numbers,
    check_order,
    check_settings,
    read_design,
)
from attnviz.models.weights import DTYPES, few, find_device, initial_state

_STATED_LABELS = ("id2label", "class_names", "classes", "labels", "label_names")
# Architectures that are none of ours: a pattern of names, the title, and what loads the file.
_OTHERS = (
    (r"layers\.\d+\.blocks\.\d+\..*relative_position_bias_table", "Swin",
     "-m timm:swin_tiny_patch4_window7_224"),
    (r"(relative_position_bias_table|attn\.q_bias|\.lambda_1|rel_pos_bias)", "BEiT or alike",
     "-m timm:beit_base_patch16_224"),
    (r"(rope|storage_tokens|periods)", "one of rotary positions, as DINOv3 and EVA-02",
     "-m timm:vit_small_patch16_dinov3"),
    (r"rel_pos_[hw]$", "SAM, or one of its windows", "-m timm:samvit_base_patch16"),
    (r"(attn_pool\.|head\.attention\.in_proj)", "SigLIP", "-m timm:vit_base_patch16_siglip_224"),
    (r"(^|\.)q_linear\.weight$", "a single attention layer", "-m random"),
    (r"\.attention\.q_linear\.weight$", "attnviz's own", "-m tiny"),
    (r"(^|\.)(layer1\.0\.conv1|stages\.0\.blocks\.0\.conv_dw|features\.0\.0)\.weight$",
     "convolutional", "-m timm:resnet50"),
)  # fmt: skip


def load(request: ModelRequest) -> Model:
    """Load a plain vision transformer from its file alone; see `attnviz.load_model`."""
    path = request.spec.removeprefix("file:")
    refuse_options(request)
    if request.weights is not None:
        raise UsageError(
            f"--weights {request.weights}: {path} is a file of weights itself; give one of them"
        )
    if request.head == "text":
        raise no_text_tower(path, "the image encoder alone is read from a file")
    for name, value in (("input", request.input), ("output", request.output)):
        if value is not None:
            raise UsageError(f"--{name} {value} is for your own module, by py:; leave it out")
    check_settings(request.settings)
    found = read_state_dict(path, request.key)
    reading = _reading(path, found)
    check_numbers(path, reading)
    design, notes = read_design(path, found, reading, request.settings)
    module = _built(path, reading, design, seed=request.seed if request.random_weights else None)
    model = _described(request, found, reading, module)
    if request.head == "class" and model.head != "class":
        raise no_class_head(path, "the file has none")
    device, dtype = find_device(request.device), DTYPES[request.dtype]
    return replace(
        model,
        module=module.to(device, dtype).eval().requires_grad_(False),
        notes=(*found.notes, *notes, *_notes(reading, module)),
        device=device,
        dtype=dtype,
    )


def _built(path: str, reading: Translation, design: Design, *, seed: int | None) -> PlainViT:
    """The model with the file's weights, or with weights drawn from a seed.

    Raises:
        ModelError: the file has parts that a plain vision transformer has not, or lacks some.
    """
    state = reading.state
    with torch.device("meta"):
        module = PlainViT(state, design)
    needed = module.state_dict()
    missing = [f"{name} is missing" for name in needed if name not in state]
    wrong = [
        f"{reading.original.get(name, name)} is {size(state[name])} where {size(tensor)} is needed"
        for name, tensor in needed.items()
        if name in state and state[name].shape != tensor.shape
    ]
    alien = [
        f"{reading.original.get(name, name)} has no place in a plain vision transformer"
        for name in state
        if name not in needed and not BESIDE.match(name)
    ]
    if missing or wrong or alien:
        count = len(needed) - len(missing) - len(wrong)
        advice = f"{OWN_MODEL} --weights {path}"
        raise misfit(path, count, len(needed), (missing, wrong, alien), advice)
    check_order(path, state)
    _check_shapes(path, module)
    used = {name: state[name] for name in needed} if seed is None else initial_state(module, seed)
    module.load_state_dict({n: t.float().clone() for n, t in used.items()}, assign=True)
    return module


def _notes(reading: Translation, module: PlainViT) -> list[str]:
    """Sentences for the user on how a file was read."""
    title, statistics = reading.layout.title, _statistics(reading)
    notes = [f"read by the names of {title}; mean and std of {statistics} (else --mean, --std)"]
    needed = module.state_dict()
    left = [reading.original[name] for name in reading.state if name not in needed]
    if left or reading.outside:
        notes.append(f"in the file, and not used: {few([*left, *reading.outside])}")
    return notes


def _reading(path: str, found: StateDict) -> Translation:
    """The one reading of a file as a plain vision transformer.

    Raises:
        ModelError: it holds another architecture, or several models.
    """
    for pattern, title, spec in _OTHERS:
        name = next((n for n in found.tensors if re.search(pattern, n)), None)
        if name is not None:
            raise ModelError(
                f"{path}: {title}, not a plain vision transformer ({name}); name its model, such "
                f"as {spec} --weights {path}, or -m FOLDER of its config"
            )
    try:
        readings = translate(found.tensors)
    except (ValueError, KeyError, RuntimeError, StopIteration) as error:
        raise ModelError(
            f"{path}: no shapes of a plain vision transformer; give {OWN_MODEL} --weights {path}"
        ) from error
    if not readings:
        names = few(list(found.tensors))
        raise ModelError(
            f"{path}: its names ({names}) are of no vision transformer that attnviz can build; "
            f"give {OWN_MODEL} --weights {path}"
        )
    if len(readings) > 1:
        names_of = [next(iter(each.original.values())) for each in readings[:2]]
        keys = [name.partition(".")[0] for name in names_of]
        raise ModelError(
            f"{path}: holds several models ({', '.join(keys)}); choose one: --key {keys[0]}"
        )
    return readings[0]


def _check_shapes(path: str, module: PlainViT) -> None:
    """Refuse tensors whose shapes do not belong together: the model runs without numbers."""
    embedding, (rows, columns) = module.patch_embed.proj, module.design.grid
    side = embedding.kernel_size[0]
    try:
        with torch.device("meta"), torch.no_grad():
            module(torch.empty(1, embedding.in_channels, rows * side, columns * side))
    except (RuntimeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{path}: its tensors do not fit together ({' '.join(str(error).split())[:120]}); give "
            f"{OWN_MODEL} --weights {path}"
        ) from error


def _described(
    request: ModelRequest, found: StateDict, reading: Translation, module: PlainViT
) -> Model:
    """The model, described by its shapes."""
    state, facts = reading.state, found.facts
    embedding = module.patch_embed.proj
    height, wide = embedding.kernel_size
    width, layers = embedding.out_channels, len(module.blocks)
    projects = "norm_pre.weight" in state and "head.bias" not in state
    classes = state["head.weight"].shape[0] if "head.weight" in state and not projects else 0
    name = _statistics(reading)
    mean, std = STATISTICS[name]
    labels = next((facts[key] for key in _STATED_LABELS if key in facts), None)
    rows, columns = module.design.grid
    shape = rows * height, columns * wide
    side = round(math.sqrt(math.prod(shape)))
    return Model(
        spec=request.spec,
        weights="random" if request.random_weights else "pretrained",
        module=module,
        layers=layers,
        heads=module.design.heads,
        features=width,
        tokens="patches",
        patch=patch_of(height, wide),
        size=request.size or side,
        prefix=module.prefix,
        class_token="cls_token" in state,
        position_shape=shape,
        plain=True,
        channels=embedding.in_channels,
        mean=mean,
        std=std,
        seed=request.seed if request.random_weights else None,
        token_bytes=token_bytes(layers, width),
        head="class" if classes else "none",
        labels=labels_of(labels, classes) if classes else None,
        loaded=None if request.random_weights else 1.0,
    )


def _statistics(reading: Translation) -> str:
    """The name of mean and standard deviation that models of such a layout are trained with."""
    state = reading.state
    if "norm_pre.weight" in state:
        return "clip"
    known = ("dist_token", "reg_token", "blocks.0.ls1.gamma")
    if any(name in state for name in known) or any("decoder" in n for n in reading.outside):
        return "imagenet"
    return reading.layout.statistics
