"""More of vit-pytorch's models: single scales, odd ends, and maps that convolutions make."""

from typing import Any

from torch import nn

from panel.notes import note_weights
from panel.packaged import PATCHES, PLAIN, S48, S64, WITH_CLASS, built
from panel.truth import (
    ELSE,
    WHOLE,
    Array,
    attends,
    centres,
    each_with,
    expects,
    join,
    windows,
)


def _phases(count: int, stride: float, first: float) -> Array:
    """MobileViT's windows: the first tokens of all 2×2 patches, then the second ones …"""
    tokens = centres(count, stride, first).reshape(count // 2, 2, count // 2, 2, 3)
    return tokens.transpose(1, 3, 0, 2, 4).reshape(4, -1, 3)


@expects(
    *[attends(_phases(128 // stride, stride, 0.5)) for stride in (8, 16, 32)],
    size=(128, 128), library=True, within=None, asks=[(("auto", "34,98"), "all")],
)  # fmt: skip
def mobile_vit() -> nn.Module:
    channels = [8, 8, 12, 12, 12, 12, 16, 16, 16, 16, 24]
    return built("mobile_vit", "MobileViT", image_size=(128, 128), dims=[24, 24, 24],
                 channels=channels, num_classes=5, depths=(1, 1, 1))  # fmt: skip


@expects(*2 * [WITH_CLASS], **S48, within=1)
def vit_for_small_data() -> nn.Module:
    """Shifted patches, and no token attends to itself."""
    return built("vit_for_small_dataset", "ViT", **PLAIN)


@expects(*2 * [WITH_CLASS], **S48, together=2)
def parallel_vit() -> nn.Module:
    """Two attentions of two heads in a block, whose sum goes on: as one of four heads would be."""
    return built("parallel_vit", "ViT", **PLAIN)


HIGH, MAIN = centres(6, 8, 4), centres(4, 12, 6)


@expects(
    *2 * [attends(MAIN, HIGH), attends(MAIN), attends(HIGH, MAIN)], **S48, within=None,
)  # fmt: skip
def look_vit() -> nn.Module:
    """Its third attention takes the transposed scores of the first."""
    return built("look_vit", "LookViT", dim=24, image_size=48, num_classes=5, depth=2,
                 patch_size=12, heads=2, dim_head=12, highres_patch_size=8, cross_attn_heads=2,
                 cross_attn_dim_head=12, patch_conv_kernel_size=3)  # fmt: skip


@expects(*2 * [WITH_CLASS], **S48)
def patch_dropout() -> nn.Module:
    """Nothing is dropped where a model is looked at."""
    return built("vit_with_patch_dropout", "ViT", **PLAIN)


@expects(
    attends(PATCHES), attends(join(*4 * [ELSE]), PATCHES), attends(join(*4 * [WHOLE])),
    **S48, asks=[(("auto",), "all"), (("14,29",), "0")],
)  # fmt: skip
def patch_merger() -> nn.Module:
    """Four learned queries are all that is left after the first block."""
    return built("vit_with_patch_merger", "ViT", **PLAIN | {"patch_merge_num_tokens": 4})


@expects(
    *2 * [attends(PATCHES)], attends(ELSE, PATCHES),
    **S48, asks=[(("auto",), "all"), (("14,29",), "0,1")],
)  # fmt: skip
def na_vit() -> nn.Module:
    """Takes a list of pictures, packs their patches, and pools by a query."""
    return built("na_vit", "NaViT", **PLAIN)


@expects(*2 * [WITH_CLASS], **S48 | {"library": False}, may_be="right, not drawn, refused")
def deep_vit() -> nn.Module:
    """Re-attention: the weights are mixed and normed, so that their rows no longer sum to 1."""
    model = built("deepvit", "DeepViT", **PLAIN)
    for part in model.modules():
        if (norm := getattr(part, "reattn_norm", None)) is not None:
            norm.register_forward_hook(lambda _, __, weights: note_weights(weights))
    return model


@expects(*2 * [WITH_CLASS], **S48, within=None)
def rvt() -> nn.Module:
    """Rotary embeddings; queries by a convolution."""
    return built("rvt", "RvT", **PLAIN)


FINE = windows(centres(14, 4, 0.5), 14, 14, (7, 7))


@expects(
    attends(each_with(ELSE, FINE)), attends(join(*4 * [WHOLE])),
    attends(join(ELSE, centres(7, 8, 0.5))),
    size=(56, 56), library=True, within=None,
    asks=[(("auto", "25,33"), "0,2")],
)  # fmt: skip
def sep_vit() -> nn.Module:
    """A token for each window; these attend to each other, too, by what they have seen of these."""
    return built(
        "sep_vit",
        "SepViT",
        num_classes=5,
        dim=24,
        depth=(1, 1),
        heads=(2, 2),
        dim_head=12,
        gain=1.0,
    )


@expects(
    attends(centres(16, 4, 0.5), centres(4, 16, 6.5)),
    attends(windows(centres(16, 4, 0.5), 16, 16, (4, 4))),
    attends(centres(8, 8, 0.5), centres(4, 16, 4.5)),
    attends(windows(centres(8, 8, 0.5), 8, 8, (4, 4))),
    **S64 | {"asks": [(("auto", "25,41"), "all")]}, within=None,
)  # fmt: skip
def scalable_vit() -> nn.Module:
    settings: dict[str, Any] = {"heads": (2, 2), "reduction_factor": (4, 2), "window_size": (4, 4)}
    keys = {f"{part}_dim_{name}": 12 for part in ("iwsa", "ssa") for name in ("key", "value")}
    return built("scalable_vit", "ScalableViT", num_classes=5, dim=24, depth=(1, 1),
                 **settings, **keys)  # fmt: skip


@expects(
    *2 * [attends(centres(12, 4, 0.5))], attends(ELSE, centres(12, 4, 0.5)),
    **S48 | {"asks": [(("auto",), "all"), (("17,29",), "0,1")]}, within=None,
)  # fmt: skip
def cct() -> nn.Module:
    """A convolution and a pool make the tokens; they are pooled by their own weights."""
    model = built("cct", "CCT", img_size=48, embedding_dim=24, n_conv_layers=1, kernel_size=7,
                  stride=2, padding=3, num_layers=2, num_heads=2, mlp_ratio=2.0, num_classes=5,
                  positional_embedding="learnable")  # fmt: skip
    pool = model.get_submodule("classifier.attention_pool")
    pool.register_forward_hook(lambda _, __, scores: note_weights(scores.softmax(1).mT))
    return model
