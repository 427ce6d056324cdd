"""Slots, classes and devices from what a machine reports."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from workers import hardware
from workers.hardware import GIB, Gpu

SMALL = Gpu("NVIDIA GeForce RTX 4060 Ti", "GPU-aaaa-1", 16380 * 2**20, 15000 * 2**20)
BIG = Gpu("NVIDIA H100 80GB HBM3", "GPU-bbbb-2", 81559 * 2**20, 80000 * 2**20)


@pytest.mark.parametrize(
    ("gpus", "cores", "memory", "wish", "kinds", "threads"),
    [
        ([], 2, 24 * GIB, 0, ["cpu", "cpu"], 1),
        ([], 16, 64 * GIB, 0, ["cpu"] * 4, 4),
        ([], 16, 7 * GIB, 0, ["cpu"] * 2, 8),
        ([], 1, 1 * GIB, 0, ["cpu"], 1),
        ([], 8, 64 * GIB, 1, ["cpu"], 8),
        ([SMALL], 12, 32 * GIB, 0, ["gpu", "cpu"], 6),
        ([SMALL, BIG], 12, 32 * GIB, 2, ["gpu", "gpu", "cpu", "cpu"], 3),
        ([SMALL, BIG], 2, 32 * GIB, 0, ["gpu", "gpu", "cpu"], 1),
    ],
)
def test_slots(gpus: list[Gpu], cores: int, memory: int, wish: int, kinds: list[str], threads: int) -> None:
    slots = hardware.plan_slots(gpus, cores, memory, wish)
    assert [slot.kind for slot in slots] == kinds
    assert [slot.idx for slot in slots] == list(range(len(kinds)))
    assert {slot.threads for slot in slots} == {threads}
    assert [slot.uuid for slot in slots] == [gpu.uuid for gpu in gpus] + [""] * kinds.count("cpu")


def test_classes_name_what_timings_depend_on() -> None:
    assert hardware.hardware_class([SMALL], "Ryzen 5", 12) == "RTX 4060 Ti 16 GB"
    assert hardware.hardware_class([BIG, BIG], "EPYC", 64) == "2 × H100 80GB HBM3 80 GB"
    assert hardware.hardware_class([], "Ryzen 5", 12) == "Ryzen 5, 12 cores"
    assert len(hardware.hardware_class([], "x" * 500, 2)) == 128


def test_nvidia_smi_is_read() -> None:
    text = "NVIDIA GeForce RTX 4060 Ti, GPU-aaaa-1, 16380, 15000\nGrace, GPU-cccc-3, [N/A], [N/A]\n\n"
    assert hardware.parse_nvidia_smi(text) == [SMALL]
    assert hardware.parse_nvidia_smi("No devices were found") == []


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, [SMALL, BIG]),
        ("1", [BIG]),
        ("1,0", [BIG, SMALL]),
        ("GPU-bbbb", [BIG]),
        ("", []),
        ("-1", []),
        ("1,7,0", [BIG]),
    ],
)
def test_hidden_devices_are_not_used(value: str | None, found: list[Gpu]) -> None:
    environment = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    assert hardware.visible([SMALL, BIG], environment) == found


@pytest.mark.parametrize(
    ("line", "version"),
    [("cuda: Optional[str] = '12.8'", "12.8"), ("cuda = '13.0'", "13.0"), ("cuda: Optional[str] = None", None)],
)
def test_the_torch_build_is_known_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, version: str | None
) -> None:
    (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\n{line}\n", encoding="utf-8")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda _: spec)
    assert hardware.torch_cuda() == version


def test_what_is_not_installed_is_lacking_with_the_command() -> None:
    def without(*missing: str) -> dict[str, str]:
        return hardware.lacks(lambda module: module not in missing)

    assert without() == {}
    assert set(without("torch")) == {"train", "score", "convert", "parity", "latency"}
    assert set(without("llama_cpp")) == {"answer", "latency", "convert", "judge", "parity"}
    quantized = without("bitsandbytes")
    assert set(quantized) == {"train", "score"} and "NF4" in quantized["train"]
    assert without("llama_cpp")["judge"].endswith("python -m pip install llama-cpp-python")
    everything = hardware.lacks(lambda _: False)
    assert "prepare" not in everything and max(map(len, everything.values())) <= 500
    assert "NF4" not in everything["train"], "it lacks more than that"


def test_a_driver_that_nvml_does_not_know_is_asked_for_by_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.nvml, "driver", lambda: None)
    monkeypatch.setattr(hardware, "_nvidia_smi", lambda fields: "580.95.05\n580.95.05\n" if "driver" in fields else "")
    assert hardware.driver() == "580.95.05"
    monkeypatch.setattr(hardware, "_nvidia_smi", lambda _: "")
    assert hardware.driver() is None


def test_devices_come_from_nvml_or_from_nvidias_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(hardware.nvml, "devices", lambda: [(SMALL.name, SMALL.uuid, SMALL.memory, SMALL.free)])
    assert hardware.list_gpus() == [SMALL]
    monkeypatch.setattr(hardware.nvml, "devices", lambda: None)
    line = f"{BIG.name}, {BIG.uuid}, 81559, 80000\n"
    monkeypatch.setattr(hardware, "_nvidia_smi", lambda _: line)
    assert hardware.list_gpus() == [BIG]


def test_this_machine_describes_itself() -> None:
    machine = hardware.describe(hardware.list_gpus())
    assert machine.cores >= 1 and machine.memory_bytes > 0
    assert machine.packages["python"] and machine.packages["numpy"]
    assert machine.hardware_class
