"""Processes: start them so that none is left behind, end them, recognize leftovers. All OS calls are here.

A child dies with the process that started it: on Linux by the kernel (`diewithparent.py`), on Windows by a
job object, and everywhere our own children notice that their standard input closed (`exit_with_parent`).
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

import psutil

from jsm_queue import diewithparent
from jsm_queue.errors import SetupError
from jsm_queue.files import write_whole

LIFELINE = "JSM_LIFELINE"  # set for a child whose standard input is a pipe that closes when its parent dies
SAFE_PATH = {"PYTHONSAFEPATH": "1"}  # no module is imported from the folder in which somebody starts a program of ours
CLOCK_STEP_S = 2.0  # by how much a process's start time may seem to move when the system clock is set

Process = subprocess.Popen[bytes]
_lifelines: list[str] = []  # that this process was started with


# ---- start -------------------------------------------------------------------------------------------------


def spawn(
    argv: Sequence[str],
    log: Path,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
    cwd: Path | None = None,
) -> Process:
    """Start a child that dies with this process.

    Its standard input is a pipe that we hold, its standard error (and output, unless `stdout` is given) is
    appended to `log`. `env` is added to our own environment. It gets no signals of our terminal: we pass them
    on as we see fit. Raises SetupError when the program is not there.
    """
    if shutil.which(argv[0]) is None:
        raise SetupError(f"{argv[0]} is not there", "Install it, then start again")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        child = subprocess.Popen(
            _with_parent_death(argv),
            stdin=subprocess.PIPE,
            stdout=errors if stdout is None else stdout,
            stderr=errors,
            env={**os.environ, **(env or {}), **SAFE_PATH, LIFELINE: "1"},
            cwd=cwd,
            start_new_session=sys.platform != "win32",
            creationflags=subprocess.CREATE_NEW_PROCESS_GROUP if sys.platform == "win32" else 0,
        )
    _adopt(child)
    return child


def _with_parent_death(argv: Sequence[str]) -> list[str]:
    if sys.platform != "linux":
        return list(argv)
    return [sys.executable, "-I", "-S", diewithparent.__file__, str(os.getpid()), *argv]


def exit_with_parent(leave: Callable[[], object] | None = None) -> None:
    """Called once at the start of a child that `spawn` started: when its parent is gone it calls `leave`, or
    exits.

    Does nothing in a process that was started by hand or by a service manager, whose standard input means
    nothing.
    """
    if os.environ.pop(LIFELINE, None) is None:
        return
    _lifelines.append(LIFELINE)
    threading.Thread(target=_wait_for_eof, args=(leave or (lambda: os._exit(1)),), name="lifeline", daemon=True).start()


def become(argv: Sequence[str]) -> None:
    """This process goes on as another program, which ends with the same parent. Returns where the system has no such
    call.
    """
    if os.name == "posix":
        os.execve(argv[0], list(argv), os.environ | dict.fromkeys(_lifelines, "1"))


def _wait_for_eof(leave: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    leave()


# ---- end ---------------------------------------------------------------------------------------------------


def terminate_then_kill(process: Process, grace_s: float) -> int:
    """Ask a child to end, wait up to `grace_s` seconds, then kill it and its children.

    Returns its exit code.
    """
    if process.poll() is None:
        with contextlib.suppress(OSError):
            process.send_signal(signal.CTRL_BREAK_EVENT if sys.platform == "win32" else signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    kill_tree(process.pid)
    if process.stdin:
        with contextlib.suppress(OSError):
            process.stdin.close()
    return process.wait()


def kill_tree(pid: int) -> None:
    """Kill a process and all that it started, at once. Nothing happens when it is not there."""
    try:
        root = psutil.Process(pid)
        family = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs([process for process in family if process.pid != pid], timeout=5)


# ---- leftovers ---------------------------------------------------------------------------------------------


def write_pid_file(path: Path, pid: int) -> None:
    """Remember a process by its id and start time, so that `end_leftover` never ends a foreign one.

    And by the file itself: in a copy of its folder the process is another folder's.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        created = psutil.Process(pid).create_time()
        write_whole(path, json.dumps({"pid": pid, "create_time": created, "file": str(path.resolve())}))


def find_leftover(path: Path) -> psutil.Process | None:
    """The process of a pid file, or None when it ended, its id belongs to another process, or the file is a copy."""
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        process = psutil.Process(int(noted["pid"]))
        same = abs(process.create_time() - float(noted["create_time"])) < CLOCK_STEP_S
        same &= noted.get("file", str(path.resolve())) == str(path.resolve())
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None


def end_leftover(path: Path, grace_s: float = 5.0) -> bool:
    """End the process of a pid file, if it still runs, and remove the file. Returns whether it ran."""
    process = find_leftover(path)
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
            psutil.wait_procs([process], timeout=grace_s)
        if process.is_running():
            kill_tree(process.pid)
    path.unlink(missing_ok=True)
    return process is not None


# ---- ports -------------------------------------------------------------------------------------------------


def free_port(preferred: int = 0, host: str = "127.0.0.1") -> int:
    """`preferred` where nothing listens on it, else a free port that the system chooses.

    `host` is an IPv4 or IPv6 address or a name; a name's port is free on all its addresses. Raises SetupError.
    """
    for port in (preferred, 0):
        with contextlib.suppress(OSError):
            return _bind(port, host)
    raise SetupError(f"No port is free on {host}", "Close programs that listen, or check the address")


def refusal(port: int, host: str = "127.0.0.1") -> str:
    """Why that port cannot be had, as the end of a sentence."""
    try:
        _bind(port, host)
    except PermissionError:
        return "may not be opened by this user"
    except OSError:
        pass
    return "is taken"


def _bind(port: int, host: str) -> int:
    """The port that can be bound, where 0 means any. Raises OSError."""
    with contextlib.ExitStack() as probes:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            probe = probes.enter_context(socket.socket(family, kind, protocol))
            # a port in TIME_WAIT is free; on Windows this option would mean "share it"
            if sys.platform != "win32":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # as the api's server does, which leaves IPv4 to others
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address[0], port, *address[2:]))
            port = probe.getsockname()[1]
    return port


# ---- cores -------------------------------------------------------------------------------------------------


def cores() -> int:
    """The logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ---- Windows -----------------------------------------------------------------------------------------------

KILL_ON_JOB_CLOSE = 0x2000
EXTENDED_LIMIT_INFORMATION = 9


class _BasicLimits(ctypes.Structure):
    _fields_ = (
        ("PerProcessUserTimeLimit", ctypes.c_int64),
        ("PerJobUserTimeLimit", ctypes.c_int64),
        ("LimitFlags", ctypes.c_uint32),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", ctypes.c_uint32),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", ctypes.c_uint32),
        ("SchedulingClass", ctypes.c_uint32),
    )


class _ExtendedLimits(ctypes.Structure):
    _fields_ = (
        ("BasicLimitInformation", _BasicLimits),
        ("IoInfo", ctypes.c_uint64 * 6),
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    )


def _adopt(child: Process) -> None:
    """Windows: put the child into a job object that the system closes, with all in it, when we die.

    Where that is refused (a job of a service manager that forbids nesting) the child's standard input still
    closes.
    """
    if sys.platform == "win32" and (job := _windows_job()):
        ctypes.windll.kernel32.AssignProcessToJobObject(ctypes.c_void_p(job), ctypes.c_void_p(int(child._handle)))


@cache
def _windows_job() -> int | None:
    """This process's job object. Its handle is never closed by us: the system does that when we end."""
    if sys.platform != "win32":
        return None
    kernel = ctypes.windll.kernel32
    kernel.CreateJobObjectW.restype = ctypes.c_void_p
    job = kernel.CreateJobObjectW(None, None)
    limits = _ExtendedLimits()
    limits.BasicLimitInformation.LimitFlags = KILL_ON_JOB_CLOSE
    size = ctypes.sizeof(limits)
    done = kernel.SetInformationJobObject(ctypes.c_void_p(job), EXTENDED_LIMIT_INFORMATION, ctypes.byref(limits), size)
    return job if job and done else None
