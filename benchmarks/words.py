"""Measures what words cost: the recorded run over prompt and answer beside the same run unrecorded.

    python benchmarks/words.py FOLDER PICTURE --prompt "What is it?" --rounds 8

FOLDER is a checkpoint of transformers that answers in words, with its processor. Plain and recorded
runs take turns in one process; ratios are taken pair by pair. The promise is at most 1.20.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import attnviz
from attnviz.explanation.observe_words import record_words
from attnviz.models.prompts import PromptRun
from attnviz.models.words import WordInput

PROMISE = 1.20


def main() -> None:
    """Measure, and print a row for RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder")
    parser.add_argument("picture")
    parser.add_argument("--prompt", default="What is it?")
    parser.add_argument("--answer", default="a red mat on a box")
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    model = attnviz.load_model(options.folder, head="words")
    words = model.words
    assert words is not None
    image = attnviz.load_image(options.picture).image()
    prompting = timed(lambda: words.prompted(image, options.prompt))
    answered = words.answered(words.prompted(image, options.prompt), options.answer, 1000)
    pairs = [
        (timed(lambda: plain(words, answered)), timed(lambda: recorded(words, answered)))
        for _ in range(options.rounds + 1)
    ][1:]
    ratio = statistics.median(after / before for before, after in pairs)
    print(f"{answered.length} tokens · processor, measured: {prompting:.2f} s")
    print(f"plain run {statistics.median(p for p, _ in pairs):.2f} s · recorded × {ratio:.2f}")
    print(f"promise: at most × {PROMISE:.2f}")


def plain(words: WordInput, answered: PromptRun) -> None:
    """The run over prompt and answer, unrecorded."""
    with torch.no_grad():
        words.run(answered)


def recorded(words: WordInput, answered: PromptRun) -> None:
    """The same run, recorded."""
    record_words(words, answered)


def timed(do: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
