"""What a plain vision transformer's tensors tell of its design, and what has to be asked."""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attnviz.errors import ModelError, UsageError
from attnviz.models.fitting import size
from attnviz.models.layouts import Translation
from attnviz.models.plain_vit import PREFIX, Design
from attnviz.models.state_dicts import StateDict
from attnviz.models.weights import FLOATS, is_finite

HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
"""Number of heads of published widths that are not 64 for each head."""
_STATED_HEADS = ("num_heads", "num_attention_heads", "n_heads", "nhead", "heads", "vision_heads")
SETTINGS = ("heads", "act", "eps", "pool")
"""Names of `--set` that a file takes."""
_CHOICES = {"act": ("gelu", "quick_gelu", "relu", "silu"), "pool": ("token", "mean", "both")}
BESIDE = re.compile(
    r"^((.*\.)?mask_token$|decoder|pooler|.*num_batches_tracked|.*position_ids|input_resolution|"
    r"context_length|vocab_size|logit_scale|dino_head|ibot_head|contrastive_head|"
    r"head\.(mlp|last_layer))"
)
"""Names inside of a transformer that no map needs: tokens and decoders of its training."""
OWN_MODEL = "its library's model, such as -m timm:NAME, -m FOLDER or -m py:FILE.py:FACTORY"


def check_settings(given: Mapping[str, Any]) -> None:
    """Check the settings of `--set` that a file takes.

    Raises:
        UsageError: there is no such setting, or no such value.
    """
    for name, value in given.items():
        choices = _CHOICES.get(name)
        if name not in SETTINGS:
            raise UsageError(
                f"--set {name}: a checkpoint file takes {', '.join(SETTINGS)}; leave it out"
            )
        if choices is not None and value not in choices:
            raise UsageError(f"--set {name}={value}: choose from {', '.join(choices)}")
        if choices is None and (not isinstance(value, int | float) or value <= 0):
            raise UsageError(f"--set {name}={value}: give a number over 0")


def read_design(
    path: str, found: StateDict, reading: Translation, settings: Mapping[str, Any]
) -> tuple[Design, list[str]]:
    """What shapes do not tell, from settings, hyper-parameters and layout; and notes about it."""
    state, layout, facts = reading.state, reading.layout, found.facts
    heads, notes = _heads(path, reading, facts, settings)
    act, assumed = _activation(reading, found, settings)
    scaled = any(name.endswith(".ls1.gamma") for name in state)
    eps = settings.get("eps") or facts.get("layer_norm_eps") or _epsilon(reading, scaled=scaled)
    antialias = layout.antialias or "reg_token" in state
    pool = _pool(state, facts, settings)
    design = Design(heads, _grid(path, state), act, float(eps), pool, antialias)
    return design, [*notes, *assumed]


def _activation(
    reading: Translation, found: StateDict, settings: Mapping[str, Any]
) -> tuple[str, list[str]]:
    """The activation of MLPs, and a note if it is assumed: CLIPs have one of two."""
    if "act" in settings:
        return settings["act"], []
    stated = found.facts.get("hidden_act", found.facts.get("act_layer"))
    if isinstance(stated, str) and stated in _CHOICES["act"]:
        return stated, []
    act = reading.layout.act
    if "norm_pre.weight" not in reading.state:
        return act, []
    names = {name.rpartition(".")[2] for name in found.tensors}
    if {"input_resolution", "context_length"} & names:  # in OpenAI's files alone
        act = "quick_gelu"
    other = "gelu" if act == "quick_gelu" else "quick_gelu"
    return act, [f"activation {act} is assumed; --set act={other} takes the other of CLIP's"]


def _heads(
    path: str,
    reading: Translation,
    facts: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> tuple[int, list[str]]:
    """The number of heads, and a note if it is assumed.

    Raises:
        UsageError: it does not divide the width of the attention.
        ModelError: it is not stated, and the width is no multiple of 64.
    """
    qkv = reading.state.get("blocks.0.attn.qkv.weight")
    width = reading.state["patch_embed.proj.weight"].shape[0]
    inner = int(width if qkv is None else qkv.shape[0] // 3)
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
        f"{heads} heads of {inner // heads} features are assumed; --set heads=N sets another number"
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
            f"{path}: has no table of positions, so its places come from code; give {OWN_MODEL} "
            f"--weights {path}"
        )
    counts = [state[name].shape[1] if name in state else 0 for name in PREFIX]
    for prefix in {0: 0, counts[0] + counts[1]: 0, sum(counts): 0}:
        side = math.isqrt(max(table.shape[1] - prefix, 0))
        if side and side * side + prefix == table.shape[1]:
            return side, side
    raise ModelError(
        f"{path}: its {table.shape[1]} positions are of no square grid; give {OWN_MODEL} "
        f"--weights {path}"
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


def check_numbers(path: str, reading: Translation) -> None:
    """Refuse weights that are no dense, finite floats."""
    state = reading.state
    for name, tensor in state.items():
        if BESIDE.match(name):
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
    if state["patch_embed.proj.weight"].ndim != 4:
        raise ModelError(
            f"{path}: its patches are {size(state['patch_embed.proj.weight'])}, not flat; give "
            f"{OWN_MODEL} --weights {path}"
        )


def check_order(path: str, state: Mapping[str, Tensor]) -> None:
    """Refuse what may have its norms behind its layers: pooled by a mean, no biases of q, k, v."""
    if (
        "cls_token" not in state
        and "blocks.0.attn.qkv.bias" not in state
        and "fc_norm.weight" in state
    ):
        raise ModelError(
            f"{path}: its norms may stand behind its layers, as in timm's vit_*_rpn_*, which no "
            f"shape tells; name its model: -m timm:NAME --weights {path}"
        )
