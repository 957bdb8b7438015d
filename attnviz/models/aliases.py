"""Short names (aliases) of well-known models, with all that is needed to build them offline.

This file imports no torch. Sizes are those of the image encoder, the part that attnviz runs; a
checkpoint that also holds a text encoder is a larger download. The parameters of `hf:` models are
counted from their configs, and a test builds them. The input (side, mean and std, filter) is the
one of each family's own preprocessing; `--random-weights` uses it without asking the hub.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from attnviz.errors import closest
from attnviz.models import cache

Statistics = Literal["half", "imagenet", "clip"]
BILINEAR, BICUBIC = 2, 3  # Pillow's numbers


@dataclass(frozen=True)
class Alias:
    """A short name of a model.

    Attributes:
        spec: what it stands for, `hf:…` or `timm:…`.
        family: which kind of model, as its authors call it.
        layers, heads: how many its attention has; one number, or one for each stage of a pyramid.
        patch: side of a patch in pixels; for a pyramid, in its first stage.
        registers: number of learnt tokens beside the class token.
        licence: licence of the weights.
        parameters: number of parameters, in millions.
        size: side of its own input, in pixels.
        statistics: mean and std that its input is normalised with.
        resample: Pillow's number of its resampling filter.
        config: class of its config in transformers; empty for timm, which builds it by name.
        arguments: arguments of that class.
    """

    spec: str
    family: str
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    patch: int
    registers: int
    licence: str
    parameters: float
    size: int = 224
    statistics: Statistics = "imagenet"
    resample: int = BICUBIC
    config: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def megabytes(self) -> int:
        """Size of its float32 weights in megabytes."""
        return round(4 * self.parameters)

    @property
    def repository(self) -> str:
        """Its name on the hub."""
        source, _, name = self.spec.partition(":")
        return name if source == "hf" else f"timm/{name}"

    @property
    def cached(self) -> bool:
        """Whether its weights are in the local cache."""
        return cache.holds_weights(self.repository)

    def facts(self) -> dict[str, Any]:
        """What `attnviz models --json` says about it."""
        facts = asdict(self)
        for name in ("config", "arguments", "resample", "statistics"):
            del facts[name]
        for name in ("layers", "heads"):
            stages = list(facts[name])
            facts[name] = stages[0] if len(stages) == 1 else stages
        return facts | {"megabytes": self.megabytes, "cached": self.cached}


# Width, layers, heads.
TINY, SMALL, BASE = (192, 12, 3), (384, 12, 6), (768, 12, 12)
LARGE, HUGE, GIANT, SO400M = (1024, 24, 16), (1280, 32, 16), (1536, 40, 24), (1152, 27, 16)
APACHE = "Apache-2.0"


def _plain(
    family: str,
    config: str,
    name: str,
    shape: tuple[int, int, int],
    parameters: float,
    *,
    patch: int = 16,
    licence: str = APACHE,
    size: int = 224,
    statistics: Statistics = "imagenet",
    resample: int = BICUBIC,
    **arguments: Any,
) -> Alias:
    """A plain vision transformer of transformers: every layer sees every token."""
    width, layers, heads = shape
    arguments = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "patch_size": patch,
        "image_size": size,
    } | arguments
    return Alias(
        spec=f"hf:{name}",
        family=family,
        layers=(layers,),
        heads=(heads,),
        patch=patch,
        registers=arguments.get("num_register_tokens", 0),
        licence=licence,
        parameters=parameters,
        size=size,
        statistics=statistics,
        resample=resample,
        config=config,
        arguments=arguments,
    )


def _vit(
    family: str, name: str, shape: tuple[int, int, int], parameters: float, **more: Any
) -> Alias:
    """A model of transformers' class ViT, which the first three families were converted to."""
    return _plain(
        family, "ViTConfig", name, shape, parameters, intermediate_size=4 * shape[0], **more
    )


def _dinov2(
    size: str, shape: tuple[int, int, int], parameters: float, *, registers: int = 0
) -> Alias:
    more: dict[str, Any] = {"use_swiglu_ffn": True} if size == "giant" else {}
    if registers:
        more["num_register_tokens"] = registers
    kind, middle = ("Dinov2WithRegisters", "with-registers-") if registers else ("Dinov2", "")
    name = f"facebook/dinov2-{middle}{size}"
    alias = _plain("DINOv2", f"{kind}Config", name, shape, parameters, patch=14, **more)
    # Last trained at 518 pixels: its positions are for that size; its preprocessing gives 224.
    alias.arguments["image_size"] = 518
    return alias


def _dinov3(name: str, shape: tuple[int, int, int], parameters: float) -> Alias:
    return _plain(
        "DINOv3", "DINOv3ViTConfig", f"facebook/dinov3-{name}-pretrain-lvd1689m", shape,
        parameters, licence="DINOv3, gated", resample=BILINEAR, intermediate_size=4 * shape[0],
        num_register_tokens=4,
    )  # fmt: skip


def _mae(name: str, shape: tuple[int, int, int], parameters: float) -> Alias:
    return _plain(
        "MAE", "ViTMAEConfig", f"facebook/vit-mae-{name}", shape, parameters,
        intermediate_size=4 * shape[0],
    )  # fmt: skip


def _beit(name: str, shape: tuple[int, int, int], parameters: float) -> Alias:
    return _plain(
        "BEiT", "BeitConfig", f"microsoft/beit-{name}-patch16-224", shape, parameters,
        statistics="half", resample=BILINEAR, intermediate_size=4 * shape[0],
        use_relative_position_bias=True,
    )  # fmt: skip


def _clip(name: str, shape: tuple[int, int, int], parameters: float, patch: int) -> Alias:
    return _plain(
        "CLIP", "CLIPVisionConfig", f"openai/clip-vit-{name}", shape, parameters, patch=patch,
        licence="MIT", statistics="clip", intermediate_size=4 * shape[0],
    )  # fmt: skip


def _siglip(
    name: str, shape: tuple[int, int, int], parameters: float, *, patch: int = 16, size: int = 224
) -> Alias:
    second = name.startswith("siglip2")
    return _plain(
        "SigLIP 2" if second else "SigLIP", "SiglipVisionConfig",
        f"google/{name}-patch{patch}-{size}", shape, parameters, patch=patch, size=size,
        statistics="half", resample=BILINEAR if second else BICUBIC,
        intermediate_size=4304 if shape == SO400M else 4 * shape[0],
    )  # fmt: skip


def _swin(
    name: str, width: int, depths: tuple[int, ...], parameters: float, *, second: bool = False
) -> Alias:
    heads = tuple(width // 32 * 2**stage for stage in range(4))
    window, size = (8, 256) if second else (7, 224)
    family = "Swin v2" if second else "Swin"
    return Alias(
        spec=f"hf:microsoft/swin{'v2' * second}-{name}-patch4-window{window}-{size}",
        family=family,
        layers=depths,
        heads=heads,
        patch=4,
        registers=0,
        licence=APACHE,
        parameters=parameters,
        size=size,
        config="Swinv2Config" if second else "SwinConfig",
        arguments={
            "image_size": size, "embed_dim": width, "depths": list(depths),
            "num_heads": list(heads), "window_size": window,
        },
    )  # fmt: skip


def _sam(name: str, shape: tuple[int, int, int], parameters: float) -> Alias:
    quarter = shape[1] // 4
    return _plain(
        "SAM", "SamVisionConfig", f"facebook/sam-vit-{name}", shape, parameters, size=1024,
        resample=BILINEAR, global_attn_indexes=[quarter * i - 1 for i in range(1, 5)],
    )  # fmt: skip


def _timm(
    family: str, name: str, shape: tuple[int, int, int], parameters: float, *, patch: int = 16,
    licence: str = APACHE,
) -> Alias:  # fmt: skip
    _, layers, heads = shape
    return Alias(f"timm:{name}", family, (layers,), (heads,), patch, 0, licence, parameters)


def _eva(name: str, shape: tuple[int, int, int], parameters: float) -> Alias:
    full = f"eva02_{name}_patch14_224.mim_in22k"
    return _timm("EVA-02", full, shape, parameters, patch=14, licence="MIT")


_HALF: dict[str, Any] = {"statistics": "half", "resample": BILINEAR}
ALIASES: dict[str, Alias] = {
    "vit-tiny": _timm("ViT", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", TINY, 5.7),
    "vit-small": _timm("ViT", "vit_small_patch16_224.augreg_in21k_ft_in1k", SMALL, 22.1),
    "vit-base": _vit("ViT", "google/vit-base-patch16-224", BASE, 86.4, **_HALF),
    "vit-large": _vit("ViT", "google/vit-large-patch16-224", LARGE, 304.4, **_HALF),
    "deit-tiny": _vit("DeiT", "facebook/deit-tiny-patch16-224", TINY, 5.6),
    "deit-small": _vit("DeiT", "facebook/deit-small-patch16-224", SMALL, 21.8),
    "deit-base": _vit("DeiT", "facebook/deit-base-patch16-224", BASE, 86.4),
    "dino-vits16": _vit("DINO", "facebook/dino-vits16", SMALL, 21.8),
    "dino-vits8": _vit("DINO", "facebook/dino-vits8", SMALL, 21.8, patch=8),
    "dino-vitb16": _vit("DINO", "facebook/dino-vitb16", BASE, 86.4),
    "dino-vitb8": _vit("DINO", "facebook/dino-vitb8", BASE, 86.4, patch=8),
    "dinov2-small": _dinov2("small", SMALL, 22.1),
    "dinov2-base": _dinov2("base", BASE, 86.6),
    "dinov2-large": _dinov2("large", LARGE, 304.4),
    "dinov2-giant": _dinov2("giant", GIANT, 1136),
    "dinov2-registers-small": _dinov2("small", SMALL, 22.1, registers=4),
    "dinov2-registers-base": _dinov2("base", BASE, 86.6, registers=4),
    "dinov2-registers-large": _dinov2("large", LARGE, 304.4, registers=4),
    "dinov2-registers-giant": _dinov2("giant", GIANT, 1136, registers=4),
    "dinov3-small": _dinov3("vits16", SMALL, 21.6),
    "dinov3-base": _dinov3("vitb16", BASE, 85.7),
    "dinov3-large": _dinov3("vitl16", LARGE, 303.1),
    "mae-base": _mae("base", BASE, 85.8),
    "mae-large": _mae("large", LARGE, 303.3),
    "beit-base": _beit("base", BASE, 85.8),
    "beit-large": _beit("large", LARGE, 303.4),
    "clip-base-32": _clip("base-patch32", BASE, 87.5, 32),
    "clip-base-16": _clip("base-patch16", BASE, 85.8, 16),
    "clip-large-14": _clip("large-patch14", LARGE, 303.2, 14),
    "siglip-base": _siglip("siglip-base", BASE, 92.9),
    "siglip-large": _siglip("siglip-large", LARGE, 316, size=256),
    "siglip-so400m": _siglip("siglip-so400m", SO400M, 428.2, patch=14, size=384),
    "siglip2-base": _siglip("siglip2-base", BASE, 92.9),
    "siglip2-large": _siglip("siglip2-large", LARGE, 316, size=256),
    "siglip2-so400m": _siglip("siglip2-so400m", SO400M, 428.2, patch=14, size=384),
    "swin-tiny": _swin("tiny", 96, (2, 2, 6, 2), 27.5),
    "swin-small": _swin("small", 96, (2, 2, 18, 2), 48.8),
    "swin-base": _swin("base", 128, (2, 2, 18, 2), 86.7),
    "swinv2-tiny": _swin("tiny", 96, (2, 2, 6, 2), 27.6, second=True),
    "swinv2-small": _swin("small", 96, (2, 2, 18, 2), 49, second=True),
    "swinv2-base": _swin("base", 128, (2, 2, 18, 2), 86.9, second=True),
    "eva02-tiny": _eva("tiny", TINY, 5.5),
    "eva02-small": _eva("small", SMALL, 21.6),
    "eva02-base": _eva("base", BASE, 85.8),
    "eva02-large": _eva("large", LARGE, 303.3),
    "sam-base": _sam("base", BASE, 89.7),
    "sam-large": _sam("large", LARGE, 308.3),
    "sam-huge": _sam("huge", HUGE, 637),
}


def nearest(name: str) -> str:
    """`; did you mean …?` with the aliases closest to a name, also to their names on the hub.

    >>> nearest("dinov2-smal")
    '; did you mean dinov2-small or dinov3-small or swinv2-small?'
    """
    short = {alias.spec.partition(":")[2].lower(): each for each, alias in ALIASES.items()}
    found = closest(name, [*ALIASES, *short, *("tiny", "random")])
    names = dict.fromkeys(short.get(each, each) for each in found)
    return f"; did you mean {' or '.join(names)}?" if names else ""
