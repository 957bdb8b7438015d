"""Builds `tiny`: the embedded model, a small vision transformer trained on composites."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from attnviz.attention import MultiHeadAttention
from attnviz.errors import ModelError
from attnviz.models.fitting import fit
from attnviz.models.model import Model, token_bytes
from attnviz.models.model_request import ModelRequest, no_text_tower, refuse_options
from attnviz.models.state_dicts import read_state_dict
from attnviz.models.weights import DTYPES, find_device, initial_state

FEATURES, LAYERS, HEADS, PATCH, REGISTERS = 192, 6, 8, 8, 4
SIZE = 144
WEIGHTS = Path(__file__).with_name("tiny.safetensors")
LABELS = (
    "mammal", "bird", "fish", "reptile", "insect", "flower", "tree", "fruit", "vegetable", "food",
    "dish", "vehicle", "ship", "aircraft", "building", "tool", "instrument", "device", "furniture",
    "clothing", "person",
)  # fmt: skip
"""The classes: the kinds of things in the pictures that the model was trained on."""


def mlp(features: int) -> nn.Sequential:
    """Two linear maps with a GELU between them, four times as wide in the middle."""
    return nn.Sequential(
        nn.Linear(features, 4 * features), nn.GELU(), nn.Linear(4 * features, features)
    )


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): pre-norm, as in ViT (2010.11929, eq. 2–3)."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(features)
        self.attention = MultiHeadAttention(heads, features)
        self.mlp_norm = nn.LayerNorm(features)
        self.mlp = mlp(features)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """(B, N, F), a mask (B, N) → the same shape, and the weights (B, H, N, N) if needed."""
        normed = self.attention_norm(x)
        attended: Tensor
        weights: Tensor | None
        if need_weights:
            attended, weights = self.attention(normed, mask)
        else:
            attended, weights = self.attention(normed, mask, need_weights=False)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), weights


class Surroundings(nn.Module):
    """x + mlp(norm(depthwise 7×7 convolution of x)): a block of ConvNeXt (2201.03545, fig. 4)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(features, features, 7, padding=3, groups=features)
        self.norm = nn.LayerNorm(features)
        self.mlp = mlp(features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, rows, columns) → the same."""
        around = self.around(x).permute(0, 2, 3, 1)
        change: Tensor = self.mlp(self.norm(around))
        return x + change.permute(0, 3, 1, 2)


class VisionTransformer(nn.Module):
    """A vision transformer for any input shape (Dosovitskiy et al. 2021, 2010.11929).

    Patches are embedded by three convolutions of stride 2 (Xiao et al. 2021, 2106.14881), each of
    4×4 pixels so that a token is centred on its patch, and see their surroundings twice. Before
    the patches stand a class token and registers (Darcet et al. 2024, 2309.16588). Positions are
    sines and cosines of the place in the picture, so that they serve grids of any shape.
    """

    def __init__(
        self,
        *,
        features: int = FEATURES,
        layers: int = LAYERS,
        heads: int = HEADS,
        registers: int = REGISTERS,
        labels: int = len(LABELS),
    ) -> None:
        super().__init__()
        self.prefix = 1 + registers
        self.embed = nn.Sequential(
            nn.Conv2d(3, 32, 4, 2, 1), nn.GELU(),
            nn.Conv2d(32, 64, 4, 2, 1), nn.GELU(),
            nn.Conv2d(64, features, 4, 2, 1), Surroundings(features), Surroundings(features),
        )  # fmt: skip
        self.cls_token = nn.Parameter(torch.zeros(1, 1, features))
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, features))
        self.blocks = nn.ModuleList(EncoderBlock(features, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, labels)

    def tokens(self, pixels: Tensor) -> Tensor:
        """(B, 3, h, w) → (B, prefix + rows·columns, features): the first block's input."""
        patches = self.embed(pixels)  # (B, F, rows, columns)
        batch, features, rows, columns = patches.shape
        grid = patches.flatten(2).transpose(1, 2) + places(rows, columns, features).to(patches)
        prefix = torch.cat([self.cls_token, self.register_tokens], 1).to(patches)
        return torch.cat([prefix.expand(batch, -1, -1), grid], 1)

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, 3, h, w), sides multiples of 8 → scores of `LABELS`, (B, labels).

        A mask of 0/1, (B, prefix + rows·columns), leaves tokens out as keys in every layer.
        """
        x = self.tokens(pixels)
        for block in self.blocks:
            x, _ = block(x, mask)
        scores: Tensor = self.head(self.norm(x[:, 0]))
        return scores


def places(rows: int, columns: int, features: int, scale: float = 16.0) -> Tensor:
    """Positions: sines and cosines of the place in the picture, (rows·columns, features).

    As in Vaswani et al. (1706.03762, §3.5) for each axis, of (index + ½) / length · `scale` instead
    of the index, with frequencies 100^(−i/n), all over √2: the picture's edges are at the same
    places whatever its shape and size.
    """
    n = features // 4
    frequency = 100.0 ** (-torch.arange(n, dtype=torch.float64) / n)
    codes = []
    for length in (rows, columns):
        place = (torch.arange(length, dtype=torch.float64) + 0.5) / length * scale
        angle = place[:, None] * frequency  # (length, n)
        codes.append(torch.cat([angle.sin(), angle.cos()], 1) / math.sqrt(2))
    down = codes[0][:, None].expand(rows, columns, 2 * n)
    across = codes[1][None].expand(rows, columns, 2 * n)
    return torch.cat([down, across], 2).reshape(rows * columns, 4 * n).float()


def load(request: ModelRequest) -> Model:
    """Load the embedded model; see `attnviz.load_model`."""
    refuse_options(request)
    if request.head == "text":
        raise no_text_tower("tiny", "it was trained on composites")
    device, dtype = find_device(request.device), DTYPES[request.dtype]
    with torch.device("meta"):
        module = VisionTransformer()
    heads: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    if request.random_weights:
        state = initial_state(module, request.seed)
    else:
        path = request.weights or str(WEIGHTS)
        found = read_state_dict(path, request.key)
        if "q_linear.weight" in found.tensors:
            raise ModelError(f"{path}: a single attention layer; add --model random")
        fitted = fit(module, found.tensors, path)
        state = {name: value.float().clone() for name, value in fitted.state.items()}
        heads, notes = fitted.heads, (*found.notes, *fitted.notes)
    for name in heads:
        module.set_submodule(name, nn.Identity())
    module.load_state_dict(state, assign=True)
    return Model(
        spec="tiny",
        weights=request.weights or ("random" if request.random_weights else "pretrained"),
        module=module.to(device, dtype).eval().requires_grad_(False),
        layers=LAYERS,
        heads=HEADS,
        features=FEATURES,
        tokens="patches",
        patch=PATCH,
        size=request.size or SIZE,
        prefix=1 + REGISTERS,
        class_token=True,
        takes_mask=True,
        plain=True,
        seed=request.seed if request.random_weights else None,
        token_bytes=token_bytes(LAYERS, FEATURES),
        head="none" if heads else "class",
        labels=None if heads else LABELS,
        loaded=None if request.random_weights else 1.0,
        notes=notes,
        device=device,
        dtype=dtype,
    )
