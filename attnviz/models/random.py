"""Builds `random`: one multi-head attention layer over embedded patches or pixels."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnviz.attention import MultiHeadAttention
from attnviz.errors import UsageError
from attnviz.models import memory
from attnviz.models.fitting import fit
from attnviz.models.model import Model
from attnviz.models.model_request import ModelRequest, no_class_head, no_text_tower
from attnviz.models.state_dicts import read_state_dict
from attnviz.models.weights import DTYPES, find_device, initial_state

HEADS = 8
FEATURES = 64
SIZES = {"patches": 224, "pixels": 64}
PATCH = 16


class EmbeddedAttention(nn.Module):
    """Patches → linear embedding + 2-D sine–cosine positions → one MultiHeadAttention."""

    def __init__(self, heads: int, features: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(3 * patch * patch, features)
        self.attention = MultiHeadAttention(heads, features)

    def tokens(self, pixels: Tensor) -> Tensor:
        """The tokens that the layer attends over: (B, 3, h, w) → (B, rows·columns, features)."""
        patches = F.unfold(pixels, self.patch, stride=self.patch).transpose(1, 2)
        rows, columns = pixels.shape[2] // self.patch, pixels.shape[3] // self.patch
        positions = sine_cosine(rows, columns, self.attention.n_features)
        embedded: Tensor = self.embed(patches)
        return embedded + positions.to(pixels)

    def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, 3, h, w) and an optional mask (B, rows·columns) → (B, rows·columns, features)."""
        output: Tensor = self.attention(self.tokens(pixels), mask, need_weights=False)[0]
        return output


def sine_cosine(rows: int, columns: int, features: int) -> Tensor:
    """2-D sine–cosine positions, (rows·columns, features).

    The first half of the features encodes the row, the second the column, each as sines and
    cosines of the index times 10000^(−i/n) (Vaswani et al., 1706.03762, §3.5, per axis as in
    He et al., 2111.06377); features that do not divide by 4 leave the last ones 0.
    """
    n = features // 4
    frequency = 10000.0 ** (-torch.arange(n, dtype=torch.float64) / max(n, 1))
    result = torch.zeros(rows, columns, features, dtype=torch.float64)
    for axis, length in enumerate((rows, columns)):
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency  # (length, n)
        code = torch.cat([angle.sin(), angle.cos()], dim=1)
        where = slice(2 * n * axis, 2 * n * (axis + 1))
        result[:, :, where] = code[:, None] if axis == 0 else code[None]
    return result.flatten(0, 1).float()


def load(request: ModelRequest) -> Model:
    """Build the model `random`; see `attnviz.load_model`."""
    if request.head == "class":
        raise no_class_head("random", "it is one attention layer")
    if request.head == "text":
        raise no_text_tower("random", "it is one attention layer")
    pixels = request.tokens == "pixels"
    if pixels and request.patch not in (None, 1):
        raise UsageError(
            f"--patch {request.patch} does not go with --tokens pixels; leave one of them out"
        )
    side = 1 if pixels else request.patch or PATCH
    found = None if request.weights is None else read_state_dict(request.weights, request.key)
    state = None if found is None else found.tensors
    heads = request.heads or HEADS
    features = request.features or _width(state) or heads * math.ceil(FEATURES / heads)
    memory.require(
        48 * features**2 + 36 * side**2 * features,
        f"a layer of {features} features over patches of {side} px",
        "take smaller --patch, --features or --heads",
    )
    if state is not None and features % heads:
        raise UsageError(
            f"{request.weights}: {features} features do not divide among {heads} heads; "
            "say how many it has with --heads"
        )
    with torch.device("meta"):
        module = EmbeddedAttention(heads, features, side)
    module.load_state_dict(initial_state(module, request.seed), assign=True)
    notes: tuple[str, ...] = ()
    if found is not None and request.weights is not None:
        fitted = fit(module.attention, found.tensors, request.weights)
        notes = (*found.notes, *fitted.notes)
        state = {name: tensor.clone() for name, tensor in fitted.state.items()}
        module.attention.load_state_dict(state, assign=True)
    place, kind = find_device(request.device), DTYPES[request.dtype]
    return Model(
        spec="random",
        weights=request.weights or "random",
        module=module.to(place, kind).eval().requires_grad_(False),
        layers=1,
        heads=heads,
        features=features,
        tokens=request.tokens,
        patch=side,
        size=request.size or SIZES[request.tokens],
        takes_mask=True,
        plain=True,
        seed=request.seed,
        loaded=None if state is None else _share(module.attention, module),
        notes=notes,
        # Patches (2 copies), positions, embedding, q, k, v and outputs, keys again and results.
        token_bytes=24 * side**2 + 60 * features + 120 * heads,
        device=place,
        dtype=kind,
    )


def _share(part: nn.Module, whole: nn.Module) -> float:
    """Share of a part's parameters in the whole; only the embedding comes from the seed."""
    counts = [sum(p.numel() for p in module.parameters()) for module in (part, whole)]
    return counts[0] / counts[1]


def _width(state: dict[str, Tensor] | None) -> int | None:
    """Width of the layer that a state dict was made for; None if it does not show."""
    weight = (state or {}).get("q_linear.weight")
    return int(weight.shape[0]) if weight is not None and weight.ndim == 2 else None
