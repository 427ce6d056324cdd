"""What a running study looks like on a terminal. Pure: a snapshot in, lines out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from rich.text import Text

from jsm_queue import wording
from jsm_queue.cli.console import duration

STAGES = ("scale", "bases", "quantization")
FINISHED = ("done", "failed", "quarantined", "skipped")
BAR = 10  # characters
LABEL_WIDTH = 38  # characters a running job's name gets
MESSAGE_WIDTH = 80  # characters of why a job's last try ended
TITLES = {
    "scale": "validation NLL, nats/token (95 % interval)",
    "bases": "judge 0–3 (95 % interval)",
    "quantization": "score           size     KL to F16",
}


@dataclass(frozen=True)
class Snapshot:
    """A study as the api tells it at one moment: GET /v1/studies/{id}, its jobs, its comparisons."""

    study: Mapping[str, Any]
    jobs: Sequence[Mapping[str, Any]] = ()
    comparisons: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def stages(self) -> list[str]:
        """The stages of the spec, in order."""
        return [stage for stage in STAGES if self.study["spec"]["stages"].get(stage)]

    @property
    def verdicts(self) -> dict[str, Mapping[str, Any]]:
        """Stage → its last verdict."""
        return {verdict["stage"]: verdict for verdict in self.study["verdicts"]}


def screen(now: Snapshot, reused: int, seconds: float) -> list[Text]:
    """The whole view: stages so far, what runs, how far it is. `reused`: jobs done before. `seconds`: since then."""
    lines: list[Text] = []
    for stage in now.stages:
        if stage in now.verdicts or stage == now.study["stage"] or now.study["state"] == "ended":
            lines += stage_block(now, stage)
    if now.study["state"] == "running":
        lines += [running_line(job) for job in now.jobs if job["state"] == "active"]
        lines.append(total_line(now, reused, seconds))
    return lines


def news(before: Snapshot | None, now: Snapshot) -> list[Text]:
    """What happened since `before`, for an output that only grows: finished jobs and written verdicts.

    At the first look only verdicts: the jobs that were finished before are a number in the plan's line.
    """
    known = {job["id"] for job in (before or now).jobs if job["state"] in FINISHED}
    fresh = [job for job in now.jobs if job["state"] in FINISHED and job["id"] not in known]
    lines = [finished_line(job) for job in fresh]
    for stage in now.stages:
        if stage in now.verdicts and not (before and stage in before.verdicts):
            lines += stage_block(now, stage)
    return lines


def stage_block(now: Snapshot, stage: str) -> list[Text]:
    """A stage's title, its figures so far, and its verdict once there is one."""
    verdict = now.verdicts.get(stage)
    number = f"[{now.stages.index(stage) + 1}/{len(now.stages)}]"
    lines = [Text.assemble((f"{number} {stage:<13}", "bold"), TITLES[stage])]
    if verdict is None and now.study["state"] == "ended":
        return [*lines, Text("  not run: the stage before it has no result", style="yellow")]
    if verdict is None:
        return lines + [Text(f"  {line}") for line in so_far(stage, now.comparisons.get(stage, []))]
    lines += [Text(f"  {line}") for line in FIGURES[stage](verdict["evidence"], now.comparisons.get(stage, []))]
    headline = wording.headline(stage, verdict["decision"], verdict["evidence"])
    lines.append(Text.assemble("  ", ("VERDICT", "bold green"), f"  {headline}"))
    missing = verdict["decision"].get("missing")
    if missing:
        lines.append(Text(f"  missing: {', '.join(missing)}", style="yellow"))
    return lines


def so_far(stage: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Means over the seeds that are there, before the verdict and its intervals."""
    key, split = ("nll_per_token", "validation") if stage == "scale" else ("score", "bench")
    groups: dict[str, list[float]] = {}
    for row in sorted(rows, key=lambda row: (row["base"], row["n"] or 0)):
        if row.get("split") == split and row.get(key) is not None:
            groups.setdefault(_group(stage, row), []).append(row[key])
    cells = [f"{name} {fmean(values):.2f} ({_seeds(len(values))})" for name, values in groups.items()]
    return _wrapped(cells)


def _group(stage: str, row: Mapping[str, Any]) -> str:
    if stage == "scale":
        return f"n={row['n']}" if row["n"] else "untrained"
    if stage == "quantization":
        return f"{row['base']} {row['format']}"
    return row["base"] if row["n"] else row["cell"]  # "… untrained", "… adapter"


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _scale_figures(evidence: Mapping[str, Any], _rows: Sequence[Mapping[str, Any]]) -> list[str]:
    untrained = [f"untrained {_level(evidence['untrained'])}"] if evidence.get("untrained") else []
    return _wrapped([*untrained, *(f"n={row['n']} {_level(row)}" for row in evidence["sizes"])])


def _bases_figures(evidence: Mapping[str, Any], _rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for row in evidence["bases"]:
        parts = [f"{row['base']:<16}"]
        if row["score"]:
            parts.append(_level(row["score"]))
        if row["untrained"]:
            parts.append(f"untrained {_level(row['untrained'])}")
        lines.append("   ".join(parts))
    return lines


def _quantization_figures(evidence: Mapping[str, Any], _rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for base in evidence["bases"]:
        for row in base["formats"]:
            size = wording.size(row["bytes"]) if row["bytes"] else "?"
            kl = f"{row['kl']:.4f}" if row["kl"] is not None else "–"
            name = f"{base['base']} {row['format']}" if len(evidence["bases"]) > 1 else row["format"]
            lines.append(f"{name:<15} {_level(row):<14}  {size:>9}  {kl}")
    return lines


FIGURES = {"scale": _scale_figures, "bases": _bases_figures, "quantization": _quantization_figures}


def _level(value: Mapping[str, Any]) -> str:
    """{"estimate", "low", "high"} → "3.11 ±.12"."""
    half = (value["high"] - value["low"]) / 2
    return f"{value['estimate']:.2f} ±{half:.2f}".replace("±0.", "±.")


def _wrapped(cells: Sequence[str], width: int = 96) -> list[str]:
    """Cells side by side, in lines of at most `width` characters."""
    lines: list[str] = []
    for cell in cells:
        if lines and len(lines[-1]) + len(cell) + 4 <= width:
            lines[-1] += f"    {cell}"
        else:
            lines.append(cell)
    return lines


def running_line(job: Mapping[str, Any]) -> Text:
    """One job that runs now, with its bar and what it says of itself."""
    text = Text.assemble("  ▶ ", (f"{job['label']:<{LABEL_WIDTH}}", "cyan"))
    if job["total"]:
        text.append(f" {bar(job['position'], job['total'])} {job['position']}/{job['total']}")
    metrics = job["metrics"]
    if "tokens_per_second" in metrics:
        text.append(f"  {wording.count(metrics['tokens_per_second'])} tok/s")
    if "loss" in metrics:
        text.append(f"  loss {metrics['loss']:.2f}")
    if job.get("paused"):
        text.append(f"  stands still: {job['paused']}", style="yellow")
    if job.get("ended"):
        text.append(f"  again, after {last_end(job)}", style="yellow")
    return text


def last_end(job: Mapping[str, Any]) -> str:
    """Why the last try at a job that is not done ended: "crashed: out of memory"; "" where there was none."""
    ended = job.get("ended")
    if not ended:
        return ""
    message = (ended["message"] or "").strip().partition("\n")[0]
    return f"{ended['reason']}: {message[:MESSAGE_WIDTH]}" if message else ended["reason"]


def finished_line(job: Mapping[str, Any]) -> Text:
    """One job that came to its end."""
    if job["state"] != "done":
        return Text(f"  ✘ {job['label']}: {job['state']}  {job['error'] or ''}", style="red")
    how = "reused" if job["reused"] else duration(job["seconds"]) if job["seconds"] is not None else ""
    return Text(f"  ✔ {job['label']:<{LABEL_WIDTH}}  {how}")


def total_line(now: Snapshot, reused: int, seconds: float) -> Text:
    """How many of the jobs known so far are done, and what nothing goes on without."""
    counts = now.study["jobs"]
    still = sum(bool(job.get("paused")) for job in now.jobs)
    parts = [f"{counts['done']} of {counts['total']} jobs done", f"{counts['active'] - still} running"]
    parts += [f"{still} standing still"] if still else []
    parts.append(f"{reused} reused")
    parts += [f"{count} {what}" for what, count in lost(counts).items() if count]
    if now.study.get("waiting_for"):
        parts.append(f"waiting for {now.study['waiting_for']}")
    elif now.study.get("eta_s"):
        parts.append(f"about {duration(now.study['eta_s'])} left")
    return Text(f"  {' · '.join(parts)} · {duration(seconds)}", style="dim")


def lost(counts: Mapping[str, int]) -> dict[str, int]:
    """Of a study's jobs those that have no result: `failed` themselves, or `skipped` because one they need has none."""
    return {"failed": counts["failed"] + counts["quarantined"], "skipped": counts["skipped"]}


def lost_line(study: Mapping[str, Any], file: str) -> str | None:
    """How to try again what an ended study lost, whose spec is in `file`; None when it lost nothing."""
    counts = study["jobs"]
    failed, skipped = lost(counts).values()
    if study["state"] != "ended" or not (failed or skipped):
        return None
    what = [f"{failed} job{'' if failed == 1 else 's'} failed for good"] if failed else []
    what += [f"{skipped} skipped"] if skipped else []
    again = "`jsm retry` tries them again, and what was decided stands; to decide anew give the study another name in "
    again += f"{file}: everything finished is reused"
    return f"{', '.join(what)}; {again}"


def bar(position: int, total: int) -> str:
    """ "██████░░░░" """
    full = min(BAR, round(BAR * position / total))
    return "█" * full + "░" * (BAR - full)
