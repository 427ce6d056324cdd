"""Small studies for tests: specs and inputs that need no files."""

from typing import Any

from jsm_queue.kinds import BaseRef, FileRef, Inputs
from jsm_queue.spec import BaseSpec, StudySpec, parse_spec


def sha(text: str) -> str:
    """A well-formed hash that stands for a file."""
    return (text.encode().hex() * 64)[:64]


def spec(**changes: Any) -> StudySpec:
    """Two bases that are trained, one that is not; three stages."""
    value: dict[str, Any] = {
        "name": "toy",
        "data": {"source": "data.yaml"},
        "bases": [
            {"name": "a", "source": "bases/a"},
            {"name": "b", "source": "bases/b"},
            {"name": "ref", "source": "ref.gguf", "train": False},
        ],
        "stages": {
            "scale": {"base": "a", "sizes": [10, 20], "seeds": [1, 2]},
            "bases": {"seeds": [1, 2]},
            "quantization": {"formats": ["F16", "Q8_0"]},
        },
    }
    return parse_spec(value | changes)


def base_ref(of: BaseSpec) -> BaseRef:
    """A base of one file, with the adapter that its spec gives."""
    adapter = {"adapter_model.safetensors": sha(of.adapter)} if of.adapter else {}
    return BaseRef(form="folder", files={"model.safetensors": sha(of.name)}, adapter=adapter)


def inputs(of: StudySpec) -> Inputs:
    """What the spec's names would resolve to."""
    bases = {b.name: base_ref(b) for b in of.bases}
    return Inputs(source=FileRef(sha=sha("data"), suffix=".yaml"), bases=bases)
