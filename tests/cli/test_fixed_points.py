"""The fixed points of CONTRACT §5, through the command line."""

import json
from pathlib import Path

import pictures
import pytest

from attnviz.cli import main


@pytest.mark.parametrize(
    ("size", "grid", "distance", "entropy"),
    [
        ((224, 224), (14, 14), 116.4922, 5.278115),
        ((160, 320), (20, 10), 128.4721, 5.298317),
        ((320, 160), (10, 20), 128.4721, 5.298317),
    ],
)
def test_uniform_attention(
    size: tuple[int, int],
    grid: tuple[int, int],
    distance: float,
    entropy: float,
    *,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pictures.noise(*size).save(tmp_path / "noise.png")
    layer = pictures.uniform_layer(tmp_path / "uniform.safetensors")
    options = ["-m", "random", "--patch", "16", "--size", "224", "--weights", str(layer)]
    command = ["stats", str(tmp_path / "noise.png"), *options]
    assert main([*command, "--json"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["tokens"]["rows"], record["tokens"]["columns"]) == grid
    assert len(record["heads"]) == 8
    for head in record["heads"]:
        assert head["distance_px"] == pytest.approx(distance, abs=5e-5)
        assert head["entropy"] == pytest.approx(entropy, abs=5e-6)
        assert head["entropy_ratio"] == pytest.approx(1, abs=1e-6)
        assert head["map"]["area60"] == pytest.approx(118 / 196 if grid == (14, 14) else 0.6)
    assert main(command) == 0
    table = capfd.readouterr().out
    assert f"{distance:.4f}" in table
    assert f"{entropy:.4f}" in table
    assert max(len(line) for line in table.splitlines()) <= 100
