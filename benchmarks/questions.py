"""Measures one run of a model that answers many questions, beside a run that answers one.

    python benchmarks/questions.py

A ViT-B of transformers with random weights on one 224×224 picture. `one` runs the model and asks a
method one query; `all` runs it and asks five methods ten queries each. They run in turn, and ratios
are taken pair by pair. The promise is at most 1.5 for five methods beside one method that needs the
same run: with the backward pass from a score, or without.
"""

import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch

import attnviz
from attnviz.io.picture import Picture
from attnviz.methods import METHODS

ROUNDS = 9
QUERIES = [f"{20 * i + 7},{20 * i + 13}" for i in range(10)]
WITHOUT = ("attention", "rollout", "value-norm", "similarity", "mass")
WITH = ("attention", "rollout", "gradient-attention", "value-norm", "relevance")


def seconds(
    model: attnviz.Model, picture: Picture, methods: Sequence[str], queries: Sequence[str]
) -> float:
    """A run, and every method asked every query."""
    start = time.perf_counter()
    gradients = any(METHODS[name].scored for name in methods)
    seen = attnviz.observe(picture, model, gradients=gradients)
    for name in methods:
        attnviz.explain(seen, method=name, query=queries)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    torch.set_num_threads(2)
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    picture, model = Picture("noise", noise), attnviz.load_model("vit-base", random_weights=True)
    print("| one | five | one, s | five methods × ten queries, s | ratio |\n|---|---|---|---|---|")
    for one, many in (("attention", WITHOUT), ("relevance", WITH)):
        seconds(model, picture, many, QUERIES)  # warm
        pairs = [
            (seconds(model, picture, [one], QUERIES[:1]), seconds(model, picture, many, QUERIES))
            for _ in range(ROUNDS)
        ]
        alone, together = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = [b / a for a, b in pairs]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"| {one} | {', '.join(many)} | {alone:.2f} | {together:.2f} "
            f"| {statistics.median(ratios):.2f} ({spread}) |"
        )


if __name__ == "__main__":
    main()
