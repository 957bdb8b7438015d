"""Ctrl-C is answered at once, also while a library's call is under way."""

import signal
import subprocess
import sys

# Python does not answer Ctrl-C where it was started with it ignored, as in a shell's background.
CODE = """
import signal, threading
from attnviz.cli import console

signal.signal(signal.SIGINT, signal.default_int_handler)

def never_ends():
    print("ready", flush=True)
    threading.Event().wait()

console.interruptible(never_ends)
"""


def test_ctrl_c_ends_a_call_that_does_not_look_at_signals() -> None:
    with subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        run.send_signal(signal.SIGINT)
        try:
            assert run.wait(timeout=30) == 130
        finally:
            run.kill()
