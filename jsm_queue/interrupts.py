"""Ctrl-C while a program's modules load."""

import _thread
import contextlib
import signal
import sys
import time
from collections.abc import Iterator


@contextlib.contextmanager
def end_at_once() -> Iterator[None]:
    """Ctrl-C ends this process without a word, where it would be a traceback out of the import that it hit.

    A process that was told to ignore it, as behind `nohup … &`, goes on ignoring it.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before)


def never_swallow() -> None:
    """Ctrl-C that falls into a destructor or a callback of the import system is none: Python prints it and goes on.
    It comes again, a moment later.
    """
    told = sys.unraisablehook

    def hook(ignored: "sys.UnraisableHookArgs") -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            _thread.start_new_thread(_again, ())  # here it would be swallowed as well
        else:
            told(ignored)

    sys.unraisablehook = hook


def _again() -> None:
    time.sleep(0.01)
    _thread.interrupt_main()
