"""Ports for what is started, ended and started again."""

import random

from jsm_queue import processes

QUIET = (15_000, 32_000)


def quiet_port() -> int:
    """A free one of those that the system gives to nobody by itself: it stays free until it is taken on purpose."""
    while True:
        port = random.SystemRandom().randrange(*QUIET)
        if processes.free_port(port) == port:
            return port
