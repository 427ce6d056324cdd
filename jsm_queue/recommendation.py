"""What to deploy: one sentence from the verdicts and the limits, with what it rests on. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jsm_queue import stats, wording
from jsm_queue.comparison import rounded
from jsm_queue.planner import answer_format, used_bases
from jsm_queue.spec import Limits, StudySpec
from jsm_queue.verdicts import Verdict, by_size

VRAM_OVERHEAD = 2**30
"""Bytes beside the file: keys and values of 2 048 tokens (256 MiB for an 8B with 8 KV heads), compute buffers
and the CUDA context."""


def recommend(
    spec: StudySpec,
    verdicts: Mapping[str, Verdict],
    timings: Mapping[str, Sequence[float]],
    sizes: Mapping[str, float],
    failed: Mapping[tuple[str, str], Sequence[str]],
) -> dict[str, Any]:
    """What to deploy, in one sentence, with what it rests on and what to keep in mind.

    `timings`: cell label → seconds of each timed question; `sizes`: cell label → bytes of its GGUF file;
    `failed`: (stage, cell label or "") → the kinds of job that ended there without a result.
    The spec's limits act here and nowhere else. Among what fits: the smallest equivalent format of the best
    base; where no equivalent format fits, the highest score.
    """
    options = [_with_costs(option, timings, sizes) for option in _options(spec, verdicts)]
    reasons = [_exceeds(option, spec.limits) for option in options]
    excluded = [
        {"base": option["base"], "format": option["format"], "why": why}
        for option, why in zip(options, reasons, strict=True)
        if why
    ]
    chosen = _choice([option for option, why in zip(options, reasons, strict=True) if not why])
    caveats = _caveats(spec, verdicts, chosen, failed)
    rests_on = [
        f"{stage}: {wording.headline(stage, verdicts[stage].decision, verdicts[stage].evidence)}"
        for stage in ("scale", "bases", "quantization")
        if stage in verdicts
    ]
    common = {"rests_on": rests_on, "caveats": caveats, "excluded": excluded}
    if chosen is None:
        return (_size_alone(spec, verdicts) or _nothing(verdicts, bool(options))) | common
    sure = all(verdict.decision["status"] == "decided" for verdict in verdicts.values())
    sure = sure and chosen["relation"] in ("reference", "equivalent")
    return {"status": "decided" if sure else "undecided", "sentence": _sentence(chosen)} | chosen | common


def _size_alone(spec: StudySpec, verdicts: Mapping[str, Verdict]) -> dict[str, Any] | None:
    """What a study of stage `scale` alone says: how much to train on. None for others, and where it failed."""
    scale, verdict = spec.stages.scale, verdicts.get("scale")
    if spec.stages.bases or spec.stages.quantization or scale is None or verdict is None:
        return None
    n, best = verdict.decision["n"], verdict.decision["best"]
    if n is None:
        return None
    why = "the best size measured" if n == best else f"shown not worse than {wording.count(best)}, the best size"
    sentence = f"Train {scale.base} on {wording.count(n)} examples: {why}."
    return {"status": verdict.decision["status"], "sentence": sentence, "base": scale.base, "n": n}


def _nothing(verdicts: Mapping[str, Verdict], measured: bool) -> dict[str, Any]:
    failed = [stage for stage, verdict in verdicts.items() if verdict.decision["status"] == "failed"]
    why = "no stage that chooses a model has ended"
    if measured:
        why = "nothing that was measured fits the limits"
    elif failed:
        why = f"stage {failed[0]} has no result, because its jobs failed"
    return {"status": "none", "sentence": f"No recommendation: {why}."}


def _options(spec: StudySpec, verdicts: Mapping[str, Verdict]) -> list[dict[str, Any]]:
    """What could be deployed, the best base first: its formats, or without stage 3 stage 2's answers."""
    keys = ("format", "n", "adapter", "cells", "relation", "estimate", "low", "high", "items", "changed", "bytes")
    quantized = verdicts["quantization"].evidence["bases"] if "quantization" in verdicts else []
    if quantized:
        rows = [
            (row["base"], fmt | {"changed": fmt["difference"].get("changed")})
            for row in quantized
            for fmt in row["formats"]
        ]
        return [{"base": base} | {key: fmt.get(key) for key in keys} for base, fmt in rows]
    if "bases" not in verdicts:
        return []
    known = {row["base"]: row for row in verdicts["bases"].evidence["bases"]}
    shared = {"format": answer_format(spec), "relation": "reference", "changed": None}
    chosen = [known[base] for base in verdicts["bases"].decision["chosen"]]
    return [
        {key: row.get(key) for key in ("base", "n", "adapter", "cells", "bytes")} | row["score"] | shared
        for row in chosen
    ]


def _with_costs(
    option: dict[str, Any], timings: Mapping[str, Sequence[float]], sizes: Mapping[str, float]
) -> dict[str, Any]:
    times = [second for cell in option["cells"] for second in timings.get(cell, ())]
    known = [sizes[cell] for cell in option["cells"] if cell in sizes]
    p50, p95 = map(rounded, stats.quantiles(times, [0.5, 0.95])) if times else (None, None)
    return option | {"seconds_p50": p50, "seconds_p95": p95, "bytes": known[0] if known else option["bytes"]}


def _exceeds(option: Mapping[str, Any], limits: Limits) -> str | None:
    """Why an option does not fit, or None. What was not measured excludes nothing; a caveat names it."""
    size, p95 = option["bytes"], option["seconds_p95"]
    if limits.file_gb and size and size > limits.file_gb * 1e9:
        return f"file {wording.size(size)} > {limits.file_gb:g} GB"
    if limits.vram_gib and size and size + VRAM_OVERHEAD > limits.vram_gib * 2**30:
        return f"about {(size + VRAM_OVERHEAD) / 2**30:.1f} GiB of GPU memory > {limits.vram_gib:g} GiB"
    if limits.seconds_per_question and p95 and p95 > limits.seconds_per_question:
        return f"p95 {wording.seconds(p95)} a question > {limits.seconds_per_question:g} s"
    return None


def _choice(fitting: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Options come best base first."""
    equivalent = [option for option in fitting if option["relation"] in ("reference", "equivalent")]
    if equivalent:
        return min((option for option in equivalent if option["base"] == equivalent[0]["base"]), key=by_size)
    return max(fitting, key=lambda option: option["estimate"], default=None)


def _sentence(chosen: Mapping[str, Any]) -> str:
    made = "with the adapter that was given" if chosen["adapter"] else "untrained"
    if chosen["n"]:
        made = f"fine-tuned on {wording.count(chosen['n'])} examples"
    model = f"{chosen['base']}, {made}, as {chosen['format']}"
    words = [f"{wording.interval(chosen)} of 3 points on {chosen['items']} questions"]
    if chosen["bytes"]:
        words.append(wording.size(chosen["bytes"]))
    if chosen["seconds_p95"] is not None:
        p50, p95 = (wording.seconds(chosen[key]) for key in ("seconds_p50", "seconds_p95"))
        words.append(f"{p50} a question (95 % within {p95})")
    return f"Deploy {model}: {', '.join(words)}."


def _caveats(
    spec: StudySpec,
    verdicts: Mapping[str, Verdict],
    chosen: Mapping[str, Any] | None,
    failed: Mapping[tuple[str, str], Sequence[str]],
) -> list[str]:
    """What a careful reader would want to know before deploying, most important first."""
    found: list[str] = []
    for stage, verdict in verdicts.items():
        found += _stage_caveats(stage, verdict.decision, verdict.evidence)
    if chosen:
        found += _choice_caveats(spec, chosen)
    missing = sorted(
        {
            wording.place(cell or f"{stage} as a whole", failed.get((stage, cell), ()))
            for stage, verdict in verdicts.items()
            for cell in verdict.decision["missing"]
        }
    )
    if missing:
        found.append("Not measured, because a job failed: " + ", ".join(missing) + ".")
    choices = [what for stage, what in (("bases", "base"), ("quantization", "format")) if stage in verdicts]
    if choices:
        found += _adapter_caveats(spec)
    if choices and spec.data.bench is None:
        what = " and ".join(choices) if len(choices) > 1 else f"the {choices[0]}"
        found.append(f"No bench was given: the test questions chose {what}, so their scores flatter the choice.")
    if spec.judge.kind == "key_facts":
        found.append("Judge: key facts, not calibrated on human labels.")
    else:
        found.append("Judge: a language model, not calibrated on human labels.")
    return found


def _adapter_caveats(spec: StudySpec) -> Iterator[str]:
    for base in used_bases(spec):
        if base.adapter is not None:
            yield (
                f"The adapter of {base.name} was given: its data and its settings are not this study's, and questions "
                "of the bench may be among what it was trained on."
            )


def _stage_caveats(stage: str, decision: Mapping[str, Any], evidence: Mapping[str, Any]) -> Iterator[str]:
    if stage == "scale":
        yield from (f"Stage scale is undecided: {reason}." for reason in evidence["reasons"])
        if decision["still_falling"]:
            yield "The NLL still falls at the largest training size: more data may help."
    if stage == "bases":
        yield from _bases_caveats(decision, evidence)
    if decision.get("unjudged"):
        yield f"Stage {stage} is undecided: {wording.unjudged(decision)}."
    if stage == "quantization" and decision.get("bench_cannot_tell"):
        end = wording.TOO[decision["bench_cannot_tell"]]
        yield f"{end[0].upper()}{end[1:]} to tell formats apart: what is equivalent here may differ elsewhere."
    if stage == "quantization" and decision["status"] != "failed":
        for row in evidence["bases"][0]["formats"]:
            if row["relation"] == "undecided":
                yield _undecided_format(row)
    for cell in decision.get("parity_failed", []):
        yield f"Parity failed: the GGUF of {cell} ({stage}) does not behave like the model it was made from."


def _undecided_format(row: Mapping[str, Any]) -> str:
    """What was seen of it, and what that cannot exclude."""
    words = f"Whether {row['format']} is as good was not decided by these questions"
    seen = row["difference"]
    if "least" in seen:  # verdicts of rules version 1 have none
        loss = -min(seen["low"], seen["least"])
        words += f": {seen['changed']} of {seen['items']} differ, which allows a loss of {loss:.2f} points"
    return words + (f"; about {wording.count(row['needs'])} questions would decide." if row["needs"] else ".")


def _bases_caveats(decision: Mapping[str, Any], evidence: Mapping[str, Any]) -> Iterator[str]:
    if decision["bench_cannot_tell"]:
        yield f"Stage bases is undecided: {wording.silence(decision)}."
    for pair in evidence["pairs"]:
        if pair["a"] in decision["chosen"] and pair["b"] not in decision["chosen"] and pair["relation"] == "undecided":
            needs = f"; about {wording.count(pair['needs'])} questions would decide" if pair["needs"] else ""
            yield f"{pair['a']} is not shown better than {pair['b']}{needs}."
    for row in evidence["bases"]:
        if row["base"] in decision["chosen"] and row["gain"] and row["gain"]["low"] <= 0:
            gain = wording.signed(row["gain"])
            yield f"{row['base']} is not shown better than itself untrained: {gain} points."


def _choice_caveats(spec: StudySpec, chosen: Mapping[str, Any]) -> Iterator[str]:
    if chosen["relation"] not in ("reference", "equivalent"):
        yield f"No format that is shown equivalent fits the limits: {chosen['format']} is {chosen['relation']}."
    if chosen["changed"] == 0:
        share = stats.undetected_share(chosen["items"])
        yield (
            f"{chosen['format']} scored the same on all {chosen['items']} questions; that still allows "
            f"a difference on up to {100 * share:.0f} % of such questions (95 % confidence)."
        )
    if chosen["n"] is None and not chosen["adapter"]:
        yield f"{chosen['base']} is not fine-tuned: what training it would gain was not measured."
    if len(chosen["cells"]) == 1 and chosen["n"]:
        yield "One seed: how much another training would differ is not known."
    limits = spec.limits
    if chosen["seconds_p95"] is None and limits.seconds_per_question:
        yield "Not timed: whether it fits the limit on seconds is not known."
    if not chosen["bytes"] and (limits.file_gb or limits.vram_gib):
        yield "Its file size is not known, so neither is whether it fits."
