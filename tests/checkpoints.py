"""Small checkpoints of transformers, and what can be wrong with them."""

import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Tensor]
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 48, "image_size": 48, "patch_size": 8}  # fmt: skip
SAFE, BIN = "model.safetensors", "pytorch_model.bin"
LAYER = "encoder.layer.{}."


def build(transformers: Any, name: str, folder: Path, **settings: Any) -> Any:
    """A model of a class of transformers in a folder, all parameters off their initial values."""
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.1 * torch.rand_like(buffer))
    model.save_pretrained(folder)
    return model


@dataclass
class Files:
    """A checkpoint that is about to be written otherwise."""

    state: dict[str, Any]
    config: dict[str, Any]
    name: str = SAFE


def copied(source: Path, folder: Path, change: Callable[[Files], None]) -> Path:
    """A copy of a checkpoint with a change in its tensors, its config, or the kind of its file."""
    shutil.copytree(source, folder)
    files = Files(load_file(folder / SAFE), json.loads((folder / "config.json").read_text()))
    (folder / SAFE).unlink()
    change(files)
    (folder / "config.json").write_text(json.dumps(files.config))
    write(files.state, folder / files.name)
    return folder


def write(state: dict[str, Any], path: Path) -> None:
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, path)


def shard(folder: Path, count: int = 2) -> list[Path]:
    """The weights in several files with an index, as `save_pretrained` writes large ones."""
    state = load_file(folder / SAFE)
    (folder / SAFE).unlink()
    paths = [folder / f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    where = {name: i * count // len(state) for i, name in enumerate(state)}
    for number, path in enumerate(paths):
        save_file({name: state[name] for name in state if where[name] == number}, path)
    index = {"metadata": {}, "weight_map": {name: paths[i].name for name, i in where.items()}}
    (folder / f"{SAFE}.index.json").write_text(json.dumps(index))
    return paths


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def without(state: State, parts: tuple[str, ...]) -> State:
    return {name: t for name, t in state.items() if not any(part in name for part in parts)}


def with_adapters(state: State) -> State:
    """As PEFT names the inner model: a base layer beside the two matrices of each adapter."""
    found = {}
    for name, tensor in state.items():
        where, _, leaf = name.rpartition(".")
        if not where.endswith("query"):
            found[name] = tensor
            continue
        found[f"{where}.base_layer.{leaf}"] = tensor
        found[f"{where}.lora_A.default.weight"] = torch.ones(2, 32)
        found[f"{where}.lora_B.default.weight"] = torch.zeros(32, 2)
    return found


def as_timm(state: State, layers: int = 3) -> State:
    """The same weights by timm's names, as its ViT has them."""
    found = {
        "cls_token": state["embeddings.cls_token"],
        "pos_embed": state["embeddings.position_embeddings"],
        "patch_embed.proj.weight": state["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": state["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": state["layernorm.weight"],
        "norm.bias": state["layernorm.bias"],
    }
    names = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj":
        "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    }  # fmt: skip
    for number in range(layers):
        for leaf in ("weight", "bias"):
            attention = LAYER.format(number) + "attention.attention."
            parts = [state[f"{attention}{part}.{leaf}"] for part in ("query", "key", "value")]
            found[f"blocks.{number}.attn.qkv.{leaf}"] = torch.cat(parts)
            for own, theirs in names.items():
                name = f"{LAYER.format(number)}{theirs}.{leaf}"
                found[f"blocks.{number}.{own}.{leaf}"] = state[name]
    return found


class Mutations:
    """Seeded changes of a checkpoint folder of a ViT.

    Two kinds cannot be told from the files, and are none: tensors exchanged between names of one
    shape, and another number of heads that divides the width.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        kinds = sorted(name for name in dir(self) if name.startswith("change_"))
        self.kind = kinds[seed % len(kinds)]

    def apply(self, source: Path, folder: Path) -> None:
        change: Callable[[Files], Callable[[Path], None] | None] = getattr(self, self.kind)
        after: list[Callable[[Path], None]] = []

        def do(files: Files) -> None:
            found = change(files)
            if found is not None:
                after.append(found)

        copied(source, folder, do)
        for act in after:
            act(folder)

    def name_of(self, files: Files) -> str:
        return self.random.choice(sorted(files.state))

    def change_prefix(self, files: Files) -> None:
        prefixes = ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "a.b."]
        files.state = prefixed(files.state, self.random.choice(prefixes))
        files.name = self.random.choice([SAFE, BIN])

    def change_prefix_of_some(self, files: Files) -> None:
        prefix, share = self.random.choice(["module.", "vit.", "model."]), self.random.random()
        files.state = {
            (prefix if self.random.random() < share else "") + name: tensor
            for name, tensor in files.state.items()
        }

    def change_wrapper_inside(self, files: Files) -> None:
        word = self.random.choice(["_orig_mod", "module", "_fsdp_wrapped_module"])
        files.state = {re.sub(r"(layer\.\d)", rf"\1.{word}", n): t for n, t in files.state.items()}

    def change_lightning(self, files: Files) -> None:
        files.state = {**prefixed(files.state, "model."), "criterion.weight": torch.ones(3)}

    def change_two_models(self, files: Files) -> None:
        prefixes = self.random.sample(["student.", "teacher.", "ema.", ""], 2)
        if "" in prefixes:  # the one without a prefix is the model
            prefixes.sort()
        other = {name: tensor + 1 for name, tensor in files.state.items()}
        files.state = {**prefixed(other, prefixes[1]), **prefixed(files.state, prefixes[0])}

    def change_bare_and_prefixed(self, files: Files) -> None:
        other = {name: tensor + 1 for name, tensor in files.state.items()}
        files.state = {**files.state, **prefixed(other, "vit.")}

    def change_drop_names(self, files: Files) -> None:
        for _ in range(self.random.randint(1, 3)):
            files.state.pop(self.name_of(files))

    def change_drop_layer(self, files: Files) -> None:
        files.state = without(files.state, (LAYER.format(self.random.randint(0, 2)),))

    def change_depth(self, files: Files) -> None:
        files.config["num_hidden_layers"] = self.random.choice([1, 2, 4, 5, 12])

    def change_truncate(self, files: Files) -> Callable[[Path], None]:
        files.name, share = self.random.choice([SAFE, BIN]), self.random.random()

        def cut(folder: Path) -> None:
            path = folder / files.name
            path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

        return cut

    def change_shape(self, files: Files) -> None:
        name = self.name_of(files)
        tensor = files.state[name]
        files.state[name] = self.random.choice(
            [
                tensor[:-1],
                torch.cat([tensor, tensor]),
                tensor[None],
                tensor.flatten()[:3],
                tensor[:0],
            ]
        )

    def change_kind(self, files: Files) -> None:
        kinds = [torch.int8, torch.int32, torch.bool, torch.float8_e4m3fn, torch.complex64]
        kind = self.random.choice(kinds)
        for name in self.random.sample(sorted(files.state), self.random.randint(1, 20)):
            files.state[name] = (50 * files.state[name]).to(kind)
        files.name = BIN

    def change_precision(self, files: Files) -> None:
        files.state = {name: tensor.double() for name, tensor in files.state.items()}
        files.config["dtype"] = self.random.choice(["float16", "bfloat16", "float64"])

    def change_sparse(self, files: Files) -> None:
        name = self.random.choice([n for n, t in sorted(files.state.items()) if t.ndim == 2])
        files.state[name] = files.state[name].to_sparse()
        files.name = BIN

    def change_number(self, files: Files) -> None:
        name = self.name_of(files)
        tensor = files.state[name].clone()
        tensor.view(-1)[self.random.randrange(tensor.numel())] = self.random.choice(
            [torch.nan, torch.inf, -torch.inf]
        )
        files.state[name] = tensor

    def change_to_timm(self, files: Files) -> None:
        files.state = as_timm(files.state)

    def change_letter(self, files: Files) -> None:
        name = self.name_of(files)
        place = self.random.choice([i for i, letter in enumerate(name) if letter.isalpha()])
        files.state[name[:place] + "x" + name[place + 1 :]] = files.state.pop(name)

    def change_layer_number(self, files: Files) -> None:
        name = self.random.choice([name for name in sorted(files.state) if ".layer." in name])
        number = self.random.choice([3, 4, 7])
        files.state[re.sub(r"layer\.\d", f"layer.{number}", name)] = files.state.pop(name)

    def change_config_field(self, files: Files) -> None:
        del files.config[self.random.choice(sorted(files.config))]

    def change_config_number(self, files: Files) -> None:
        name = self.random.choice(
            ["hidden_size", "patch_size", "image_size", "intermediate_size", "num_channels"]
        )
        files.config[name] = self.random.choice([1, 3, 16, 24, 64])
        if self.random.random() < 0.3:
            files.config["num_attention_heads"] = self.random.choice([0, 3, 5, 64])

    def change_model_type(self, files: Files) -> None:
        files.config["model_type"] = self.random.choice(
            ["deit", "dinov2", "vit_msn", "beit", "vit_mae", "ijepa", "bert", "nothing", ""]
        )

    def change_json(self, _: Files) -> Callable[[Path], None]:
        def spoil(folder: Path) -> None:
            path = folder / "config.json"
            text = path.read_text()
            marks = [place for place, letter in enumerate(text) if letter in '{}",:']
            place = self.random.choice(marks)
            path.write_text(self.random.choice([text[:place], text[:place] + text[place + 1 :]]))

        return spoil

    def change_shards(self, _: Files) -> Callable[[Path], None]:
        count, way = self.random.randint(2, 4), self.random.randint(0, 6)

        def split(folder: Path) -> None:
            paths = shard(folder, count)
            index = folder / f"{SAFE}.index.json"
            if way == 1:
                self.random.choice(paths).unlink()
            elif way == 2:  # of another checkpoint
                write({"other": torch.ones(3)}, self.random.choice(paths))
            elif way == 3:
                index.write_text(index.read_text()[:-40])
            elif way == 4:
                index.write_text('{"weight_map": ["model"]}')
            elif way == 5:
                first, second = self.random.sample(paths, 2)
                first.write_bytes(second.read_bytes())
            elif way == 6:
                index.unlink()

        return split

    def change_exchange(self, files: Files) -> None:
        """Of tensors whose shapes differ: of one shape nothing could tell."""
        first = self.name_of(files)
        others = [n for n, t in files.state.items() if t.shape != files.state[first].shape]
        second = self.random.choice(sorted(others))
        state = files.state
        state[first], state[second] = state[second], state[first]

    def change_more(self, files: Files) -> None:
        names = [
            "classifier.weight", "lm_head.bias", "ema.decay", "embeddings.mask_token",
            "decoder.layer.0.weight", "text_model.embeddings.weight", "layernorm.scale",
            "encoder.layer.1.attention.attention.gate.weight", "embeddings.register_tokens",
        ]  # fmt: skip
        for name in self.random.sample(names, 2):
            files.state[name] = torch.ones(1, 1, 32)

    def change_adapters(self, files: Files) -> None:
        files.state = with_adapters(files.state)
        if self.random.random() < 0.5:
            files.state = prefixed(files.state, "base_model.model.")

    def change_nothing_left(self, files: Files) -> Callable[[Path], None] | None:
        files.name = self.random.choice([SAFE, BIN])
        if self.random.random() < 0.5:
            files.state = {}
            return None
        return lambda folder: (folder / files.name).unlink()

    def change_wrapped(self, files: Files) -> None:
        name = self.random.choice(["state_dict", "model", "module"])
        files.state = {name: files.state, "epoch": 3}
        files.name = BIN
