"""What a config of transformers states about a model's input and its attention."""

import math
from collections.abc import Callable
from itertools import accumulate
from operator import mul
from typing import Any

from attnviz.errors import ModelError
from attnviz.geometry.grid import Patch, patch_of
from attnviz.geometry.grid import sides as both
from attnviz.models.model import token_bytes

# Each stage but the first merges 2×2 tokens.
MERGING = ("convnext", "convnextv2", "dinat", "donut-swin", "focalnet", "maskformer-swin", "swin",
           "swinv2")  # fmt: skip
UNSTATED = 32
"""The usual total stride of pyramids: sides are multiples of it if a config states none."""
# Blocks come in groups, but all groups have the same resolution.
PLAIN = ("swin2sr", "groupvit_vision_model")
# Their positions are for one shape of input; they refuse other shapes.
FIXED = ("sam_vision_model", "sam_hq_vision_model", "levit", "pvt", "mgp-str")


def multiple(config: Any) -> Patch:
    """What the sides of the input must be multiples of, so that no token is cut.

    For a plain vision transformer it is its patch; for a pyramid the total stride, times the
    factor by which its keys are pooled.
    """
    rule = next((rule for applies, rule in _RULES if applies(config)), _side)
    sides = _pair(getattr(config, "patch_size", None))
    tube = getattr(config, "tubelet_size", None)  # of clips: a number of frames, or frames × patch
    if isinstance(tube, list | tuple) and len(tube) == 3:
        return patch_of(*map(int, tube[1:]))
    plain = rule is _side and not getattr(config, "depths", None)
    if plain and len(sides) == 2 and all(isinstance(side, int) for side in sides):
        return patch_of(*sides)
    return rule(config)


def _side(config: Any) -> int:
    """Side of a square patch, or the stride of stages that halve; 32 if nothing is stated."""
    sides = _pair(getattr(config, "patch_size", None))
    if not all(isinstance(side, int) for side in sides):
        inner = [math.lcm(*both(multiple(each))) for each in _inner(config)]
        return math.lcm(*inner) if inner else UNSTATED
    side = math.lcm(*sides)
    if getattr(config, "depths", None) and config.model_type not in PLAIN + MERGING:
        return math.lcm(UNSTATED, side << len(config.depths) - 1)
    return side


def _inner(config: Any) -> list[Any]:
    """Configs inside a config that may be of an image encoder."""
    inner = [value for name, value in vars(config).items() if name.endswith("_config")]
    return [
        each for each in inner if hasattr(each, "model_type") and not hasattr(each, "vocab_size")
    ]


def least(config: Any) -> int:
    """The minimal length of the input's shorter side, in pixels.

    If a stage is smaller than a window, Swin in transformers shrinks its windows permanently and
    then lacks biases for them. So the last stage must hold a whole window.
    """
    window = getattr(config, "window_size", None)
    if config.model_type not in MERGING or not window:
        return 0
    return math.lcm(*both(multiple(config))) * int(window)


def _merging(config: Any) -> int:
    """Swin merges tokens between stages."""
    merges: int = len(config.depths) - 1
    return _side(config) << merges


def _halving(config: Any) -> int:
    """ResNet: a stem of one convolution, with or without pooling; then each stage halves."""
    stem = 4 if config.model_type == "resnet" else 2
    halvings: int = len(config.depths) - 1 + config.downsample_in_first_stage
    return stem << halvings


def _levit(config: Any) -> int:
    """LeViT: four convolutions, then operations between stages; the model appends an empty one."""
    strides: list[int] = [op[-1] for op in config.down_ops if len(op) > 1]
    return math.prod([config.stride] * 4 + strides)


def _pair(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value, value)


def _pooling(config: Any) -> int:
    """Hiera pools queries between stages; its first stages attend within units of patches."""
    pools = getattr(config, "num_query_pool", None)
    pools = config.num_query_pool_stages if pools is None else pools
    stride, query = max(_pair(config.patch_stride)), max(_pair(config.query_stride))
    unit = max(_pair(getattr(config, "masked_unit_size", 1)))
    return math.lcm(stride * query**pools, stride * unit)


def _reducing(config: Any) -> int:
    """PVT, SegFormer: every stage has a stride and pools its keys by a ratio."""
    names = ("sr_ratios", "sequence_reduction_ratios")
    ratios = next(filter(None, (getattr(config, name, None) for name in names)), None)
    strides = list(accumulate(config.strides, mul))
    return math.lcm(*(s * r for s, r in zip(strides, ratios or [1] * len(strides), strict=True)))


def _crops(config: Any) -> int:
    """Depth Pro: a crop of its encoder's size is cut out of the smallest scaled picture too."""
    smallest: float = min(config.scaled_images_ratios)
    side: int = max(_pair(config.patch_size))
    return round(side / smallest)


def _has(*names: str) -> Callable[[Any], bool]:
    return lambda config: all(getattr(config, name, None) is not None for name in names)


def _is(*kinds: str) -> Callable[[Any], bool]:
    return lambda config: config.model_type in kinds


# The first rule that applies is used; if none does, the patch side, if there is one.
_RULES: list[tuple[Callable[[Any], bool], Callable[[Any], int]]] = [
    (_has("scaled_images_ratios"), _crops),
    (_is(*MERGING), _merging),
    (_is("resnet", "regnet"), _halving),
    (_is("levit"), _levit),
    # MobileViT cuts its last feature map into patches again.
    (_has("output_stride"), lambda config: config.output_stride * getattr(config, "patch_size", 1)),
    (_has("query_stride"), _pooling),
    # LW-DETR, RF-DETR: the grid is cut into so many windows along each side.
    (
        _has("num_windows", "patch_size"),
        lambda config: _side(config) * getattr(config, "num_windows_side", config.num_windows),
    ),
    (_is("cvt"), lambda config: math.prod(config.patch_stride)),
    (_has("strides", "patch_sizes"), _reducing),
]


def is_pyramid(config: Any) -> bool:
    """Whether stages differ, so that layers, heads and features have no single number."""
    return bool(getattr(config, "depths", None) or hasattr(config, "query_stride")) or isinstance(
        getattr(config, "depth", None), list
    )


def count(config: Any, *names: str) -> int | None:
    """The first of these numbers that a config has; None for a pyramid."""
    if is_pyramid(config):
        return None
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), None)


def bytes_of_patch(config: Any) -> int:
    """Bytes that a run takes for each `multiple`² input pixels; 0 if widths are not known."""
    layers, features = count(config, "num_hidden_layers"), count(config, "hidden_size")
    if layers and features:
        return token_bytes(layers, features)
    depths = getattr(config, "depths", None) or []
    width, widths = getattr(config, "embed_dim", None), getattr(config, "hidden_sizes", None)
    if isinstance(width, int):
        if config.model_type in PLAIN:
            return token_bytes(sum(depths), width)
        widths = [width * 2**stage for stage in range(len(depths))]
    if not depths or not isinstance(widths, list) or len(widths) != len(depths):
        return 0
    # A token of the last stage covers 4 tokens of the stage before it, and so on.
    tokens = [4 ** (len(depths) - 1 - stage) for stage in range(len(depths))]
    return sum(
        count * token_bytes(depth, width)
        for count, depth, width in zip(tokens, depths, widths, strict=True)
    )


def is_fixed(config: Any) -> bool:
    """Whether a model is known to take only its own input size."""
    native = getattr(config, "is_native", True)  # AIMv2 exists in both kinds
    return config.model_type in FIXED or not native or hasattr(config, "scaled_images_ratios")


def own_size(processing: dict[str, Any], config: Any) -> int:
    """The side of a square with as many pixels as the model's own input."""
    size = processing.get("crop_size") or processing.get("size") or {}
    if is_fixed(config) or not size or "max_num_patches" in processing:
        size = _image_size(config)
    if size is None and hasattr(config, "num_patches"):  # SigLIP 2: at most so many
        return round(math.sqrt(config.num_patches)) * int(config.patch_size)
    sides = list(size.values()) if isinstance(size, dict) else list(_pair(size or 224))
    return round(math.prod(map(float, sides)) ** (1 / len(sides)))


def _image_size(config: Any) -> Any:
    """The input size that a config states, or a config inside it; None if none does."""
    if hasattr(config, "scaled_images_ratios"):
        return _crops(config)
    size = getattr(config, "image_size", None) or getattr(config, "crop_size", None)
    inner = (_image_size(each) for each in _inner(config))
    return next((each for each in inner if each), None) if size is None else size


def own_shape(config: Any) -> tuple[int, int] | None:
    """(height, width) that a config states if they differ; None for a square, or if unstated."""
    size = _image_size(config)
    sides = _pair(size if isinstance(size, int | list | tuple) else None)
    return (int(sides[0]), int(sides[-1])) if len(set(sides)) > 1 else None


def check_heads(spec: str, name: str, revision: str | None, config: Any) -> None:
    """Refuse a config that states the width of layers but not their number of heads.

    Weights have the same shapes for any number of heads, so transformers silently uses a default.

    Raises:
        ModelError: the config lacks the number of heads.
    """
    statements, _ = type(config).get_config_dict(name, revision=revision)
    heads = config.attribute_map.get("num_attention_heads", "num_attention_heads")
    if "hidden_size" not in statements or heads in statements or not hasattr(config, heads):
        return
    if statements["hidden_size"] != getattr(type(config)(), "hidden_size", None):
        raise ModelError(
            f"{spec}: its config.json says how wide layers are, and not how many heads they have; "
            f'add "{heads}" to it'
        )
