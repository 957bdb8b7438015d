"""The page as a file: its size, what is refused, what is escaped, equal bytes."""

import base64
import hashlib
import io
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import explored
import layers
import numpy as np
import pytest
import torch
from page_decoder import Decoded
from PIL import Image

import attnviz
from attnviz.attention import AttentionCall
from attnviz.errors import OutputError, RecordingError, UsageError
from attnviz.explanation.layers import Layer
from attnviz.geometry.grid import Layout
from attnviz.io.picture import Picture, with_pixels
from attnviz.output.write_pictures import Drawing
from attnviz.page import page_layers as size
from attnviz.page import page_weights

EVIL = '"><img src=x onerror=alert(1)>.jpg'
ROOT = Path(__file__).parents[2]


class Elements(HTMLParser):
    """Elements of a page, and the texts of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.titles: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag = self.all[-1][0] if self.all else ""
        if tag == "title" and data.strip():
            self.titles.append(data)
        if tag in ("script", "style") and "id" not in self.all[-1][1] and data.strip():
            self.texts.append((tag, data))


def renamed(path: str) -> attnviz.Observation:
    seen = explored.seen("tiny")
    return replace(seen, picture=Picture(path, with_pixels(seen.picture).pixels))


@pytest.mark.parametrize("name", [EVIL, "</script><b>.jpg", "<!--<script>.jpg", "{{style}}.jpg",
                                  "&lt;.jpg", "a\nb\udce9.jpg"])  # fmt: skip
def test_a_name_adds_nothing_to_the_page(name: str) -> None:
    plain, odd = (attnviz.explore(renamed(n), layers="-1").html for n in ("plain.jpg", name))
    expected, found = Elements(plain), Elements(odd)
    assert found.all == expected.all
    assert found.texts == expected.texts
    said = name.replace("\udce9", "\ufffd").rpartition("/")[2]
    assert Decoded(odd).about["image"]["path"] == said
    assert said in found.titles[0]
    odd.encode()


def test_folders_of_this_machine_are_not_told() -> None:
    seen = renamed("/home/me/secret/cat.jpg")
    names = {
        "models/mine": "mine", "/secret/mine/": "mine",
        "py:/secret/nets.py:build": "py:nets.py:build",
        "py:nets:build": "py:nets:build", "hf:facebook/dino@main": "hf:facebook/dino@main",
        "hf:/secret/mine": "hf:mine", "timm:hf_hub:a/b": "timm:hf_hub:a/b", "tiny": "tiny",
    }  # fmt: skip
    for spec, name in names.items():
        model = replace(seen.model, spec=spec, weights="/home/me/secret/w.pt")
        page = attnviz.explore(replace(seen, model=model), layers="-1", heads="1")
        assert page.about["model"]["spec"] == name
        assert page.about["model"]["weights"] == "w.pt"
        assert "secret" not in page.html
        assert page.summary("p.html")["image"]["path"] == "/home/me/secret/cat.jpg"
        assert page.summary("p.html")["model"]["spec"] == spec


def test_the_policy_allows_its_own_style_and_script_alone() -> None:
    found = Elements(attnviz.explore(explored.seen("tiny"), layers="-1").html)
    (policy,) = (a["content"] for _, a in found.all if a.get("http-equiv"))
    assert policy is not None
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert [tag for tag, _ in found.texts] == ["style", "script"]
    for tag, text in found.texts:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert allowed[f"{tag}-src"] == f"'sha256-{digest}'"
    assert allowed["default-src"] == allowed["base-uri"] == allowed["form-action"] == "'none'"
    assert set(allowed["img-src"].split()) == {"data:", "blob:"}
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg", "", str(found.texts))
    assert not any(key[:2] == "on" or key == "style" for _, each in found.all for key in each)
    loading = {"link", "iframe", "object", "embed", "base"}
    assert loading.isdisjoint(tag for tag, _ in found.all)
    assert not any("src" in each for _, each in found.all)


def test_equal_observations_give_equal_pages(tmp_path: Path) -> None:
    model = attnviz.load_model("tiny", size=48)
    one, two = (attnviz.explore(attnviz.observe(explored.picture(), model)) for _ in range(2))
    assert one.html == two.html
    path = one.save(tmp_path / "page.html")
    assert path.read_bytes() == one.html.encode()
    assert path.stat().st_size == one.bytes
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
    assert (
        repr(one) == f"<Page of noise.png: {one.bytes / 1e6:.1f} MB, 6 layers, 48 heads, rollout>"
    )


def test_what_it_shows_first() -> None:
    seen = explored.seen("registers")
    drawing = Drawing(scale="0:0.2", colormap="plasma", alpha=0.3, interpolation="nearest")
    page = Decoded(
        attnviz.explore(seen, query="register2", heads="2,3", localized=0, drawing=drawing).html
    )
    assert page.about["start"] == {
        "layer": 2, "head": 2, "query": {"kind": "prefix", "index": 3},
        "scale": "0:0.2", "alpha": 0.3, "interpolation": "nearest",
    }  # fmt: skip
    names = list(page.about["colormaps"])
    assert names[:2] == ["plasma", "viridis"]
    assert all(len(base64.b64decode(c)) == 768 for c in page.about["colormaps"].values())
    photo = base64.b64decode(page.about["photo"].removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(photo)) as image:
        assert (image.format, image.size) == ("WEBP", (150, 100))


@pytest.mark.parametrize(
    ("name", "query", "place"),
    [
        ("vit", "auto", {"kind": "prefix", "index": 0}),
        ("siglip", "auto", {"kind": "pool"}),
        ("swin", "auto", {"kind": "mean"}),
        ("vit", "149,99", {"kind": "cell", "row": 6, "column": 9}),
        ("swin", "mean", {"kind": "mean"}),
    ],
)
def test_the_first_query(name: str, query: str, place: dict[str, object]) -> None:
    page = Decoded(attnviz.explore(explored.seen(name), query=query, localized=0).html)
    assert page.about["start"]["query"] == place


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("150,20", "outside the picture"),
        ("1,1,20,20", "single tokens; give X,Y"),
        ("mask.png", "single tokens; give X,Y"),
        ("register0", "has no register"),
        ("pool", "is no attention pool"),
    ],
)
def test_queries_that_a_page_cannot_begin_with(query: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attnviz.explore(explored.seen("vit"), query=query)


def test_a_large_photograph_is_scaled_down() -> None:
    model = attnviz.load_model("tiny", size=24)
    wide = attnviz.observe(explored.picture(3000, 40), model)
    page = Decoded(attnviz.explore(wide, layers="-1").html)
    photo = base64.b64decode(page.about["photo"].removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(photo)) as image:
        assert image.size == (1024, 14)
    assert page.about["image"]["width"] == 3000


def plain(tokens: int, heads: int, features: int, count: int = 1) -> attnviz.Observation:
    """Layers over a square of so many tokens, without a model."""
    side = round(tokens**0.5)
    cells = np.arange(side * side)[None]
    stream = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        if number < 2:  # more layers have the same tensors as the second
            q, k = torch.randn(2, 1, heads, side * side, features, generator=stream).unbind()
        layout = Layout(side, side, cells)
        made.append(Layer(AttentionCall(q, k, k, 0.1), layout, layout))
    seen = layers.observation(*made)
    grid = replace(seen.placement.grid, rows=side, columns=side)
    target = replace(seen.placement, grid=grid)
    return replace(seen, placement=target, taking_part=np.ones(side * side, dtype=bool))


def test_what_is_too_large_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnviz.page.explore.read", None)  # nothing is asked
    seen = plain(64 * 64, 16, 64, count=24)
    with pytest.raises(OutputError) as error:
        attnviz.explore(seen)
    said = re.fullmatch(
        r"the page would have about (\d+) MB, over the limit of 50 MB; take --layers (\d+)-23, "
        r"--heads (\d+) or --size (\d+) or smaller",
        str(error.value),
    )
    assert said is not None
    megabytes, first, heads, _ = map(int, said.groups())
    assert megabytes == round(24 * 16 * 4 * 4096 * 64 * 4 / 3 / 1e6)
    assert (24 - first) / 24 <= 50 / megabytes
    assert heads / 16 <= 50 / megabytes


def test_what_turns_out_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = plain(1024, 2, 32, count=2)
    whole = attnviz.explore(seen).bytes
    monkeypatch.setattr(size, "_REST", 0)
    monkeypatch.setattr("attnviz.page.explore.LIMIT", whole)
    assert attnviz.explore(seen).bytes == whole
    for limit in (whole - 1, whole // 2):
        monkeypatch.setattr("attnviz.page.explore.LIMIT", limit)
        with pytest.raises(OutputError, match="over the limit of"):
            attnviz.explore(seen)


def test_large_scores_are_kept_in_32_bits() -> None:
    seen = plain(1024, 2, 8)
    call = seen.layers[0].call
    sharp = replace(call, query=1000 * call.query)
    seen = replace(seen, layers={0: replace(seen.layers[0], call=sharp)}, numbers={})
    page = Decoded(attnviz.explore(seen).html)
    entry = page.layers[0]
    assert entry["encoding"] == "keys16"
    assert entry["parts"]["query"]["type"] == entry["parts"]["key"]["type"] == "f32"
    expected = sharp.rows([100])[0, 1, 0].numpy()
    np.testing.assert_allclose(page.row(entry, 0, 1, 100), expected, rtol=1e-2, atol=1e-6)


def test_what_all_keys_have_in_common_costs_no_precision() -> None:
    seen = plain(1024, 2, 8)
    call = seen.layers[0].call
    common = replace(call, key=call.key + 300, query=5 * call.query)
    seen = replace(seen, layers={0: replace(seen.layers[0], call=common)}, numbers={})
    page = Decoded(attnviz.explore(seen).html)
    assert page.layers[0]["parts"]["key"]["type"] == "i16"


def test_groups_of_heads_share_their_keys() -> None:
    seen = plain(400, 4, 6)
    call = seen.layers[0].call
    shared = replace(call, key=call.key[:, :2], value=call.value[:, :2])
    seen = replace(seen, layers={0: replace(seen.layers[0], call=shared)}, numbers={})
    page = Decoded(attnviz.explore(seen).html)
    assert page.layers[0]["encoding"] == "keys16"
    for head in range(4):
        expected = shared.rows([7])[0, head, 0].numpy()
        np.testing.assert_allclose(page.row(page.layers[0], 0, head, 7), expected, rtol=1e-2)


def test_causal_attention_is_kept_as_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_weights, "smaller", lambda _: "keys16")
    seen = plain(36, 2, 4)
    causal = replace(seen.layers[0].call, causal=True)
    seen = replace(seen, layers={0: replace(seen.layers[0], call=causal)}, numbers={})
    page = Decoded(attnviz.explore(seen).html)
    assert page.layers[0]["encoding"] == "weights8"
    expected = causal.rows([5])[0, 0, 0].numpy()
    assert np.abs(page.row(page.layers[0], 0, 0, 5) - expected).max() < expected.max() / 255


@pytest.mark.parametrize("tokens", [100, 1024])
def test_attention_that_is_not_finite_is_told(tokens: int) -> None:
    seen = plain(tokens, 2, 8)
    broken = replace(seen.layers[0].call, query=seen.layers[0].call.query * torch.nan)
    seen = replace(seen, layers={0: replace(seen.layers[0], call=broken)}, numbers={})
    with pytest.raises(RecordingError, match="not finite"):
        attnviz.explore(seen)


def test_rollout_is_left_out_where_it_would_be_too_large() -> None:
    page = Decoded(attnviz.explore(plain(1600, 1, 4, count=2)).html)
    assert list(page.rollouts) == [1]
    page = Decoded(attnviz.explore(plain(3136, 1, 4)).html)
    assert page.about["rollout"] == {
        "ends": [],
        "why": "a rollout from every one of 3136 tokens would be too large",
    }


def test_layers_that_were_not_kept_are_told() -> None:
    seen = explored.seen("tiny")
    few = replace(seen, layers={5: seen.layers[5]})
    with pytest.raises(UsageError, match="was not kept"):
        attnviz.explore(few)
    page = Decoded(attnviz.explore(few, layers="-1").html)
    assert "not all were kept" in page.about["rollout"]["why"]


def test_the_reader_of_the_documentation_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = explored.seen("vit")
    attnviz.explore(seen).save(tmp_path / "cat.html")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "explore.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec("".join(re.findall(r"(?s)```python\n(.*?)```", text)), names)
    expected = seen.layers[2].call.received().numpy()
    np.testing.assert_allclose(names["received"], expected, rtol=1e-5)


def test_the_wheel_holds_the_parts_of_the_page(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    code = "import hatchling.build as b, sys; print(b.build_wheel(sys.argv[1]))"
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    with zipfile.ZipFile(tmp_path / run.stdout.split()[-1]) as wheel:
        names = set(wheel.namelist())
    folder = ROOT / "attnviz" / "page" / "static"
    scripts = (folder / "scripts.txt").read_text().split()
    for name in ("page.html", "style.css", "scripts.txt", *scripts):
        assert f"attnviz/page/static/{name}" in names
    assert {path.name for path in folder.glob("*.js")} == set(scripts)
