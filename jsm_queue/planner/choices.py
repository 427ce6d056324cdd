"""What a spec and the verdicts so far have chosen: sizes, bases, seeds."""

from collections.abc import Mapping
from typing import Any

from jsm_queue.spec import BaseSpec, BasesStage, Format, StudySpec


def chosen_n(spec: StudySpec, decisions: Mapping[str, Mapping[str, Any]]) -> int | None:
    """The training size of stages 2 and 3: stage 1's n*, or the spec's own; None where nothing is trained."""
    if spec.stages.scale:
        return decisions.get("scale", {}).get("n")
    stage = spec.stages.bases or spec.stages.quantization
    return stage.n if stage else None


def chosen_bases(spec: StudySpec, decisions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The bases of stage 3: stage 2's choice, or those that the spec names, or stage 1's; none while there is none."""
    stages = spec.stages
    if stages.bases:
        return decisions.get("bases", {}).get("chosen", [])
    named = stages.quantization.bases if stages.quantization else None
    return named or ([stages.scale.base] if stages.scale else [])


def seeds(spec: StudySpec) -> list[int]:
    """The seeds of stages 2 and 3. The first of them is the one that is timed, and whose answers are shown."""
    stages = spec.stages
    if stages.bases:
        return stages.bases.seeds
    own = stages.quantization.seeds if stages.quantization else None
    return own or (stages.scale.seeds if stages.scale else BasesStage().seeds)


def answer_format(spec: StudySpec) -> Format:
    """The format in which stages 1 and 2 answer questions."""
    return (spec.stages.bases or BasesStage()).answer_format


def used_bases(spec: StudySpec) -> list[BaseSpec]:
    """The bases that some stage may measure: all of them where stage 2 is not left out."""
    if spec.stages.bases:
        return spec.bases
    names = {*chosen_bases(spec, {})} if spec.stages.quantization else set()
    names |= {spec.stages.scale.base} if spec.stages.scale else set()
    return [base for base in spec.bases if base.name in names]
