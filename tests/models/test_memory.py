from pathlib import Path

import pictures
import pytest

import attnviz
from attnviz.errors import MemoryLimitError
from attnviz.models import memory


def test_what_fits_goes_on_and_what_does_not_says_what_it_would_need() -> None:
    memory.require(1000, "a little", "never mind")
    with pytest.raises(MemoryLimitError, match=r"much would need about 1000000\.0 GB, and .* free"):
        memory.require(1e15, "much", "take less")


def test_a_request_that_cannot_fit_names_the_size_that_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures.noise(60, 60).save(tmp_path / "noise.png")
    picture = attnviz.load_image(tmp_path / "noise.png")
    monkeypatch.setattr(memory, "available", lambda _device="cpu": 20_000_000)
    model = attnviz.load_model("random", tokens="pixels", size=300)
    with pytest.raises(
        MemoryLimitError, match=r"90000 tokens would need .* take --size (\d+)"
    ) as e:
        attnviz.observe(picture, model)
    fits = int(str(e.value).rsplit("--size ", maxsplit=1)[1].split()[0])
    assert fits < 300
    smaller = attnviz.load_model("random", tokens="pixels", size=fits, heads=8)
    assert smaller.place(picture).grid.tokens * smaller.token_bytes <= 20_000_000


def test_a_layer_that_cannot_fit_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda _device="cpu": 1_000_000)
    with pytest.raises(MemoryLimitError, match="a layer of 1024 features"):
        attnviz.load_model("random", features=1024)
