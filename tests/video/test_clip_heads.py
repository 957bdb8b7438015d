"""Localized heads of a clip: chosen once, the same in every frame."""

import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import make_clip, read_film, stripes

import attnviz
from attnviz.cli import main
from attnviz.explanation.explanation import LocalizedHead
from attnviz.explanation.request import Questions
from attnviz.io import clips
from attnviz.output.make_record import make_record
from attnviz.output.records import Record
from attnviz.output.write_pictures import Drawing
from attnviz.video.clip_heads import _Scores, choose_heads, sampling
from attnviz.video.clip_maps import ClipRequest
from attnviz.video.film import make_films


def moving(folder: Path, count: int = 40) -> Path:
    return make_clip(folder / "in.mp4", count, draw=lambda n: stripes(3 * n, 96, 64))


def expected(source: Path, every: int, **question: Any) -> list[tuple[int, int]]:
    """The heads with the lowest mean score of their maps in every so-manieth frame."""
    model, scores = attnviz.load_model("tiny", size=64), []
    for frame in list(clips.frames(clips.open_clip(source)))[::every]:
        seen = attnviz.observe(frame.picture, model)
        record = make_record(attnviz.explain(seen, layers="3-5", **question))
        maps = [head.map for head in record.heads]
        scores.append([(m.spatial_entropy or 0) + 2 * (m.border_mass or 0) for m in maps])
    order = np.argsort(np.mean(scores, 0), kind="stable")
    return [(3 + n // 8, n % 8) for n in order.tolist()]


def test_every_frame_shows_the_heads_that_are_localized_in_the_clip(tmp_path: Path) -> None:
    source, out = moving(tmp_path), tmp_path / "out.mp4"
    model, records = attnviz.load_model("tiny", size=64), list[Record]()
    request = ClipRequest(clips.open_clip(source), model, Questions(heads="localized:2"))
    assert sampling(request.clip) == 2  # 20 of 40 frames
    make_films(request, [out], Drawing(), on_record=records.append)
    heads = expected(source, 2)[:2]
    for record in records:
        assert [(head.layer, head.head) for head in record.heads] == [*heads, (5, None)]
        assert [(each.layer, each.head) for each in record.localized or ()] == heads
    assert len({json.dumps([each.score for each in r.localized or ()]) for r in records}) == 1
    frame = list(clips.frames(request.clip))[7]
    of_clip = [[LocalizedHead(layer, head, 0.0) for layer, head in heads]]
    seen = attnviz.observe(frame.picture, model)
    alone = attnviz.explain(seen, heads="localized:2", chosen=of_clip)
    assert records[7].heads[2].map.maximum == pytest.approx(alone.answers[2].values.max(), rel=1e-4)
    assert len(read_film(out).pictures) == 40


def test_each_question_of_a_clip_has_heads_of_its_own(tmp_path: Path) -> None:
    request = ClipRequest(
        clips.open_clip(moving(tmp_path, 6)),
        attnviz.load_model("tiny", size=64),
        Questions(methods=("attention", "value-norm"), queries=("cls", "50,30"), heads="localized"),
    )
    chosen = choose_heads(request, lambda: False).questions.chosen
    assert set(chosen) == {"attention", "value-norm"}
    found = {
        (name, n): [(each.layer, each.head) for each in heads]
        for name, of_name in chosen.items()
        for n, heads in enumerate(of_name)
    }
    path = Path(request.clip.path)
    for name in ("attention", "value-norm"):
        for n, query in enumerate(("cls", "50,30")):
            assert found[name, n] == expected(path, 1, query=query, method=name)[:3]
    assert len({tuple(each) for each in found.values()}) > 1
    plain = replace(request, questions=Questions())
    assert choose_heads(plain, lambda: False) is plain


def test_heads_that_are_flat_in_more_frames_come_later() -> None:
    scores = _Scores()
    for frame in range(3):
        scores.add([
            LocalizedHead(0, 0, float("inf")),  # flat throughout
            LocalizedHead(0, 1, 0.1 if frame else float("inf")),
            LocalizedHead(1, 0, 2.0 + frame),
            LocalizedHead(1, 1, 3.0),
        ])  # fmt: skip
    found = [(each.layer, each.head, each.score) for each in scores.lowest(4)]
    assert found == [(1, 0, 3.0), (1, 1, 3.0), (0, 1, 0.1), (0, 0, float("inf"))]


def test_frames_that_are_sampled_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, most = weakref.WeakSet[Any](), [0]
    real = clips.frames

    def watched(clip: clips.Clip) -> Any:
        for frame in real(clip):
            alive.add(frame)
            most[0] = max(most[0], len(alive))
            yield frame

    monkeypatch.setattr("attnviz.video.clip_heads.frames", watched)
    request = ClipRequest(
        clips.open_clip(moving(tmp_path, 60)),
        attnviz.load_model("tiny", size=32),
        Questions(heads="localized"),
    )
    choose_heads(request, lambda: False)
    assert most[0] <= 4


def test_the_command_draws_a_film_of_localized_heads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["video", str(moving(tmp_path, 4)), "-o", str(tmp_path / "out.mp4"), "--size", "64"]
    assert main([*line, "--heads", "localized:2", "--json"]) == 0
    records = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    assert len({json.dumps(record["localized"]) for record in records}) == 1
    assert main([*line, "--heads", "localized:2"]) == 0
    assert "the most localized heads" in capsys.readouterr().out
    assert main([*line, "--heads", "localized:99"]) == 2
    assert "have 24 heads; give at most localized:24" in capsys.readouterr().err
