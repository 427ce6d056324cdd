"""Loading a base once, and leaving it as it was."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from jsm_queue.errors import ModelError
from jsm_queue.kinds import BaseRef
from workers.engine import bases, lora
from workers.gguf.export import export_f16
from workers.work import Work

from .conftest import score_params, train_params, training


def weights(base: bases.Base) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in base.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("quantized", [False, True])
def test_same_base_is_loaded_once_and_left_as_it_was(llama: Path, make_work: Callable[..., Work], quantized: bool):
    first = bases.load(make_work(llama, train_params(llama), name="a"), quantized)
    before = weights(first)
    adapters = []
    for seed in (1, 1, 2):
        with bases.training_precision(first), lora.fresh(first, training(), seed) as model:
            adapters.append({n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad})
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data.add_(1.0)
    again = bases.load(make_work(llama, score_params(llama), name="b"), quantized)
    assert again is first
    assert same(weights(again), before)
    assert same(adapters[0], adapters[1]), "each adapter begins anew"
    assert not same(adapters[0], adapters[2]), "another seed, another adapter"
    assert all(p.dtype is torch.float32 for p in adapters[0].values())
    assert bases.load(make_work(llama, train_params(llama), name="c"), not quantized) is not first


def test_another_base_replaces_the_kept_one(llama: Path, qwen2: Path, make_work: Callable[..., Work]):
    first = bases.load(make_work(llama, score_params(llama), name="a"), False)
    bases.load(make_work(qwen2, score_params(qwen2), name="b"), False)
    assert bases.load(make_work(llama, score_params(llama), name="c"), False) is not first


def test_bfloat16_and_back_changes_nothing(
    llama: Path, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bases, "_multiplies_bfloat16", lambda: True)
    base = bases.load(make_work(llama, score_params(llama)), False)
    before, buffers = weights(base), {name: value.clone() for name, value in base.model.named_buffers()}
    with bases.training_precision(base):
        assert base.model.dtype is torch.bfloat16
        assert same(dict(base.model.named_buffers()), buffers)
    assert same(weights(base), before)


def test_float32_base_is_never_rounded(
    llama: Path, tmp_path: Path, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bases, "_multiplies_bfloat16", lambda: True)
    folder = shutil.copytree(llama, tmp_path / "float32")
    tensors = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    base = bases.load(make_work(folder, score_params(folder)), False)
    with bases.training_precision(base):
        assert base.model.dtype is torch.float32


def test_weights_that_do_not_fit_the_config(llama: Path, tmp_path: Path, make_work: Callable[..., Work]):
    folder = shutil.copytree(llama, tmp_path / "short")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 tensors, such as model.layers.1.mlp.up_proj.weight"):
        bases.load(make_work(folder, score_params(folder)), False)


def test_weights_of_another_shape_than_the_config_says(llama: Path, tmp_path: Path, make_work: Callable[..., Work]):
    folder = shutil.copytree(llama, tmp_path / "narrow")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    wide, deep = tensors[name].shape
    tensors[name] = tensors[name][:8].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"such as {name} \(8 × {deep}; by config.json {wide} × {deep}\)"):
        bases.load(make_work(folder, score_params(folder)), False)


def test_base_without_tokenizer(llama: Path, tmp_path: Path, make_work: Callable[..., Work]):
    folder = tmp_path / "mute"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(llama / name, folder)
    with pytest.raises(ModelError, match="tokenizer"):
        bases.load(make_work(folder, score_params(folder)), False)


def test_gguf_base_is_unpacked_once_a_process(qwen2: Path, tmp_path: Path, make_work: Callable[..., Work]):
    (tmp_path / "gguf").mkdir()
    export_f16(qwen2, None, tmp_path / "gguf" / "model.gguf", None, lambda done, total: None)
    params = score_params(qwen2).model_copy(update={"base": BaseRef(form="gguf", files={"model.gguf": "0" * 64})})
    work = make_work(tmp_path / "gguf", params)
    folder = bases.base_folder(work)
    base = bases.load(work, False)
    assert bases.base_folder(make_work(tmp_path / "gguf", params, name="b")) == folder
    ids = torch.arange(20, 40)[None]
    with torch.inference_mode():
        theirs = AutoModelForCausalLM.from_pretrained(qwen2, dtype=torch.float32)(ids).logits
        difference = (base.model(ids).logits - theirs).abs().max() / theirs.std()
    assert difference < 0.01, f"F16 rounds to 11 bits, found {difference}"
    own = bases.load_tokenizer(qwen2)
    assert base.tokenizer("堤防<|im_end|>")["input_ids"] == own("堤防<|im_end|>")["input_ids"]
    assert base.template.text == own.chat_template
    assert str(tmp_path) not in (folder / "config.json").read_text()


def test_gguf_with_scaled_rotary_frequencies_is_refused(llama: Path, tmp_path: Path, make_work: Callable[..., Work]):
    (tmp_path / "gguf").mkdir()
    export_f16(llama, None, tmp_path / "gguf" / "model.gguf", None, lambda done, total: None)
    params = score_params(llama).model_copy(update={"base": BaseRef(form="gguf", files={"model.gguf": "2" * 64})})
    with pytest.raises(ModelError, match="rotary frequencies are scaled"):
        bases.base_folder(make_work(tmp_path / "gguf", params))


def test_gguf_that_transformers_cannot_read(tmp_path: Path, make_work: Callable[..., Work], llama: Path):
    source = tmp_path / "gguf"
    source.mkdir()
    writer = GGUFWriter(source / "model.gguf", "nothing-known")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    params = score_params(llama).model_copy(update={"base": BaseRef(form="gguf", files={"model.gguf": "1" * 64})})
    with pytest.raises(ModelError, match=r"model.gguf: no GGUF export for 'nothing-known'"):
        bases.base_folder(make_work(source, params))
    with pytest.raises(ModelError, match="expected one GGUF file, found 0"):
        bases.base_folder(make_work(llama, params, name="b"))


@pytest.mark.parametrize("trouble", [OSError(errno.EIO, "Input/output error"), ImportError("no bitsandbytes")])
def test_this_machines_trouble_is_not_the_bases(
    make_work, llama: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise trouble

    monkeypatch.setattr(bases.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(type(trouble)):
        bases.load(make_work(llama, score_params(llama)), quantized=False)
