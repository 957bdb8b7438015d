"""Models as people write them, right and wrong, loaded by `py:own_models.py:NAME`."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Net(nn.Module):
    """Patches by a convolution, positions of one input if it has a size, one attention."""

    def __init__(
        self, size: tuple[int, int] | None = None, patch: int = 8, channels: int = 3
    ) -> None:
        super().__init__()
        width = 16
        self.embed = nn.Conv2d(channels, width, patch, patch)
        if size is not None:
            tokens = (size[0] // patch) * (size[1] // patch)
            self.pos_embed = nn.Parameter(torch.randn(1, tokens, width))
        self.has_positions = size is not None
        self.qkv = nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, 5)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def tokens(self, pixels: Tensor) -> Any:
        x = self.embed(pixels).flatten(2).mT
        return x + self.pos_embed if self.has_positions else x

    def forward(self, pixels: Tensor) -> Any:
        return self.head(self.attend(self.tokens(pixels)).mean(1))


# Inputs of their own.


class Tall(Net):
    """A person re-identification model."""

    def __init__(self) -> None:
        super().__init__((256, 128), 16)
        self.img_size = (256, 128)
        self.patch_size = 16


class TallConfig(Net):
    def __init__(self) -> None:
        super().__init__((256, 128), 16)
        self.default_cfg = {"input_size": (3, 256, 128)}


class Silent(Net):
    """Nothing says how large its input is."""

    def __init__(self) -> None:
        super().__init__((64, 64))


class SilentTall(Net):
    def __init__(self) -> None:
        super().__init__((128, 64), 8)


class Map(Net):
    """Positions as a map, (1, F, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(1, 16, 16, 8))

    def tokens(self, pixels: Tensor) -> Any:
        return (self.embed(pixels) + self.positions).flatten(2).mT


class WithClass(Net):
    """A class token, and positions of it and of 6×6 patches."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 16))
        self.where = nn.Embedding(37, 16)

    def tokens(self, pixels: Tensor) -> Any:
        x = self.embed(pixels).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        return x + self.where(torch.arange(x.shape[1]))


class Hidden(Net):
    """Positions that are neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = [torch.randn(1, 49, 16)]

    def tokens(self, pixels: Tensor) -> Any:
        return self.embed(pixels).flatten(2).mT + self.codes[0]


class Unfolded(Net):
    """Patches by a linear layer of a view; no convolution says how large they are."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3 * 4 * 4, 16)  # type: ignore[assignment]
        self.pos_embedding = nn.Parameter(torch.randn(1, 100, 16))

    def tokens(self, pixels: Tensor) -> Any:
        b, c, h, w = pixels.shape
        x = pixels.reshape(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 1, 3, 5)
        return self.embed(x.reshape(b, -1, c * 16)) + self.pos_embedding


class Interpolated(Net):
    """Has an own size, and takes any."""

    img_size = (128, 64)

    def __init__(self) -> None:
        super().__init__()
        self.pos = nn.Parameter(torch.randn(1, 16, 16, 8))

    def tokens(self, pixels: Tensor) -> Any:
        x = self.embed(pixels)
        return (x + F.interpolate(self.pos, x.shape[2:], mode="bilinear")).flatten(2).mT


class Square(Net):
    """A picture of 4:1 has as many tokens, 16×4, as its own input has, 8×8."""

    image_size = 64

    def __init__(self) -> None:
        super().__init__((64, 64))


class Remembers(Net):
    """Keeps the positions of the first shape that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size = 224
        self.first: Tensor | None = None

    def tokens(self, pixels: Tensor) -> Any:
        x = self.embed(pixels).flatten(2).mT
        if self.first is None:
            self.first = torch.linspace(0, 1, x.shape[1])[:, None]
        return x + self.first


class Sliced(Net):
    """Fewer tokens than its 9×9 get the first of its positions, as in vit-pytorch."""

    def __init__(self) -> None:
        super().__init__((72, 72))

    def tokens(self, pixels: Tensor) -> Any:
        x = self.embed(pixels).flatten(2).mT
        return x + self.pos_embed[:, : x.shape[1]]


class SlicedTall(Sliced):
    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, 32 * 40, 16))


class Asserting(Net):
    def forward(self, pixels: Tensor) -> Any:
        height, width = pixels.shape[2:]
        assert height == 96, f"Input image size ({height}*{width}) doesn't match model (96*48)."
        assert width == 48, f"Input image size ({height}*{width}) doesn't match model (96*48)."
        return super().forward(pixels)


# Channels.


class Grey(Net):
    def __init__(self) -> None:
        super().__init__(channels=1)


class Six(Net):
    def __init__(self) -> None:
        super().__init__(channels=6)


class GreyPatches(Unfolded):
    """One channel, seen by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4 * 4, 16)  # type: ignore[assignment]


class GreyFixed(Net):
    """Neither the channels nor the size are ours."""

    def __init__(self) -> None:
        super().__init__((64, 64), channels=1)


# Axes.


class ChannelsLast(Net):
    def forward(self, pixels: Tensor) -> Any:
        return super().forward(pixels.permute(0, 3, 1, 2))


class Unbatched(Net):
    def forward(self, pixels: Tensor) -> Any:
        channels, height, width = pixels.shape
        return super().forward(pixels.reshape(1, channels, height, width))


class Frames(Net):
    def forward(self, pixels: Tensor) -> Any:
        batch, frames, channels, height, width = pixels.shape
        return super().forward(pixels.reshape(batch * frames, channels, height, width))


# Arguments.


class NeedsText(Net):
    def forward(self, pixels: Tensor, text: Tensor, mask: Tensor) -> Any:  # type: ignore[override]
        return super().forward(pixels) + text + mask


class NeedsKeyword(Net):
    def forward(self, pixels: Tensor, *, text: Tensor) -> Any:  # type: ignore[override]
        return super().forward(pixels) + text


class ByName(Net):
    def forward(self, *, pixel_values: Tensor) -> Any:  # type: ignore[override]
        return super().forward(pixel_values)


class SecondPlace(Net):
    """As models of pictures and texts in transformers."""

    def forward(self, input_ids: Tensor | None = None, pixel_values: Tensor | None = None) -> Any:
        assert input_ids is None
        assert pixel_values is not None
        return super().forward(pixel_values)


class OnlyKeyword(Net):
    def forward(self, *, image: Tensor, scale: float = 1.0) -> Any:  # type: ignore[override]
        return super().forward(image * scale)


class TakesDict(Net):
    def forward(self, batch: dict[str, Tensor]) -> Any:  # type: ignore[override]
        assert isinstance(batch, dict)
        return super().forward(batch["image"])


class TakesList(Net):
    def forward(self, images: list[Tensor]) -> Any:  # type: ignore[override]
        assert isinstance(images, list)
        return super().forward(torch.stack(images))


class Ages(Net):
    """Pixels are the second argument, and a number is the first."""

    def forward(self, age: float, image: Tensor) -> Any:  # type: ignore[override]
        return super().forward(image) * age


class GivesDeep(Net):
    """Logits deep inside, behind another tensor that looks like logits."""

    def forward(self, pixels: Tensor) -> Any:
        scores = super().forward(pixels)
        return {"first": scores.flip(1), "heads": (None, {"species": scores})}


class Nothing(Net):
    def forward(self) -> Any:  # type: ignore[override]
        return None


class Anything(Net):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


class InnerArguments(Net):
    """The fault is deeper."""

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().attend(x) * mask


# Devices, number types, faults.


class OtherDevice(Net):
    def tokens(self, pixels: Tensor) -> Any:
        x = super().tokens(pixels)
        return x + torch.zeros(x.shape[1:], device="meta")


class NeedsCuda(Net):
    def tokens(self, pixels: Tensor) -> Any:
        x = super().tokens(pixels)
        return x + torch.zeros(x.shape[1:]).cuda()


class Double(Net):
    def tokens(self, pixels: Tensor) -> Any:
        return super().tokens(pixels).double()


class AlwaysFloat(Net):
    """Right in float32 only."""

    def tokens(self, pixels: Tensor) -> Any:
        return super().tokens(pixels).float()


class Broken(Net):
    def tokens(self, pixels: Tensor) -> Any:
        return {"x": super().tokens(pixels)}["y"]  # the fault


class Widths(Net):
    """Wrong at every size."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(17, 48)


class Leaves(Net):
    def forward(self, pixels: Tensor) -> Any:
        raise SystemExit(len(pixels))


class Greedy(Net):
    def forward(self, pixels: Tensor) -> Any:
        return super().forward(pixels) + torch.empty(1 << 60)


class Strange(Net):
    """Says so with an error of no text."""

    def attend(self, x: Tensor) -> Tensor:
        assert x is None
        return x


class OfPixels(Net):
    """Fails by what the pixels are."""

    def forward(self, pixels: Tensor) -> Any:
        if pixels.std() > 0:
            raise ValueError(f"not blank: {pixels.dtype}")
        return super().forward(pixels)


# Outputs.


class GivesNone(Net):
    def forward(self, pixels: Tensor) -> Any:
        super().forward(pixels)


class GivesText(Net):
    def forward(self, pixels: Tensor) -> Any:
        super().forward(pixels)
        return "a cat"


class GivesDict(Net):
    def forward(self, pixels: Tensor) -> Any:
        return {"logits": super().forward(pixels)}


class GivesPair(Net):
    """Tokens before the logits."""

    def forward(self, pixels: Tensor) -> Any:
        return self.tokens(pixels), super().forward(pixels)


class GivesNest(Net):
    """Logits among the values of a dictionary, under a name of their own."""

    def forward(self, pixels: Tensor) -> Any:
        return {"tokens": self.tokens(pixels), "loss": None, "scores": super().forward(pixels)}


class GivesNumber(Net):
    def forward(self, pixels: Tensor) -> Any:
        return float(super().forward(pixels).sum())


# Kinds of modules.


def exported() -> Any:
    return torch.export.export(Net((64, 64)).eval(), (torch.zeros(1, 3, 64, 64),))


def exported_module() -> Any:
    return exported().module()


def exported_tall() -> Any:
    return torch.export.export(Net((96, 48)).eval(), (torch.zeros(1, 3, 96, 48),)).module()


def exported_any() -> Any:
    """Of any height and width."""
    dim: Any = torch.export.Dim
    sides = {2: 8 * dim("rows", min=1, max=512), 3: 8 * dim("columns", min=1, max=512)}
    example = (torch.zeros(1, 3, 64, 48),)
    return torch.export.export(Net().eval(), example, dynamic_shapes=(sides,)).module()


def exported_in_training() -> Any:
    model = nn.Sequential(Net((64, 64)), nn.Dropout(0.5)).train()
    return torch.export.export(model, (torch.zeros(1, 3, 64, 64),)).module()


def meta() -> nn.Module:
    with torch.device("meta"):
        return Net()


def partly_meta() -> nn.Module:
    model = Net()
    model.head = nn.Linear(16, 5, device="meta")
    return model


def quantised() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: Any = torch.ao.quantization
        return made.quantize_dynamic(Net(), {nn.Linear})


class Int8(Net):
    """Weights of whole numbers, as parameters and with a scale beside them."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randint(-127, 127, (48, 16), dtype=torch.int8)
        self.packed = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(torch.full((48, 1), 0.01))

    def attend(self, x: Tensor) -> Tensor:
        qkv: Any = F.linear(x, self.packed.to(x.dtype) * self.scale)
        q, k, v = qkv.unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def traced() -> Any:
    jit: Any = torch.jit
    return jit.trace(Net((64, 64)).eval(), torch.zeros(1, 3, 64, 64))


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, 8)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embed(pixels).flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]


def scripted() -> Any:
    return torch.jit.script(Scripted())


def compiled() -> Any:
    return torch.compile(Net((64, 64)))


def compiled_in_place() -> nn.Module:
    model = Net((64, 64))
    model.compile()
    return model


def parallel() -> nn.Module:
    return nn.DataParallel(Tall())


def averaged() -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(Tall())


def with_transform() -> Any:
    return Net(), "a transform"


def its_class() -> Any:
    return Net


def its_maker() -> Any:
    return lambda: Net()  # noqa: PLW0108


def its_weights() -> Any:
    return Net().state_dict()


weights = Net().state_dict()


def with_size(size: int) -> nn.Module:
    return Net((size, size))


async def later() -> nn.Module:
    return Net()


def ends() -> nn.Module:
    raise SystemExit("usage: train.py --data DATA")


def in_training() -> nn.Module:
    model = nn.Sequential(Net(), nn.Dropout(0.9))
    return model.train()


class Stubborn(Net):
    """`train`, `eval` and `to` that forget to return the module."""

    def train(self, mode: bool = True) -> Any:
        super().train(mode)

    def to(self, *args: Any, **kwargs: Any) -> Any:
        super().to(*args, **kwargs)


def half_frozen() -> nn.Module:
    model = Net()
    model.embed.requires_grad_(False)
    return model


def of_inference() -> nn.Module:
    with torch.inference_mode():
        return Net()


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(16, 8, 8), nn.Flatten(), nn.LazyLinear(5))


class Complex(Net):
    """A filter of complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.full((16,), 1j, dtype=torch.complex64))

    def tokens(self, pixels: Tensor) -> Any:
        return (super().tokens(pixels) * self.turn).imag


class Rooms(nn.ModuleList):
    pass


def parts() -> nn.Module:
    return nn.ModuleList([Net()])


def talkative() -> nn.Module:
    print("loading ...")
    return Net()


# Statistics of pixels.


def _with(**values: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = Net()
        for name, value in values.items():
            setattr(model, name, copy.deepcopy(value))
        return model

    return build


mean_number = _with(mean=0.25, std=0.5)
mean_list_of_one = _with(mean=[0.25], std=(0.5,))
mean_tensor = _with(mean=torch.full((3, 1, 1), 0.25), std=torch.full((1, 3, 1, 1), 0.5))
mean_scalar_tensor = _with(mean=torch.tensor(0.25), std=torch.tensor([0.5]))
mean_numpy = _with(mean=np.float32(0.25), std=np.full(3, 0.5))
mean_numpy_scalar = _with(mean=np.array(0.25), std=np.float64(0.5))
mean_nested = _with(mean=[[0.25], [0.25], [0.25]], std=0.5)
mean_none = _with(mean=None, std=None)
mean_levels = _with(mean=[63.75] * 3, std=[127.5] * 3)
mean_method = _with(mean=lambda: 3)
mean_two = _with(mean=(0.5, 0.5), std=0.5)
mean_six = _with(mean=[0.5] * 6, std=[0.5] * 6)
mean_text = _with(mean="imagenet")
mean_empty = _with(mean=[])
mean_nan = _with(mean=float("nan"))
mean_words = _with(mean=("a", "b", "c"))
mean_mixed = _with(mean=[0.5, 0.5, 0.5], std=[58.0, 57.0, 57.0])
std_zero = _with(std=[0.5, 0.0, 0.5])
std_negative = _with(std=-0.5)
size_text = _with(image_size="large")
size_text_number = _with(image_size="64")
size_zero = _with(image_size=0)
size_one_of_a_list = _with(img_size=[64])
size_numpy = _with(image_size=np.int64(64))
size_tensor = _with(image_size=torch.tensor([64, 32]))
size_dict = _with(image_size={"height": 64, "width": 32})
size_edge = _with(image_size={"shortest_edge": 64})
size_last = _with(input_size=(64, 32, 3))
size_negative = _with(image_size=(-64, 64))
size_fraction = _with(image_size=64.5)
patch_text = _with(patch_size="p16")
patch_zero = _with(patch_size=0)
patch_two = _with(patch_size=(8, 8))
prefix_text = _with(num_prefix_tokens="one")
