"""Loads a checkpoint file alone: the architecture of a plain vision transformer is in its shapes."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attnviz.errors import ModelError, UsageError
from attnviz.models.fitting import misfit, size
from attnviz.models.layouts import Translation, translate
from attnviz.models.model import (
    Model,
    ModelRequest,
    no_class_head,
    no_text_tower,
    refuse_options,
    token_bytes,
)
from attnviz.models.plain_vit import PREFIX, Design, PlainViT
from attnviz.models.preprocessing import STATISTICS
from attnviz.models.state_dicts import StateDict, read_state_dict
from attnviz.models.targets import labels_of
from attnviz.models.weights import DTYPES, FLOATS, few, find_device, initial_state, is_finite

HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
"""Number of heads of published widths that are not 64 for each head."""
_STATED_HEADS = ("num_heads", "num_attention_heads", "n_heads", "nhead", "heads", "vision_heads")
_STATED_LABELS = ("id2label", "class_names", "classes", "labels", "label_names")
_SETTINGS = {"heads": int, "act": str, "eps": float, "pool": str}
_CHOICES = {"act": ("gelu", "quick_gelu", "relu", "silu"), "pool": ("token", "mean", "both")}
_BESIDE = re.compile(
    r"^((.*\.)?mask_token$|decoder|pooler|.*num_batches_tracked|.*position_ids|input_resolution|"
    r"context_length|vocab_size|logit_scale|dino_head|ibot_head|contrastive_head|head\.(mlp|last_layer))"
)
"""Names inside of a transformer that no map needs: tokens and decoders of its training."""
# Architectures that are none of ours: a pattern of names, the title, and what loads the file.
_OTHERS = (
    (r"layers\.\d+\.blocks\.\d+\..*relative_position_bias_table", "Swin",
     "-m timm:swin_tiny_patch4_window7_224"),
    (r"(relative_position_bias_table|attn\.q_bias|\.lambda_1|rel_pos_bias)", "BEiT, or one of its kind",
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
_NAME = "its library's model, such as -m timm:NAME, -m FOLDER or -m py:FILE.py:FACTORY"


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
    settings = _settings(request.settings)
    found = read_state_dict(path, request.key)
    reading = _reading(path, found)
    state = reading.state
    _check_numbers(path, reading)
    design, notes = _design(path, found, reading, settings)
    with torch.device("meta"):
        module = PlainViT(state, design)
    alien = [name for name in state if name not in module.state_dict() and not _BESIDE.match(name)]
    missing = [name for name in module.state_dict() if name not in state]
    if alien or missing:
        raise _unknown(path, reading, alien, missing, module)
    _check_order(path, state)
    _check_shapes(path, module)
    used = {name: tensor for name, tensor in state.items() if name in module.state_dict()}
    if request.random_weights:
        used = initial_state(module, request.seed)
    expected = module.state_dict()
    if wrong := [n for n, t in used.items() if t.shape != expected[n].shape]:
        name = reading.original[wrong[0]]
        raise misfit(path, len(expected) - len(wrong), len(expected), ([
            f"{name} is {size(used[wrong[0]])} where {size(expected[wrong[0]])} is needed"],),
            f"{_NAME} --weights {path}")  # fmt: skip
    module.load_state_dict({n: t.float().clone() for n, t in used.items()}, assign=True)
    name = _statistics(reading)
    notes.append(
        f"read as a plain vision transformer in the names of {reading.layout.title}; pixels by the "
        f"mean and deviation of {name} (--mean and --std set others)"
    )
    left = [reading.original[n] for n in state if n not in used] + list(reading.outside)
    if left:
        notes.append(f"in the file, and not used: {few(left)}")
    model = _described(request, found, reading, module)
    if request.head == "class" and model.head != "class":
        raise no_class_head(path, "the file has none")
    device, dtype = find_device(request.device), DTYPES[request.dtype]
    return replace(
        model,
        module=module.to(device, dtype).eval().requires_grad_(False),
        notes=(*found.notes, *notes),
        device=device,
        dtype=dtype,
    )


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `--set` that a file takes.

    Raises:
        UsageError: there is no such setting, or no such value.
    """
    for name, value in given.items():
        kind, choices = _SETTINGS.get(name), _CHOICES.get(name)
        if kind is None:
            raise UsageError(
                f"--set {name}: a checkpoint file takes {', '.join(_SETTINGS)}; leave it out"
            )
        if choices is not None and value not in choices:
            raise UsageError(f"--set {name}={value}: choose from {', '.join(choices)}")
        if choices is None and (not isinstance(value, int | float) or value <= 0):
            raise UsageError(f"--set {name}={value}: give a number over 0")
    return dict(given)


def _reading(path: str, found: StateDict) -> Translation:
    """The one reading of a file as a plain vision transformer.

    Raises:
        ModelError: it holds another architecture, or several models.
    """
    for pattern, title, spec in _OTHERS:
        name = next((n for n in found.tensors if re.search(pattern, n)), None)
        if name is not None:
            raise ModelError(
                f"{path}: {title}, not a plain vision transformer ({name}); name its model, such as "
                f"{spec} --weights {path}, or -m FOLDER of its config"
            )
    try:
        readings = translate(found.tensors)
    except (ValueError, KeyError, RuntimeError, StopIteration) as error:
        raise ModelError(
            f"{path}: not the shapes of a plain vision transformer; give {_NAME} --weights {path}"
        ) from error
    if not readings:
        names = few(list(found.tensors))
        raise ModelError(
            f"{path}: its names ({names}) are of no vision transformer that attnviz can build; "
            f"give {_NAME} --weights {path}"
        )
    if len(readings) > 1:
        names_of = [next(iter(each.original.values())) for each in readings[:2]]
        keys = [name.partition(".")[0] for name in names_of]
        raise ModelError(
            f"{path}: holds several models ({', '.join(keys)}); choose one: --key {keys[0]}"
        )
    return readings[0]


def _design(
    path: str, found: StateDict, reading: Translation, settings: Mapping[str, Any]
) -> tuple[Design, list[str]]:
    """What shapes do not tell, from settings, hyper-parameters and layout; and notes about it."""
    state, layout, facts = reading.state, reading.layout, found.facts
    width = reading.state["patch_embed.proj.weight"].shape[0]
    heads, notes = _heads(path, reading, facts, settings, width)
    scaled = any(name.endswith(".ls1.gamma") for name in state)
    eps = float(
        settings.get("eps") or facts.get("layer_norm_eps") or _epsilon(reading, scaled=scaled)
    )
    act = settings.get("act")
    if act is None:
        act = layout.act
        stated = facts.get("hidden_act", facts.get("act_layer"))
        if isinstance(stated, str) and stated in _CHOICES["act"]:
            act = stated
        elif "norm_pre.weight" in state:
            openai = {"input_resolution", "context_length"} & {
                n.rpartition(".")[2] for n in found.tensors
            }
            act = "quick_gelu" if openai else act
            other = "gelu" if act == "quick_gelu" else "quick_gelu"
            notes.append(
                f"activation {act} is assumed; --set act={other} takes the other of CLIP's"
            )
    antialias = layout.antialias or "reg_token" in state
    grid = _grid(path, state)
    design = Design(heads, grid, act, eps, _pool(state, facts, settings), antialias)
    return design, notes


def _heads(
    path: str,
    reading: Translation,
    facts: Mapping[str, Any],
    settings: Mapping[str, Any],
    width: int,
) -> tuple[int, list[str]]:
    """The number of heads, and a note if it is assumed.

    Raises:
        UsageError: it does not divide the width of the attention.
        ModelError: it is not stated, and the width is no multiple of 64.
    """
    qkv = reading.state.get("blocks.0.attn.qkv.weight")
    inner = width if qkv is None else qkv.shape[0] // 3
    stated = next((facts[name] for name in _STATED_HEADS if isinstance(facts.get(name), int)), None)
    asked = settings.get("heads")
    if asked is not None and (not isinstance(asked, int) or inner % asked):
        raise UsageError(f"--set heads={asked}: {path} has {inner} features, which {asked} heads "
                         "do not divide")  # fmt: skip
    if asked is not None or (stated is not None and stated > 0 and inner % stated == 0):
        return asked or int(stated or 1), []
    heads = HEADS.get(inner, inner // 64)
    if not heads or (inner % 64 and inner not in HEADS):
        raise ModelError(
            f"{path}: does not say how many heads its {inner} features have; give --set heads=N"
        )
    return heads, [
        f"{heads} heads are assumed, {inner // heads} features each: the file does not say; "
        "--set heads=N sets them"
    ]


def _epsilon(reading: Translation, *, scaled: bool) -> float:
    """Epsilon of norms: CLIP's are 1e-5 in every library, DINOv2's 1e-6."""
    if "norm_pre.weight" in reading.state:
        return 1e-5
    return 1e-6 if scaled else reading.layout.eps


def _grid(path: str, state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Rows and columns that positions are of: a square beside some of the prefix tokens.

    Raises:
        ModelError: there are no positions, or they are of no square.
    """
    table = state.get("pos_embed")
    if table is None or table.ndim != 3:
        raise ModelError(
            f"{path}: has no table of positions, so its places come from code; give {_NAME} "
            f"--weights {path}"
        )
    counts = [state[name].shape[1] if name in state else 0 for name in PREFIX]
    for prefix in {0: 0, counts[0] + counts[1]: 0, sum(counts): 0}:
        side = math.isqrt(max(table.shape[1] - prefix, 0))
        if side and side * side + prefix == table.shape[1]:
            return side, side
    raise ModelError(
        f"{path}: its {table.shape[1]} positions are of no square grid; give {_NAME} --weights {path}"
    )


def _pool(
    state: Mapping[str, Tensor], facts: Mapping[str, Any], settings: Mapping[str, Any]
) -> Any:
    """What the class head gets."""
    if "pool" in settings:
        return settings["pool"]
    width = state["patch_embed.proj.weight"].shape[0]
    if "head.weight" in state and state["head.weight"].shape[-1] == 2 * width:
        return "both"
    stated = facts.get("global_pool", facts.get("pool"))
    if "fc_norm.weight" in state and "norm.weight" not in state:
        return "mean"
    if "cls_token" not in state or stated in ("avg", "mean", True):
        return "mean"
    return "token"


def _check_numbers(path: str, reading: Translation) -> None:
    """Refuse weights that are no dense, finite floats, and patches that are no squares."""
    state = reading.state
    for name, tensor in state.items():
        if _BESIDE.match(name):
            continue
        if tensor.is_meta or tensor.layout != torch.strided or tensor.dtype not in FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"{path}: {reading.original.get(name, name)} is {kind}, where dense floats are "
                "needed; give the checkpoint as it was trained"
            )
        if not is_finite(tensor.float()):
            raise ModelError(
                f"{path}: {reading.original.get(name, name)} holds NaN or infinity; give a "
                "checkpoint of finite numbers"
            )
    sides = state["patch_embed.proj.weight"].shape
    if len(sides) != 4 or sides[2] != sides[3]:
        raise ModelError(
            f"{path}: its patches are {size(state['patch_embed.proj.weight'])}, no squares; give "
            f"{_NAME} --weights {path}"
        )


def _unknown(
    path: str, reading: Translation, alien: list[str], missing: list[str], module: PlainViT
) -> ModelError:
    """The error for names that a plain vision transformer does not have, or needs."""
    original = [reading.original.get(name, name) for name in alien]
    count = len(module.state_dict())
    return misfit(
        path,
        count - len(missing),
        count,
        ([f"{name} is missing" for name in missing],
         [f"{name} has no place in a plain vision transformer" for name in original]),
        f"{_NAME} --weights {path}",
    )  # fmt: skip


def _check_order(path: str, state: Mapping[str, Tensor]) -> None:
    """Refuse what may have its norms behind its layers: a mean of the grid, and no bias of q, k, v."""
    if (
        "cls_token" not in state
        and "blocks.0.attn.qkv.bias" not in state
        and "fc_norm.weight" in state
    ):
        raise ModelError(
            f"{path}: its norms may stand behind its layers, as in timm's vit_*_rpn_*, which no "
            f"shape tells; name its model: -m timm:NAME --weights {path}"
        )


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
            f"{_NAME} --weights {path}"
        ) from error


def _described(
    request: ModelRequest, found: StateDict, reading: Translation, module: PlainViT
) -> Model:
    """The model, described by its shapes."""
    state, facts = reading.state, found.facts
    embedding = module.patch_embed.proj
    patch, width, layers = int(embedding.kernel_size[0]), embedding.out_channels, len(module.blocks)
    projects = "norm_pre.weight" in state and "head.bias" not in state
    classes = state["head.weight"].shape[0] if "head.weight" in state and not projects else 0
    name = _statistics(reading)
    mean, std = STATISTICS[name]
    labels = next((facts[key] for key in _STATED_LABELS if key in facts), None)
    side = module.design.grid[0] * patch
    return Model(
        spec=request.spec,
        weights="random" if request.random_weights else "pretrained",
        module=module,
        layers=layers,
        heads=module.design.heads,
        features=width,
        tokens="patches",
        patch=patch,
        size=request.size or side,
        prefix=module.prefix,
        class_token="cls_token" in state,
        position_shape=(side, side),
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
