"""Builds `tiny-words`: the embedded model that describes a drawn scene in a sentence."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from attnviz.errors import UsageError
from attnviz.geometry.placement import place
from attnviz.models import tiny
from attnviz.models.fitting import fit
from attnviz.models.model import Model
from attnviz.models.model_request import ModelRequest, no_class_head, no_text_tower, refuse_options
from attnviz.models.state_dicts import read_state_dict
from attnviz.models.weights import DTYPES, find_device, initial_state
from attnviz.models.words import WordInput

FEATURES, LAYERS, HEADS, LONGEST = 128, 3, 4, 16
PLACES = 64
"""Numbers that code the place of a token."""
SEEN = 2 * tiny.FEATURES + PLACES
SIZE = tiny.SIZE
WEIGHTS = Path(__file__).with_name("tiny_words.safetensors")
COLOURS = "red", "orange", "yellow", "green", "blue", "purple", "white", "black"
KINDS = (
    "fish", "bird", "tree", "house", "mug", "boat", "car", "flower", "mushroom", "star", "heart",
    "moon", "key", "umbrella", "apple", "hat",
)  # fmt: skip
START, END = 0, 1
VOCABULARY = (
    "<start>", "<end>", "a", "an", "left", "right", "of", "above", "below", *COLOURS, *KINDS,
)  # fmt: skip
"""All words that the model knows, with the start and the end of a sentence."""


class Attention(nn.Module):
    """Multi-head attention from one sequence to another (1706.03762, §3.2.2)."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear = nn.Linear(features, features)
        self.k_linear = nn.Linear(features, features)
        self.v_linear = nn.Linear(features, features)
        self.out = nn.Linear(features, features)

    def forward(self, x: Tensor, seen: Tensor, *, causal: bool = False) -> Tensor:
        """From x (B, N, F) to `seen` (B, M, F) → (B, N, F)."""
        q, k, v = self._split(self.q_linear(x)), *self._keys(seen)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        result: Tensor = self.out(heads.transpose(1, 2).flatten(2))
        return result

    def _keys(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(self.k_linear(seen)), self._split(self.v_linear(seen))

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, F) → (B, H, N, F/H)."""
        batch, tokens, features = x.shape
        return x.view(batch, tokens, self.heads, features // self.heads).transpose(1, 2)


class DecoderBlock(nn.Module):
    """Attention among words, attention to the picture, then an MLP, each pre-norm and added."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.word_norm = nn.LayerNorm(features)
        self.word_attention = Attention(features, heads)
        self.picture_norm = nn.LayerNorm(features)
        self.picture_attention = Attention(features, heads)
        self.mlp_norm = nn.LayerNorm(features)
        self.mlp = tiny.mlp(features)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Words (B, N, F) and tokens of the picture (B, M, F) → words (B, N, F)."""
        normed = self.word_norm(x)
        x = x + self.word_attention(normed, normed, causal=True)
        x = x + self.picture_attention(self.picture_norm(x), seen)
        result: Tensor = x + self.mlp(self.mlp_norm(x))
        return result


class WordDecoder(nn.Module):
    """Says words about tokens of a picture, each word after those before it.

    What it sees of a token is made of the token before the first block of `tiny` and after the
    last, and of its place: the first has its colours and shape, the last what is around it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Linear(SEEN, FEATURES)
        self.seen_norm = nn.LayerNorm(FEATURES)
        self.words = nn.Embedding(len(VOCABULARY), FEATURES)
        self.numbers = nn.Embedding(LONGEST, FEATURES)
        self.blocks = nn.ModuleList(DecoderBlock(FEATURES, HEADS) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(FEATURES)
        self.head = nn.Linear(FEATURES, len(VOCABULARY))

    def forward(self, tokens: Tensor, ids: Tensor) -> Tensor:
        """Tokens (B, M, 448) and words (B, N) → logits of the next words, (B, N, vocabulary)."""
        seen = self.seen_norm(self.seen(tokens))
        x = self.words(ids) + self.numbers.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, seen)
        logits: Tensor = self.head(self.norm(x))
        return logits


class SceneDescriber(nn.Module):
    """The vision tower of `tiny`, and a decoder that describes what it sees.

    It has the attributes and methods by which models of transformers with words are used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.vision = tiny.VisionTransformer()
        self.decoder = WordDecoder()
        self.config = SimpleNamespace(is_encoder_decoder=True)
        self.generation_config = SimpleNamespace(eos_token_id=END)

    @property
    def device(self) -> torch.device:
        """The device of its parameters."""
        return self.decoder.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of its parameters."""
        return self.decoder.head.weight.dtype

    def tokens(self, pixels: Tensor) -> Tensor:
        """(B, 3, h, w) → (B, M, 448): tokens before the first block, after the last, and places."""
        x = first = self.vision.tokens(pixels)
        for block in self.vision.blocks:
            x, _ = block(x)
        rows, columns = (side // tiny.PATCH for side in pixels.shape[2:])
        codes = F.pad(tiny.places(rows, columns, PLACES), (0, 0, self.vision.prefix, 0)).to(x)
        both = (F.layer_norm(each, each.shape[2:]) for each in (first, x))
        return torch.cat([*both, codes.expand(len(x), -1, -1)], 2)

    def forward(self, pixel_values: Tensor, decoder_input_ids: Tensor) -> SimpleNamespace:
        """Pixels (B, 3, h, w) and words (B, N) → an object with `logits`, (B, N, vocabulary).

        Raises:
            UsageError: there are more words than it has places for.
        """
        if decoder_input_ids.shape[1] > LONGEST:
            raise UsageError(
                f"tiny-words takes {LONGEST - 1} words in all, and --prompt and --answer have "
                f"{decoder_input_ids.shape[1] - 1}; give fewer"
            )
        return SimpleNamespace(logits=self.decoder(self.tokens(pixel_values), decoder_input_ids))

    def generate(
        self,
        pixel_values: Tensor,
        decoder_input_ids: Tensor | None = None,
        *,
        max_new_tokens: int = LONGEST,
        suppress_tokens: Sequence[int] | None = None,
        stopping_criteria: Sequence[Callable[[Tensor, Any], Tensor]] = (),
        **_: Any,
    ) -> Tensor:
        """A sentence about one picture, word by word the most probable: (1, n) with its start."""
        tokens = self.tokens(pixel_values)
        ids = torch.tensor([[START]], device=self.device)
        if decoder_input_ids is not None:
            ids = torch.cat([ids, decoder_input_ids.to(ids)], 1)
        for _step in range(min(max_new_tokens, LONGEST - ids.shape[1])):
            logits = self.decoder(tokens, ids)[:, -1]
            logits[:, [START, *(suppress_tokens or ())]] = -torch.inf
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
            enough = [bool(each(ids, None).all()) for each in stopping_criteria]
            if ids[0, -1] == END or any(enough):
                break
        return ids


class SceneWords:
    """The words of the vocabulary as numbers, in place of a tokenizer."""

    all_special_ids = (START, END)

    def __call__(
        self, text: str, *, add_special_tokens: bool = False, return_tensors: str | None = None
    ) -> dict[str, Any]:
        """Numbers of the words of a text, as a list, or as a tensor (1, n).

        Raises:
            UsageError: it has a word that the model does not know.
        """
        words = text.lower().replace(".", " ").replace(",", " ").split()
        for word in words:
            if word not in VOCABULARY[END + 1 :]:
                known = ", ".join(VOCABULARY[END + 1 :])
                raise UsageError(f"tiny-words does not know {word!r}; its words are {known}")
        ids = [VOCABULARY.index(word) for word in words]
        ids = [START, *ids, END] if add_special_tokens else ids
        return {"input_ids": ids if return_tensors is None else torch.tensor([ids])}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        """The words of these numbers, without start and end."""
        return " ".join(VOCABULARY[number] for number in ids if number > END)


class SceneProcessor:
    """Lays a picture into the input: all of it, about 144×144 pixels in its own aspect ratio."""

    tokenizer = SceneWords()

    def __call__(self, images: Sequence[Image.Image], **_: Any) -> Mapping[str, Tensor]:
        """Pixels (1, 3, h, w) of one picture."""
        (picture,) = images
        grid = place(*picture.size, size=SIZE, patch=tiny.PATCH).grid
        size = round(grid.input_width), round(grid.input_height)
        resized = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(resized, dtype=np.float32)).permute(2, 0, 1) / 255
        return {"pixel_values": (pixels[None] - 0.5) / 0.25}


def load(request: ModelRequest) -> Model:
    """Load the embedded model; see `attnviz.load_model`.

    Raises:
        UsageError: an option of other models is given.
        ModelError: a file of weights does not fit, or another head is wanted.
    """
    refuse_options(request)
    if request.head == "text":
        raise no_text_tower("tiny-words", "it answers in words")
    if request.head not in ("words", "none"):
        raise no_class_head("tiny-words", "it answers in words")
    if request.size is not None:
        raise UsageError(f"--size {request.size}: tiny-words takes about {SIZE}; leave it out")
    device, dtype = find_device(request.device), DTYPES[request.dtype]
    with torch.device("meta"):
        module = SceneDescriber()
    notes: tuple[str, ...] = ()
    if request.random_weights:
        state = initial_state(module, request.seed)
    else:
        path = request.weights or str(WEIGHTS)
        found = read_state_dict(path, request.key)
        vision = read_state_dict(str(tiny.WEIGHTS), None).tensors
        both = {f"vision.{name}": each for name, each in vision.items()} | found.tensors
        fitted = fit(module, both, path)
        state = {name: value.float().clone() for name, value in fitted.state.items()}
        notes = (*found.notes, *fitted.notes)
    module.load_state_dict(state, assign=True)
    module = module.to(device, dtype).eval().requires_grad_(False)
    return Model(
        spec="tiny-words",
        weights=request.weights or ("random" if request.random_weights else "pretrained"),
        module=module,
        layers=LAYERS,
        heads=HEADS,
        features=FEATURES,
        tokens="patches",
        patch=tiny.PATCH,
        size=SIZE,
        seed=request.seed if request.random_weights else None,
        head="words",
        loaded=None if request.random_weights else 1.0,
        notes=notes,
        device=device,
        dtype=dtype,
        words=WordInput("tiny-words", module, SceneProcessor()),
    )
