"""An adapter that a spec gives: a plain LoRA folder of that base, or refused before anything is uploaded."""

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import pytest

from jsm_queue.canonical import file_hash
from jsm_queue.cli import resolve
from jsm_queue.cli.adapterfiles import with_adapter
from jsm_queue.cli.basefiles import base_files
from jsm_queue.errors import (
    JsmError,
    ModelDamagedError,
    ModelError,
    ModelMissingError,
    ModelUnsafeError,
    ModelUnsupportedError,
)
from jsm_queue.kinds import BaseRef
from jsm_queue.spec import BaseSpec, parse_spec
from jsm_queue.store.access import leaves

RIVER = Path(__file__).resolve().parents[3] / "examples" / "river" / "bases" / "river-qwen2"
WEIGHT = "base_model.model.model.layers.0.self_attn.{}.lora_{}.weight"
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "use_dora": False}


def shapes(**modules: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """LoRA pairs of rank 4 for modules of so many outputs and inputs."""
    pairs: dict[str, tuple[int, ...]] = {}
    for name, (out, into) in modules.items():
        pairs |= {WEIGHT.format(name, "A"): (4, into), WEIGHT.format(name, "B"): (out, 4)}
    return pairs


def write_weights(path: Path, of: dict[str, tuple[int, ...]]) -> None:
    header: dict[str, Any] = {}
    place = 0
    for name, shape in of.items():
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [place, place + 4 * prod(shape)]}
        place += 4 * prod(shape)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(place))


def river_shape(module: str) -> tuple[int, int]:
    with (RIVER / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return tuple(header[f"model.layers.0.self_attn.{module}.weight"]["shape"])


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with a good adapter of the demo's base."""
    (tmp_path / "a file").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "adapter_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    write_weights(tmp_path / "mine" / "adapter_model.safetensors", shapes(q_proj=river_shape("q_proj")))
    (tmp_path / "mine" / "README.md").write_text("a card", encoding="utf-8")
    return tmp_path


def resolved(folder: Path, source: str = RIVER.as_posix(), adapter: str = "./mine") -> tuple[BaseRef, dict[str, Path]]:
    """What a base with an adapter stands for, and the files to upload. Raises as `jsm submit` would."""
    base = BaseSpec(name="mine", source=source, adapter=adapter, train=False)
    files: dict[str, Path] = {}
    ref, _ = base_files(base, folder, files, _raise, ask_hub=False)
    return with_adapter(base, ref, folder, files, _raise), files


def _raise(error: JsmError) -> None:
    raise error


def test_its_two_files_are_uploaded_with_the_base(study: Path) -> None:
    ref, files = resolved(study)
    assert sorted(ref.adapter) == ["adapter_config.json", "adapter_model.safetensors"]
    assert files[ref.adapter["adapter_config.json"]] == study / "mine" / "adapter_config.json"


def test_they_lie_where_a_trained_adapter_would(study: Path) -> None:
    ref, _ = resolved(study)
    found = leaves({"base": ref.model_dump(mode="json")})
    assert ("adapter", "adapter_config.json", file_hash(study / "mine" / "adapter_config.json")) in found
    assert {folder for folder, _, _ in leaves({"base": ref.bare.model_dump(mode="json")})} == {"base"}


def test_a_sketch_names_what_is_missing_and_still_tells_adapter_and_base_apart(tmp_path: Path) -> None:
    value = {"name": "s", "data": {"source": "data.jsonl"}, "stages": {"quantization": {"bases": ["mine"]}}}
    base = {"name": "mine", "source": "org/base", "adapter": "./mine", "train": False}
    found, warnings = resolve.sketch(parse_spec(value | {"bases": [base]}), tmp_path)
    assert any("bases.mine.adapter" in line for line in warnings)
    assert found.inputs.bases["mine"] != found.inputs.bases["mine"].bare


def test_of_a_hub_base_only_the_adapter_itself_is_looked_at(study: Path) -> None:
    write_weights(study / "mine" / "adapter_model.safetensors", shapes(other=(3, 5)))
    assert resolved(study, "org/base")[0].adapter


def config(**changes: Any) -> dict[str, Any]:
    return {"config": CONFIG | changes}


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (config(peft_type="LOHA"), ModelUnsupportedError, "peft_type is 'LOHA'"),
        (config(use_dora=True), ModelUnsupportedError, "use_dora"),
        (config(modules_to_save=["lm_head"]), ModelUnsupportedError, "modules_to_save"),
        (config(bias="all"), ModelUnsupportedError, "bias"),
        (config(r=0), ModelDamagedError, "r is 0"),
        (config(lora_alpha="much"), ModelDamagedError, "lora_alpha is 'much'"),
        ({"config": []}, ModelDamagedError, "does not hold an object"),
        (
            {"weights": shapes(q_proj=(7, 9))},
            ModelError,
            r"changes model.layers.0.self_attn.q_proj of \(7, 9\), .* is \(",
        ),
        ({"weights": shapes(z_proj=(7, 9))}, ModelError, "z_proj of .* is not there"),
        ({"weights": {"x": (1,)}}, ModelUnsupportedError, "not pairs of LoRA matrices alone"),
        ({"weights": {WEIGHT.format("q_proj", "A"): (4, 8)}}, ModelUnsupportedError, "not pairs"),
        (
            {"weights": {WEIGHT.format("q_proj", "A"): (4, 8), WEIGHT.format("q_proj", "B"): (8, 5)}},
            ModelDamagedError,
            "do not fit each other",
        ),
        ({"cut": True}, ModelDamagedError, "bytes where its header says"),
    ],
)
def test_what_is_no_plain_lora_of_this_base_is_refused(
    study: Path, change: dict[str, Any], error: type[ModelError], said: str
) -> None:
    weights = study / "mine" / "adapter_model.safetensors"
    if "config" in change:
        (study / "mine" / "adapter_config.json").write_text(json.dumps(change["config"]), encoding="utf-8")
    if "weights" in change:
        write_weights(weights, change["weights"])
    if "cut" in change:
        weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(error, match=said) as caught:
        resolved(study)
    assert caught.value.message.startswith("bases.mine.adapter: ") and caught.value.fix


def test_pickled_weights_are_refused(study: Path) -> None:
    (study / "mine" / "adapter_model.safetensors").rename(study / "mine" / "adapter_model.bin")
    with pytest.raises(ModelUnsafeError, match="pickled"):
        resolved(study)


@pytest.mark.parametrize("adapter", ["./nothing", "a file", "."])
def test_a_folder_that_is_not_there_or_no_adapter_is_named(study: Path, adapter: str) -> None:
    with pytest.raises(ModelMissingError, match=r"bases\.mine\.adapter"):
        resolved(study, adapter=adapter)
