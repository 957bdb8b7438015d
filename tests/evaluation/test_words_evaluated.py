"""Maps of words are scored against the objects that the words name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import attnviz
from attnviz.cli import main

SCENE, MASK = "sample_images/scene.png", "sample_images/masks/scene.png"
ANSWER = "a black mug left of an orange bird"
MODEL = ["-m", "tiny-words", "--random-weights"]


def line(tmp_path: Path, **more: Any) -> list[str]:
    words = {"path": "scene.png", "words": {"ff5050": "mug", "#50A0FF": "bird"}, **more}
    (tmp_path / "words.jsonl").write_text(json.dumps(words) + "\n\n")
    return [
        "evaluate", SCENE, "--masks", MASK, "--words", str(tmp_path / "words.jsonl"), *MODEL,
        "--json", "--layers", "2",
    ]  # fmt: skip


def test_scores_are_means_over_the_named_objects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line(tmp_path, answer=ANSWER, prompt=None)) == 0
    rows = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    model = attnviz.load_model("tiny-words", random_weights=True)
    seen = attnviz.observe(attnviz.load_image(SCENE), model, answer=ANSWER)
    with Image.open(MASK) as mask:
        colours = np.asarray(mask.convert("RGB"))
    expected: dict[Any, list[dict[str, float]]] = {}
    for colour, word in (((255, 80, 80), "mug"), ((80, 160, 255), "bird")):
        alone = tmp_path / f"{word}.png"
        Image.fromarray((colours == colour).all(-1)).save(alone)
        found = attnviz.explain(seen, query=f"word:{word}", layers="2")
        for score in attnviz.evaluate(found, mask=alone):
            expected.setdefault((score.baseline, score.head), []).append(score.numbers)
    assert {(row["baseline"], row["head"]) for row in rows} == set(expected)
    for row in rows:
        numbers = expected[row["baseline"], row["head"]]
        for name, interval in row["metrics"].items():
            if interval is not None:
                mean = np.mean([each[name] for each in numbers])
                assert interval["mean"] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize(
    ("more", "options", "said"),
    [
        ({"answer": "a red fish"}, [], "none is in the answer 'a red fish'"),
        ({"answer": ANSWER}, ["-q", "word:mug"], "leave --query out"),
        ({"words": {"red": "mug"}}, [], 'line 1 is not like {"path": "a.png"'),
        ({"prompt": 5}, [], 'line 1 is not like {"path": "a.png"'),
        ({"path": "other.png"}, [], f"has no line for {SCENE}; add it"),
    ],
)
def test_what_cannot_be_scored_is_told(
    more: dict[str, Any],
    options: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*line(tmp_path, **more), *options]) != 0
    assert said in capsys.readouterr().err
