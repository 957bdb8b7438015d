# mypy: disable-error-code="no-any-return,no-untyped-call,operator,index"
# Models are written as people write them, who annotate no more than they like.
"""Transformers made of PyTorch's own layers, whose fast paths run where no gradient is wanted."""

import torch
from torch import Tensor, nn

from panel.truth import CLS, ELSE, attends, expects, grid, join
from panel.weights import seeded

PATCHES = grid(4, 6)


class EncoderViT(nn.Module):
    """The most ordinary way: `nn.TransformerEncoder` over patches and a class token."""

    def __init__(self, *, norm_first: bool, padding: bool = False, dim: int = 24) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, dim, kernel_size=8, stride=8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.positions = nn.Parameter(torch.randn(1, 25, dim))
        layer = nn.TransformerEncoderLayer(
            dim, 2, 48, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
        self.fc = nn.Linear(dim, 10)
        self.padding = padding
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.cls_token.expand(x.size(0), -1, -1), x], dim=1) + self.positions
        mask = None
        if self.padding:  # a picture of this size leaves nothing empty
            mask = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        x = self.encoder(x, src_key_padding_mask=mask)
        return self.fc(x[:, 0])


WITH_CLASS = 2 * [attends(join(CLS, PATCHES))]


@expects(*WITH_CLASS)
def encoder_norm_first() -> nn.Module:
    return EncoderViT(norm_first=True)


@expects(*WITH_CLASS)
def encoder_norm_last() -> nn.Module:
    return EncoderViT(norm_first=False)


@expects(*WITH_CLASS)
def encoder_norm_first_padded() -> nn.Module:
    return EncoderViT(norm_first=True, padding=True)


@expects(*WITH_CLASS)
def encoder_norm_last_padded() -> nn.Module:
    return EncoderViT(norm_first=False, padding=True)


@expects(*2 * [attends(PATCHES)])
class EncoderWithEmptyColumn(nn.Module):
    """A batch of pictures padded to one size: the last column of patches is masked out."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, dim, 8, 8)
        self.positions = nn.Parameter(torch.randn(1, 24, dim))
        layer = nn.TransformerEncoderLayer(dim, 2, 48, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        empty = torch.zeros(4, 6, dtype=torch.bool)
        empty[:, 5] = True
        self.register_buffer("empty", empty.flatten()[None])
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).mT + self.positions
        return self.encoder(x, src_key_padding_mask=self.empty.expand(len(x), -1))[:, 0]


class MhaBlock(nn.Module):
    def __init__(self, dim: int, *, batch_first: bool, need_weights: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, 2, batch_first=batch_first)
        self.mlp = nn.Sequential(nn.Linear(dim, 48), nn.GELU(), nn.Linear(48, dim))
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        y, _ = self.attention(y, y, y, need_weights=self.need_weights)
        x = x + y
        return x + self.mlp(self.ln_2(x))


class MhaViT(nn.Module):
    """CLIP's and torchvision's: `nn.MultiheadAttention` within blocks of one's own."""

    def __init__(self, *, batch_first: bool, need_weights: bool, dim: int = 24) -> None:
        super().__init__()
        self.conv_proj = nn.Conv2d(3, dim, 8, 8, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(dim))
        self.pos_embedding = nn.Parameter(torch.randn(25, dim))
        self.batch_first = batch_first
        self.blocks = nn.Sequential(
            *[MhaBlock(dim, batch_first=batch_first, need_weights=need_weights) for _ in range(2)]
        )
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_proj(x).flatten(2).permute(0, 2, 1)
        cls = self.class_embedding + torch.zeros(len(x), 1, x.shape[-1], device=x.device)
        x = torch.cat([cls, x], dim=1) + self.pos_embedding
        if not self.batch_first:
            return self.blocks(x.permute(1, 0, 2))[0]
        return self.blocks(x)[:, 0]


@expects(*WITH_CLASS)
def mha_batch_first() -> nn.Module:
    return MhaViT(batch_first=True, need_weights=False)


@expects(*WITH_CLASS)
def mha_batch_first_with_weights() -> nn.Module:
    return MhaViT(batch_first=True, need_weights=True)


@expects(*WITH_CLASS)
def mha_tokens_first() -> nn.Module:
    return MhaViT(batch_first=False, need_weights=False)


@expects(*WITH_CLASS)
def mha_tokens_first_with_weights() -> nn.Module:
    return MhaViT(batch_first=False, need_weights=True)


@expects(attends(PATCHES), attends(ELSE, PATCHES), asks=[(("auto",), "all"), (("mean",), "0")])
class AttentionPool(nn.Module):
    """SigLIP's MAP head: a learned query pools the tokens."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, 8, 8)
        self.positions = nn.Parameter(torch.randn(1, 24, dim))
        self.block = MhaBlock(dim, batch_first=True, need_weights=False)
        self.probe = nn.Parameter(torch.randn(1, 1, dim))
        self.pool = nn.MultiheadAttention(dim, 3, batch_first=True)
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.embed(x).flatten(2).transpose(1, 2) + self.positions)
        pooled, _ = self.pool(self.probe.expand(len(x), -1, -1), x, x, need_weights=False)
        return pooled.squeeze(1)


OBJECTS = join(*4 * [ELSE])


@expects(
    attends(PATCHES),
    attends(OBJECTS),
    attends(OBJECTS, PATCHES),
    asks=[(("auto",), "all"), (("mean", "14,19"), "0")],
)
class Detector(nn.Module):
    """DETR in small: an encoder over the picture, a decoder of four object queries."""

    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, dim, 8, 8)
        self.positions = nn.Parameter(torch.randn(1, 24, dim))
        self.encoder = nn.TransformerEncoderLayer(dim, 2, 48, batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(dim, 2, 48, batch_first=True)
        self.query_pos = nn.Parameter(torch.randn(4, dim))
        self.boxes = nn.Linear(dim, 4)
        seeded(self)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.encoder(self.backbone(x).flatten(2).transpose(1, 2) + self.positions)
        found = self.decoder(self.query_pos.expand(len(x), -1, -1), memory)
        return self.boxes(found).sigmoid()
