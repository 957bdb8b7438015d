"""What is known to tell little, and how `show` says it."""

from pathlib import Path

import numpy as np
import pytest

import attnviz
from attnviz.cli import main
from attnviz.methods import METHODS
from attnviz.methods.facts import FACTS, PAGE, facts_about

ROOT = Path(__file__).parents[2]
CAT = ROOT / "sample_images" / "cat.jpg"


def test_every_fact_is_of_methods_and_on_the_page() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    for fact in FACTS:
        for method in fact.methods:
            assert method in METHODS
            assert f"`{method}`" in page


@pytest.mark.parametrize(
    ("method", "query", "layers", "told"),
    [
        ("similarity", "cls", "-1", "ask from a point"),
        ("token-similarity", "cls", "-1", "ask from a point"),
        ("similarity", "point", "-1", ""),
        ("similarity", "cls", "all", ""),
        ("gradient-attention", "point", "-1", "made of the class token alone"),
        ("gradient-attention", "cls", "-1", ""),
        ("attention", "cls", "-1", ""),
        ("attcat", "cls", "-1", "ask --method relevance"),
    ],
)
def test_facts_are_of_their_question(method: str, query: str, layers: str, told: str) -> None:
    found = facts_about([method], [query], layers, of_class=True)
    assert len(found) == bool(told)
    assert all(told in line and PAGE in line for line in found)
    if "gradient" in METHODS[method].needs or "token gradient" in METHODS[method].needs:
        assert not facts_about([method], [query], layers)


def test_gradient_attention_from_a_place_in_the_last_layer_is_0() -> None:
    model = attnviz.load_model("tiny", head="class", size=64)
    seen = attnviz.observe(attnviz.load_image(CAT), model, gradients=True)
    assert not attnviz.explain(seen, method="gradient-attention", query="362,98").maps.any()
    assert np.any(attnviz.explain(seen, method="gradient-attention", query="cls").maps)


def test_show_says_it_once_for_all_pictures(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    show = ["show", str(CAT), str(CAT.with_name("teapot.jpg")), "--size", "32", "-o", str(tmp_path)]
    assert main([*show, "--no-preview", "--method", "similarity"]) == 0
    assert capfd.readouterr().err.count(f"({PAGE})") == 1
    assert main([*show, "--no-preview", "--method", "similarity", "--quiet"]) == 0
    assert PAGE not in capfd.readouterr().err
    assert main([*show, "--no-preview"]) == 0  # which names localized heads
    assert PAGE not in capfd.readouterr().err
