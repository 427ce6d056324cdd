"""What `jsm doctor` concludes from what it measured. Pure: every function takes figures and returns checks.

A *problem* keeps this machine from what it is set up for, a *warning* from something it could do.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jsm_queue.errors import StoreAwayError

PYTHON = (3, 11)
INSTALL = "in the project's folder: make install (Windows: python scripts/install.py api worker)"
TORCH_INDEX = "https://download.pytorch.org/whl"
TORCH_BUILDS = (((13, 0), "cu130"), ((12, 8), "cu128"), ((12, 0), "cu126"))
"""The CUDA that a driver must speak, newest first, and the build of torch that runs there."""
LOW_DISK, LITTLE_DISK = 2e9, 25e9  # bytes: nothing works below; below the other, one 8B base with its F16 GGUF does not
SKEW_S = 30.0  # from here on the logs of two machines are hard to read together
EXTRAS = {"api": "run `jsm up`", "embedded": "start its own queue", "worker": "be a worker", "postgres": "use Postgres"}
"""The optional sets of packages that a user may miss, and what they let this machine do."""


@dataclass(frozen=True)
class Check:
    """One line of the table. `fix`: what to do, exactly; empty where nothing is to be done."""

    name: str
    state: Literal["ok", "warning", "problem"]
    found: str
    fix: str = ""


# ---- Python and packages -----------------------------------------------------------------------------------


def python(version: tuple[int, ...], bits: int) -> Check:
    """The Python that runs this."""
    found = f"{'.'.join(map(str, version[:3]))}, {bits} bit"
    if version[:2] < PYTHON or bits < 64:
        wanted = ".".join(map(str, PYTHON))
        return Check("python", "problem", found, f"Install a 64-bit Python {wanted} or newer, then {INSTALL}")
    return Check("python", "ok", found)


def packages(requirements: Sequence[str] | None, installed: Mapping[str, str]) -> list[Check]:
    """jsm-queue's own packages, then each of EXTRAS. `requirements` as its metadata has them, None where it is not
    installed itself; `installed`: name → version.
    """
    if requirements is None:
        return [Check("packages", "problem", "jsm-queue itself is not installed", _capital(INSTALL))]
    missing = _unmet(requirements, "", installed)
    found = f"not as needed: {', '.join(missing)}" if missing else "as needed"
    base = Check("packages", "problem" if missing else "ok", found, _capital(INSTALL) if missing else "")
    return [base, *(_extra(requirements, extra, installed) for extra in EXTRAS)]


def _extra(requirements: Sequence[str], extra: str, installed: Mapping[str, str]) -> Check:
    name, missing = f"packages ({extra})", _unmet(requirements, extra, installed)
    if not missing:
        return Check(name, "ok", f"there: this machine can {EXTRAS[extra]}")
    return Check(
        name,
        "warning",
        f"not as needed: {', '.join(missing)}; without them this machine cannot {EXTRAS[extra]}",
        f"In the project's folder: python scripts/install.py {extra}",
    )


def _unmet(requirements: Sequence[str], extra: str, installed: Mapping[str, str]) -> list[str]:
    """Those that `extra` adds, or with "" those that are always needed, and that are missing or of another version."""
    wanted = []
    for requirement in map(Requirement, requirements):
        always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        asked = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if (always if not extra else asked and not always) and not _is_met(requirement, installed):
            wanted.append(requirement.name)
    return wanted


def _is_met(requirement: Requirement, installed: Mapping[str, str]) -> bool:
    version = installed.get(canonicalize_name(requirement.name))
    return version is not None and requirement.specifier.contains(version, prereleases=True)


# ---- GPU and native libraries ------------------------------------------------------------------------------


def torch(found: Mapping[str, Any], gpus: Mapping[str, Any], interpreter: str) -> Check:
    """torch's build against the GPU that is there. `found`, `gpus` as `workers.probe` answers."""
    names, driver = ", ".join(gpus.get("names", [])), gpus.get("driver")
    if "error" in found:
        return _not_loading("torch", found, "Without it this machine is no worker")
    version, built = found["version"], f"CUDA {found['cuda']} build" if found["cuda"] else "CPU build"
    said = f"{version}, {built}"
    line = torch_line(version, driver, interpreter)
    if not names:
        return Check("torch", "ok", f"{said}; no NVIDIA GPU: CPU slots only")
    if not found["cuda"]:
        return Check("torch", "problem", f"{said}, which does not use {names}", line)
    if not found["usable"]:
        speaks = f"the driver speaks CUDA {driver[0]}.{driver[1]}" if driver else "the driver says no CUDA version"
        return Check("torch", "problem", f"{said} cannot use {names}; {speaks}", f"Update NVIDIA's driver, or {line}")
    if not is_made_for(found["archs"], found["capability"]):
        return Check("torch", "problem", f"{said} has no code for {names}", line)
    return Check("torch", "ok", f"{said} on {names}")


def torch_line(version: str, driver: Sequence[int] | None, interpreter: str) -> str:
    """The command that installs the same torch, built for this driver."""
    speaks = tuple(driver or (13, 0))
    build = next((name for cuda, name in TORCH_BUILDS if speaks >= cuda), None)
    if build is None:
        return "Update NVIDIA's driver: torch needs one that speaks CUDA 12.0 or newer"
    wanted = f"torch=={version.partition('+')[0]}"
    return f"{shlex.quote(interpreter)} -m pip install --force-reinstall {wanted} --index-url {TORCH_INDEX}/{build}"


def is_made_for(archs: Sequence[str], capability: Sequence[int] | None) -> bool:
    """Whether a build with code for `archs` ("sm_86", "compute_90") runs on a GPU of that compute capability."""
    if not capability or not archs:
        return True
    major, minor = capability
    for arch in archs:
        kind, _, digits = arch.partition("_")
        digits = digits.rstrip("af")
        has = (int(digits[:-1]), int(digits[-1]))
        if has <= (major, minor) and (kind == "compute" or has[0] == major):
            return True
    return False


def bitsandbytes(found: Mapping[str, Any]) -> Check:
    """Quantized training (NF4)."""
    if "error" in found:
        return _not_loading("bitsandbytes", found, "Without it no study trains with `quantized: true`")
    return Check("bitsandbytes", "ok", f"{found['version']}, NF4 on {found['device']}")


def llama_cpp(found: Mapping[str, Any]) -> Check:
    """Conversion, answers and latency."""
    if "error" in found:
        return _not_loading("llama_cpp", found, "Without it no model is converted, answers or is timed")
    return Check("llama_cpp", "ok", str(found["version"]))


def _not_loading(name: str, found: Mapping[str, Any], means: str) -> Check:
    if found.get("missing"):
        fix = "In the project's folder: python scripts/install.py worker"
        return Check(name, "warning", f"not installed. {means}", fix)
    fix = f"In the project's folder: remove .venv, then {INSTALL.partition(': ')[2]}"
    return Check(name, "problem", f"does not load ({found['error']}). {means}", fix)


def compiler(found: str | None, llama_loads: bool, system: str) -> Check:
    """The C++ compiler that builds llama.cpp."""
    if found:
        return Check("compiler", "ok", found)
    fixes = {
        "Windows": "winget install Microsoft.VisualStudio.2022.BuildTools, with its C++ workload",
        "Darwin": "xcode-select --install",
    }
    fix = fixes.get(system, "apt install g++, or dnf install gcc-c++")
    if llama_loads:
        return Check("compiler", "warning", "none; llama.cpp is there, but another version could not be built", fix)
    return Check("compiler", "problem", "none, and llama.cpp is not there: it is compiled here", fix)


# ---- disk, ports, clock ------------------------------------------------------------------------------------


def disk(name: str, folder: Path, free: int) -> Check:
    """Free bytes where `folder` lies."""
    found = f"{free / 1e9:.1f} GB free at {folder}"
    if free < LOW_DISK:
        return Check(name, "problem", found, f"Free some: with less than {LOW_DISK / 1e9:.0f} GB few jobs find room")
    if free < LITTLE_DISK:
        fix = f"Free some, or use a larger disk: an 8B base with its F16 GGUF takes {LITTLE_DISK / 1e9:.0f} GB and more"
        return Check(name, "warning", found, fix)
    return Check(name, "ok", found)


def writable(folder: Path, error: str | None) -> Check:
    """Whether a file could be made in the home folder, or where that will be."""
    if error:
        fix = f"Set JSM_HOME to a folder of yours, or correct the owner of {folder}"
        return Check("home", "problem", f"{folder} cannot be written: {error}", fix)
    return Check("home", "ok", f"{folder} can be written")


def port(name: str, told: int, usual: int, free: bool, pool: bool) -> Check:
    """A port of `jsm up`. `told`: by the settings, or 0; `free`: nothing listens; `pool`: this home's pool runs."""
    number = told or usual
    if free:
        return Check(f"port {name}", "ok", f"{number} is free")
    if pool:
        return Check(f"port {name}", "ok", f"{number} is in use; this home folder's pool runs")
    if told:
        fix = f"End what listens on {number}, or set JSM_{name.upper()}_PORT to another or to 0"
        return Check(f"port {name}", "problem", f"{number}, which the settings tell, is taken", fix)
    return Check(f"port {name}", "ok", f"{number} is taken: `jsm up` will choose another")


def api(url: str | None, told: bool, error: str | None, store_away: bool = False) -> Check:
    """The api. `told`: by JSM_API_URL; else the home folder's own, which may simply not run now. `store_away`: it
    answers, and says that it cannot use its store.
    """
    if url is None:
        return Check("api", "ok", "none is configured, and no pool runs on this home folder")
    if store_away:
        return Check("api", "problem", f"{url} answers, but cannot write its store", StoreAwayError.cure)
    if error is None:
        return Check("api", "ok", f"{url} answers")
    fix = f"Check the address and the firewall, and that `jsm up` runs there: curl {url}/healthz"
    return Check("api", "problem" if told else "warning", f"{url} does not answer: {error}", fix)


def clock(skew: float | None, system: str) -> Check:
    """This machine's clock against the api's; `skew` in seconds, None where no api answers."""
    if skew is None:
        return Check("clock", "ok", "not compared: no api answers")
    found = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the api's"
    if abs(skew) > SKEW_S:
        fix = "w32tm /resync" if system == "Windows" else "sudo timedatectl set-ntp true"
        return Check("clock", "warning", f"{found}: leases do not mind, but logs do not compare", fix)
    return Check("clock", "ok", found)


# ---- hub, queue, store -------------------------------------------------------------------------------------


def hub(url: str, error: str | None) -> Check:
    """The model hub."""
    if error is None:
        return Check("hub", "ok", f"{url} answers")
    return Check(
        "hub",
        "warning",
        f"{url} does not answer ({error}): bases that are folders or .gguf files work, and hub ids that a worker holds",
        "Check the network or HTTPS_PROXY; or name a folder as the base's source",
    )


def broker(url: str | None, embedded: bool, error: str | None) -> Check:
    """The queue. `url` without its password; `error`: why it cannot be used."""
    if url is None and embedded:
        return Check("broker", "ok", "the embedded Valkey")
    if url is None:
        fix = "In the project's folder: python scripts/install.py embedded; or set JSM_BROKER_URL"
        return Check("broker", "warning", "no JSM_BROKER_URL and no embedded Valkey: no pool can start here", fix)
    if error:
        return Check("broker", "problem", f"{url}: {error}", "Start it, or correct JSM_BROKER_URL (rediss:// with TLS)")
    return Check("broker", "ok", f"{url} answers")


def database(url: str, error: str | None) -> Check:
    """The store. `url` without its password."""
    if error:
        return Check("database", "problem", f"{url}: {error}", "Start it, or correct JSM_DATABASE_URL")
    return Check("database", "ok", url)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
