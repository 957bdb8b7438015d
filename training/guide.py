"""The guide: what a DeiT-tiny (2012.12877) sees in pictures, for a model that learns from it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from attnviz.statistics.localization import scores

LAYERS, HEADS, FEATURES, PATCH, GRID = 12, 3, 192, 16, 14
SEEN_LAYER = 9
"""The layer whose tokens are predicted; its heads are among the most localized."""
CHOSEN = 3
"""The number of localized heads whose mean is the guide's map."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Seen:
    """What the guide sees: tokens (B, N, 192) of unit variance, and maps (B, N) that sum to 1."""

    tokens: Tensor
    maps: Tensor


class Guide:
    """DeiT-tiny from a folder of transformers; in bfloat16, and for grids of any shape."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        state = load_file(folder / "model.safetensors")
        self._state = {
            name.removeprefix("vit."): value.to(device, torch.bfloat16)
            for name, value in state.items()
        }
        self._device = device

    @torch.no_grad()
    def see(self, pixels: Tensor) -> Seen:
        """What it sees in (B, 3, 16·rows, 16·columns) uint8 pixels."""
        rows, columns = pixels.shape[2] // PATCH, pixels.shape[3] // PATCH
        x = self._embedded(pixels, (rows, columns))
        tokens, maps = x, []
        for layer in range(LAYERS):
            x, weights = self._block(x, layer)
            if layer >= LAYERS // 2:
                maps.append(weights)
            if layer == SEEN_LAYER:
                tokens = F.layer_norm(x[:, 1:].float(), (FEATURES,))
        return Seen(tokens, localized(torch.cat(maps, 1), rows, columns))

    def _embedded(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        state, places = self._state, self._state["embeddings.position_embeddings"]
        mean, deviation = (torch.tensor(v, device=self._device) for v in (MEAN, DEVIATION))
        values = (pixels.float() / 255 - mean[:, None, None]) / deviation[:, None, None]
        name = "embeddings.patch_embeddings.projection"
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        patches = F.conv2d(values.to(weight), weight, bias, stride=PATCH).flatten(2).transpose(1, 2)
        square = places[:, 1:].float().reshape(1, GRID, GRID, -1).permute(0, 3, 1, 2)
        if grid != (GRID, GRID):
            square = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
        patches = patches + square.flatten(2).transpose(1, 2).to(weight)
        first = state["embeddings.cls_token"] + places[:, :1]
        return torch.cat([first.expand(len(patches), -1, -1), patches], 1)

    def _block(self, x: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """X after a block, and the class token's attention to the patches (B, heads, N)."""
        normed = self._norm(x, f"encoder.layer.{layer}.layernorm_before")
        q, k, v = (
            self._linear(normed, f"encoder.layer.{layer}.attention.attention.{name}")
            .reshape(*x.shape[:2], HEADS, FEATURES // HEADS)
            .transpose(1, 2)
            for name in ("query", "key", "value")
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        weights = (q[:, :, :1].float() @ k.float().mT / k.shape[-1] ** 0.5).softmax(-1)
        x = x + self._linear(attended, f"encoder.layer.{layer}.attention.output.dense")
        normed = self._norm(x, f"encoder.layer.{layer}.layernorm_after")
        inner = F.gelu(self._linear(normed, f"encoder.layer.{layer}.intermediate.dense"))
        return x + self._linear(inner, f"encoder.layer.{layer}.output.dense"), weights[:, :, 0, 1:]

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._state[f"{name}.weight"], self._state[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._state[f"{name}.weight"], self._state[f"{name}.bias"]
        return F.layer_norm(x, (FEATURES,), weight, bias, 1e-12)


def localized(maps: Tensor, rows: int, columns: int) -> Tensor:
    """The mean of the most localized of many heads' maps, (B, heads, N) → (B, N), sums of 1."""
    shares = maps / maps.sum(-1, keepdim=True)
    grids = shares.flatten(0, 1).reshape(-1, rows, columns).cpu().double().numpy()
    score = torch.from_numpy(scores(grids)).reshape(maps.shape[:2])
    best = score.argsort(1)[:, :CHOSEN].to(maps.device)
    return shares.gather(1, best[..., None].expand(-1, -1, maps.shape[2])).mean(1)
