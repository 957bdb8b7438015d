"""`attnviz doctor`: what is here, what is not, and how to get it."""

import json as _json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import typer

import attnviz
from attnviz.cli import console
from attnviz.cli.options.groups import with_groups
from attnviz.cli.options.results import Json
from attnviz.errors import ExitCode
from attnviz.models import cache

# The module of each optional part, and the extra that installs it.
EXTRAS = {
    "transformers": "hf",
    "sentencepiece": "hf",
    "timm": "timm",
    "torchvision": "timm",
    "pi_heif": "heic",
    "av": "video",
    "imagecodecs": "codecs",
    "pyarrow": "parquet",
    "ray": "ray",
}
# Import these submodules: the package alone does not show that it fits the installed torch.
_DEEPER = {"transformers": "transformers.modeling_utils", "ray": "ray.data"}


@dataclass(frozen=True)
class Finding:
    """One line: `state` is ok, missing or broken; `note` says how to fix it."""

    name: str
    state: str
    value: str
    note: str = ""


@with_groups
def doctor(json: Json = False) -> None:
    """Print versions, devices and optional parts.

    Says how to get what is missing.
    """
    torch_works = True
    for finding in _findings():
        torch_works &= finding.name != "torch" or finding.state == "ok"
        if json:
            typer.echo(_json.dumps(asdict(finding), ensure_ascii=False))
        else:
            mark = "" if finding.state == "ok" else f"{finding.state}: "
            note = f"; {finding.note}" if finding.note else ""
            line = console.printable(f"{finding.name:<14}{mark}{finding.value}{note}")
            typer.echo(line.rstrip())
    if not torch_works:
        raise typer.Exit(ExitCode.FAILED)


def _findings() -> Iterator[Finding]:
    """All findings in order; a broken part is a finding, never an error."""
    yield Finding("attnviz", "ok", attnviz.__version__)
    yield Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")
    yield Finding("system", "ok", platform.platform())
    torch, error = _import("torch")
    if torch is None:
        yield Finding("torch", "broken", error, "reinstall it: pip install --force-reinstall torch")
    else:
        yield Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")
    yield from _memory()
    if torch is not None:
        yield from _devices(torch)
    for name, extra in EXTRAS.items():
        yield _extra(name, extra)
    yield from _hub()


def _import(name: str) -> tuple[Any, str]:
    """The library and no reason; or None and the import error, empty if it is not installed."""
    import importlib  # noqa: PLC0415 — `--help` does without
    import importlib.util  # noqa: PLC0415

    try:
        if importlib.util.find_spec(name) is None:
            return None, ""
        library = importlib.import_module(name)
        if name in _DEEPER:
            importlib.import_module(_DEEPER[name])
    except Exception as error:  # whatever a broken library raises
        root: BaseException = error
        while root.__cause__ or root.__context__:
            root = root.__cause__ or root.__context__ or root
        return None, f"{type(root).__name__}: {' '.join(str(root).split())[:200]}"
    return library, ""


def _extra(name: str, extra: str) -> Finding:
    """Whether an optional part is installed, and works with this torch."""
    from importlib import metadata  # noqa: PLC0415 — `--help` does without

    line = f"pip install 'attnviz[{extra}]'"
    library, error = _import(name)
    if library is not None:
        return Finding(name, "ok", str(getattr(library, "__version__", "") or "present"))
    if not error:
        return Finding(name, "missing", line)
    try:
        version = metadata.version(name.replace("_", "-"))
    except metadata.PackageNotFoundError:
        version = "of no known version"
    return Finding(
        name, "broken", f"{version} does not import ({error})", _mend(name, extra, error)
    )


def _mend(name: str, extra: str, error: str) -> str:
    """How to fix a part that is installed and cannot be imported."""
    if "torchvision" not in error:
        return f"install it again: pip install --force-reinstall --no-deps {name} (extra {extra})"
    line = "pip install --force-reinstall --no-deps torchvision"
    if name == "torchvision":
        return f"install the one of the same index as torch: {line} --index-url …"
    return "mend torchvision, or go without it: pip uninstall torchvision"


def _memory() -> Iterator[Finding]:
    library, error = _import("psutil")
    if library is None:
        yield Finding("memory", "broken", error or "psutil is missing", "pip install psutil")
        return
    memory = library.virtual_memory()
    free, whole = memory.available / 1e9, memory.total / 1e9
    yield Finding("memory", "ok", f"{free:.1f} of {whole:.1f} GB free")


def _devices(torch: Any) -> Iterator[Finding]:
    """The devices that --device takes, as `auto` would choose them."""
    yield Finding("cpu", "ok", f"{os.cpu_count()} cores")
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            yield _cuda(torch, number)
    if torch.backends.mps.is_available():
        yield Finding("mps", "ok", "Apple GPU")


def _cuda(torch: Any, number: int) -> Finding:
    name = f"cuda:{number}"
    try:
        free, whole = torch.cuda.mem_get_info(number)
        title = torch.cuda.get_device_name(number)
    except RuntimeError as error:  # the device exists and cannot be used
        reason = " ".join(str(error).split())[:200]
        return Finding(name, "broken", reason, "check its driver, or take --device cpu")
    return Finding(name, "ok", f"{title}, {free / 1e9:.1f} of {whole / 1e9:.1f} GB free")


def _hub() -> Iterator[Finding]:
    """The folder of checkpoints, and whether downloads are allowed."""
    size = sum(
        os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 — thousands of them
        for folder, _, names in os.walk(cache.folder())
        for name in names
    )
    yield Finding("hub cache", "ok", f"{cache.folder()}, {size / 1e6:.1f} MB")
    switch = cache.offline()
    text = f"{switch} is set: nothing is downloaded" if switch else "downloads are allowed"
    yield Finding("network", "ok", text)
