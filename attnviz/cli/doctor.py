"""`attnviz doctor`: what is here, what is not, and how to get it."""

import json as _json
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import typer

import attnviz
from attnviz.batch.finalizers import FINALIZERS
from attnviz.cli import console
from attnviz.cli.options.groups import with_groups
from attnviz.cli.options.results import Json
from attnviz.comparison import AGREEMENTS
from attnviz.entry_points import entry_points
from attnviz.errors import ExitCode
from attnviz.evaluation import METRICS
from attnviz.methods import METHODS
from attnviz.models import SOURCES, cache
from attnviz.output import FORMATS
from attnviz.registry import Table
from attnviz.statistics import MAP_NUMBERS, MORE, STATISTICS

TABLES: tuple[Table[Any], ...] = (
    SOURCES, METHODS, STATISTICS, MORE, MAP_NUMBERS, FORMATS, METRICS, AGREEMENTS, FINALIZERS,
)  # fmt: skip

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

# The module of each optional part, and the extra that installs it.
EXTRAS = {
    "transformers": "hf",
    "sentencepiece": "hf",
    "timm": "timm",
    "torchvision": "timm",
    "pi_heif": "heic",
    "av": "video",
    "imagecodecs": "codecs",
    "pydicom": "dicom",
    "nibabel": "nifti",
    "openslide": "slide",
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


@dataclass(frozen=True)
class PluginFinding(Finding):
    """The entries that a package adds to a table, or one that is left out."""

    package: str = ""
    group: str = ""
    names: tuple[str, ...] = ()


@with_groups
def doctor(json: Json = False) -> None:
    """Print versions, devices, optional parts and plugins.

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
        yield _triton(torch)
    for name, extra in EXTRAS.items():
        yield _extra(name, extra)
    yield from _plugins()
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
        return None, _in_a_line(root)
    return library, ""


def _in_a_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


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


def _triton(torch: Any) -> Finding:
    """Whether statistics on CUDA come from attnviz's own kernels."""
    name, gpu = "triton", bool(torch.cuda.is_available())
    library, error = _import(name)
    if library is None and error:
        return Finding(
            name, "broken", f"does not import ({error})", "install it again: pip install triton"
        )
    if library is None:
        advice = "pip install triton" if gpu else "not needed, since there is no CUDA device"
        return Finding(name, "missing", advice)
    from attnviz.attention.kernel import missing_on  # noqa: PLC0415 — torch

    version = str(getattr(library, "__version__", "") or "present")
    if not gpu:
        return Finding(name, "ok", f"{version}, not used: there is no CUDA device")
    reason = missing_on(torch.device("cuda"))
    if reason is None and not any(
        map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))
    ):
        return Finding(name, "broken", f"{version} finds no C compiler", "install gcc")
    used = "statistics on CUDA use its kernels" if reason is None else f"not used: {reason}"
    return Finding(name, "ok", f"{version}, {used}")


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


def _plugins() -> Iterator[Finding]:
    """The entries of other packages by package and group, each broken one by itself."""
    tables: dict[str, list[Table[Any]]] = {}
    for table in TABLES:
        tables.setdefault(table.group, []).append(table)
    plugins = False
    for group, members in tables.items():
        packages = {n: entry.package for table in members for n, entry in table.added.items()}
        usable: dict[str, list[str]] = {}
        for point in entry_points(group):
            plugins = True
            package = "unknown" if point.dist is None else f"{point.dist.name} {point.dist.version}"
            if packages.get(point.name) == package:
                usable.setdefault(package, []).append(point.name)
                continue
            yield PluginFinding(
                "plugin",
                "broken",
                f"{package}: {group} {point.name} ({_fault(point, members)})",
                "correct or remove the package",
                *(package, group, (point.name,)),
            )
        for package, names in usable.items():
            value = f"{package}: {group} {', '.join(names)}"
            yield PluginFinding("plugin", "ok", value, "", package, group, tuple(names))
    if not plugins:
        yield Finding("plugins", "ok", "none")


def _fault(point: "EntryPoint", tables: Sequence[Table[Any]]) -> str:
    """Why an entry point is in none of its tables."""
    try:
        entry = point.load()
    except (Exception, SystemExit) as error:
        return _in_a_line(error)
    kinds = dict.fromkeys(table.kind for table in tables)
    if not isinstance(entry, tuple(kinds)):
        return f"{point.value} is no {' or '.join(kind.__name__ for kind in kinds)}"
    return "its name or one of its options is taken or not possible"
