"""Points that each query of deformable attention samples for itself, and their weights."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attnviz
from attnviz.explanation.sampled_points import sampled_layer
from attnviz.geometry.grid import TokenGrid
from attnviz.recording import Recording

Watch = Callable[..., tuple[Recording, Any]]
HEADS, LEVELS, POINTS, QUERIES = 2, 3, 4, 5
WIDTH, HEIGHT = 96, 64


class Deformable(nn.Module):
    """Zhu et al. (2010.04159): learned queries sample maps of three sizes; keeps what it did."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.ModuleList(nn.Conv2d(3, 8 * HEADS, side, side) for side in (8, 16, 32))
        self.objects = nn.Parameter(torch.randn(1, QUERIES, 16))
        self.score = nn.Linear(16, HEADS * LEVELS * POINTS)
        self.offset = nn.Linear(16, HEADS * LEVELS * POINTS * 2)
        self.weights, self.at = torch.empty(0), torch.empty(0)

    def forward(self, pixels: Tensor) -> Tensor:
        shape = 1, QUERIES, HEADS, LEVELS, POINTS
        weights = self.score(self.objects).unflatten(-1, (HEADS, -1)).softmax(-1).view(shape)
        at = self.offset(self.objects).tanh().view(*shape, 2) * 1.5  # some are outside
        self.weights, self.at = weights, at
        sampled = []
        for level, embed in enumerate(self.embed):
            maps = embed(pixels).unflatten(1, (HEADS, -1)).flatten(0, 1)
            places = at[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B·H, queries, points, 2)
            sampled.append(F.grid_sample(maps, places, align_corners=False))
        laid = weights.transpose(1, 2).reshape(HEADS, 1, QUERIES, LEVELS * POINTS)
        output: Tensor = (torch.stack(sampled, -2).flatten(-2) * laid).sum(-1)
        return output.view(1, -1, QUERIES).mT.contiguous()


def test_points_have_their_places_and_the_weights_of_the_model(watch: Watch) -> None:
    picture, model = torch.randn(1, 3, HEIGHT, WIDTH), Deformable()
    with torch.no_grad():
        recording, _ = watch(lambda: model(picture), picture=picture)
    assert recording.unread == []
    (call,) = recording
    assert call.kind == "sampled"
    assert call.shape == (QUERIES, HEADS, 1, LEVELS * POINTS)
    assert (call.check() or 0) < 1e-5
    found = call.matrix()[:, :, 0].view(QUERIES, HEADS, LEVELS, POINTS)
    torch.testing.assert_close(found, model.weights[0], atol=1e-6, rtol=0)
    assert call.points is not None
    pixels = (model.at[0] + 1) / 2 * torch.tensor([WIDTH, HEIGHT])
    outside = (model.at[0].abs() > 1).any(-1)
    inside = (model.at[0].abs() < 1 - 2 * 16 / HEIGHT).all(-1)  # between centres of all maps
    assert bool(outside.any())
    assert bool(inside.any())
    torch.testing.assert_close(call.points[inside], pixels[inside], atol=1e-3, rtol=0)
    near = ~outside & ~call.points.isnan().any(-1)
    assert (call.points - pixels)[near].abs().max() < 16  # less than half of the largest cell


def test_points_of_a_part_of_the_batch_are_its_own(watch: Watch) -> None:
    picture, model = torch.randn(1, 3, HEIGHT, WIDTH), Deformable()
    with torch.no_grad():
        (call,), _ = watch(lambda: model(picture), picture=picture)
    assert call.points is not None
    part = call.batch(slice(1, 3)).points
    assert part is not None
    torch.testing.assert_close(part, call.points[1:3], equal_nan=True)


def test_gradients_at_weights_of_points_are_those_of_autograd() -> None:
    picture, model = torch.randn(1, 3, HEIGHT, WIDTH), Deformable()
    with attnviz.record(picture=picture, gradients=True) as recording:
        score = model(picture).square().sum()
    (expected,) = torch.autograd.grad(score, [model.weights], retain_graph=True)
    call = replace(recording[0], gradient=recording.gradients(score)[0])
    found = call.weight_gradient([0]).view(1, QUERIES, HEADS, LEVELS, POINTS)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    # Laid onto a grid, each head has these at its own points.
    grid = TokenGrid(rows=2, columns=3, patch=32, prefix=0)
    laid = sampled_layer(call, grid).call.weight_gradient([0])
    own = laid.view(QUERIES, HEADS, HEADS, LEVELS, POINTS)
    for head in range(HEADS):
        torch.testing.assert_close(own[:, head, head], expected[0, :, head], atol=1e-4, rtol=1e-4)
