"""Measures what the metrics of perturbation cost, beside the model's predictions alone.

    python benchmarks/perturbation.py [FOLDER] --rounds 5

FOLDER is a checkpoint of transformers with a class head; without it, one of DeiT-tiny's size with
random weights is built. CPU time of one map (104 predictions, 18 imputed pictures) is compared with
that of 104 predictions in batches, in pairs, in one process with one thread.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import attnviz
from attnviz.evaluation import perturbation

COUNT = 104
"""Predictions for one map; those of equal pictures are made once."""


def main() -> None:
    """Measure, and print a row for RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        model = attnviz.load_model(given.folder or random_checkpoint(Path(made)), head="class")
    noise = np.random.RandomState(0).randint(0, 256, (20, 20, 3), dtype=np.uint8)
    picture = attnviz.Picture("noise", np.kron(noise, np.ones((15, 15, 1), dtype=np.uint8)))
    observation = attnviz.observe(picture, model)
    explanation = attnviz.explain(observation)
    pixels = model.pixels(picture, observation.placement)
    seen = perturbation.shown(model, pixels, observation.placement)
    predict = perturbation.predictor(model)
    answer = explanation.answers[0]
    importance = perturbation.upsample(answer.values.astype(np.float64), answer.placement)
    inputs = seen.input[None].repeat(perturbation.BATCH, 1, 1, 1)

    def bare() -> None:
        for first in range(0, COUNT, perturbation.BATCH):
            predict(inputs[: COUNT - first])

    def metrics() -> None:
        perturbation.perturb(seen, perturbation.remembered(predict), importance, label=0)

    pairs = [(cpu_time(bare), cpu_time(metrics)) for _ in range(given.rounds + 1)][1:]
    ratios = [whole / alone for alone, whole in pairs]
    print(f"104 predictions {statistics.median(a for a, _ in pairs):.2f} s")
    print(f"all metrics of perturbation × {statistics.median(ratios):.2f}")


def random_checkpoint(folder: Path) -> str:
    """A classifier of DeiT-tiny's size with random weights, saved with its processor."""
    config = ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768)
    config.num_labels = 1000
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)
    return str(folder)


def cpu_time(run: Callable[[], None]) -> float:
    """CPU seconds of all threads that a run takes."""
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
