"""Reads names in state dicts: prefixes of wrappers, and the library that a name belongs to."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

MERGE = (
    "in Python call model.merge_and_unload(), then save_pretrained(FOLDER), and give that folder"
)
"""What to do with an adapter."""
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts that DataParallel, torch.compile, FSDP and checkpointing add to names, at any depth."""
DEPTH = 3
"""Components of a name that may be a prefix, such as `model.backbone.vit`."""
_ADAPTER = re.compile(r"(^|\.)(lora_\w+|base_layer|modules_to_save|ia3_\w+)(\.|$)")
_BIT_PACKED = re.compile(r"\.(absmax|quant_map|quant_state\.\w+|qweight|qzeros|SCB)$")
# Names of other libraries: the pattern, the library, and what the user should type.
_FOREIGN = (
    (
        r"(^|\.)blocks\.\d+\.attn\.(qkv|q_proj|q)\.weight$",
        "timm's names",
        "give -m timm:NAME --weights {file}, NAME being timm's, such as vit_small_patch16_224",
    ),
    (
        r"(^|\.)encoder_layer_\d+\.self_attention\.in_proj_weight$",
        "torchvision's names",
        "give -m torchvision:NAME --weights {file}, NAME being torchvision's, such as vit_b_16",
    ),
    (
        r"(^|\.)resblocks\.\d+\.attn\.in_proj_weight$",
        "the names of OpenAI's CLIP and of open_clip",
        "give the checkpoint as transformers' save_pretrained writes it",
    ),
)


def foreign(names: Iterable[str], file: str) -> tuple[str, str] | None:
    """The library whose names a file has, with an example, and what to type; None if not known.

    >>> foreign(["blocks.0.attn.qkv.weight"], "vit.pt")[0]
    "timm's names (blocks.0.attn.qkv.weight)"
    """
    names = list(names)
    for pattern, whose, advice in _FOREIGN:
        found = next((name for name in names if re.search(pattern, name)), None)
        if found is not None:
            return f"{whose} ({found})", advice.format(file=file)
    return None


def unreadable(names: Iterable[str]) -> str | None:
    """Why tensors of these names are not a model's weights, and what to type; None if they are."""
    for name in names:
        if _ADAPTER.search(name):
            return f"its weights are an adapter that is not merged ({name}); {MERGE}"
        if _BIT_PACKED.search(name):
            return (
                f"its weights are quantised ({name}); give the checkpoint that they were made "
                "from, or one saved after model.dequantize()"
            )
    return None


def prefixes(names: Collection[str], least: int) -> list[str]:
    """Prefixes that at least `least` of the names share, the commonest and shortest first.

    >>> prefixes(["module.vit.a", "module.vit.b"], 2)
    ['module.', 'module.vit.']
    """
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")[:-1][:DEPTH]
        counts.update(".".join(parts[:length]) + "." for length in range(1, len(parts) + 1))
    common = [prefix for prefix, count in counts.items() if count >= least]
    return sorted(common, key=lambda prefix: (-counts[prefix], len(prefix), prefix))


def without_prefix(names: Iterable[str], prefix: str) -> dict[str, str]:
    """Names that begin with a prefix, as a dict: name without the prefix → name."""
    return {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}


def without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """A dict: name without the parts of wrappers → name; empty if no name changes.

    >>> without_wrappers(["vit._orig_mod.norm.bias"])
    {'vit.norm.bias': 'vit._orig_mod.norm.bias'}
    """
    names = list(names)
    found = {".".join(p for p in name.split(".") if p not in WRAPPERS): name for name in names}
    return found if len(found) == len(names) and found.keys() != set(names) else {}


def fitting(names: Collection[str], expected: Collection[str]) -> Mapping[str, str]:
    """A dict: expected name → name, if they differ only by a prefix or a wrapper.

    It is empty if the names are as expected, or if they differ by more than that.
    """
    bare = [without_prefix(names, prefix) for prefix in prefixes(names, len(names))]
    for renamed in (without_wrappers(names), *bare):
        if renamed.keys() == set(expected) and len(renamed) == len(names):
            return renamed
    return {}


def digitless(name: str) -> str:
    """A name with `*` in place of numbers, so that it is the same for all layers."""
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))
