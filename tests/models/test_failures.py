"""What the hub and libraries raise, told in a line with what to type next."""

import sys
from pathlib import Path
from typing import Any

import pytest

import attnviz
from attnviz.cli import main
from attnviz.models import adapters, checkpoints

transformers: Any = pytest.importorskip("transformers")
errors: Any = pytest.importorskip("huggingface_hub.errors")


@pytest.fixture(autouse=True)
def _no_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """No adapter is looked for on the hub, which would wait for the network."""
    find = checkpoints.find_file

    def local(name: str, file: str, revision: str | None) -> Path | None:
        return find(name, file, revision) if Path(name).exists() else None

    monkeypatch.setattr(adapters, "find_file", local)


def hub_error(kind: str) -> Exception:
    """An error of the hub's library, made without an answer of the hub."""
    found: type[Exception] = getattr(errors, kind)
    error = found.__new__(found)
    error.args = (f"{kind} of the hub",)
    return error


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (
            hub_error("GatedRepoError"),
            "give it at https://huggingface.co/some/net, then run `hf auth login`",
        ),
        (hub_error("RevisionNotFoundError"), "not this revision; leave @REV out"),
        (hub_error("RepositoryNotFoundError"), "the hub has no model some/net; correct it"),
        (hub_error("LocalEntryNotFoundError"), "the network cannot be reached; try again"),
        (ConnectionError("refused"), "the network cannot be reached; try again"),
        (
            ImportError("needs flash"),
            "does not import .needs flash.*; run `attnviz doctor`",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "out of memory while it was loaded; give a smaller model",
        ),
        (ValueError("odd"), r"cannot be loaded \(.*odd.*\); check the name"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_of_the_hub(cause: Exception, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        if isinstance(cause, ValueError):
            raise cause
        # transformers wraps what the hub raises in an OSError of its own.
        raise OSError("We could not load it.\nSee the documentation.") from cause

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    with pytest.raises(attnviz.AttnvizError, match=told) as caught:
        attnviz.load_model("hf:some/net")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("hf:some/net: ")


def test_a_name_that_nearly_is_one_is_answered_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise hub_error("RepositoryNotFoundError")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    with pytest.raises(attnviz.AttnvizError, match="did you mean dinov2-small"):
        attnviz.load_model("hf:facebook/dinov2-smal")
    with pytest.raises(attnviz.AttnvizError, match="did you mean dinov2-small"):
        attnviz.load_model("dinov2-smal")


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_by_wish(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no network") from hub_error("LocalEntryNotFoundError")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fail)
    (tmp_path / "a.png").write_bytes(b"")
    assert main(["stats", str(tmp_path / "a.png"), "-m", "dinov2-small"]) == 1
    line = capsys.readouterr().err
    assert f"{name} forbids to download it; unset {name}" in line
    assert line.count("\n") == 1


def test_the_real_library_offline_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants  # noqa: PLC0415

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(attnviz.AttnvizError, match="HF_HUB_OFFLINE forbids"):
        attnviz.load_model("hf:some/net")


def test_a_library_that_is_there_and_does_not_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for part in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, part)
    with pytest.raises(attnviz.AttnvizError, match=r"timm does not import .*run `attnviz doctor`"):
        attnviz.load_model("timm:vit_tiny_patch16_224")


def test_a_text_model_is_refused_before_its_weights_are_asked_for(tmp_path: Path) -> None:
    config = transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8)
    config.save_pretrained(tmp_path / "gpt")
    with pytest.raises(attnviz.AttnvizError, match="takes no pictures; give a vision model, such"):
        attnviz.load_model(str(tmp_path / "gpt"))


def test_a_model_of_timm_on_the_hub_is_sent_to_its_source(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "timm_wrapper", "architecture": "vit"}')
    with pytest.raises(attnviz.AttnvizError, match=r"as timm:hf_hub:|run `attnviz doctor`"):
        attnviz.load_model(str(tmp_path))


@pytest.mark.parametrize("spec", ["timm:vit_tiny_patch16_224", "torchvision:swin_t"])
def test_a_library_that_is_not_there(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, spec.partition(":")[0], None)
    monkeypatch.delitem(sys.modules, "torchvision.models", raising=False)
    with pytest.raises(attnviz.AttnvizError, match=r"pip install 'attnviz\[timm\]'"):
        attnviz.load_model(spec)
