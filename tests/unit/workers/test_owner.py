"""What is read of the machine's owner: real processes here, the other systems' calls by their answers."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from jsm_queue import yielding
from tests.waiting import wait_for
from workers import nvml, owner, windows
from workers.nvml import GpuProcess, Look
from workers.owner import Other, Owner, Programs, gpu_reading

SLEEP = "import time; time.sleep(60)"


@pytest.fixture
def game(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program with a name of its own."""
    program = tmp_path / "EldenRing.exe"
    shutil.copy(Path(sys.executable).resolve(), program)
    environment = os.environ | {"PYTHONHOME": sys.base_prefix}
    with subprocess.Popen([program, "-c", SLEEP], env=environment) as child:
        yield child
        child.kill()


def test_a_new_program_is_seen_and_one_that_ended_is_not(game: subprocess.Popen[bytes]) -> None:
    programs = Programs()
    clock = iter(range(1000))
    wait_for(lambda: "eldenring" in (programs.names(next(clock) * 0.1) or ()), "the program", 10)
    game.kill()
    game.wait()
    assert "eldenring" not in (programs.names(500) or ())


def test_names_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(owner, "_name", lambda pid: asked.append(pid) or f"p{pid}")
    pids = [1, 2]
    monkeypatch.setattr(owner.psutil, "pids", lambda: list(pids))
    programs = Programs()
    assert programs.names(0.0) == {"p1", "p2"}
    programs.names(owner.FRESH_S + 1)
    asked.clear()
    pids.append(3)
    assert programs.names(owner.FRESH_S + 2) == {"p1", "p2", "p3"}
    assert asked == [3]
    programs.names(owner.ALL_S + 1)
    assert asked == [3, 1, 2, 3], "now and then all: an id may belong to another by now"


def test_a_process_may_become_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner.psutil, "pids", lambda: [7])
    names = iter(["launcher", "game", "never"])
    monkeypatch.setattr(owner, "_name", lambda _: next(names))
    programs = Programs()
    assert programs.names(0.0) == {"launcher"}
    assert programs.names(1.0) == {"game"}
    assert programs.names(owner.FRESH_S + 1) == {"game"}


def test_our_own_processes_are_told_from_others() -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEP]) as child:
        name, ours = owner.identify(child.pid, os.getpid()) or ("", False)
        assert ours and name.startswith("python")
        assert owner.identify(os.getpid(), child.pid) == (owner.plain(psutil.Process().name()), False)
        child.kill()
    assert owner.identify(child.pid, os.getpid()) is None


def look(*processes: GpuProcess, used: int = 5000) -> Look:
    return Look(total=16000, used=used, processes=processes, utilisation=70, temperature=60)


MINE, GAME, HIDDEN = GpuProcess(1, 4000), GpuProcess(2, 900), GpuProcess(3, 800)
KNOWN = {1: ("python", True), 2: ("game", False)}


def test_what_of_a_gpu_is_not_ours() -> None:
    found = gpu_reading(look(MINE, GAME, HIDDEN), KNOWN, {}, runner=True)
    assert found.others == (Other("game", 900),) and found.others_memory == 1000
    assert found.others_busy is None, "it may be our own work"
    assert gpu_reading(look(GAME, used=900), KNOWN, {}, runner=False).others_busy == 70
    # A warm runner that is not to be seen, as in a container: nothing is known of the rest.
    hidden = gpu_reading(look(), {}, {}, runner=True)
    assert hidden.others_memory is None and hidden.others_busy is None
    # It ended between the two readings.
    assert gpu_reading(look(MINE, used=10), KNOWN, {}, runner=True).others_memory == 0


def test_memory_that_nvml_does_not_know_comes_from_the_counters() -> None:
    processes = (GpuProcess(1, None), GpuProcess(2, None))
    blind = gpu_reading(look(*processes), KNOWN, {}, runner=True)
    assert blind.others == (Other("game", None),) and blind.others_memory is None
    counted = gpu_reading(look(*processes), KNOWN, {1: 4000, 2: 700}, runner=True)
    assert counted.others == (Other("game", 700),) and counted.others_memory == 1000


def test_the_counters_instances_are_summed_by_process() -> None:
    names = ["pid_12_luid_0x0_0xC6B5_phys_0", "pid_12_luid_0x0_0xC6B6_phys_0", "pid_7_luid_0x0_0x1_phys_0", "_Total"]
    assert windows.by_process(list(zip(names, (5, 6, 7, 99), strict=True))) == {12: 11, 7: 7}
    assert ctypes.sizeof(windows.CounterItem) == 24


def test_windows_idle_time_survives_the_tick_counters_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def last_input(info: Any) -> int:
        info._obj.ticks = 0xFFFFFF00
        return 1

    libraries = {
        "user32": SimpleNamespace(GetLastInputInfo=last_input),
        "kernel32": SimpleNamespace(GetTickCount=lambda: 0x100),
        "shell32": SimpleNamespace(SHQueryUserNotificationState=lambda state: setattr(state._obj, "value", 3) or 0),
    }
    monkeypatch.setattr(windows, "_library", libraries.__getitem__)
    assert windows.idle_s() == 0.512
    assert windows.full_screen() is True
    libraries["shell32"] = SimpleNamespace(
        SHQueryUserNotificationState=lambda state: setattr(state._obj, "value", 5) or 0
    )
    assert windows.full_screen() is False
    libraries["shell32"] = SimpleNamespace(SHQueryUserNotificationState=lambda _: -1)
    assert windows.full_screen() is None


def test_windows_counters_are_read_in_two_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [("pid_4_luid_0x0_0x1_phys_0", 1 << 33), ("pid_9_luid_0x0_0x1_phys_0", 5)]

    def counter_array(counter: Any, form: int, size: Any, count: Any, room: Any) -> int:
        size._obj.value, count._obj.value = 24 * len(items), len(items)
        if room is None:
            return windows.PDH_MORE_DATA - 2**32  # as a signed number
        array = ctypes.cast(room, ctypes.POINTER(windows.CounterItem))
        for i, (name, value) in enumerate(items):
            array[i] = windows.CounterItem(name, 0, value)
        return 0

    pdh = SimpleNamespace(
        PdhOpenQueryW=lambda *_: 0,
        PdhAddEnglishCounterW=lambda *_: 0,
        PdhCollectQueryData=lambda _: 0,
        PdhGetFormattedCounterArrayW=counter_array,
    )
    monkeypatch.setattr(windows, "_library", lambda _: pdh)
    assert windows.GpuMemory().by_process() == {4: 1 << 33, 9: 5}
    pdh.PdhCollectQueryData = lambda _: 1
    assert windows.GpuMemory().by_process() is None
    pdh.PdhAddEnglishCounterW = lambda *_: -1
    with pytest.raises(OSError, match="Dedicated Usage"):
        windows.GpuMemory()


def test_desktops_are_asked_for_their_idle_time(tmp_path: Path) -> None:
    said = tmp_path / "busctl"
    said.write_text("#!/bin/sh\necho 't 61500'\n", encoding="utf-8")
    said.chmod(0o755)
    assert owner._desktop_idle_s([("not-there",), (str(said), "--user")]) == 61.5
    said.write_text("#!/bin/sh\necho 'no such name' >&2; exit 1\n", encoding="utf-8")
    assert owner._desktop_idle_s([(str(said),)]) is None


@pytest.mark.parametrize(
    ("battery", "expected"),
    [(None, None), (SimpleNamespace(power_plugged=None), None), (SimpleNamespace(power_plugged=False), True)],
)
def test_the_battery(monkeypatch: pytest.MonkeyPatch, battery: object, expected: bool | None) -> None:
    monkeypatch.setattr(owner.psutil, "sensors_battery", lambda: battery)
    assert owner.on_battery() is expected


def test_a_system_that_cannot_be_asked_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError("no such call")

    monkeypatch.setattr(owner.psutil, "sensors_battery", refused)
    monkeypatch.setattr(owner.psutil, "pids", refused)
    assert owner.on_battery() is None and Programs().names(0.0) is None
    monkeypatch.setattr(windows, "_library", refused)
    owner._windows_gpu_memory.cache_clear()
    monkeypatch.setattr(owner.sys, "platform", "win32")
    assert owner.idle_s() is None and owner.full_screen() is None and owner.gpu_memory() is None


def test_all_is_read_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slots").mkdir()
    (tmp_path / "slots" / "slot0.pid").touch()
    yielding.ask(tmp_path, None)
    monkeypatch.setattr(nvml, "look", lambda uuid: look(GpuProcess(os.getpid(), 4000)) if uuid == "GPU-a" else None)
    found = Owner(tmp_path, {0: "GPU-a", 1: "GPU-gone"}, os.getpid()).read(0.0)
    assert found.asked and found.programs
    assert list(found.gpus) == ["GPU-a"] and found.gpus["GPU-a"].others_memory == 1000
    assert Owner(tmp_path, {}, os.getpid(), programs=False, idle=False).read(0.0).programs is None


class FakeNvml:
    """NVIDIA's library with one GPU, which may be lost."""

    class NVMLError(Exception): ...

    NVML_TEMPERATURE_GPU = 0

    def __init__(self) -> None:
        self.opened, self.lost = 0, False

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None: ...
    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.95.05"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if self.lost:
            raise self.NVMLError("GPU is lost")
        return uuid

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(total=100, used=40, free=60)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=1, usedGpuMemory=None), SimpleNamespace(pid=2, usedGpuMemory=5)]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=2, usedGpuMemory=7), SimpleNamespace(pid=3, usedGpuMemory=None)]

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        raise self.NVMLError("not supported")

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return 51


def test_nvml_says_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml()
    monkeypatch.setattr(nvml, "pynvml", library)
    monkeypatch.setattr(nvml, "_is_open", False)
    found = nvml.look("GPU-a")
    assert found == Look(100, 40, (GpuProcess(1, None), GpuProcess(2, 7), GpuProcess(3, None)), None, 51)
    assert nvml.driver() == "580.95.05" and library.opened == 1, "it stays open"
    library.lost = True
    assert nvml.look("GPU-a") is None
    library.lost = False
    assert nvml.look("GPU-a") and library.opened == 2, "a new driver is opened anew"
    monkeypatch.setattr(nvml, "pynvml", None)
    monkeypatch.setattr(nvml, "_is_open", False)
    assert nvml.look("GPU-a") is None and nvml.devices() is None and nvml.driver() is None
