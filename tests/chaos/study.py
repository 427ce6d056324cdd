"""The study of sixty jobs that the faults fall on, and its files."""

from dataclasses import dataclass
from pathlib import Path

from jsm_queue import planner
from jsm_queue.canonical import file_hash
from jsm_queue.kinds import BaseRef, FileRef, Inputs
from jsm_queue.spec import StudySpec, parse_spec

LEAVES = ("pairs.jsonl", "config.json", "model.safetensors")
SIZES = (8, 16, 24, 32)


@dataclass(frozen=True)
class Toy:
    """The study's spec and inputs, its files by their hash."""

    spec: StudySpec
    inputs: Inputs
    files: dict[str, Path]


def make(folder: Path, short: bool) -> Toy:
    """Write the study's files. All kinds and all stages; a short one has fewer seeds and formats."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [1] if short else [1, 2]
    spec = parse_spec(
        {
            "name": "chaos",
            "data": {"source": LEAVES[0]},
            "bases": [{"name": "a", "source": "./a"}, {"name": "b", "source": "./b"}],
            "stages": {
                "scale": {"base": "a", "sizes": list(SIZES[2:] if short else SIZES), "seeds": seeds},
                "bases": {"seeds": seeds},
                "quantization": {"formats": ["F16", "Q8_0"] if short else ["F16", "Q8_0", "Q5_K_M", "Q4_K_M"]},
            },
        }
    )
    shas = {}
    for name in LEAVES:
        (folder / name).write_text(name * 100, encoding="utf-8")
        shas[name] = file_hash(folder / name)
    base = BaseRef(form="folder", files={name: shas[name] for name in LEAVES[1:]})
    inputs = Inputs(source=FileRef(sha=shas[LEAVES[0]], suffix=".jsonl"), bases={"a": base, "b": base})
    return Toy(spec, inputs, {sha: folder / name for name, sha in shas.items()})


def size(toy: Toy) -> int:
    """How many jobs the study has when the verdicts choose as `preview` supposes."""
    return len({wanted.job.id for wanted in planner.preview(toy.spec, toy.inputs)})


def scenes(toy: Toy, name: str) -> Toy:
    """Many trainings, and what follows from them. Under another name it is another study with the same jobs."""
    spec = toy.spec.model_dump(mode="json", exclude_defaults=True)
    stages = {"scale": {"base": "a", "sizes": list(SIZES), "seeds": [1, 2]}}
    return Toy(parse_spec(spec | {"name": name, "stages": stages, "training": {"epochs": 2}}), toy.inputs, toy.files)
