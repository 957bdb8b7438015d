"""Ctrl-C is answered at once, also while a library's call is under way."""

import signal
import subprocess
import sys

import pytest

# Python does not answer Ctrl-C where it was started with it ignored, as in a shell's background.
BEGIN = """
import signal, sys, threading, time
from attnviz.cli import console

signal.signal(signal.SIGINT, signal.default_int_handler)
stop = threading.Event()

def never_ends():
    print("ready", flush=True)
    threading.Event().wait()

def ends_when_told():
    print("ready", flush=True)
    stop.wait()
    raise SystemExit(130)

def struck(do):
    main = threading.main_thread().ident
    while sys._current_frames()[main].f_code.co_name != "wait":
        time.sleep(0.01)
    time.sleep(0.3)  # it sleeps by now
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    do()
"""


@pytest.mark.parametrize(
    "end",
    [
        "console.interruptible(never_ends)",
        "console.stoppable(ends_when_told, stop)",
        # The system may give the signal to a thread that is not the one which answers it.
        "console.interruptible(lambda: struck(never_ends))",
        "console.stoppable(lambda: struck(ends_when_told), stop)",
    ],
)
def test_ctrl_c_ends_a_call_that_does_not_look_at_signals(end: str) -> None:
    code = [sys.executable, "-c", BEGIN + end]
    with subprocess.Popen(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        try:
            assert run.stdout.readline() == "ready\n"
            if "struck" not in end:
                run.send_signal(signal.SIGINT)
            assert run.wait(timeout=30) == 130
        finally:
            run.kill()
