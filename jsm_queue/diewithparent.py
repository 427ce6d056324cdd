"""`python diewithparent.py PARENT_PID PROGRAM ARGUMENT…`: become PROGRAM, and die when the parent dies
(Linux).

A file of its own that imports only the standard library, so that it starts in milliseconds. Setting the
signal here and not in a `preexec_fn` keeps `subprocess` safe in a process with threads. The kernel sends the
signal when the *thread* that started this process ends, so children are started from threads that live as
long as they should.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for SIGKILL at the parent's death, then exec."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel knew
        raise SystemExit(1)
    os.execvp(program[0], program)


if __name__ == "__main__":
    main()
