"""What was answered of every frame, kept in a file without a name."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pictures
import pytest

import attnviz
from attnviz.drawing.scale import parse_scale
from attnviz.video.clip_maps import MapSpool


def explanations(count: int) -> list[attnviz.Explanation]:
    model = attnviz.load_model("random", heads=2, size=48)
    return [
        attnviz.explain(
            attnviz.observe(
                attnviz.Picture("a.mp4", np.asarray(pictures.noise(60, 40, seed))), model
            )
        )
        for seed in range(count)
    ]


def test_what_is_kept_comes_back_and_spans_what_it_spanned(tmp_path: Path) -> None:
    asked = explanations(4)
    with MapSpool.beside(tmp_path / "out.mp4") as kept:
        for one in asked:
            kept.add(one)
        assert list(tmp_path.iterdir()) == []  # no name that a broken run could leave behind
        back = list(kept.explanations())
        maps = np.stack([one.maps for one in asked])
        for scale, groups in (("head", [maps[:, :, [h]] for h in (0, 1)]), ("all", [maps, maps])):
            found = kept.ranges(parse_scale(scale))
            spans = [(float(each.min()), float(each.max())) for each in groups]
            assert [(each.minimum, each.maximum) for each in found] == spans
    assert kept.count == len(back) == 4
    for one, again in zip(asked, back, strict=True):
        assert np.array_equal(one.maps, again.maps)
        assert [a.numbers for a in one.answers] == [a.numbers for a in again.answers]
        assert one.observation.errors == again.observation.errors


def test_what_is_kept_of_a_frame_is_as_large_as_its_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real: Callable[..., None] = pickle.dump

    def dump(part: object, file: object, protocol: int) -> None:
        sizes.append(len(pickle.dumps(part, protocol)))
        real(part, file, protocol)

    monkeypatch.setattr(pickle, "dump", dump)
    (one,) = explanations(1)
    with MapSpool.beside(tmp_path / "out.mp4") as kept:
        kept.add(one)
    assert sizes[0] < one.maps.nbytes + 4000
