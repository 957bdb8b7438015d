"""Names of plain vision transformers in other libraries, translated to timm's."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attnviz.models import state_dict_names

State = dict[str, Tensor]


@dataclass(frozen=True)
class NamingLayout:
    """How a library names and shapes the parts of a plain vision transformer.

    Attributes:
        title: the library.
        anchor: end of the name of the patch embedding's weight; what stands before is a prefix.
        beside: part of a name that a file of this layout has, too.
        rules: patterns and replacements, applied to every name in order.
        reshape: changes tensors before names are translated.
        eps: epsilon of the norms.
        statistics: mean and standard deviation of pixels, by their name.
        act: activation.
        antialias: how the library interpolates positions.
    """

    title: str
    anchor: str
    beside: str = ""
    rules: tuple[tuple[str, str], ...] = ()
    reshape: Callable[[State], State] = field(default=lambda state: state)
    eps: float = 1e-6
    statistics: str = "imagenet"
    act: str = "gelu"
    antialias: bool = True


def _google(state: State) -> State:
    """Kernels of Flax: the first axis is the input; heads have an axis of their own."""
    changed = {}
    for name, given in state.items():
        tensor = given
        if name.endswith("kernel"):
            if tensor.ndim == 4:  # (h, w, in, out) of a convolution
                tensor = tensor.permute(3, 2, 0, 1)
            elif "/out/" in name:  # (heads, features of one, out)
                tensor = tensor.flatten(0, 1).mT
            else:  # (in, heads, features of one) or (in, out)
                tensor = tensor.flatten(1).mT
        elif "MultiHead" in name and "/out/" not in name:
            tensor = tensor.flatten()
        changed[name.replace("/", ".")] = tensor
    return changed


def _vit_pytorch(state: State) -> State:
    """Patches are linear layers over (row, column, channel); convolutions have channels first."""
    changed = {name: t for name, t in state.items() if t.numel() or name != "cls_token"}
    for name in ("cls_token", "pos_embedding"):
        if name in changed:
            changed[name] = changed[name].reshape(1, -1, changed[name].shape[-1])
    name = next(n for n in ("to_patch_embedding.2.weight", "to_patch_embedding.1.weight")
                if n in state and state[n].ndim == 2)  # fmt: skip
    weight = state[name]
    side = round((weight.shape[1] / 3) ** 0.5)
    if side * side * 3 != weight.shape[1]:
        raise ValueError("patches are not square, or of three channels")
    changed["patch_embed.proj.weight"] = weight.view(-1, side, side, 3).permute(0, 3, 1, 2)
    changed["patch_embed.proj.bias"] = changed.pop(name.replace("weight", "bias"))
    del changed[name]
    if name.startswith("to_patch_embedding.2"):
        for leaf in ("weight", "bias"):
            before = changed.pop(f"to_patch_embedding.1.{leaf}")
            turned = before.view(side, side, 3).permute(2, 0, 1).flatten()
            changed[f"patch_embed.norm_pre.{leaf}"] = turned
            changed[f"patch_embed.norm.{leaf}"] = changed.pop(f"to_patch_embedding.3.{leaf}")
    return changed


def _clip(state: State) -> State:
    """The projection is a matrix (width, features), tokens lack the axis of the batch."""
    changed = dict(state)
    for name in [n for n in state if re.search(r"(class|position(al)?)_embedding(\.|$)", n)]:
        changed[name] = state[name].reshape(1, -1, state[name].shape[-1])
    if "proj" in changed:
        changed["head.weight"] = changed.pop("proj").mT
    return changed


_LAYOUTS = (
    NamingLayout(
        "timm, DeiT, DINO, DINOv2, MAE", "patch_embed.proj.weight",
        rules=(
            (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2 trains blocks in chunks
            (r"^register_tokens$", "reg_token"),
            (r"\.mlp\.w12\.", ".mlp.fc1."), (r"\.mlp\.w3\.", ".mlp.fc2."),
            (r"\.gamma_([12])$", r".ls\1.gamma"),
        ),
    ),
    NamingLayout(
        "transformers", "embeddings.patch_embeddings.projection.weight",
        rules=(
            (r"^embeddings\.cls_token$", "cls_token"),
            (r"^embeddings\.distillation_token$", "dist_token"),
            (r"^embeddings\.register_tokens$", "reg_token"),
            (r"^embeddings\.position_embeddings$", "pos_embed"),
            (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
            (r"^(encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
            (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
            (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
            (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
            (r"\.attn\.([qkv])(uery|ey|alue)\.", r".attn.\1."),
            (r"\.layernorm_before\.", ".norm1."), (r"\.layernorm_after\.", ".norm2."),
            (r"\.intermediate\.dense\.", ".mlp.fc1."), (r"\.output\.dense\.", ".mlp.fc2."),
            (r"\.mlp\.weights_in\.", ".mlp.fc1."),
            (r"\.mlp\.(weights_out|down_proj)\.", ".mlp.fc2."),
            (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
            (r"^layernorm\.", "norm."),
        ),
        eps=1e-12, statistics="half", antialias=False,
    ),
    NamingLayout(
        "CLIP of transformers", "embeddings.patch_embedding.weight", "embeddings.class_embedding",
        rules=(
            (r"^embeddings\.class_embedding$", "cls_token"),
            (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
            (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
            (r"^pre_layrnorm\.", "norm_pre."), (r"^post_layernorm\.", "norm."),
            (r"^encoder\.layers\.(\d+)\.", r"blocks.\1."),
            (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
            (r"\.self_attn\.out_proj\.", ".attn.proj."),
            (r"\.layer_norm([12])\.", r".norm\1."),
        ),
        reshape=_clip, eps=1e-5, statistics="clip", act="quick_gelu", antialias=False,
    ),
    NamingLayout(
        "torchvision", "conv_proj.weight", "encoder.pos_embedding",
        rules=(
            (r"^class_token$", "cls_token"), (r"^conv_proj\.", "patch_embed.proj."),
            (r"^encoder\.pos_embedding$", "pos_embed"), (r"^encoder\.ln\.", "norm."),
            (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
            (r"\.ln_([12])\.", r".norm\1."), (r"\.self_attention\.in_proj_", ".attn.qkv."),
            (r"\.self_attention\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."), (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
        ),
        antialias=False,
    ),
    NamingLayout(
        "OpenAI's CLIP and open_clip", "conv1.weight", "transformer.resblocks.0.ln_1.weight",
        rules=(
            (r"^class_embedding$", "cls_token"), (r"^positional_embedding$", "pos_embed"),
            (r"^conv1\.", "patch_embed.proj."),
            (r"^ln_pre\.", "norm_pre."), (r"^ln_post\.", "norm."),
            (r"^transformer\.resblocks\.(\d+)\.", r"blocks.\1."),
            (r"\.ln_([12])\.", r".norm\1."), (r"\.attn\.in_proj_", ".attn.qkv."),
            (r"\.attn\.out_proj\.", ".attn.proj."), (r"\.mlp\.c_fc\.", ".mlp.fc1."),
            (r"\.mlp\.c_proj\.", ".mlp.fc2."), (r"\.ls_([12])\.gamma$", r".ls\1.gamma"),
        ),
        reshape=_clip, eps=1e-5, statistics="clip",
    ),
    NamingLayout(
        "Google's JAX", "embedding/kernel",
        rules=(
            (r"^cls$", "cls_token"), (r"^embedding\.", "patch_embed.proj."),
            (r"^Transformer\.posembed_input\.pos_embedding$", "pos_embed"),
            (r"^Transformer\.encoder_norm\.", "norm."),
            (r"^Transformer\.encoderblock_(\d+)\.", r"blocks.\1."),
            (r"\.LayerNorm_0\.", ".norm1."), (r"\.LayerNorm_[12]\.", ".norm2."),
            (r"\.MultiHeadDotProductAttention_\d\.", ".attn."), (r"\.attn\.out\.", ".attn.proj."),
            (r"\.attn\.([qkv])(uery|ey|alue)\.", r".attn.\1."),
            (r"\.MlpBlock_\d\.Dense_0\.", ".mlp.fc1."), (r"\.MlpBlock_\d\.Dense_1\.", ".mlp.fc2."),
            (r"\.(kernel|scale)$", ".weight"),
        ),
        reshape=_google, statistics="half",
    ),
    NamingLayout(
        "vit-pytorch", "to_patch_embedding.1.weight", "transformer.layers.0.0.to_qkv.weight",
        rules=(
            (r"^pos_embedding$", "pos_embed"),
            (r"^transformer\.layers\.(\d+)\.0\.norm\.", r"blocks.\1.norm1."),
            (r"^transformer\.layers\.(\d+)\.0\.to_qkv\.", r"blocks.\1.attn.qkv."),
            (r"^transformer\.layers\.(\d+)\.0\.to_out\.0\.", r"blocks.\1.attn.proj."),
            (r"^transformer\.layers\.(\d+)\.1\.net\.0\.", r"blocks.\1.norm2."),
            (r"^transformer\.layers\.(\d+)\.1\.net\.1\.", r"blocks.\1.mlp.fc1."),
            (r"^transformer\.layers\.(\d+)\.1\.net\.4\.", r"blocks.\1.mlp.fc2."),
            (r"^transformer\.norm\.", "norm."),
            (r"^mlp_head\.0\.", "fc_norm."), (r"^mlp_head\.(1\.)?", "head."),
        ),
        reshape=_vit_pytorch, eps=1e-5, statistics="half",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Translation:
    """A state dict by timm's names.

    Attributes:
        state: tensors by timm's names.
        original: name in the file, by timm's name.
        layout: the layout of the file.
        outside: names of the file that lie outside of the transformer.
    """

    state: State
    original: dict[str, str]
    layout: NamingLayout
    outside: tuple[str, ...]


def translate(state: Mapping[str, Tensor]) -> list[Translation]:
    """Readings of a state dict as plain vision transformers: none, one, or several inside of it."""
    bare = state_dict_names.without_wrappers(state) or {name: name for name in state}
    found = []
    for layout in _LAYOUTS:
        ends = [name for name in bare if _ends(name, layout.anchor)]
        for end in ends:
            prefix = end[: -len(layout.anchor)]
            if not layout.beside or any(n.startswith(prefix + layout.beside) for n in bare):
                found.append(_translate(state, bare, layout, prefix))
    return found


def _ends(name: str, anchor: str) -> bool:
    return name == anchor or name.endswith((f".{anchor}", f"/{anchor}"))


def _translate(
    state: Mapping[str, Tensor], bare: Mapping[str, str], layout: NamingLayout, prefix: str
) -> Translation:
    """The transformer behind a prefix; a head may lie behind a shorter one."""
    parents = [prefix[: m.start()] for m in re.finditer(r"[^./]+[./]$", prefix)] or [""]
    inside = {n.removeprefix(prefix): given for n, given in bare.items() if n.startswith(prefix)}
    outside = []
    for name, given in bare.items():
        if name.startswith(prefix):
            continue
        short = next((name.removeprefix(p) for p in parents if name.startswith(p)), name)
        if (named := _head(short)) in _HEAD_NAMES and named not in inside:
            inside[named] = given
        else:
            outside.append(given)
    tensors = layout.reshape({name: state[given] for name, given in inside.items()})
    names = {name: _renamed(_head(name), layout) for name in tensors}
    original = {names[name]: inside.get(name, name) for name in tensors}
    translated = _joined({names[name]: tensor for name, tensor in tensors.items()})
    return Translation(translated, original, layout, tuple(outside))


_HEADS = dict.fromkeys(
    ("head", "fc", "classifier", "cls_classifier", "heads.head", "linear", "visual_projection"),
    "head",
) | {"head_dist": "head_dist", "distillation_classifier": "head_dist"}
"""Names of linear layers beside a transformer that are its class head."""
_HEAD_NAMES = ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")


def _head(name: str) -> str:
    """The name of a head as timm has it; other names stay."""
    module, _, leaf = name.rpartition(".")
    return f"{_HEADS[module]}.{leaf}" if module in _HEADS else name


def _renamed(name: str, layout: NamingLayout) -> str:
    for pattern, replacement in layout.rules:
        name = re.sub(pattern, replacement, name)
    return name


def _joined(state: State) -> State:
    """Separate query, key and value as one, and so gate and value of a gated MLP."""
    joined = dict(state)
    for parts, whole in ((("attn.q", "attn.k", "attn.v"), "attn.qkv"),
                         (("mlp.gate_proj", "mlp.up_proj"), "mlp.fc1")):  # fmt: skip
        for name in [n for n in state if re.search(rf"\.{re.escape(parts[0])}\.\w+$", n)]:
            names = [name.replace(parts[0], part) for part in parts]
            if all(each in state for each in names):
                tensors = [joined.pop(each) for each in names]
                joined[name.replace(parts[0], whole)] = torch.cat(tensors)
    return joined
