"""The base of a job as a transformers folder."""

from pathlib import Path

from workers.engine.folders import check_folder, unpack_gguf
from workers.work import Work


def base_folder(work: Work) -> Path:
    """The input folder itself, or what its GGUF file unpacks to. Raises ModelError for a base that is not usable."""
    folder = work.inputs / "base"
    if work.params.base.form == "gguf":
        path = next(folder.glob("*.gguf"))
        return unpack_gguf(path, work.folder / "base")
    check_folder(folder)
    return folder
