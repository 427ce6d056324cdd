"""Ctrl-C while a program's modules load."""

import contextlib
import signal
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
