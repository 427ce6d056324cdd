"""What Windows says of its user and of GPU memory. Imported on Windows only, by `owner.py`; see docs/courtesy.md for
what was run there.
"""

import ctypes
import re
from ctypes import wintypes
from typing import Any

FULL_SCREEN = (2, 3)  # SHQueryUserNotificationState: a full-screen program; one with Direct3D for itself
MEMORY_COUNTER = r"\GPU Process Memory(*)\Dedicated Usage"
INSTANCE = re.compile(r"pid_(\d+)_")
PDH_FMT_LARGE, PDH_MORE_DATA = 0x400, 0x800007D2


class LastInput(ctypes.Structure):
    """LASTINPUTINFO."""

    _fields_ = (("size", wintypes.UINT), ("ticks", wintypes.DWORD))


class CounterItem(ctypes.Structure):
    """PDH_FMT_COUNTERVALUE_ITEM_W with a large value, whose 8 bytes are aligned."""

    _fields_ = (("name", wintypes.LPWSTR), ("status", wintypes.DWORD), ("value", ctypes.c_longlong))


def _library(name: str) -> Any:
    return getattr(ctypes, "WinDLL")(name)  # noqa: B009 - it exists on Windows only


def idle_s() -> float | None:
    """Seconds since the last key or mouse movement of this session's user."""
    last = LastInput(size=ctypes.sizeof(LastInput))
    if not _library("user32").GetLastInputInfo(ctypes.byref(last)):
        return None
    ticks = int(_library("kernel32").GetTickCount()) & 0xFFFFFFFF  # 32 bits that begin anew after 49 days, as its own
    return ((ticks - last.ticks) & 0xFFFFFFFF) / 1000


def full_screen() -> bool | None:
    """Whether a program fills the screen. It has the focus then: Windows tells by this when not to disturb."""
    state = ctypes.c_int()
    if _library("shell32").SHQueryUserNotificationState(ctypes.byref(state)) != 0:
        return None
    return state.value in FULL_SCREEN


class GpuMemory:
    """The bytes that each process holds on GPUs of its own memory, from the performance counters."""

    def __init__(self) -> None:
        self._pdh = _library("pdh")
        self._query, self._counter = ctypes.c_void_p(), ctypes.c_void_p()
        failed = self._pdh.PdhOpenQueryW(None, None, ctypes.byref(self._query)) or self._pdh.PdhAddEnglishCounterW(
            self._query, MEMORY_COUNTER, None, ctypes.byref(self._counter)
        )
        if failed:
            raise OSError(f"{MEMORY_COUNTER} cannot be read: status {failed & 0xFFFFFFFF:#x}")

    def by_process(self) -> dict[int, int] | None:
        """Process id → bytes."""
        if self._pdh.PdhCollectQueryData(self._query):
            return None
        size, count = wintypes.DWORD(0), wintypes.DWORD(0)
        ask = self._pdh.PdhGetFormattedCounterArrayW
        given = (self._counter, PDH_FMT_LARGE, ctypes.byref(size), ctypes.byref(count))
        if ask(*given, None) & 0xFFFFFFFF != PDH_MORE_DATA:
            return None
        room = ctypes.create_string_buffer(size.value)
        if ask(*given, room):
            return None
        items = ctypes.cast(room, ctypes.POINTER(CounterItem))
        return by_process([(items[i].name, items[i].value) for i in range(count.value)])


def by_process(instances: list[tuple[str, int]]) -> dict[int, int]:
    """ "pid_1234_luid_0x00000000_0x0000C6B5_phys_0" and its bytes, one for each GPU → process id and its bytes."""
    found: dict[int, int] = {}
    for name, size in instances:
        if match := INSTANCE.match(name):
            found[int(match[1])] = found.get(int(match[1]), 0) + size
    return found
