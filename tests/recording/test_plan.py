"""A recording that is given its model: later runs are watched lightly, and are never wrong."""

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from planned import PICTURE, Attention, Block, Small, assert_same, counted, run
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTModel,
)

import attnviz

VARIABLES = {"turned": False}


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(3)


def sdpa(kind: type, config: Any) -> Any:
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    return kind(config).eval()


SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": Small,
    "grouped": lambda: Small(grouped=True),
    "vit": lambda: sdpa(ViTModel, ViTConfig(patch_size=8, intermediate_size=32, **SIZES)),
    "clip": lambda: sdpa(
        CLIPVisionModel, CLIPVisionConfig(patch_size=8, intermediate_size=32, **SIZES)
    ),
    "dinov2-registers": lambda: sdpa(
        Dinov2WithRegistersModel, Dinov2WithRegistersConfig(patch_size=8, **SIZES)
    ),
    "swin": lambda: sdpa(
        SwinModel,
        SwinConfig(
            image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4
        ),
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_light_recording_is_the_same(
    name: str, places: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MODELS[name]().eval()
    with counted(monkeypatch) as seen:
        for number in range(3):
            run(model, PICTURE + number, places=places)
    assert seen == ["learning", "light", "light"]


def flipped(x: Tensor) -> Tensor:
    return x.flip(1)


def turned_by_variable(x: Tensor) -> Tensor:
    return x.flip(1) if VARIABLES["turned"] else x


class Changes:
    """Changes of a model between two runs, each with the name of a function of this class."""

    @staticmethod
    def weights(model: Small) -> None:
        for each in model.parameters():
            each.mul_(1.5)

    @staticmethod
    def weights_behind_versions(model: Small) -> None:
        model.blocks[0].attention.qkv.weight.data.mul_(2)

    @staticmethod
    def loaded(model: Small) -> None:
        torch.manual_seed(9)
        other = {name: torch.randn_like(each) for name, each in model.state_dict().items()}
        model.load_state_dict(other, assign=True)

    @staticmethod
    def replaced(model: Small) -> None:
        torch.manual_seed(9)
        model.blocks[1] = Block()

    @staticmethod
    def replaced_by_another_kind(model: Small) -> None:
        model.blocks[1].attention.out = nn.Sequential(nn.Linear(16, 16), nn.GELU())

    @staticmethod
    def order(model: Small) -> None:
        model.blocks = nn.ModuleList([model.blocks[1], model.blocks[0], model.blocks[2]])

    @staticmethod
    def fewer(model: Small) -> None:
        del model.blocks[2]

    @staticmethod
    def one_twice(model: Small) -> None:
        model.blocks.append(model.blocks[0])

    @staticmethod
    def hook(model: Small) -> None:
        model.blocks[0].register_forward_hook(lambda *given: given[2].flip(1))

    @staticmethod
    def hook_before(model: Small) -> None:
        model.blocks[1].attention.out.register_forward_pre_hook(lambda _, x: (x[0].tanh(),))

    @staticmethod
    def forward(model: Small) -> None:
        model.blocks[0].mlp.forward = flipped

    @staticmethod
    def attribute(model: Small) -> None:
        model.between = flipped

    @staticmethod
    def variable(_: Small) -> None:
        VARIABLES["turned"] = True

    @staticmethod
    def parametrization(model: Small) -> None:
        nn.utils.parametrizations.weight_norm(model.blocks[0].attention.out)

    @staticmethod
    def switch(model: Small) -> None:
        model.train()

    @staticmethod
    def kind(model: Small) -> None:
        model.double()

    @staticmethod
    def frozen(model: Small) -> None:
        model.requires_grad_(False)


@torch.no_grad()
@pytest.mark.parametrize("places", [False, True])
@pytest.mark.parametrize("name", [name for name in vars(Changes) if not name.startswith("_")])
def test_a_change_of_the_model_never_gives_a_wrong_recording(name: str, places: bool) -> None:
    VARIABLES["turned"] = False
    model = Small(turned_by_variable).eval()
    for _ in range(3):
        run(model, PICTURE, places=places)
    before = copy.deepcopy(model.state_dict())
    getattr(Changes, name)(model)
    picture = PICTURE.to(model.patches.weight.dtype)
    for _ in range(3):
        run(model, picture, places=places)
    VARIABLES["turned"] = False
    if name == "weights":
        model.load_state_dict(before)
        run(model, picture, places=places)


@torch.no_grad()
def test_hooks_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    model, on = Small().eval(), {"on": False}
    handle = model.blocks[0].register_forward_hook(
        lambda *given: given[2].flip(1) if on["on"] else given[2]
    )
    with counted(monkeypatch) as seen:
        for switched in (False, False, True, True, True, False):  # what the hook reads is not seen
            on["on"] = switched
            run(model, PICTURE, places=False)
            with attnviz.record(picture=PICTURE) as full:
                model(PICTURE)
            with attnviz.record(model, picture=PICTURE) as found:
                model(PICTURE)
            assert_same(found, full)
        handle.remove()
        for _ in range(2):
            run(model, PICTURE)
    assert "again" in seen
    assert seen[-1] == "light"


@torch.no_grad()
def test_masks_are_those_of_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Small().eval()
    boolean = torch.rand(5, 2, 1, 1, 16) > 0.4
    with counted(monkeypatch) as seen:
        for mask in (*boolean, *boolean.float().log().clamp(min=-9)):
            run(model, PICTURE, mask)
        written = boolean[0].clone()
        run(model, PICTURE, written)
        written[:, :, :, :3] = False
        run(model, PICTURE, written)
        run(model, PICTURE)
        run(model, PICTURE, torch.ones(16, 16, dtype=torch.bool).tril()[None, None])
        run(model, PICTURE, mask=boolean[1])
    assert seen.count("light") == 10
    assert "again" not in seen


@torch.no_grad()
def test_dropout_shapes_and_types_have_plans_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Small(dropout=0.3)
    with counted(monkeypatch) as seen:
        for inputs in (
            PICTURE,
            PICTURE[:1],
            PICTURE.expand(2, 3, 32, 32).clone(),
            PICTURE[..., :24],
        ):
            for _ in range(2):
                run(model, inputs)
        model.eval()
        run(model, PICTURE)
        for each in (PICTURE, PICTURE[..., ::2], PICTURE.mT):
            run(model, each)
        with torch.autocast("cpu", torch.bfloat16):
            run(model, PICTURE)
            run(model, PICTURE)
        with torch.inference_mode():
            run(model, PICTURE)
            run(model, PICTURE)
    assert "again" not in seen


def by_item(x: Tensor) -> Tensor:
    return x.flip(1) if x.sum().item() > 0 else x


def by_bool(x: Tensor) -> Tensor:
    return x.roll(1, 1) if x[0, 0, 0] > 0 else x


def by_numpy(x: Tensor) -> Tensor:
    return x[:, x[0, :, 0].numpy().argsort()]


def by_list(x: Tensor) -> Tensor:
    return x[:, x.shape[1] // 2 :] if max(x.flatten().tolist()) > 1.2 else x


def by_order(x: Tensor) -> Tensor:
    kept = x.norm(dim=-1).topk(x.shape[1] - 2).indices
    return x.gather(1, kept[..., None].expand(-1, -1, 16))


def by_index(x: Tensor) -> Tensor:
    return x[:, (x[0, :, 0] * 100).long() % x.shape[1]]


def by_choice(x: Tensor) -> Tensor:
    return torch.where(x.mean((1, 2), keepdim=True) > 0, x, x.flip(1))


def by_sum(x: Tensor) -> Tensor:
    return x + 3 * x.flip(1) * (x.mean() > 0)


def by_mask(x: Tensor) -> Tensor:
    kept = x[0, :, 0] > x[0, :, 0].median()
    return x[:, kept]


@torch.no_grad()
@pytest.mark.parametrize(
    "between",
    [by_item, by_bool, by_numpy, by_list, by_order, by_index, by_choice, by_sum, by_mask],
    ids=lambda each: each.__name__,
)
def test_what_depends_on_data_is_right(between: Callable[[Tensor], Tensor]) -> None:
    model = Small(between).eval()
    for number in range(4):
        generator = torch.Generator().manual_seed(number)
        picture = torch.randn(2, 3, 32, 32, generator=generator) - (number % 2)
        run(model, picture, places=False)
        run(model, picture)


def test_variables_that_nothing_shows_are_seen_by_a_comparison(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Counter:
        __slots__ = ("runs",)

    counter = Counter()
    counter.runs = 0  # type: ignore[attr-defined]

    def every_other(x: Tensor) -> Tensor:
        return x.flip(1) if counter.runs % 2 else x  # type: ignore[attr-defined]

    model = Small(every_other).eval()
    with counted(monkeypatch) as seen, torch.no_grad():
        for number in range(4):
            counter.runs = number  # type: ignore[attr-defined]
            run(model, PICTURE)
    assert seen.count("again") >= 1


@torch.no_grad()
def test_models_that_change_themselves_have_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(Small):
        def forward(self, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
            self.runs = getattr(self, "runs", 0) + 1
            return super().forward(pixels.flip(-1) if self.runs % 2 else pixels, mask)

    normed = nn.Sequential(nn.BatchNorm2d(3), Small())
    counting, means = Counting().eval(), []
    with counted(monkeypatch) as seen:
        for _ in range(3):
            with attnviz.record(counting, picture=PICTURE) as found:
                counting(PICTURE)
            counting.runs -= 1
            with attnviz.record(picture=PICTURE) as full:
                counting(PICTURE)
            assert_same(found, full)
        for _ in range(3):
            with attnviz.record(normed):
                normed(PICTURE)
            means.append(int(normed[0].num_batches_tracked))  # type: ignore[arg-type]
    assert set(seen) == {"learning"}
    assert means == [1, 2, 3]


@torch.no_grad()
def test_compiled_models_and_layers_with_fast_paths_are_watched_in_full() -> None:
    compiled: Any = torch.compile(Small().eval(), backend="eager")
    half = Small().eval()
    half.blocks[0].compile(backend="eager")
    layers = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2
    ).eval()
    tokens = torch.rand(1, 9, 16)
    for _ in range(3):
        with attnviz.record(compiled) as found:
            compiled(PICTURE)
        assert len(found) == 3
        run(half, PICTURE)
        run(layers, tokens, places=False)
    with attnviz.record(layers) as found:
        layers(tokens)
    assert len(found) == 2


@torch.no_grad()
def test_attention_by_hand_is_watched_in_full() -> None:
    class ByHand(Attention):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            assert mask is None
            q, k, v = self.qkv(x).chunk(3, -1)
            output: Tensor = self.out((q @ k.mT / 4).softmax(-1) @ v)
            return output

    model = Small().eval()
    for _ in range(2):
        run(model, PICTURE)
    model.blocks[1].attention = ByHand()
    for _ in range(3):
        assert len(run(model, PICTURE)) == 3


def test_gradients_are_those_of_the_full_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels = Small().eval(), PICTURE.clone().requires_grad_()

    def gradients(given: nn.Module | None) -> tuple[dict[int, Tensor], Tensor]:
        with attnviz.record(given, gradients=True, blocks=model, picture=pixels) as recording:
            score = model(pixels)[:, 0].sum()
        tail = attnviz.recording.run_tail(model, pixels, recording.blocks, 1)
        found = recording.gradients(score)
        return found, torch.autograd.grad(tail[:, 1].sum(), recording.blocks[1].input)[0]

    expected, through = gradients(None)
    with counted(monkeypatch) as seen:
        for _ in range(3):
            found, also = gradients(model)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[number], expected[number]) for number in found)
            assert torch.equal(also, through)
    assert seen[1:3] == ["light", "light"] or seen.count("light") == 2


@torch.no_grad()
def test_calls_descriptions_and_what_is_overwritten() -> None:
    model = Small().eval()
    for calls in ([-1], [0], [-2], [1, -1], [-5]):
        for _ in range(3):
            with attnviz.record(calls=calls, describe=repr) as full:
                model(PICTURE)
                model(PICTURE)
            with attnviz.record(model, calls=calls, describe=repr) as found:
                model(PICTURE)
                model(PICTURE)
            assert found.descriptions == full.descriptions
            kept = [found.is_kept(number) for number in range(6)]
            assert kept == [full.is_kept(number) for number in range(6)]
    with attnviz.record(model) as found:
        model(PICTURE)
        before = found[0].query.clone()
        found[0].query.zero_()  # inside of the recording the memory is copied before
        assert torch.equal(found[0].query, before)
    single = model.blocks[0].attention
    tokens = torch.rand(1, 9, 16)
    for _ in range(3):
        with attnviz.record(single) as found:
            result = single(tokens)
            tokens.add_(1)
            F.scaled_dot_product_attention(*result[None, None].expand(3, 1, 1, 1, 9, 16)[:, 0])
        assert len(found) == 2


@torch.no_grad()
def test_an_error_in_the_model_leaves_nothing_behind() -> None:
    def fails(*_: Any) -> None:
        raise ValueError

    model = Small().eval()
    run(model, PICTURE)
    run(model, PICTURE)
    handle = model.blocks[2].attention.out.register_forward_hook(fails)
    for given in (None, model, model):
        with pytest.raises(ValueError), attnviz.record(given, picture=PICTURE) as found:  # noqa: PT011
            model(PICTURE)
        assert len(found) == 3
    handle.remove()
    for _ in range(2):
        run(model, PICTURE)


def test_threads_share_a_model() -> None:
    model = Small().eval()
    wrong: list[Exception | AssertionError] = []

    def many(number: int) -> None:
        try:
            picture = PICTURE + number
            options: dict[str, Any] = {"picture": picture, "blocks": model}
            with torch.no_grad(), attnviz.record(**options) as full:
                model(picture)
            for _ in range(8):
                with torch.no_grad(), attnviz.record(model, **options) as found:
                    model(picture)
                assert_same(found, full)
                for place, block in full.blocks.items():
                    assert torch.equal(found.blocks[place].output, block.output)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=many, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong
    assert "forward" not in model.__dict__


def _runs(model: nn.Module, numbers: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How runs on so many pictures were watched; each is held against the full watcher."""
    with counted(monkeypatch) as seen:
        for number in numbers:
            run(model, torch.rand(number, 3, 32, 32))
    return seen


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_a_plan_serves_other_numbers_of_pictures(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _runs(MODELS[name]().eval(), [4, 4, 7, 2, 7, 1, 1], monkeypatch)
    if name != "swin":  # it gets numbers between 4 and 7, such as its windows' side
        expected = ["learning", *["light"] * 4]  # one picture is learnt apart
        assert seen == [*expected, "learning", "light"]


def _by_number(tokens: Tensor) -> Tensor:
    return tokens.roll(len(tokens), 1)


def _of_pairs(tokens: Tensor) -> Tensor:
    return tokens.reshape(-1, 2 * tokens.shape[1], tokens.shape[2]).roll(1, 1).view(tokens.shape)


def _branching(tokens: Tensor) -> Tensor:
    return tokens.flip(1) if len(tokens) > 4 else tokens


def _masked_in_shape(tokens: Tensor) -> Tensor:
    order = torch.zeros(len(tokens), 16, 1).cumsum(1).long()
    return tokens.gather(1, order.expand(tokens.shape))


def _four_apart(tokens: Tensor) -> Tensor:
    return torch.cat((tokens[:4].flip(1), tokens[4:]))


def _last_five(tokens: Tensor) -> Tensor:
    return torch.cat((tokens[:-5], tokens[-5:].flip(1)))


@pytest.mark.parametrize(
    "between", [_by_number, _of_pairs, _branching, _masked_in_shape, _four_apart, _last_five]
)
def test_what_depends_on_the_number_of_pictures_is_right(
    between: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        _runs(Small(between).eval(), [4, 4, 6, 6, 6, 8, 2, 2, 10, 4], monkeypatch)


def test_a_plan_for_another_number_that_failed_is_not_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with torch.no_grad():
        seen = _runs(Small(_branching).eval(), [4, 4, 6, 6, 6, 8, 8], monkeypatch)
    tried = ["light", "again"]  # 6 pictures, by the plan for 4
    assert seen == ["learning", "light", *tried, "learning", "light", "learning", "light"]
