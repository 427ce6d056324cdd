"""What this machine has:

its slots, the class that its timings belong to, its packages. Never imports torch.
"""

import csv
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import psutil

from jsm_queue import costs, processes
from jsm_queue.protocol import Hardware

GIB = 2**30
NVIDIA_SMI_S = 20  # a driver that is starting takes seconds to answer
PACKAGES = (
    "accelerate",
    "bitsandbytes",
    "gguf",
    "huggingface-hub",
    "jsm-queue",
    "llama-cpp-python",
    "numpy",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


@dataclass(frozen=True)
class Gpu:
    """A CUDA device. `uuid` names it whatever the order in which devices are counted; sizes in bytes."""

    name: str
    uuid: str
    memory: int
    free: int


@dataclass(frozen=True)
class SlotPlan:
    """One slot of this machine.

    `device` is "cpu" or "cuda:<i>"; `uuid` the GPU's; `threads` its share of the cores.
    """

    idx: int
    kind: str
    device: str
    threads: int
    uuid: str = ""


def plan_slots(gpus: Sequence[Gpu], cores: int, memory: int, cpu_slots: int = 0) -> list[SlotPlan]:
    """One slot a GPU, then the CPU slots. `cpu_slots` > 0 says how many of those there are.

    Without it: one beside a GPU, which feeds it; else one per core and 3 GiB, at most 4, so that small jobs
    run side by side without swapping. The cores are shared evenly among all slots.
    """
    if cpu_slots <= 0:
        cpu_slots = 1 if gpus else costs.cpu_slots(cores, memory)
    threads = max(1, cores // (len(gpus) + cpu_slots))
    slots = [SlotPlan(i, "gpu", f"cuda:{i}", threads, gpu.uuid) for i, gpu in enumerate(gpus)]
    return slots + [SlotPlan(len(gpus) + i, "cpu", "cpu", threads) for i in range(cpu_slots)]


def hardware_class(gpus: Sequence[Gpu], cpu: str, cores: int) -> str:
    """Groups machines whose timings compare: "RTX 4060 Ti 16 GB", or the CPU's name with its cores."""
    if not gpus:
        return f"{cpu}, {cores} cores"[:128]
    name = re.sub(r"^NVIDIA (GeForce )?", "", gpus[0].name)
    count = f"{len(gpus)} × " if len(gpus) > 1 else ""
    return f"{count}{name} {round(gpus[0].memory / GIB)} GB"[:128]


def describe(gpus: Sequence[Gpu]) -> Hardware:
    """What the worker tells the api about this machine."""
    cpu, cores = cpu_name(), processes.cores()
    return Hardware(
        hardware_class=hardware_class(gpus, cpu, cores),
        os=f"{platform.system()} {platform.release()}"[:64],
        cpu=cpu[:128],
        cores=cores,
        memory_bytes=psutil.virtual_memory().total,
        gpus=[gpu.name for gpu in gpus],
        packages=package_versions(),
    )


def cpu_name() -> str:
    """The CPU's name as its maker gave it, or the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return " ".join(found[1].split())
    return platform.processor() or platform.machine() or "CPU"


def package_versions() -> dict[str, str]:
    """The versions of the packages that results may depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch was built for, read from its files; None for a CPU build or
    no torch.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    version = Path(spec.submodule_search_locations[0]) / "version.py"
    text = version.read_text(encoding="utf-8") if version.exists() else ""
    found = re.search(r"^cuda\b.*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def list_gpus() -> list[Gpu]:
    """The CUDA devices that this process may use, with their free memory now. Empty without a driver."""
    found = _from_nvml()
    return visible(found if found is not None else _from_nvidia_smi(), os.environ)


def visible(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES leaves, in its order: indices or (beginnings of) UUIDs."""
    value = environment.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return list(gpus)
    chosen: list[Gpu] = []
    for name in (part.strip() for part in value.split(",")):
        fits = [gpu for i, gpu in enumerate(gpus) if name and (str(i) == name or gpu.uuid.startswith(name))]
        if not fits:  # as CUDA does: what follows an unknown device is not seen
            break
        chosen += fits[:1]
    return chosen


def _from_nvml() -> list[Gpu] | None:
    try:
        import pynvml  # type: ignore[import-not-found]
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [_nvml_gpu(pynvml, handle) for handle in handles]
    except pynvml.NVMLError:
        return []


def _nvml_gpu(pynvml: ModuleType, handle: object) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name, uuid = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetUUID(handle)
    return Gpu(str(name), str(uuid), int(memory.total), int(memory.free))


def _from_nvidia_smi() -> list[Gpu]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,uuid,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_nvidia_smi(answer.stdout)


def parse_nvidia_smi(text: str) -> list[Gpu]:
    """nvidia-smi's CSV lines "name, uuid, MiB, MiB"; a device that does not know its memory is left out."""
    rows = [[field.strip() for field in row] for row in csv.reader(text.splitlines()) if row]
    return [
        Gpu(name, uuid, int(total) * 2**20, int(free) * 2**20)
        for name, uuid, total, free in (row for row in rows if len(row) == 4)
        if total.isdigit() and free.isdigit()
    ]
