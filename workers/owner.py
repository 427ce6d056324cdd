"""What this machine's owner does now, as far as the system tells: all calls for it that differ between systems.

Whatever cannot be read is None, "unknown", and stops no work. Nothing here raises, and nothing waits for long.
"""

import contextlib
import ctypes
import ctypes.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from jsm_queue import yielding
from jsm_queue.yielding import Yield
from workers import nvml

ANSWER_S = 1.0  # what a program that we ask may take
ALL_S = 30.0  # between two looks at the names of all processes
FRESH_S = 3.0  # as long a new process may still become another program
IDLE_S, BATTERY_S, MEMORY_S = 2.0, 5.0, 1.0  # between two readings that are dear
ANY_INPUT = 0xFFFFFFFF  # macOS: kCGAnyInputEventType
IDLE_COMMANDS = (
    # Each prints milliseconds: GNOME (X11 and Wayland), KDE and others that serve this name, X11 with xprintidle.
    (
        *("busctl", "--user", "call", "org.gnome.Mutter.IdleMonitor", "/org/gnome/Mutter/IdleMonitor/Core"),
        *("org.gnome.Mutter.IdleMonitor", "GetIdletime"),
    ),
    (
        *("busctl", "--user", "call", "org.freedesktop.ScreenSaver", "/org/freedesktop/ScreenSaver"),
        *("org.freedesktop.ScreenSaver", "GetSessionIdleTime"),
    ),
    ("xprintidle",),
)


class Other(NamedTuple):
    """A program of the owner's on a GPU, and its bytes there."""

    name: str
    memory: int | None


@dataclass(frozen=True)
class GpuReading:
    """One GPU. `others`: programs that are not ours; `others_memory`: bytes that are not ours; `others_busy`: percent
    of the last second, where nothing of ours can be the cause; `temperature` in degrees Celsius.
    """

    total: int = 0
    others: tuple[Other, ...] | None = None
    others_memory: int | None = None
    others_busy: int | None = None
    temperature: int | None = None


@dataclass(frozen=True)
class Readings:
    """All that is known now. `clock` is local time; `programs` are names as `plain` writes them; `gpus` by UUID."""

    clock: datetime
    asked: Yield | None = None
    idle_s: float | None = None
    programs: frozenset[str] | None = None
    full_screen: bool | None = None
    on_battery: bool | None = None
    gpus: Mapping[str, GpuReading] = field(default_factory=dict)


class Owner:
    """Reads all of it again and again, what is dear less often.

    `home`: the worker's, whose slots say which GPU a runner of ours is on (`gpus`: slot → UUID); `root`: the agent's
    process. `programs`, `idle`: whether anybody wants to know.
    """

    def __init__(
        self, home: Path, gpus: Mapping[int, str], root: int, programs: bool = True, idle: bool = True
    ) -> None:
        self._home, self._gpus, self._root = home, gpus, root
        self._programs = Programs() if programs else None
        self._idle = Seldom(idle_s, IDLE_S) if idle else None
        self._battery = Seldom(on_battery, BATTERY_S)
        self._memory = Seldom(gpu_memory, MEMORY_S)
        self._known: dict[int, tuple[str, bool]] = {}

    def read(self, now: float) -> Readings:
        """What is known at `now`, seconds of a clock that only goes forward."""
        return Readings(
            clock=datetime.now(),
            asked=yielding.read(self._home),
            idle_s=self._idle(now) if self._idle else None,
            programs=self._programs.names(now) if self._programs else None,
            full_screen=full_screen(),
            on_battery=self._battery(now),
            gpus=self._read_gpus(now),
        )

    def _read_gpus(self, now: float) -> dict[str, GpuReading]:
        looks = {slot: look for slot, uuid in self._gpus.items() if (look := nvml.look(uuid))}
        pids = {process.pid for look in looks.values() for process in look.processes or ()}
        self._known = {pid: known for pid in pids if (known := self._known.get(pid) or identify(pid, self._root))}
        blind = any(process.memory is None for look in looks.values() for process in look.processes or ())
        counted = (self._memory(now) if blind else None) or {}
        return {
            self._gpus[slot]: gpu_reading(look, self._known, counted, has_runner(self._home, slot))
            for slot, look in looks.items()
        }


def gpu_reading(
    look: nvml.Look, known: Mapping[int, tuple[str, bool]], counted: Mapping[int, int], runner: bool
) -> GpuReading:
    """What of a GPU is not ours. `known`: process → (name, whether it is ours), without those that cannot be seen, as
    in a container; `counted`: bytes where NVML does not know them; `runner`: whether one of ours is alive.
    """
    mine: list[int | None] = []
    others: list[Other] = []
    for process in look.processes or ():
        if process.pid not in known:
            continue
        name, ours = known[process.pid]
        memory = process.memory if process.memory is not None else counted.get(process.pid)
        if ours:
            mine.append(memory)
        else:
            others.append(Other(name, memory))
    ours_known = None not in mine and bool(mine or not runner)
    return GpuReading(
        total=look.total,
        others=None if look.processes is None else tuple(others),
        others_memory=max(0, look.used - sum(size or 0 for size in mine)) if ours_known else None,
        others_busy=None if mine or runner else look.utilisation,
        temperature=look.temperature,
    )


def has_runner(home: Path, slot: int) -> bool:
    """Whether a runner of that slot lives, by the file that its slot keeps of it."""
    return (home / "slots" / f"slot{slot}.pid").exists()


def identify(pid: int, root: int) -> tuple[str, bool] | None:
    """A process's name, and whether `root` started it, also through others. None for one that is not to be seen."""
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        return plain(process.name()), root in (pid, *(parent.pid for parent in process.parents()))
    return None


def plain(name: str) -> str:
    """A program's name as names are compared: "EldenRing.exe" → "eldenring"."""
    return name.strip().lower().removesuffix(".exe")


class Seldom:
    """A reading that is taken again only when `period` seconds have passed."""

    def __init__(self, read: Callable[[], Any], period: float) -> None:
        self._read, self._period = read, period
        self._due = float("-inf")
        self._last: Any = None

    def __call__(self, now: float) -> Any:
        """The last answer, or a new one."""
        if now >= self._due:
            self._last, self._due = self._read(), now + self._period
        return self._last


class Programs:
    """The names of all processes. Only new ones are asked for theirs, and now and then all: a scan is dear."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._since: dict[int, float] = {}
        self._all_due = float("-inf")

    def names(self, now: float) -> frozenset[str] | None:
        """As `plain` writes them; None where processes cannot be listed."""
        try:
            pids = psutil.pids()
        except (psutil.Error, OSError):
            return None
        if now >= self._all_due:
            self._names, self._all_due = {}, now + ALL_S
        self._since = {pid: self._since.get(pid, now) for pid in pids}
        self._names = {
            pid: self._names[pid] if pid in self._names and now - self._since[pid] > FRESH_S else _name(pid)
            for pid in pids
        }
        return frozenset(self._names.values()) - {""}


def _name(pid: int) -> str:
    with contextlib.suppress(psutil.Error, OSError):
        return plain(psutil.Process(pid).name())
    return ""


# ---- the user, the power -----------------------------------------------------------------------------------


def on_battery() -> bool | None:
    """Whether the machine runs on its battery; None where it has none that is known."""
    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError, psutil.Error, ValueError):
        return None
    return None if battery is None or battery.power_plugged is None else not battery.power_plugged


def idle_s() -> float | None:
    """Seconds since the last input of this machine's user. Systems mostly do not count a game controller."""
    try:
        if sys.platform == "win32":
            return _windows().idle_s()
        if sys.platform == "darwin":
            return _mac_idle_s()
    except (OSError, AttributeError):
        return None
    return _desktop_idle_s(IDLE_COMMANDS)


def full_screen() -> bool | None:
    """Whether a program of the user's fills the screen; known on Windows only."""
    if sys.platform != "win32":
        return None
    try:
        return _windows().full_screen()
    except (OSError, AttributeError):
        return None


def gpu_memory() -> dict[int, int] | None:
    """GPU bytes of each process where NVML does not know them: on Windows."""
    if sys.platform != "win32":
        return None
    try:
        return _windows_gpu_memory().by_process()
    except (OSError, AttributeError):
        return None


def _desktop_idle_s(commands: Sequence[Sequence[str]]) -> float | None:
    for command in commands:
        text = _output(command) if shutil.which(command[0]) else ""
        words = text.split()
        if words and words[-1].isdigit():
            return int(words[-1]) / 1000
    return None


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _mac_idle_s() -> float | None:
    library = ctypes.util.find_library("ApplicationServices")
    if library is None:
        return None
    ask = ctypes.CDLL(library).CGEventSourceSecondsSinceLastEventType
    ask.argtypes, ask.restype = (ctypes.c_int32, ctypes.c_uint32), ctypes.c_double
    return float(ask(0, ANY_INPUT))


def _windows() -> Any:
    from workers import windows

    return windows


@cache
def _windows_gpu_memory() -> Any:
    return _windows().GpuMemory()


def user_name() -> str:
    """Whose session this is; on Windows with its domain."""
    name = os.environ.get("USERNAME") or os.environ.get("USER") or ""
    domain = os.environ.get("USERDOMAIN") if sys.platform == "win32" else None
    return f"{domain}\\{name}" if domain else name
