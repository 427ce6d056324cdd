"""At the worker a base that looks whole and is not ends its job as `error`; this machine's trouble does not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from jsm_queue.errors import ModelError
from jsm_queue.kinds import BaseRef
from tests import gguf_files
from workers import runner
from workers.engine import bases, folders
from workers.gguf import tensors, tiny
from workers.gguf.export import export_f16
from workers.work import Device


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_base(tmp_path_factory.mktemp("whole"), "qwen2", hidden=64)


@pytest.fixture
def base(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "base")


def edit(folder: Path, name: str, key: str, value: Any) -> None:
    """Changes one key of a JSON file; `a.b` is one inside."""
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    part, (*above, last) = content, key.split(".")
    for step in above:
        part = part[step]
    part[last] = value
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def load(folder: Path) -> None:
    bases._load(BaseRef(form="folder"), folder, Device("cpu", 1), quantized=False)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("config.json", "hidden_act", "nothing"),
        ("config.json", "rms_norm_eps", "small"),
        ("config.json", "rope_parameters", 7),
        ("config.json", "rope_parameters", {"rope_type": "nothing"}),
        ("config.json", "vocab_size", 1000),
        ("config.json", "num_hidden_layers", 3),
        ("config.json", "layer_types", ["nothing"]),
        ("tokenizer.json", "model.vocab", {"a": "b"}),
        ("tokenizer.json", "model.merges", [["a"]]),
        ("tokenizer.json", "added_tokens", [{"a": 1}]),
        ("tokenizer.json", "pre_tokenizer", {"type": "Nothing"}),
        ("tokenizer_config.json", "tokenizer_class", 7),
        ("tokenizer_config.json", "model_max_length", "long"),
    ],
)  # fmt: skip
def test_a_base_that_looks_whole(base: Path, name: str, key: str, value: Any) -> None:
    edit(base, name, key, value)
    with pytest.raises(ModelError) as caught:
        load(base)
    assert runner.classify(caught.value)[0] == "error" and caught.value.fix


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("config.json", "hidden_act", "gelu"),
        ("tokenizer_config.json", "eos_token", None),
    ],
)
def test_a_base_that_cannot_be_exported(base: Path, tmp_path: Path, name: str, key: str, value: Any) -> None:
    edit(base, name, key, value)
    with pytest.raises(ModelError):
        export_f16(base, None, tmp_path / "out.gguf")
    assert list(tmp_path.glob("out.gguf*")) == [], "nothing half-done"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("r", 0, "r is 0"),
        ("r", "8", "r is '8'"),
        ("lora_alpha", None, "lora_alpha None"),
        ("peft_type", "IA3", "not plain LoRA"),
        ("use_dora", True, "not plain LoRA"),
    ],
)  # fmt: skip
def test_an_adapters_settings(whole: Path, tmp_path: Path, key: str, value: Any, message: str) -> None:
    folder = tiny.save_adapter(tmp_path / "adapter", whole)
    edit(folder, "adapter_config.json", key, value)
    with pytest.raises(ModelError, match=message):
        tensors.read_adapter(folder)


def test_an_adapters_files(whole: Path, tmp_path: Path) -> None:
    folder = tiny.save_adapter(tmp_path / "adapter", whole)
    weights = load_file(folder / "adapter_model.safetensors")
    half = {name: value for name, value in weights.items() if "layers.0.mlp.up_proj.lora_B" not in name}
    save_file(half, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"one matrix alone of model\.layers\.0\.mlp\.up_proj"):
        tensors.read_adapter(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        tensors.read_adapter(folder)
    (folder / "adapter_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match="does not hold an object"):
        tensors.read_adapter(folder)


def test_an_adapter_of_another_base(base: Path, tmp_path: Path) -> None:
    other = tiny.save_adapter(tmp_path / "adapter", tiny.save_base(tmp_path / "wide", "qwen2", hidden=128))
    with pytest.raises(ModelError, match="does not fit this base"):
        export_f16(base, other, tmp_path / "out.gguf")


def test_a_gguf_base_that_is_cut_off(tmp_path: Path) -> None:
    path = gguf_files.write(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"m\.gguf: .* bytes where its header says"):
        folders.unpack_gguf(path, tmp_path / "base")


def test_a_gguf_base_that_only_its_header_calls_whole(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be unpacked") as caught:
        folders.unpack_gguf(gguf_files.write(tmp_path / "m.gguf"), tmp_path / "base")
    assert runner.classify(caught.value)[0] == "error"
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (ImportError("no module gguf"), "crashed"),
        (MemoryError(), "oom"),
        (torch.OutOfMemoryError("CUDA out of memory"), "oom"),
        (RuntimeError("CUDA error: no kernel image"), "crashed"),
        (OSError(28, "No space left on device"), "disk"),
        (PermissionError(13, "denied"), "crashed"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_this_machines_trouble_while_unpacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception, reason: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise trouble

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(type(trouble)) as caught:
        folders.unpack_gguf(gguf_files.write(tmp_path / "m.gguf"), tmp_path / "base")
    assert runner.classify(caught.value)[0] == reason
