"""Files of weights as people save them, and hostile ones; `-m FOLDER --weights FILE`."""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import saved_files
import torch
from safetensors.torch import save_file
from torch import nn

import attnviz
from attnviz.errors import MisfitError, ModelError
from attnviz.models.fitting import fit, is_head, load_weights
from attnviz.models.state_dicts import read_state_dict

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 96, "image_size": 48, "patch_size": 8}  # fmt: skip


def classifier(classes: int = 3, **settings: Any) -> Any:
    torch.manual_seed(0)
    kind = transformers.ViTForImageClassification
    model = kind(kind.config_class(**{**SMALL, **settings}, num_labels=classes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of another model of the same shape: none of its weights may be used."""
    path = tmp_path_factory.mktemp("folder")
    other = classifier()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(3)
    other.save_pretrained(path)
    return path


def logits(model: attnviz.Model, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.module(pixels)
    return result


PIXELS = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("form", saved_files.FORMS)
def test_a_folder_takes_every_form(form: str, folder: Path, tmp_path: Path) -> None:
    own = classifier()
    if form == "float16":  # what the file holds
        own.half().float()
    path = saved_files.save(form, own.state_dict(), tmp_path)
    model = attnviz.load_model(str(folder), weights=path, head="class")
    expected = own(PIXELS).logits.detach()
    assert torch.allclose(logits(model, PIXELS), expected, atol=1e-5, rtol=0)
    assert (model.loaded, model.weights) == (1.0, path)


def test_a_head_of_other_classes_is_left_out_with_a_note(folder: Path, tmp_path: Path) -> None:
    own = classifier(classes=5)
    torch.save(own.state_dict(), tmp_path / "five.pt")
    model = attnviz.load_model(str(folder), weights=str(tmp_path / "five.pt"), head="any")
    assert model.head == "none"
    assert any("no class head" in note and "classifier.weight" in note for note in model.notes)
    tokens = own.vit(PIXELS).last_hidden_state
    assert torch.allclose(logits(model, PIXELS), tokens, atol=1e-5, rtol=0)


def test_positions_of_another_grid_are_interpolated(folder: Path, tmp_path: Path) -> None:
    own = classifier(image_size=64)
    torch.save({"model": own.state_dict()}, tmp_path / "large.pt")
    model = attnviz.load_model(str(folder), weights=str(tmp_path / "large.pt"), head="class")
    assert "positions of 8x8 patches are interpolated to 6x6" in " ".join(model.notes)
    expected = own(PIXELS, interpolate_pos_encoding=True).logits
    assert torch.allclose(logits(model, PIXELS), expected, atol=1e-5, rtol=0)


def test_what_does_not_fit_a_folder_is_told_in_three_lines(folder: Path, tmp_path: Path) -> None:
    state = classifier().state_dict()
    del state["vit.layers.1.mlp.fc2.bias"]
    state["vit.layers.0.mlp.fc1.bias"] = torch.zeros(7)
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(attnviz.AttnvizError) as caught:
        attnviz.load_model(str(folder), weights=str(tmp_path / "odd.pt"))
    first, second, third = str(caught.value).splitlines()
    assert first.endswith("odd.pt does not fit: 36 of 40 weights fit")
    assert "fc2.bias is missing" in second
    assert "is 7 where 96 is needed" in second
    assert third.startswith("try: ")


def test_a_model_saved_whole_is_read_without_its_class(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Linear(4, 2)))
    for zipped in (True, False):
        torch.save({"net": net}, tmp_path / "whole.pt", _use_new_zipfile_serialization=zipped)
        found = read_state_dict(str(tmp_path / "whole.pt")).tensors
        assert found.keys() == net.state_dict().keys()
        assert all(torch.equal(found[name], t) for name, t in net.state_dict().items())


def test_a_scripted_model_is_read_without_its_code(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 2)))
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(net), tmp_path / "scripted.pt")
    found = read_state_dict(str(tmp_path / "scripted.pt")).tensors
    assert all(torch.equal(found[name], t) for name, t in net.state_dict().items())


KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
         torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn,
         torch.uint16]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["pt", "old.pt", "safetensors"])
def test_tensors_of_every_type_and_layout(kind: torch.dtype, suffix: str, tmp_path: Path) -> None:
    base = torch.arange(24).reshape(4, 6).to(kind)
    state = {"whole": base, "turned": base.T, "part": base[1:, 2:4], "none": base[:0],
             "one": base[0, 3], "same": base.view(-1)}  # fmt: skip
    path = tmp_path / f"tensors.{suffix}"
    if suffix == "safetensors":
        save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, path)
    elif suffix == "old.pt" and kind in (torch.float8_e4m3fn, torch.uint16):
        pytest.skip("the old form has no storage of this type")
    else:
        torch.save(state, path, _use_new_zipfile_serialization=suffix == "pt")
    found = read_state_dict(str(path)).tensors
    for name, tensor in state.items():
        assert found[name].dtype == kind
        assert torch.equal(found[name].to(torch.complex64), tensor.to(torch.complex64)), name


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_numpy(save: Callable[..., None], tmp_path: Path) -> None:
    rows = np.arange(6.0).reshape(2, 3)
    save(tmp_path / "a.npz", **{"a/b": rows, "c": np.asfortranarray(rows), "d": np.float32(3)})
    found = read_state_dict(str(tmp_path / "a.npz")).tensors
    assert all(torch.equal(found[n], torch.from_numpy(rows)) for n in ("a/b", "c"))
    assert found["d"] == 3


def test_which_of_several_models(tmp_path: Path) -> None:
    state = {f"{who}.{n}": torch.full((2,), float(i)) for i, who in enumerate("ab") for n in "xy"}
    nested = {"student": {"x": torch.ones(2)}, "teacher": {"x": torch.zeros(2)}, "step": 3}
    torch.save(nested, tmp_path / "nested.pt")
    torch.save(state, tmp_path / "flat.pt")
    path = str(tmp_path / "nested.pt")
    usual = read_state_dict(path)
    assert (float(usual.tensors["x"][0]), len(usual.notes)) == (0, 1)
    assert "read 'teacher' of nested.pt; --key takes student" in usual.notes[0]
    assert float(read_state_dict(path, "student").tensors["x"][0]) == 1
    assert read_state_dict(str(tmp_path / "flat.pt"), "b").tensors.keys() == {"x", "y"}
    with pytest.raises(attnviz.AttnvizError, match=r"holds no 'ema'; --key takes student, teacher"):
        read_state_dict(path, "ema")


def sprung(folder: Path) -> str:
    return f"touch {folder / 'sprung'}"


class Gadget:
    """What calls something when it is unpickled freely."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return self.parts


def gadgets(folder: Path) -> dict[str, Any]:
    touch = sprung(folder)
    opened = f"open({str(folder / 'sprung')!r}, 'w')"
    return {
        "os.system": Gadget(os.system, (touch,)),
        "subprocess.Popen": Gadget(subprocess.Popen, (["touch", str(folder / "sprung")],)),
        "builtins.eval": Gadget(eval, (opened,)),
        "builtins.exec": Gadget(exec, (opened,)),
        "io.open": Gadget(io.open, (str(folder / "sprung"), "w")),
        "torch.load": Gadget(torch.load, (str(folder / "x.pt"), None, None)),
        "a map": Gadget(list, (Gadget(map, (os.system, [touch])),)),
    }


@pytest.mark.parametrize("name", gadgets(Path()))
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_calls_is_refused(name: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "trap.ckpt"
    saved = {"state_dict": {"x": torch.ones(2)}, "y": gadgets(tmp_path)[name]}
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(attnviz.AttnvizError, match=r"trap\.ckpt: its pickled code wants to call"):
        read_state_dict(str(path))
    assert not (tmp_path / "sprung").exists()


ODD_PICKLES = {
    "setstate": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "instance": b"(S'touch sprung'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'touch sprung'\no.",
    "new": b"\x80\x02cos\nsystem\nU\x01x\x85\x81.",
    "registry": b"\x80\x02\x82\x01.",
    "call of what was got": b"cbuiltins\ngetattr\n(cpathlib\nPath\nS'touch'\ntR(S'sprung'\ntR.",
    "memo": b"\x80\x02Nr\xff\xff\xff\xff.",
    "bytes": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "build": b"\x80\x02}(cos\nsystem\nu.",
    "ends": b"\x80\x02}q",
    "nothing": b"",
}


@pytest.mark.parametrize("name", ODD_PICKLES)
def test_pickles_written_by_hand_are_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("odd/data.pkl", ODD_PICKLES[name])
    with pytest.raises(ModelError, match=r"odd\.pt: (its pickled|damaged|not a state dict)"):
        read_state_dict(str(path))
    path.write_bytes(ODD_PICKLES[name])
    with pytest.raises(ModelError, match=r"odd\.pt: (its pickled|damaged)"):
        read_state_dict(str(path))


def test_a_pickled_class_stays_inert(tmp_path: Path) -> None:
    """An object's own `__setstate__` and `__new__` would run if its class were imported."""
    torch.save({"model": {"x": torch.ones(2)}, "y": Loud()}, tmp_path / "loud.pt")
    Loud.heard.clear()
    assert read_state_dict(str(tmp_path / "loud.pt")).tensors.keys() == {"x"}
    assert Loud.heard == []


class Loud:
    heard: list[str] = []  # noqa: RUF012

    def __new__(cls) -> "Loud":
        cls.heard.append("new")
        return super().__new__(cls)

    def __getstate__(self) -> dict[str, int]:
        return {"a": 1}

    def __setstate__(self, _: Any) -> None:
        self.heard.append("set")


@pytest.mark.parametrize("suffix", ["pt", "old.pt", "safetensors", "npz"])
def test_truncated_files_are_one_line(suffix: str, tmp_path: Path) -> None:
    state = {"a": torch.randn(40, 30), "b": torch.randn(30)}
    path = tmp_path / f"cut.{suffix}"
    if suffix == "safetensors":
        save_file(state, path)
    elif suffix == "npz":
        np.savez(path, a=state["a"].numpy(), b=state["b"].numpy())
    else:
        torch.save(state, path, _use_new_zipfile_serialization=suffix == "pt")
    whole = path.read_bytes()
    for share in (0, 0.01, 0.3, 0.6, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ModelError, match=r"damaged, or not a state dict"):
            read_state_dict(str(path))


def rewritten(path: Path, change: Callable[[str, bytes], bytes], kind: int) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    torch.save({"a": torch.zeros(2**20)}, path)
    rewritten(path, lambda _, content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match=r"bomb\.pt: its archive is compressed"):
        read_state_dict(str(path))
    arrays = tmp_path / "bomb.npz"
    np.savez_compressed(arrays, a=np.zeros(2**23, np.float32))
    with pytest.raises(ModelError, match=r"far more memory than the file"):
        read_state_dict(str(arrays))


def test_a_tensor_outside_of_its_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    torch.save({"a": torch.zeros(300)}, path)
    size = b"M" + struct.pack("<H", 300)
    rewritten(
        path,
        lambda name, content: content.replace(size + b"\x85", b"M\xff\xff\x85")
        if name.endswith("data.pkl") else content,
        zipfile.ZIP_STORED,
    )  # fmt: skip
    with pytest.raises(ModelError, match="damaged"):
        read_state_dict(str(path))


MEASURE = """
import resource, sys
from attnviz.models.state_dicts import read_state_dict
found = read_state_dict(sys.argv[1]).tensors
assert found["x"].numel() == 10 * 2**30, found["x"].shape
assert float(found["small"][0]) == 7
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="files with holes, and memory in kilobytes")
def test_a_file_of_forty_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    path, count = tmp_path / "huge.safetensors", 40 * 2**30
    header = (
        '{"small":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        f'"x":{{"dtype":"F32","shape":[{count // 4}],"data_offsets":[8,{count + 8}]}}}}'
    ).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + np.full(2, 7, np.float32).tobytes())
        file.truncate(8 + len(header) + 8 + count)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=False
    )
    path.unlink()
    if done.returncode == 0:
        assert int(done.stdout) < 2**20  # kilobytes
    else:  # a machine that promises no more than it has
        assert "memory" in done.stderr


def test_a_folder_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.pt").mkdir()
    with pytest.raises(ModelError, match=r"x\.pt: is a folder"):
        attnviz.load_model("tiny", weights=str(tmp_path / "x.pt"))


def test_a_pickle_of_python_is_not_torchs(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelError, match=r"damaged, or not a state dict"):
        read_state_dict(str(tmp_path / "x.pt"))


class Net(nn.Module):
    def __init__(self, classes: int = 3, side: int = 6) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + side * side, 16))
        self.head = nn.Linear(16, classes)


def test_own_modules_take_weights_with_other_names_heads_and_grids(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own, path = Net(), str(tmp_path / "own.pt")
    torch.save({"state_dict": saved_files.prefixed(own.state_dict(), "net.")}, path)
    taken = Net()
    assert "net.pos_embed as pos_embed" in load_weights(taken, path)[0]
    assert all(torch.equal(t, own.state_dict()[n]) for n, t in taken.state_dict().items())
    taken = Net(classes=7, side=3)
    notes = load_weights(taken, path)
    assert isinstance(taken.head, nn.Identity)
    assert "no class head" in notes[-1]
    assert "positions of 6x6 patches are interpolated to 3x3" in notes[0]
    inside = nn.ModuleDict({"backbone": Net(), "head": nn.Linear(16, 2)})
    encoder = dict(own.state_dict().items())
    assert fit(inside, encoder, path).heads == ("head",)


def test_missing_weights_of_an_encoder_are_an_error(tmp_path: Path) -> None:
    state = Net().state_dict()
    del state["patch.weight"]
    torch.save({**state, "more": torch.ones(2)}, tmp_path / "odd.pt")
    with pytest.raises(MisfitError) as caught:
        load_weights(Net(), str(tmp_path / "odd.pt"))
    assert caught.value.lines[0].endswith("odd.pt does not fit: 4 of 5 weights fit")
    assert caught.value.lines[1] == "patch.weight is missing; more has no place"


def test_two_models_in_one_state_dict_ask_for_a_key(tmp_path: Path) -> None:
    state, path = Net().state_dict(), str(tmp_path / "two.pt")
    two = {**saved_files.prefixed(state, "student."), **saved_files.prefixed(state, "teacher.")}
    torch.save(two, path)
    with pytest.raises(ModelError, match=r"there twice.*--key student"):
        load_weights(Net(), path)
    load_weights(Net(), path, "teacher")


def test_a_layer_of_a_block_is_no_head(tmp_path: Path) -> None:
    """Its weights are needed, whatever its name is; without them nothing is drawn."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.fc = nn.Linear(8, 24), nn.Linear(8, 8)

    module = nn.ModuleDict({"mixer": Block(), "norm": nn.LayerNorm(8), "head": nn.Linear(8, 3)})
    state = {name: tensor for name, tensor in module.state_dict().items() if "fc" not in name}
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(MisfitError, match=r"mixer\.fc\.weight is missing"):
        load_weights(module, str(tmp_path / "part.pt"))
    whole = {name: tensor for name, tensor in module.state_dict().items() if "head" not in name}
    torch.save(whole, tmp_path / "body.pt")
    assert "no class head" in load_weights(module, str(tmp_path / "body.pt"))[0]


def test_names_of_heads() -> None:
    heads = [
        "head.weight",
        "heads.head.bias",
        "fc.weight",
        "classifier.1.weight",
        "mlp_head.0.bias",
    ]
    assert all(map(is_head, heads))
    assert not any(map(is_head, ["blocks.0.mlp.fc1.weight", "blocks.0.fc.weight", "norm.weight"]))
