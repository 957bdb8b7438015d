"""Checkpoints as people have them: read rightly, or refused by name, through the command line."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import checkpoints
import pictures
import pytest
import torch
from checkpoints import BIN, Files, prefixed, without
from safetensors.torch import save_file

import attnviz
from attnviz.cli import main

transformers: Any = pytest.importorskip("transformers")
Change = Callable[[Files], None]
QUERY = "encoder.layer.1.attention.attention.query.weight"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture, and two checkpoints of a ViT: bare, and with a class head."""
    folder = tmp_path_factory.mktemp("shelf")
    pictures.noise(60, 40).save(folder / "noise.png")
    checkpoints.build(transformers, "ViTModel", folder / "bare", **checkpoints.SMALL)
    checkpoints.build(
        transformers, "ViTForImageClassification", folder / "classes", **checkpoints.SMALL
    )
    return folder


@pytest.fixture(autouse=True)
def desk(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in shelf.iterdir():
        (tmp_path / path.name).symlink_to(path)


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    return code, *capfd.readouterr()


def tensors(change: Callable[[dict[str, Any]], dict[str, Any]], name: str = "") -> Change:
    def apply(files: Files) -> None:
        files.state = change(files.state)
        files.name = name or files.name

    return apply


def settings(**values: Any) -> Change:
    return lambda files: files.config.update(values)


def converted(kind: torch.dtype) -> Change:
    return tensors(lambda state: {**state, QUERY: (50 * state[QUERY]).to(kind)})


def same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    """The same numbers of the same maps, but for rounding: of where weights lie in a file."""
    for one, other in zip(first, second, strict=True):
        one_map, other_map = one.pop("map"), other.pop("map")
        assert one == pytest.approx(other, abs=1e-5)
        assert one_map == pytest.approx(other_map, abs=1e-5)
        one["map"], other["map"] = one_map, other_map


READ: dict[str, tuple[Change, str]] = {
    "DataParallel": (tensors(lambda s: prefixed(s, "module."), BIN), "without 'module.'"),
    "torch.compile": (tensors(lambda s: prefixed(s, "_orig_mod.")), "without '_orig_mod.'"),
    "both": (tensors(lambda s: prefixed(s, "module._orig_mod.")), "without 'module."),
    "Lightning's model": (
        tensors(lambda s: {**prefixed(s, "model."), "criterion.weight": torch.ones(3)}, BIN),
        "without 'model.'",
    ),
    "Lightning's net": (tensors(lambda s: prefixed(s, "net.")), "without 'net.'"),
    "a compiled part": (
        tensors(lambda s: {n.replace("encoder.", "encoder._orig_mod."): s[n] for n in s}),
        "without '_orig_mod.'",
    ),
    "another head": (
        tensors(lambda s: {**s, "lm_head.weight": torch.ones(3, 32)}),
        "in its checkpoint, and not used: lm_head.weight",
    ),
    "no pooler": (
        tensors(lambda s: without(s, ("pooler",))),
        "not in its checkpoint, and needed by no map: pooler.dense.weight, pooler.dense.bias",
    ),
    "a pooler of NaN": (
        tensors(lambda s: {**s, "pooler.dense.bias": torch.full((32,), torch.nan)}),
        "pooler.dense.bias, which holds NaN or infinity",
    ),
    "mask token": (
        tensors(lambda s: {**s, "embeddings.mask_token": torch.ones(1, 1, 32)}),
        "not used: embeddings.mask_token",
    ),
    "training state": (tensors(lambda s: {"epoch": 3, "state_dict": s}, BIN), ""),
    "float64": (tensors(lambda s: {name: value.double() for name, value in s.items()}), ""),
    "half in the config alone": (settings(dtype="float16"), ""),
}


@pytest.mark.parametrize("name", READ)
def test_where_names_alone_differ_the_numbers_are_the_same(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    change, note = READ[name]
    checkpoints.copied(Path("bare"), Path("changed"), change)
    records = []
    for spec in ("bare", "changed", "changed"):
        code, out, err = run(capfd, "stats", "noise.png", "-m", spec, "--layers", "all", "--json")
        assert code == 0
        records.append(json.loads(out))
    same(records[0]["heads"], records[1]["heads"])
    assert records[1]["heads"] == records[2]["heads"]
    assert len(records[0]["heads"]) == 12
    check = records[1]["check"]
    assert (check["loaded"], records[1]["model"]["weights"]) == (1.0, "pretrained")
    assert ("load_notes" in check) == bool(note)
    assert note in err
    assert err.count("\n") == len(check.get("load_notes", []))
    assert all(said in err for said in check.get("load_notes", []))


REFUSED: dict[str, tuple[Change, list[str]]] = {
    "adapters": (
        tensors(checkpoints.with_adapters),
        ["query.base_layer", "merge_and_unload()", "save_pretrained"],
    ),
    "timm's names": (
        tensors(checkpoints.as_timm),
        ["blocks.0.attn.qkv.weight", "-m timm:NAME --weights changed/model.safetensors"],
    ),
    "torchvision's names": (
        tensors(
            lambda s: {"encoder.layers.encoder_layer_0.self_attention.in_proj_weight": s[QUERY]}
        ),
        ["torchvision's names", "-m torchvision:NAME --weights"],
    ),
    "deeper config": (
        settings(num_hidden_layers=5),
        ["a model of 5 layers", "end with layer 2", "number of layers in the config to 3"],
    ),
    "shallower config": (
        settings(num_hidden_layers=2),
        ["encoder.layer.2.attention", "has no place", "mend the config (its number of layers"],
    ),
    "no biases in the config": (settings(qkv_bias=False), [".bias", "mend the config"]),
    "width": (settings(hidden_size=48), ["cls_token is 1x1x32 where 1x1x48 is needed"]),
    "patch": (settings(patch_size=16), ["is 32x3x8x8 where 32x3x16x16 is needed"]),
    "positions": (settings(image_size=64), ["is 1x37x32 where 1x65x32 is needed"]),
    "a letter": (
        tensors(lambda s: {n.replace("1.attention.attention.query.w", "1.a.q.w"): s[n] for n in s}),
        ["weight is missing", "encoder.layer.1.a.q.weight"],
    ),
    "final norm": (
        tensors(lambda s: without(s, ("layernorm.bias",))),
        ["layernorm.bias is missing"],
    ),
    "NaN": (
        tensors(lambda s: {**s, QUERY: torch.full((32, 32), torch.nan)}),
        [f"{QUERY} holds NaN or infinity"],
    ),
    "infinity": (
        tensors(lambda s: {**s, QUERY: s[QUERY].index_fill(0, torch.tensor(3), torch.inf)}),
        [f"{QUERY} holds NaN or infinity"],
    ),
    "int8": (converted(torch.int8), [f"{QUERY} is int8 where dense floats are needed"]),
    "float8": (converted(torch.float8_e4m3fn), [f"{QUERY} is float8_e4m3fn where"]),
    "sparse": (
        tensors(lambda s: {**s, QUERY: s[QUERY].to_sparse()}, BIN),
        [f"{QUERY} is sparse_coo where"],
    ),
    "bits and bytes": (
        tensors(lambda s: {**s, "encoder.layer.1.intermediate.dense.SCB": torch.ones(48)}),
        ["quantised", "dequantize()"],
    ),
    "quantised config": (
        settings(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
        ["quantised weights", "dequantize()"],
    ),
    "two models": (
        tensors(lambda s: {**prefixed(s, "student."), **prefixed(s, "teacher.")}),
        ["twice, as student.… and as teacher.…", "save one of the two alone"],
    ),
    "one model twice": (
        tensors(lambda s: {**s, **prefixed(s, "vit.")}),
        ["embeddings.cls_token and vit.embeddings.cls_token", "save one of the two alone"],
    ),
    "a layer by both names": (
        tensors(lambda s: {**s, "layers.1.attention.q_proj.weight": s[QUERY]}),
        ["layers.1.attention.q_proj.weight", "has no place"],
    ),
    "empty": (tensors(lambda _: {}), ["hold no tensors", "save the checkpoint again"]),
    "no number of heads": (
        lambda files: files.config.pop("num_attention_heads"),
        ['add "num_attention_heads"'],
    ),
    "another architecture": (settings(model_type="dinov2"), ["are missing", "saved together"]),
}


def refused(code: int, out: str, err: str, *words: str) -> None:
    """One line of error that names what is wrong; nothing drawn, nothing written."""
    assert (code, out) == (1, "")
    assert err.startswith("attnviz: error: changed")
    assert err.count("\n") == 1
    assert "; " in err
    for word in words:
        assert word in err
    assert not Path("out").exists()


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_drawn_from_random_weights_is_refused(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    change, words = REFUSED[name]
    checkpoints.copied(Path("bare"), Path("changed"), change)
    found = run(capfd, "show", "noise.png", "-m", "changed", "-o", "out")
    refused(*found, *words)


def cut(folder: Path) -> None:
    path = folder / checkpoints.SAFE
    path.write_bytes(path.read_bytes()[:9000])


def lose_a_shard(folder: Path) -> None:
    checkpoints.shard(folder)[1].unlink()


def mix_shards(folder: Path) -> None:
    save_file({"other": torch.ones(1)}, checkpoints.shard(folder)[1])


def spoil_index(folder: Path) -> None:
    checkpoints.shard(folder)
    (folder / f"{checkpoints.SAFE}.index.json").write_text('{"weight_map": 3}')


SPOILED: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "truncated": (cut, ["changed/model.safetensors: damaged"]),
    "no weights": (lambda f: (f / checkpoints.SAFE).unlink(), ["no model.safetensors and no"]),
    "a shard is gone": (
        lose_a_shard,
        ["model-00002-of-00002.safetensors, which model.safetensors.index.json names, is not"],
    ),
    "a shard of another": (mix_shards, ["changed/model-00002-of-00002.safetensors: has no"]),
    "index": (spoil_index, ["not an index of weights"]),
    "config": (lambda f: (f / "config.json").write_text('{"a"'), ["not a valid JSON file"]),
    "adapter folder": (
        lambda f: (f / "adapter_config.json").write_text("{}"),
        ["an adapter of None, which PEFT alone merges", "merge_and_unload()"],
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_files_that_are_damaged_or_gone_are_named(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil, words = SPOILED[name]
    checkpoints.copied(Path("bare"), Path("changed"), lambda _: None)
    spoil(Path("changed"))
    refused(*run(capfd, "show", "noise.png", "-m", "changed", "-o", "out"), *words)


def test_shards_are_read(capfd: pytest.CaptureFixture[str]) -> None:
    checkpoints.copied(Path("bare"), Path("changed"), lambda _: None)
    checkpoints.shard(Path("changed"), 3)
    found = [json.loads(run(capfd, "stats", "noise.png", "-m", m, "--json")[1])["heads"]
             for m in ("bare", "changed")]  # fmt: skip
    same(*found)


def test_a_real_run_refuses_what_it_would_have_drawn() -> None:
    checkpoints.copied(Path("bare"), Path("changed"), REFUSED["adapters"][0])
    line = [sys.executable, "-m", "attnviz", "show", "noise.png", "-m", "changed", "-o", "out"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    refused(done.returncode, done.stdout, done.stderr, "merge_and_unload()")


def test_a_real_run_reads_what_differs_in_a_prefix(capfd: pytest.CaptureFixture[str]) -> None:
    checkpoints.copied(Path("bare"), Path("changed"), READ["DataParallel"][0])
    line = [sys.executable, "-m", "attnviz", "stats", "noise.png", "-m", "changed", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    code, out, err = run(capfd, "stats", "noise.png", "-m", "bare", "--json")
    assert (code, err) == (0, "")
    same(json.loads(done.stdout)["heads"], json.loads(out)["heads"])
    note = "attnviz: note: changed: the names in its checkpoint are read without 'module.'\n"
    assert done.stderr == note


def headless(files: Files) -> None:
    files.state = without(files.state, ("classifier",))


def fewer_classes(files: Files) -> None:
    files.config |= {"id2label": {"0": "cat"}, "label2id": {"cat": 0}}


@pytest.mark.parametrize("change", [headless, fewer_classes])
def test_a_class_head_that_is_not_there_is_asked_for_in_vain(
    change: Change, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoints.copied(Path("classes"), Path("changed"), change)
    command = ["show", "noise.png", "-m", "changed", "-o", "out", "--method", "gradient-rollout"]
    words = ["no class head", "classifier.weight", "--target norm"]
    refused(*run(capfd, *command, "--target", "1"), *words)
    code, out, err = run(capfd, *command, "--target", "norm", "--json")
    assert (code, json.loads(out)["target"]["kind"]) == (0, "norm")
    code, out, err = run(capfd, *command, "--json")  # `auto` is norm where there is no class head
    assert (code, json.loads(out)["target"]["kind"]) == (0, "norm")
    assert "no class head (its checkpoint has no usable classifier.weight" in err


def test_maps_need_no_class_head(capfd: pytest.CaptureFixture[str]) -> None:
    checkpoints.copied(Path("classes"), Path("changed"), headless)
    found = [json.loads(run(capfd, "stats", "noise.png", "-m", m, "--json")[1])["heads"]
             for m in ("classes", "changed")]  # fmt: skip
    same(*found)


def test_every_command_says_what_was_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    note = "note: classes: not in its checkpoint, and needed by no map: pooler.dense.weight"
    Path("photos").mkdir()
    pictures.noise(60, 40).save("photos/a.png")
    for command in (
        ["batch", "photos", "-o", "batch", "-m", "classes", "--pictures", "none"],
        ["explore", "noise.png", "-o", "page.html", "-m", "classes"],
        ["compare", "noise.png", "-m", "classes", "-m", "bare", "-o", "compared"],
    ):
        code, _, err = run(capfd, *command)
        assert code == 0, err
        assert err.count(note) == 1, command
    record = json.loads(Path("batch/stats.jsonl").read_text())
    assert "pooler.dense.weight" in record["check"]["load_notes"][0]


def test_a_pooling_head_that_asks_is_a_layer_and_needed(tmp_path: Path) -> None:
    config = {"vision_use_head": True, **checkpoints.SMALL}
    checkpoints.build(transformers, "SiglipVisionModel", tmp_path / "siglip", **config)
    for name in ("head.probe", "head.attention.in_proj_weight"):
        folder = tmp_path / name
        checkpoints.copied(tmp_path / "siglip", folder, tensors(partial(without, parts=(name,))))
        with pytest.raises(attnviz.AttnvizError, match=rf"{name}\w* is missing"):
            attnviz.load_model(str(folder))


def test_pooling_weights_without_attention_are_left_out(tmp_path: Path) -> None:
    """Hiera pools by a norm and a mean: maps need neither, and the norm is of the tokens' mean."""
    small = {"embed_dim": 24, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "image_size": [64, 64],
             "num_query_pool": 2}  # fmt: skip
    own = checkpoints.build(transformers, "HieraModel", tmp_path / "hiera", **small)
    folder = tmp_path / "changed"
    checkpoints.copied(tmp_path / "hiera", folder, tensors(lambda s: without(s, ("pooler",))))
    model = attnviz.load_model(str(folder))
    assert model.loaded == 1.0
    assert "its norm is their mean" in model.notes[0]
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.module(pixels), own(pixels).last_hidden_state)


def test_a_checkpoint_in_the_hubs_cache_is_looked_at_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants  # noqa: PLC0415

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cached, commit = tmp_path / "hub/models--me--vit", "0123456789" * 4
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text(commit)
    (cached / "snapshots").mkdir()
    folder = cached / "snapshots" / commit
    checkpoints.copied(Path("bare"), folder, READ["DataParallel"][0])
    model = attnviz.load_model("hf:me/vit")
    assert (model.loaded, len(model.notes)) == (1.0, 1)
    (folder / BIN).unlink()
    with pytest.raises(attnviz.AttnvizError, match=r"hf:me/vit: not in the local cache"):
        attnviz.load_model("hf:me/vit")
    torch.save(checkpoints.as_timm(read("bare")), folder / BIN)
    with pytest.raises(attnviz.AttnvizError, match=r"hf:me/vit: its weights have timm's names"):
        attnviz.load_model("hf:me/vit")


def test_weights_of_a_file_need_none_of_the_folder(tmp_path: Path) -> None:
    state = attnviz.load_model("bare").module.state_dict()
    save_file({n.removeprefix("model."): t for n, t in state.items()}, "whole.safetensors")
    save_file({n.replace("model.", "module."): t for n, t in state.items()}, "parallel.safetensors")
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.json").write_text(Path("bare/config.json").read_text())
    whole = attnviz.load_model("config", weights="whole.safetensors")
    parallel = attnviz.load_model("config", weights="parallel.safetensors")
    for model in (whole, parallel):
        assert model.loaded == 1.0
        assert all(torch.equal(t, state[n]) for n, t in model.module.state_dict().items())
    assert whole.notes == ()
    assert "are read without 'module.'" in parallel.notes[0]
    save_file(checkpoints.as_timm(read("bare")), "timm.safetensors")
    with pytest.raises(attnviz.AttnvizError, match=r"(?s)missing.*-m timm:NAME --weights timm"):
        attnviz.load_model("config", weights="timm.safetensors")


def read(folder: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file  # noqa: PLC0415

    return load_file(Path(folder) / checkpoints.SAFE)


def test_what_each_source_says_of_its_filling(capfd: pytest.CaptureFixture[str]) -> None:
    layer = attnviz.MultiHeadAttention(8, 64)
    torch.save(layer.state_dict(), "layer.pt")
    torch.save({f"module.{n}": t for n, t in layer.state_dict().items()}, "parallel.pt")
    whole = attnviz.load_model("random").module
    share = sum(p.numel() for p in layer.parameters()) / sum(p.numel() for p in whole.parameters())
    Path("net.py").write_text("import torch\nnet = torch.nn.Linear(3, 3)\n")
    torch.save(torch.nn.Linear(3, 3).state_dict(), "net.pt")
    for spec, options, loaded in (
        ("tiny", {}, 1.0),
        ("tiny", {"random_weights": True}, None),
        ("random", {}, None),
        ("random", {"weights": "layer.pt"}, share),
        ("random", {"weights": "parallel.pt"}, share),
        ("bare", {}, 1.0),
        ("bare", {"random_weights": True}, None),
        ("py:net.py:net", {}, None),
        ("py:net.py:net", {"weights": "net.pt"}, 1.0),
    ):
        assert attnviz.load_model(spec, **options).loaded == loaded, (spec, options)
    assert 0 < share < 1
    command = ["stats", "noise.png", "-m", "random", "--size", "32", "--json"]
    assert json.loads(run(capfd, *command)[1])["check"]["loaded"] is None
    check = json.loads(run(capfd, *command, "--weights", "layer.pt")[1])["check"]
    assert check["loaded"] == pytest.approx(share)
    assert "load_notes" not in check
