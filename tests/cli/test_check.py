"""A layer whose weights do not explain the model's output is named, not drawn in silence."""

import importlib
from dataclasses import replace
from pathlib import Path

import pictures
import pytest

from attnviz.attention.call import AttentionCall
from attnviz.cli import main


def test_a_layer_that_fails_its_check_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures.noise(40, 30).save(tmp_path / "a.png")
    recording = importlib.import_module("attnviz.attention.record")
    honest = recording._call

    def wrong_scale(*args: object, **kwargs: object) -> AttentionCall:
        call: AttentionCall = honest(*args, **kwargs)
        return replace(call, scale=call.scale * 3)

    monkeypatch.setattr(recording, "_call", wrong_scale)
    assert main(["stats", str(tmp_path / "a.png"), "--size", "64"]) == 0
    said = capsys.readouterr()
    assert "NOT VERIFIED" in said.out
    assert "in layer 0 the recorded weights do not explain the model's output" in said.err
