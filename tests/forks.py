"""Processes that start quickly: each is forked from one that has imported the slow packages."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

SERVER = """
import contextlib, importlib, json, os, runpy, sys, traceback
for name in sys.argv[1:]:
    with contextlib.suppress(ImportError):  # an optional part
        importlib.import_module(name)
for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in enumerate(task["streams"], 1):
            os.dup2(os.open(path, os.O_WRONLY), number)
        os.chdir(task["cwd"])
        os.environ.clear()
        os.environ.update(task["environment"])
        sys.path[:0] = task["paths"]
        sys.argv = ["attnviz", *task["arguments"]]
        code = 0
        try:
            runpy.run_module("attnviz", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forks:
    """`python -m attnviz` again and again, each time in a process of its own.

    The processes have `imports` already, and nothing of attnviz.
    """

    def __init__(self, *imports: str) -> None:
        line = [sys.executable, "-c", SERVER, *imports]
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(line, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.communicate()

    def run(
        self, arguments: Sequence[str], *, cwd: Path, paths: Sequence[Path], **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in a folder, with `paths` in front of `sys.path`."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
            task = {
                "arguments": arguments,
                "cwd": str(cwd),
                "paths": [str(path) for path in paths],
                "environment": {**os.environ, **environment},
                "streams": [out.name, err.name],
            }
            print(json.dumps(task), file=self._server.stdin, flush=True)
            code = int(self._server.stdout.readline())
            texts = [Path(file.name).read_text(encoding="utf-8") for file in (out, err)]
        return subprocess.CompletedProcess(["attnviz", *arguments], code, *texts)
