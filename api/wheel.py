"""This very version as a wheel, for machines that join: made of the files that run here, and kept by their content.

    <home>/wheels/<sha256>/jsm_queue-<version>-py3-none-any.whl

So that api and workers are of one version, whether this is a source checkout or an installed package.
"""

import base64
import hashlib
import io
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from jsm_queue.errors import SetupError
from jsm_queue.files import write_whole

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("jsm_queue", "workers", "api")
PACKED_CONSTRAINTS = "api/join/constraints.txt"
SKIPPED = (".pyc", ".part")
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files make the same wheel


def wheel(home: Path) -> Path:
    """The wheel, made where it is not kept yet. Raises SetupError when this version does not know its own metadata."""
    content = _pack()
    folder = home / "wheels" / hashlib.sha256(content).hexdigest()
    file = folder / f"jsm_queue-{version()}-py3-none-any.whl"
    return file if file.exists() else write_whole(file, content)


def version() -> str:
    """Of the wheel."""
    return metadata.version("jsm-queue")


def constraints() -> str:
    """The tested versions of everything that is installed beside it, as pip's `-c` takes them.

    `torch==2.13.0` also allows 2.13.0+cu130 or +cpu: which build is installed is the package index's matter.
    """
    for file in (ROOT / "constraints.txt", ROOT / PACKED_CONSTRAINTS):
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise SetupError(f"{ROOT} holds no constraints.txt", "Install jsm-queue anew")


def _pack() -> bytes:
    files = dict(_sources()) | {PACKED_CONSTRAINTS: constraints().encode()} | dict(_metadata())
    info = _info_folder()
    rows = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _sources() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*")):
            name = file.relative_to(ROOT).as_posix()
            if file.is_file() and "__pycache__" not in name and not name.endswith(SKIPPED):
                yield name, file.read_bytes()


def _metadata() -> Iterator[tuple[str, bytes]]:
    """What pip reads of a wheel."""
    info, found = _info_folder(), metadata.distribution("jsm-queue")
    about = found.read_text("METADATA")
    if not about:
        raise SetupError("jsm-queue is not installed as a package here", "Install it: `make install`")
    yield f"{info}/METADATA", _with_current_needs(about).encode()
    yield f"{info}/WHEEL", b"Wheel-Version: 1.0\nGenerator: jsm-queue\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    yield f"{info}/entry_points.txt", (found.read_text("entry_points.txt") or "").encode()


def _with_current_needs(about: str) -> str:
    """A source checkout's metadata are of the day when it was installed; what it needs may have changed since."""
    project = ROOT / "pyproject.toml"
    if not project.is_file():
        return about
    wanted = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    head, _, text = about.partition("\n\n")
    lines = [line for line in head.splitlines() if not line.startswith(("Requires-Dist:", "Provides-Extra:"))]
    lines += [f"Requires-Dist: {need}" for need in wanted["dependencies"]]
    for extra, needs in wanted["optional-dependencies"].items():
        lines += [f"Provides-Extra: {extra}", *(f"Requires-Dist: {need}; extra == '{extra}'" for need in needs)]
    return "\n".join([*lines, "", text])


def _info_folder() -> str:
    return f"jsm_queue-{version()}.dist-info"


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
