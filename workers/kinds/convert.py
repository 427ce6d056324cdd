"""Base with or without an adapter → one GGUF file."""

import time
from pathlib import Path

from jsm_queue.kinds import ROLE_FILES, ConvertParams
from workers.engine.bases import base_folder
from workers.gguf.export import Planned, export_f16
from workers.gguf.quantize import fallback_tensors, quantize
from workers.work import Outcome, Work


def run(work: Work) -> Outcome:
    """model.gguf. `fallback_tensors` counts the matrices that could not have the format's own type."""
    params: ConvertParams = work.params
    began = time.perf_counter()
    out = work.folder / ROLE_FILES["gguf"]
    plan = _export(work, out) if params.format == "F16" else _quantized(work, out)
    metrics = {
        "bytes": float(out.stat().st_size),
        "seconds": time.perf_counter() - began,
        "fallback_tensors": float(len(fallback_tensors(plan, params.format))),
    }
    return Outcome(metrics=metrics)


def _quantized(work: Work, out: Path) -> list[Planned]:
    f16 = out.with_name("f16.gguf")
    try:
        plan = _export(work, f16)
        size = f16.stat().st_size
        quantize(f16, out, work.params.format, work.device.threads, lambda done: work.progress(done, size, {}))
        return plan
    finally:
        f16.unlink(missing_ok=True)


def _export(work: Work, out: Path) -> list[Planned]:
    params: ConvertParams = work.params
    adapter = work.inputs / "adapter"
    return export_f16(
        base_folder(work),
        adapter if adapter.is_dir() else None,
        out,
        params.base.chat_template,
        lambda done, total: work.progress(done, total, {}),
    )
