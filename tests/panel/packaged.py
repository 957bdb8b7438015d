"""vit-pytorch's models, built small: https://github.com/lucidrains/vit-pytorch (MIT).

Where their convolutions have padding, centres are of what a token would see without a border.
"""

import importlib
from typing import Any

from torch import nn
from torchvision_schemas import import_or_skip

from panel.truth import (
    CLS,
    ELSE,
    WHOLE,
    Array,
    attends,
    centres,
    expects,
    join,
    strided,
    windows,
)
from panel.weights import seeded

SMALL = {"image_size": 48, "patch_size": 8, "num_classes": 5, "dim": 24, "depth": 2, "heads": 2}
PLAIN: dict[str, Any] = SMALL | {"mlp_dim": 32, "dim_head": 12}
PATCHES = centres(6, 8, 4)
WITH_CLASS = attends(join(CLS, PATCHES))
S48: dict[str, Any] = {"size": (48, 48), "library": True}
S64: dict[str, Any] = {"size": (64, 64), "library": True, "asks": [(("auto", "26,42"), "all")]}


def built(file: str, name: str, gain: float = 1.5, **settings: Any) -> nn.Module:
    """A model of vit-pytorch with weights of ours; the test is skipped where it isn't installed."""
    import_or_skip("vit_pytorch")
    module = importlib.import_module(f"vit_pytorch.{file}")
    model: nn.Module = getattr(module, name)(**settings)
    seeded(model, gain)
    return model


@expects(*2 * [WITH_CLASS], **S48)
def vit() -> nn.Module:
    return built("vit", "ViT", **PLAIN)


@expects(*2 * [attends(PATCHES)], **S48)
def simple_vit() -> nn.Module:
    return built("simple_vit", "SimpleViT", **PLAIN)


@expects(*2 * [attends(join(PATCHES, ELSE, ELSE))], **S48)
def simple_vit_with_registers() -> nn.Module:
    """Registers stand behind the patches."""
    settings = PLAIN | {"num_register_tokens": 2}
    return built("simple_vit_with_register_tokens", "SimpleViT", **settings)


CLASS_ATTENTION = attends(CLS, join(CLS, PATCHES))


@expects(attends(PATCHES), CLASS_ATTENTION, **S48, asks=[(("auto",), "all"), (("14,29",), "0")])
def cait() -> nn.Module:
    return built("cait", "CaiT", **PLAIN | {"depth": 1, "cls_depth": 1})


CHANNELS = attends(join(*12 * [WHOLE]))


@expects(CHANNELS, CLASS_ATTENTION, **S48, asks=[(("auto",), "all")])
def xcit() -> nn.Module:
    return built("xcit", "XCiT", **PLAIN | {"depth": 1, "cls_depth": 1})


@expects(
    attends(centres(12, 4, 1.5)),
    attends(join(CLS, centres(6, 8, 1.5))),
    **S48,
    within=None,
    asks=[(("auto", "18,18"), "all")],
)
def t2t() -> nn.Module:
    layers = ((7, 4), (3, 2))
    settings = {name: value for name, value in PLAIN.items() if name != "patch_size"}
    return built("t2t", "T2TViT", **settings | {"depth": 1, "t2t_layers": layers})


@expects(
    attends(join(CLS, centres(11, 4, 4))),
    attends(join(CLS, centres(6, 8, 4))),
    **S48,
    within=None,
)
def pit() -> nn.Module:
    return built("pit", "PiT", **PLAIN | {"depth": (1, 1)})


LARGE = centres(4, 12, 6)


@expects(
    WITH_CLASS,
    attends(join(CLS, LARGE)),
    attends(CLS, join(CLS, LARGE)),
    CLASS_ATTENTION,
    **S48,
    asks=[(("auto",), "all"), (("mean", "14,29"), "0,1")],
)
def cross_vit() -> nn.Module:
    sides = {
        f"{side}_{name}": value
        for side, patch in (("sm", 8), ("lg", 12))
        for name, value in {
            "dim": 24, "patch_size": patch, "enc_depth": 1, "enc_heads": 2, "enc_mlp_dim": 32,
            "enc_dim_head": 12,
        }.items()
    }  # fmt: skip
    cross = {"cross_attn_depth": 1, "cross_attn_heads": 2, "cross_attn_dim_head": 12}
    return built("cross_vit", "CrossViT", image_size=48, num_classes=5, depth=1, **sides, **cross)


@expects(
    attends(centres(16, 4, 0.5), centres(8, 8, 0.5)),
    attends(centres(8, 8, 0.5), centres(4, 16, 0.5)),
    attends(centres(4, 16, 0.5), centres(2, 32, 0.5)),
    **S64 | {"asks": [(("auto",), "all"), (("25,41",), "0")]},
    within=None,
)
def cvt() -> nn.Module:
    stages = {
        f"s{i}_{name}": value
        for i in (1, 2, 3)
        for name, value in {"emb_dim": 64 * i, "heads": i, "depth": 1}.items()
    }
    return built("cvt", "CvT", num_classes=5, **stages)


def _twins(tokens: Array, side: int, window: int, keys: Array) -> list[Any]:
    return [attends(windows(tokens, side, side, (window, window))), attends(tokens, keys)]


KEYS = centres(4, 16, 8)


@expects(
    *2 * _twins(centres(16, 4, 2), 16, 4, KEYS),
    *2 * _twins(centres(8, 8, 4), 8, 4, KEYS),
    *2 * _twins(KEYS, 4, 2, centres(2, 32, 16)),
    *2 * [attends(centres(2, 32, 16))],
    **S64,
    within=None,
)
def twins_svt() -> nn.Module:
    stages = {
        f"s{i}_{name}": value
        for i, dim, patch, local, k in (
            (1, 16, 4, 4, 4), (2, 24, 2, 4, 2), (3, 32, 2, 2, 2), (4, 32, 2, 1, 1),
        )
        for name, value in {
            "emb_dim": dim, "patch_size": patch, "local_patch_size": local, "global_k": k,
            "depth": 1,
        }.items()
    }  # fmt: skip
    return built("twins_svt", "TwinsSVT", num_classes=5, **stages)


def _both(tokens: Array, side: int, window: int) -> list[Any]:
    """Windows of neighbours, then windows of tokens that lie far apart."""
    size = (window, window)
    cut = (windows(tokens, side, side, size), strided(tokens, side, side, size))
    return [attends(part) for part in cut]


@expects(
    *_both(centres(16, 4, 2), 16, 4),
    *_both(centres(8, 8, 4), 8, 4),
    *_both(centres(4, 16, 8), 4, 2),
    *_both(centres(2, 32, 16), 2, 2),
    **S64,
    within=None,
)
def crossformer() -> nn.Module:
    return built(
        "crossformer", "CrossFormer", dim=(64, 64, 64, 64), depth=(1, 1, 1, 1), num_classes=5,
        global_window_size=(4, 4, 2, 2), local_window_size=(4, 4, 2, 2),
        cross_embed_kernel_sizes=((4, 8), (2, 4), (2, 4), (2, 4)),
    )  # fmt: skip


@expects(
    *_both(centres(16, 4, 0.5), 16, 4),
    *_both(centres(8, 8, 0.5), 8, 4),
    **S64 | {"asks": [(("auto", "25,41"), "all")]},
    within=None,
)
def max_vit() -> nn.Module:
    return built("max_vit", "MaxViT", num_classes=5, dim=32, depth=(1, 1), dim_head=16,
                 dim_conv_stem=16, window_size=4)  # fmt: skip


EIGHT, FOUR = centres(8, 16, 0.5), centres(4, 32, 0.5)


@expects(
    attends(EIGHT), attends(FOUR, EIGHT), attends(FOUR), size=(128, 128), library=True, within=None,
    asks=[(("auto", "34,100"), "all")],
)  # fmt: skip
def levit() -> nn.Module:
    return built("levit", "LeViT", gain=0.8, image_size=128, num_classes=5, dim=(24, 32),
                 depth=(1, 1), heads=(2, 2), mlp_mult=2, stages=2, dim_key=8,
                 dim_value=12)  # fmt: skip


@expects(
    attends(windows(centres(12, 4, 2), 12, 12, (6, 6))),
    attends(centres(6, 8, 2)),
    **S48,
    within=None,
    asks=[(("auto", "18,26"), "all")],
)
def nest() -> nn.Module:
    return built("nest", "NesT", image_size=48, patch_size=4, num_classes=5, dim=24, heads=2,
                 num_hierarchies=2, block_repeats=(1, 1))  # fmt: skip
