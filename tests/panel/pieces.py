# mypy: disable-error-code="no-any-return,no-untyped-call,operator,index"
# Models are written as people write them, who annotate no more than they like.
"""One attention made in pieces: queries in chunks, heads in a loop, windows in a loop.

Pieces of one attention are one layer, with all its heads and queries, as if it had been one call.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panel.notes import note, taking_notes
from panel.spellings import PATCHES, WITH_CLASS, WITHOUT, stacked
from panel.truth import attends, expects, windows


class Joint(nn.Module):
    """Queries, keys and values from one projection; the pieces below differ in how they attend."""

    def __init__(self, dim: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        note(q, k)
        return q, k, v


class Chunked(Joint):
    """Queries a chunk after the other, to save memory; 25 tokens by 8 leave a last one alone."""

    chunk = 8

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        out = [self.attend(part, k, v) for part in q.split(self.chunk, dim=2)]
        return self.proj(torch.cat(out, dim=2).transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


@expects(*WITH_CLASS)
def chunks_and_a_last_of_one() -> nn.Module:
    return stacked(Chunked, cls=True)


@expects(*WITHOUT)
def chunks_of_eight() -> nn.Module:
    return stacked(Chunked, cls=False)


class ChunkedByHand(Chunked):
    """Chunks of seven, the last of four; the softmax by hand."""

    chunk = 7

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v


@expects(*WITH_CLASS)
def chunks_that_do_not_divide() -> nn.Module:
    return stacked(ChunkedByHand, cls=True)


class WrittenInSlices(Joint):
    """The output is there before, and every chunk of queries writes its slice (diffusers)."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        out = torch.zeros_like(q)
        for start in range(0, q.shape[2], 6):
            part = q[:, :, start : start + 6]
            scores = part @ k.transpose(-2, -1) / part.shape[-1] ** 0.5
            out[:, :, start : start + 6] = scores.softmax(dim=-1) @ v
        return self.proj(out.transpose(1, 2).flatten(2))


@expects(*WITHOUT)
def written_slice_by_slice() -> nn.Module:
    return stacked(WrittenInSlices, cls=False)


class Head(nn.Module):
    """One head, as in Karpathy's lecture."""

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(dim, size, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        k, q = self.key(x), self.query(x)
        wei = q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5
        return F.softmax(wei, dim=-1) @ self.value(x)


class HeadModules(nn.Module):
    def __init__(self, dim: int, heads: int = 3) -> None:
        super().__init__()
        self.heads = nn.ModuleList([Head(dim, dim // heads) for _ in range(heads)])
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        if taking_notes():
            q, k = (
                torch.stack([getattr(h, n)(x) for h in self.heads], 1) for n in ("query", "key")
            )
            note(q, k)
        return self.proj(torch.cat([head(x) for head in self.heads], dim=-1))


@expects(*WITH_CLASS)
def heads_as_modules() -> nn.Module:
    return stacked(HeadModules, cls=True)


class SlicesOfHeads(Joint):
    """Slices of one projection, head by head, stacked."""

    def __init__(self, dim: int, heads: int = 3) -> None:
        super().__init__(dim, heads)
        self.size = dim // heads

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        note(*(t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k)))
        outputs = []
        for i in range(self.heads):
            part = slice(i * self.size, (i + 1) * self.size)
            scores = torch.bmm(q[..., part], k[..., part].transpose(1, 2)) / self.size**0.5
            outputs.append(torch.bmm(torch.softmax(scores, dim=-1), v[..., part]))
        return self.proj(torch.stack(outputs, dim=2).reshape(b, n, c))


@expects(*WITHOUT)
def heads_as_slices() -> nn.Module:
    return stacked(SlicesOfHeads, cls=False)


class FusedHeads(SlicesOfHeads):
    """The same by the fused call, and the heads concatenated."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        note(*(t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k)))
        parts = (t.split(self.size, dim=-1) for t in (q, k, v))
        heads = [F.scaled_dot_product_attention(*each) for each in zip(*parts, strict=True)]
        return self.proj(torch.cat(heads, dim=-1))


@expects(*WITH_CLASS)
def heads_by_the_fused_call() -> nn.Module:
    return stacked(FusedHeads, cls=True)


class WindowsInALoop(Joint):
    """Windows of 2×3 patches attend apart, each in a call of its own."""

    def forward(self, x: Tensor) -> Tensor:
        b, _, c = x.shape
        x = x.view(b, 2, 2, 2, 3, c).transpose(2, 3).reshape(b, 4, 6, c)
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(3, 1, 0, 4, 2, 5)
        q, k, v = qkv  # (windows, b, heads, 6, d)
        note(q.flatten(0, 1), k.flatten(0, 1))
        found = [F.scaled_dot_product_attention(q[i], k[i], v[i]) for i in range(4)]
        y = torch.stack(found, 1).transpose(2, 3).reshape(b, 2, 2, 2, 3, c)
        return self.proj(y.transpose(2, 3).reshape(b, 24, c))


@expects(*2 * [attends(windows(PATCHES, 4, 6, (2, 3)))], may_be="right, not drawn, refused")
def windows_in_a_loop() -> nn.Module:
    return stacked(WindowsInALoop, cls=False)
