"""What NVIDIA's library says of the GPUs. Everything is None or left out where it is not known."""

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

pynvml: Any = None
with contextlib.suppress(ImportError):  # a worker without GPUs needs none
    pynvml = importlib.import_module("pynvml")

_opening = threading.Lock()
_is_open = False


class Device(NamedTuple):
    """One GPU; memory in bytes."""

    name: str
    uuid: str
    memory: int
    free: int


class GpuProcess(NamedTuple):
    """A process that has something on a GPU, and its bytes there: unknown on Windows."""

    pid: int
    memory: int | None


@dataclass(frozen=True)
class Look:
    """One GPU now: bytes, percent of the last second in which it computed, degrees Celsius."""

    total: int
    used: int
    processes: tuple[GpuProcess, ...] | None
    utilisation: int | None
    temperature: int | None


def devices() -> list[Device] | None:
    """The GPUs in the driver's order; None where there is no NVML."""
    with _session() as ready:
        if ready:
            return [_device(handle) for handle in _handles()]
    return None


def driver() -> str | None:
    """The driver's version, "580.95.05"."""
    with _session() as ready:
        if ready:
            return str(pynvml.nvmlSystemGetDriverVersion())
    return None


def look(uuid: str) -> Look | None:
    """The GPU of that UUID. Memory is read before the processes: one that ends in between seems to hold nothing."""
    with _session() as ready:
        if ready:
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            return Look(
                total=int(memory.total),
                used=int(memory.used),
                processes=_known(lambda: _processes(handle)),
                utilisation=_known(lambda: int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
                temperature=_known(lambda: int(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))),
            )
    return None


@contextlib.contextmanager
def _session() -> Iterator[bool]:
    """Whether NVML can be asked. It stays open; after a failure (a new driver) it is opened anew the next time."""
    if not _open():
        yield False
        return
    try:
        yield True
    except pynvml.NVMLError:
        _close()


def _open() -> bool:
    global _is_open
    with _opening:
        if not _is_open and pynvml is not None:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlInit()
                _is_open = True
        return _is_open


def _close() -> None:
    global _is_open
    with _opening, contextlib.suppress(pynvml.NVMLError):
        _is_open = False
        pynvml.nvmlShutdown()


def _handles() -> list[Any]:
    return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]


def _device(handle: Any) -> Device:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name, uuid = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetUUID(handle)
    return Device(str(name), str(uuid), int(memory.total), int(memory.free))


def _processes(handle: Any) -> tuple[GpuProcess, ...]:
    """Those that compute and those that draw; one that does both has the larger of two figures."""
    found: dict[int, int | None] = {}
    for ask in (pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses):
        for process in ask(handle):
            before, now = found.get(process.pid), process.usedGpuMemory
            found[process.pid] = before if now is None else max(int(now), before or 0)
    return tuple(GpuProcess(pid, memory) for pid, memory in found.items())


def _known(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except pynvml.NVMLError:
        return None
