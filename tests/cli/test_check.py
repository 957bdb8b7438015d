"""A layer whose weights do not explain the model's output is named, not drawn in silence."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pictures
import pytest

from attnviz.cli import main
from attnviz.recording import kernels


def test_a_layer_that_fails_its_check_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures.noise(40, 30).save(tmp_path / "a.png")
    honest = kernels.read

    def wrong_scale(*args: Any) -> Any:
        found = honest(*args)
        return replace(found, call=replace(found.call, scale=found.call.scale * 3))

    monkeypatch.setattr(kernels, "read", wrong_scale)
    assert main(["stats", str(tmp_path / "a.png"), "-m", "random", "--size", "64"]) == 0
    said = capsys.readouterr()
    assert "NOT VERIFIED" in said.out
    assert "in layer 0 the recorded weights do not explain the model's output" in said.err
