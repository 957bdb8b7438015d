"""Makes the interactive page of an observation: what it shows first, and all its data."""

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from attnviz.attention.sweep import Progress
from attnviz.drawing.overlay import colour_table
from attnviz.errors import UsageError
from attnviz.explanation.observation import Observation
from attnviz.explanation.query_weights import objects_asked, read
from attnviz.geometry import queries
from attnviz.geometry.detections import THRESHOLD, check_threshold
from attnviz.io.picture import Picture, with_pixels
from attnviz.models import find_path
from attnviz.output import encoding, whole_files
from attnviz.output.record_info import check_info, image_info, model_info, readable
from attnviz.output.schema import tidy
from attnviz.output.write_pictures import Drawing
from attnviz.page.page_heads import OfLayers, choose
from attnviz.page.page_layers import Packed, Size, ends, pack_layer, pack_rollouts, questions
from attnviz.page.page_start import start
from attnviz.page.page_tokens import objects_data
from attnviz.page.page_words import PageWord, text_data, words_of
from attnviz.statistics import STATISTICS

SCHEMA = "attnviz/explore/1"
LIMIT = 50_000_000
"""The largest size of a page in bytes: browsers open it without trouble."""
COLORMAPS = ("viridis", "magma", "inferno", "cividis", "turbo", "gray")
_PARTS = Path(__file__).parent / "static"
_SIDE, _QUALITY = 1024, 80  # of the photograph: longer side in pixels, JPEG quality


@dataclass(frozen=True, eq=False)
class Page:
    """An interactive page of one picture.

    >>> page = attnviz.explore(observation)
    >>> page.html[:15]
    '<!doctype html>'

    Attributes:
        html: the whole page, one file.
        about: the data of its script; docs/explore.md describes it.
        record: picture, model and self-check, with full paths; the page has only their last parts.
    """

    html: str
    about: Mapping[str, Any]
    record: Mapping[str, Any]

    def __repr__(self) -> str:
        """A short description, since the HTML is long."""
        return f"<Page of {self.about['image']['path']}: {self.in_words()}>"

    @cached_property
    def bytes(self) -> int:
        """The size of the file in bytes."""
        return len(self.html.encode())

    def save(self, path: str | Path) -> Path:
        """Write the page, whole or not at all.

        Raises:
            OutputError: the file cannot be written.
        """
        return whole_files.write_whole(Path(path), self.html.encode())

    def in_words(self) -> str:
        """The size and the contents of the page, in words."""
        layers = self.about["layers"]
        heads = sum(len(layer["heads"]) for layer in layers)
        lines = [
            f"{self.bytes / 1e6:.1f} MB",
            _count(len(layers), "layer"),
            _count(heads, "head"),
            "rollout" if self.about["rollout"]["ends"] else "no rollout",
        ]
        if self.about["text"] is not None:
            lines[-1] = _count(len(self.about["text"]["words"]), "word")
        return ", ".join(lines)

    def summary(self, file: str) -> dict[str, Any]:
        """The page's JSON object for `--json`."""
        about, text = self.about, self.about["text"]
        return {
            "schema": about["schema"],
            "file": readable(file),
            "bytes": self.bytes,
            **self.record,
            "layers": [
                {name: layer[name] for name in ("layer", "heads", "encoding")}
                for layer in about["layers"]
            ],
            "rollout": [end["layer"] for end in about["rollout"]["ends"]],
            **({} if text is None else {name: text[name] for name in ("prompt", "answer")}),
        }


def explore(
    observation: Observation,
    *,
    layers: str = "all",
    heads: str = "all",
    query: str = "auto",
    threshold: float = THRESHOLD,
    localized: int = 3,
    drawing: Drawing | None = None,
    progress: Progress | None = None,
) -> Page:
    """An interactive page of one picture: where every head looks from every token.

    Of a model that answers in words, it shows where every head looks from each word.

    The page is one file with all its data, and makes no network requests. Equal observations give
    equal pages.

    >>> attnviz.explore(observation).save("cat.html").name
    'cat.html'

    Args:
        observation: what `observe` returned; rollout needs all layers in it.
        layers: the layers of the page: `all`, `-1`, `0,5-11`.
        heads: the heads of each layer: `all`, a count `8`, a list `0,3,5-7`; or `localized:3`, the
            3 most localized heads of these layers, of all layers those of the upper half.
        localized: how many of the most localized heads for the first query are marked; the page
            opens on the first of them. 0 marks none.
        query: the first query: `auto`, `cls`, `registerN`, `mean`, `pool`, `X,Y` or `object:cat`;
            with a prompt `word:cat` or `prompt:cat`, by default the first word of the answer.
        threshold: objects of a higher score have a box to choose.
        drawing: the first settings of the view; its format is not used.
        progress: is called with (finished query rows, all query rows).

    Raises:
        UsageError: an option cannot be read, or names a layer, head or query that does not exist;
            or the model saw a clip, or its answer has no words.
        RecordingError: the attention is not finite.
        OutputError: the page would be larger than 50 MB.
    """
    if observation.clip is not None:
        raise UsageError(
            f"{observation.picture.name} is a clip, and a page shows one picture; give `attnviz "
            "video`"
        )
    check_threshold(threshold, "threshold")
    drawing = drawing or Drawing()
    chosen = sorted(observation.calls.choose(layers))
    observation.require(chosen)
    asked = queries.parse(query)
    if asked.kind == "object":  # the best one of a label
        query = str(objects_asked(observation, asked, chosen, 0.0)[0])

    def size_of(found: OfLayers) -> Size:
        return Size(observation, found, LIMIT, len(words_of(observation, found, asked)[0]))

    of_layers, marked = choose(
        observation,
        chosen,
        layers=layers,
        heads=heads,
        query=query,
        count=localized,
        check=lambda found: size_of(found).check(),
    )
    words, no_prompt = words_of(observation, of_layers, asked)
    last = max(of_layers)
    first = (marked[0].layer, marked[0].head) if marked else (last, of_layers[last][0])
    about = _about(observation, drawing)
    about["start"] = start(observation, first, query, drawing, words)
    about["localized"] = [{**asdict(each), "score": tidy(each.score)} for each in marked]
    about["text"] = text_data(observation, words, no_prompt)
    about["objects"] = objects_data(observation, list(of_layers), threshold)
    size = size_of(of_layers)
    packed, rollouts, why = _packed(observation, of_layers, words, size, progress)
    about["layers"] = [each.description for each in packed]
    about["rollout"] = {"ends": [each.description for each in rollouts], "why": why}
    text = _html(observation, about, [*packed, *rollouts])
    page = Page(text, about, described(observation))
    size.check_whole(page.bytes)
    return page


def _packed(
    observation: Observation,
    of_layers: OfLayers,
    words: Sequence[PageWord],
    size: Size,
    progress: Progress | None,
) -> tuple[list[Packed], list[Packed], str | None]:
    """The layers of the page, its rollouts, and why there are no more of these."""
    chosen = list(of_layers)
    rolled, why = ([], "this file has the rows of words alone") if words else \
        ends(observation, chosen)  # fmt: skip
    weights_asked = {number: questions(observation, number) for number in chosen}
    needed = sorted({*chosen, *range(max(rolled, default=-1) + 1)})
    readings = read(observation, needed, weights_asked, progress)
    packed: list[Packed] = []
    for number in chosen:
        packed.append(pack_layer(observation, number, readings[number], of_layers[number], words))
        size.check(packed)
    return packed, pack_rollouts(observation, readings, rolled), why


def _html(observation: Observation, about: dict[str, Any], packed: Sequence[Packed]) -> str:
    return encoding.as_page(
        _PARTS,
        scripts=encoding.page_part(_PARTS, "scripts.txt").split(),
        images="data: blob:",
        title=html.escape(readable(observation.picture.name)),
        about=encoding.as_script_data(about),
        blocks="".join(each.block.element(each.name) for each in packed),
    )


def _about(observation: Observation, drawing: Drawing) -> dict[str, Any]:
    """The page's data about the picture and the model."""
    names = dict.fromkeys([drawing.colormap, *COLORMAPS])
    return {
        "schema": SCHEMA,
        **described_for_others(observation),
        "photo": _photo(with_pixels(observation.picture)),
        "colormaps": {
            name: base64.b64encode(colour_table(name, 256).tobytes()).decode() for name in names
        },
        "statistics": [[name, entry.summary] for name, entry in STATISTICS.items()],
    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _photo(picture: Picture) -> str:
    """The picture, no larger than a page shows it, as a `data:` URL."""
    small = picture.image()
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def described(observation: Observation) -> dict[str, Any]:
    """Picture, model and self-check, as in the record."""
    picture = observation.picture
    return {
        "image": image_info(picture).model_dump(),
        "model": model_info(observation).model_dump(),
        "check": check_info(observation).data(),
    }


def described_for_others(observation: Observation) -> dict[str, Any]:
    """Picture, model and self-check, without the folders of paths."""
    found = described(observation)
    found["image"]["path"] = readable(observation.picture.name)
    for name in ("spec", "weights"):
        found["model"][name] = without_folders(found["model"][name])
    return found


def without_folders(text: str) -> str:
    """A model spec, or weights, without the folders of paths; names on hubs are not paths.

    >>> without_folders("py:/home/me/nets.py:build"), without_folders("hf:facebook/dino-vits16")
    ('py:nets.py:build', 'hf:facebook/dino-vits16')
    """
    if ":" not in text:
        return _name(text)
    source, _, rest = text.partition(":")
    path = find_path(text)
    if path is not None and path != text and rest.startswith(path):
        return f"{source}:{_name(path)}{rest.removeprefix(path)}"
    return f"{source}:{_name(rest)}" if Path(rest).is_absolute() or rest[:1] in (".", "~") else text


def _name(path: str) -> str:
    """The last part of a path."""
    return Path(os.path.abspath(path)).name if "/" in path or os.sep in path else path  # noqa: PTH100
