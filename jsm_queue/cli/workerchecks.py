"""What `jsm worker doctor` concludes from what `workers.probe machine` found. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from jsm_queue.cli.checks import Check

LITTLE_VRAM = 7.5e9  # below, no 8B base trains in NF4


def machine(found: Mapping[str, Any]) -> list[Check]:
    """The worker's process, its slots, its kinds, and what it knows of its owner. `found` as the probe answers."""
    if "error" in found:
        fix = "In the project's folder: python scripts/install.py worker"
        return [Check("worker", "problem", f"cannot be examined: {found['error']}", fix)]
    return [_process(found), *_slots(found), *_kinds(found), *_courtesy(found)]


def _process(found: Mapping[str, Any]) -> Check:
    if found["pid"] is None:
        return Check(
            "worker", "ok", "does not run now", "jsm worker start, or once and for all: jsm worker install-service"
        )
    return Check("worker", "ok", f"runs as process {found['pid']}")


def _slots(found: Mapping[str, Any]) -> Iterator[Check]:
    driver = found["hardware"]["driver"]
    for idx, slot in enumerate(found["slots"]):
        gpu = slot["device"] != "cpu"
        what = f"{slot['name']}, driver {driver or 'unknown'}" if gpu else f"{slot['name']}, threads: {slot['threads']}"
        memory = f"{slot['free'] / 1e9:.1f} of {slot['total'] / 1e9:.1f} GB free"
        little = gpu and slot["total"] < LITTLE_VRAM
        yield Check(
            f"slot {idx}",
            "warning" if little else "ok",
            f"{slot['device']}: {what}; {memory}{_standing(slot)}",
            "Small bases only: an 8B base needs 8 GB of VRAM to train" if little else "",
        )


def _standing(slot: Mapping[str, Any]) -> str:
    if slot.get("wish", "run") == "run":
        return ""
    return f"; {'paused' if slot['wish'] == 'pause' else 'given back'}: {slot['why']}"


def _kinds(found: Mapping[str, Any]) -> Iterator[Check]:
    for kind, lack in found["kinds"].items():
        why, _, fix = lack.partition(". ")
        yield Check(f"kind {kind}", "warning" if lack else "ok", why if lack else "can be done here", fix)


def _courtesy(found: Mapping[str, Any]) -> Iterator[Check]:
    for name, words in found["readings"].items():
        yield Check(f"owner: {name}", "ok", "unknown here, so it stops no work" if words is None else words)
