"""Blocks of models, and models that end with one of them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attnviz
from attnviz.errors import RecordingError, UsageError
from attnviz.recording import Recording, run_tail

Watch = Callable[..., tuple[Recording, Any]]
SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 64, "image_size": 32, "patch_size": 8}  # fmt: skip
FAMILIES = {
    "ViTConfig": "layers",
    "Dinov2Config": "encoder.layer",
    "Dinov2WithRegistersConfig": "encoder.layer",
    "DeiTConfig": "layers",
    "CLIPVisionConfig": "encoder.layers",
    "SiglipVisionConfig": "encoder.layers",
    "BeitConfig": "encoder.layer",
}
"""Where the blocks of transformers' models are, for models without a head."""


def built(config: str, layers: int = 3) -> nn.Module:
    transformers: Any = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = getattr(transformers, config)(**{**SMALL, "num_hidden_layers": layers})
    model: nn.Module = transformers.AutoModel.from_config(settings).eval()
    return model.requires_grad_(False)


def stack_of(model: nn.Module) -> list[nn.Module]:
    """The longest list of modules, which is the stack of blocks."""
    lists = [list(p) for p in model.modules() if isinstance(p, nn.ModuleList | nn.Sequential)]
    return max((each for each in lists if each), key=len)


def seen(model: nn.Module, run: Callable[[], Any]) -> tuple[Recording, list[Tensor], list[Tensor]]:
    """A recording; and what each block was given and returned, as hooks of its own find it."""
    given: list[Tensor] = []
    made: list[Tensor] = []
    for block in stack_of(model):
        block.register_forward_pre_hook(lambda _, x: given.append(x[0]))
        block.register_forward_hook(
            lambda _m, _x, y: made.append(y if isinstance(y, Tensor) else y[0])
        )
    with attnviz.record(blocks=model, gradients=True) as recording:
        run()
    return recording, given, made


@pytest.mark.parametrize("config", FAMILIES)
def test_blocks_are_the_models_own_with_their_tokens_and_graph(config: str) -> None:
    model, pixels = built(config), torch.randn(2, 3, 32, 32, requires_grad=True)
    recording, given, made = seen(model, lambda: model(pixels))
    blocks = recording.blocks
    assert list(blocks) == [0, 1, 2]
    assert len(recording) == 3 + (config == "SiglipVisionConfig")  # its pool is in no block
    assert [block.module for block in blocks.values()] == stack_of(model)
    for block, x, y in zip(blocks.values(), given, made, strict=True):
        assert block.input is x
        assert block.output is y
        assert y.requires_grad


def cut(config: str, model: nn.Module, layers: int) -> nn.Module:
    """The same model with fewer layers."""
    short = built(config, layers)
    state = model.state_dict()
    short.load_state_dict({name: state[name] for name in short.state_dict()})
    return short.eval()


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("config", FAMILIES)
def test_a_model_ends_with_a_block_as_if_there_were_no_more(config: str, named: bool) -> None:
    model, pixels = built(config), torch.randn(2, 3, 32, 32, requires_grad=True)
    with attnviz.record(blocks=model, gradients=True) as recording:
        whole = model(pixels)
    for number in range(3):
        inputs = {"pixel_values": pixels} if named else pixels
        ended = run_tail(model, inputs, recording.blocks, number)
        expected = whole if number == 2 else cut(config, model, number + 1)(pixels)
        for name, tensor in expected.items():
            assert torch.equal(ended[name], tensor), name
        score = ended.last_hidden_state.square().sum()
        assert list(recording.gradients(score)) == list(range(number + 1))
    again = model(pixels)
    assert torch.equal(again.last_hidden_state, whole.last_hidden_state)
    assert not any("forward" in vars(part) for part in stack_of(model))


def test_the_embedded_model_ends_with_each_of_its_blocks() -> None:
    module: Any = attnviz.load_model().module
    pixels = torch.randn(1, 3, 48, 64, requires_grad=True)
    with attnviz.record(blocks=module, gradients=True) as recording:
        whole = module(pixels)
    stack = module.blocks
    assert [block.module for block in recording.blocks.values()] == list(stack)
    for number in range(6):
        ended = run_tail(module, pixels, recording.blocks, number)
        module.blocks = stack[: number + 1]
        assert torch.equal(ended, module(pixels))
        (found,) = torch.autograd.grad(ended.square().sum(), pixels, retain_graph=True)
        (wanted,) = torch.autograd.grad(module(pixels).square().sum(), pixels)
        torch.testing.assert_close(found, wanted)
        module.blocks = stack
    assert torch.equal(ended, whole)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "with gradients": torch.enable_grad,
}


@pytest.mark.parametrize("mode", MODES)
def test_fast_paths_stay_on_and_blocks_are_detached(mode: str, watch: Watch) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    x = torch.randn(2, 5, 8)
    with MODES[mode]():
        recording, _ = watch(lambda: model(x), blocks=model)
        for block, part in zip(recording.blocks.values(), model.layers, strict=True):
            assert block.module is part
            assert not block.output.requires_grad
            assert torch.equal(part(block.input), block.output)
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


class Mixer(nn.Module):
    """Attention, if it is on, written over its input if told so; tokens stand in a dictionary."""

    def __init__(self, *, on: bool = True, over: bool = False) -> None:
        super().__init__()
        self.on, self.over = on, over

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = x.sin()
        if self.on:
            y = F.scaled_dot_product_attention(y[:, None], y[:, None], y[:, None])[:, 0]
        if self.over:
            x.zero_()
        return {"none": None, "tokens": y + 1, "more": y}


class Mixers(nn.Module):
    def __init__(self, *mixers: nn.Module) -> None:
        super().__init__()
        self.mixers = nn.ModuleList(mixers)

    def forward(self, x: Tensor) -> Tensor:
        for mixer in self.mixers:
            x = mixer(x)["tokens"]
        return x


class First(Mixers):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.mixers[0](x)["tokens"]
        return result


def test_parts_that_make_no_call_or_several_are_no_blocks() -> None:
    one, two = First(Mixer(), Mixer()), Mixers(Mixer(), Mixer(), Mixer(on=False))
    model = nn.Sequential(nn.Identity(), one, two, nn.Flatten())
    with attnviz.record(blocks=model) as recording:
        model(torch.randn(2, 4, 6))
    assert [block.module for block in recording.blocks.values()] == [one, *two.mixers[:2]]


def test_only_calls_that_count_count_and_those_not_kept_have_blocks_too() -> None:
    model, x = Mixers(Mixer(), Mixer(), Mixer()), torch.randn(2, 4, 6, requires_grad=True)
    with attnviz.record(blocks=model, calls=[1], gradients=True) as recording:
        whole = model(x)
    assert list(recording.blocks) == [0, 1, 2]
    assert torch.equal(run_tail(model, x, recording.blocks, 2), whole)
    ended = run_tail(model, x, recording.blocks, 1)
    assert torch.equal(ended, Mixers(Mixer(), Mixer())(x))
    with attnviz.record(blocks=model, where=lambda call: call.shape[2] > 4) as recording:
        model(x)
    assert recording.blocks == {}


def test_what_a_model_overwrites_is_copied_before_or_refused() -> None:
    model, given = Mixers(Mixer(over=True), Mixer(over=True)), torch.randn(2, 4, 6)
    with torch.no_grad(), attnviz.record(blocks=model) as recording:
        model(given.clone())
    first, second = recording.blocks.values()
    assert torch.equal(first.input, given)
    assert torch.equal(second.input, first.output)
    assert torch.equal(first.output, Mixer()(given)["tokens"])
    leaf = given.clone().requires_grad_()
    with attnviz.record(blocks=model, gradients=True) as recording:
        model(leaf * 1)
    with pytest.raises(RecordingError, match="overwrites the tokens of the block of call 0"):
        _ = recording.blocks


def test_after_an_exception_that_a_model_catches_blocks_are_found_as_ever() -> None:
    class Broken(Mixer):
        def forward(self, x: Tensor) -> dict[str, Any]:
            super().forward(x)
            raise KeyError

    class Caught(Mixers):
        def forward(self, x: Tensor) -> Tensor:
            with pytest.raises(KeyError):
                self.mixers[0](x)
            return super().forward(x) if self.mixers.pop(0) else x

    model = Caught(Broken(), Mixer(), Mixer())
    with attnviz.record(blocks=model) as recording:
        model(torch.randn(2, 4, 6))
    assert [block.module for block in recording.blocks.values()] == list(model.mixers)
    assert list(recording.blocks) == [1, 2]


def test_what_is_no_plain_stack_or_no_block_is_said() -> None:
    model, x = Mixers(Mixer(), Mixer()), torch.randn(2, 4, 6)
    with attnviz.record(blocks=model) as recording:
        model(x)
        F.scaled_dot_product_attention(x, x, x)
    with pytest.raises(RecordingError, match="call 2 is in no block; choose 0, 1"):
        run_tail(model, x, recording.blocks, 2)
    with pytest.raises(RecordingError, match="did not run its blocks"):
        run_tail(nn.Identity(), x, recording.blocks, 1)
    with attnviz.record(blocks=model) as recording:
        model(x)
        model(x[:, :2])
    with pytest.raises(RecordingError, match="change the shape"):
        run_tail(model, x, recording.blocks, 1)
    with attnviz.record() as recording:
        model(x)
    with pytest.raises(UsageError, match=r"record\(blocks=model\)"):
        _ = recording.blocks


def test_a_models_own_forward_comes_back_whatever_happens() -> None:
    model, x = Mixers(Mixer(), Mixer()), torch.randn(2, 4, 6)
    own = model.mixers[1].forward
    model.mixers[1].forward = own  # someone else's replacement
    with attnviz.record(blocks=model) as recording:
        model(x)
    with pytest.raises(TypeError):
        run_tail(model, {"of another name": x}, recording.blocks, 0)
    assert vars(model.mixers[1])["forward"] is own
    assert "forward" not in vars(model.mixers[0])
