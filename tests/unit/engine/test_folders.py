"""What is wrong with a base is said before anything is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jsm_queue.errors import ModelError
from workers.engine.folders import check_folder, stored_in_bfloat16


@pytest.fixture
def copy(llama: Path, tmp_path: Path) -> Path:
    return shutil.copytree(llama, tmp_path / "base")


def edit(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def truncate(name: str, size: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:size])

    return change


def pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index_a_missing_file(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (truncate("config.json", 40), "not valid JSON"),
        (edit(model_type="own", auto_map={"AutoModel": "own.Model"}), "'own'\\) needs Python code of its own"),
        (edit(model_type="vit"), "'vit'\\) is not covered"),
        (edit(quantization_config={"quant_method": "gptq"}), "quantized already"),
        (pickle_weights, r"pickled \(pytorch_model.bin\)"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
        (truncate("model.safetensors", 100_000), "100000 bytes where its header says"),
        (truncate("model.safetensors", 1_000), "not a whole safetensors file"),
        (truncate("model.safetensors", 4), "not a whole safetensors file"),
        (index_a_missing_file, r"weights are missing: model-2.safetensors"),
    ],
)
def test_unusable_bases(copy: Path, damage: Callable[[Path], None], message: str):
    damage(copy)
    with pytest.raises(ModelError, match=message) as caught:
        check_folder(copy)
    assert caught.value.fix


def test_usable_base(copy: Path):
    assert check_folder(copy)["model_type"] == "llama"
    assert stored_in_bfloat16(copy)
