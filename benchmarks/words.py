"""Measures what words cost: the recorded run over prompt and answer beside the same run unrecorded.

    python benchmarks/words.py FOLDER PICTURE --prompt "What is it?" --rounds 8
    python benchmarks/words.py FOLDER PICTURE --memory    # its peak instead of its time (Linux)
    python benchmarks/words.py FOLDER --make 38           # first a model of 38 × 38 patches

FOLDER is a checkpoint of transformers that answers in words, with its processor. Plain and recorded
runs take turns in one process; ratios are taken pair by pair. The promise is at most 1.20, and
memory that grows with the number of tokens alone.
"""

import argparse
import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

import attnviz
from attnviz.explanation.record_words import record_words
from attnviz.models.prompts import PromptRun
from attnviz.models.words import WordInput
from attnviz.recording import Recording

PROMISE = 1.20
_MMAP_THRESHOLD = -3
"""Of glibc's `mallopt`."""
LAYERS, WIDTH, HEADS, GROUPS = 16, 256, 8, 2


def main() -> None:
    """Measure, and print a row for RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder")
    parser.add_argument("picture", nargs="?")
    parser.add_argument("--prompt", default="What is it?")
    parser.add_argument("--answer", default="a red mat on a box")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--make", type=int, metavar="SIDE")
    options = parser.parse_args()
    if options.make is not None:
        make(Path(options.folder), options.make)
        return
    if options.memory:  # large blocks are given back as soon as they are free, so they are seen
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 16)
    model = attnviz.load_model(options.folder, head="words")
    words = model.words
    assert words is not None
    picture = attnviz.load_image(options.picture)
    prompting = timed(lambda: words.prompted(picture.image(), options.prompt))
    answered = words.answered(words.prompted(picture.image(), options.prompt), options.answer, 1000)
    print(f"{answered.length} tokens · processor, measured: {prompting:.2f} s")
    if options.memory:
        ask = lambda: attnviz.explain(  # noqa: E731
            attnviz.observe(picture, model, prompt=options.prompt, answer=options.answer),
            heads="localized",
            layers="upper",
        )
        memory(words, answered, ask)
        return
    pairs = [
        (
            timed(lambda: plain(words, answered)),
            timed(lambda: record_words(words, answered)),
        )
        for _ in range(options.rounds + 1)
    ][1:]
    ratio = statistics.median(after / before for before, after in pairs)
    print(f"plain run {statistics.median(p for p, _ in pairs):.2f} s · recorded × {ratio:.2f}")
    print(f"promise: at most × {PROMISE:.2f}")


def make(folder: Path, side: int) -> None:
    """Save a LLaVA with random weights that sees side × side patches."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from word_models import llava  # noqa: PLC0415 — of the tests

    llava(
        folder, side, num_hidden_layers=LAYERS, hidden_size=WIDTH, intermediate_size=3 * WIDTH,
        num_attention_heads=HEADS, num_key_value_heads=GROUPS, max_position_embeddings=1 << 14,
    )  # fmt: skip


def memory(words: WordInput, answered: PromptRun, ask: Callable[[], object]) -> None:
    """Print the peak of the plain run, of the recorded one, and of all words; and what is kept."""
    plain(words, answered)
    of_plain = peak(lambda: plain(words, answered))
    recordings: list[Recording] = []
    of_recorded = peak(lambda: recordings.append(record_words(words, answered).language))
    calls = list(recordings.pop())
    weights = {each.untyped_storage().data_ptr() for each in words.module.parameters()}
    kept = megabytes(
        each
        for call in calls
        for each in tensors(call)
        if each.untyped_storage().data_ptr() not in weights
    )
    sides = [each for call in calls for each in (call.key, call.value)]
    once = sum(each.numel() * each.element_size() for each in sides) / 1e6
    print(f"peak: plain run {of_plain:.0f} MB, recorded {of_recorded:.0f} MB")
    print(
        f"kept: {kept:.1f} MB, {kept * 1e6 / answered.length / len(calls):.0f} bytes a token and "
        f"layer; keys and values × {megabytes(sides) / once:.2f} of their numbers"
    )
    del calls, sides
    print(f"observed, and all words asked: {peak(ask):.0f} MB")


def tensors(call: attnviz.attention.AttentionCall) -> Iterable[Tensor]:
    """All tensors that a call keeps."""
    return (each for each in vars(call).values() if isinstance(each, Tensor))


def megabytes(kept: Iterable[Tensor]) -> float:
    """The memory behind some tensors; what several share counts once."""
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in kept}
    return sum(each.nbytes() for each in storages.values()) / 1e6


def peak(do: Callable[[], object]) -> float:
    """Megabytes that it takes at its peak above what is there before, in this process (Linux)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    do()
    return (_status("VmHWM") - before) * 1024 / 1e6


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name)))


def plain(words: WordInput, answered: PromptRun) -> None:
    """The run over prompt and answer, unrecorded."""
    with torch.no_grad():
        words.run(answered)


def timed(do: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
