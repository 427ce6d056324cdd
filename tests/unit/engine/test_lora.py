"""Adapters: ours against PEFT's own arithmetic, and the folder they are saved to."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from jsm_queue.errors import ModelError, SpecError
from jsm_queue.kinds import BaseRef
from workers.engine import bases, lora
from workers.gguf import tiny
from workers.work import Work

from .conftest import read_json, score_params, training

IDS = torch.arange(20, 44).reshape(2, 12)
LIMIT = 1e-5
"""Relative: float32 sums in another order."""


@pytest.fixture
def base(llama: Path, make_work: Callable[..., Work]) -> bases.Base:
    return bases.load(make_work(llama, score_params(llama)), False)


def test_same_logits_and_gradients_as_peft(base: bases.Base, llama: Path, tmp_path: Path):
    adapter = tiny.save_adapter(tmp_path / "adapter", llama)
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32), str(adapter), is_trainable=True
    )
    with lora.trained(base, adapter) as ours:
        for name, parameter in ours.named_parameters():
            parameter.requires_grad_("lora_" in name)
        results = []
        for model in (ours, theirs):
            logits = model(input_ids=IDS, use_cache=False).logits
            logits.square().mean().backward()
            grads = {
                n.removeprefix("base_model.model."): p.grad for n, p in model.named_parameters() if p.requires_grad
            }
            results.append({"logits": logits.detach()} | grads)
        assert results[0].keys() == results[1].keys()
        for name, value in results[0].items():
            difference = (value - results[1][name]).abs().max() / results[1][name].abs().max()
            assert difference < LIMIT, f"{name}: {difference}"


def test_adapter_is_taken_off_again(base: bases.Base, llama: Path, tmp_path: Path):
    adapter = tiny.save_adapter(tmp_path / "adapter", llama)
    with torch.inference_mode():
        before = base.model(IDS).logits
        with lora.trained(base, adapter) as model:
            assert not torch.equal(model(IDS).logits, before)
        assert torch.equal(base.model(IDS).logits, before)
        with lora.trained(base, None) as model:
            assert torch.equal(model(IDS).logits, before)


@pytest.mark.parametrize("ref", [BaseRef(form="folder"), BaseRef(form="hub", repo="org/name", revision="c0ffee")])
def test_saved_folder(base: bases.Base, ref: BaseRef, tmp_path: Path, llama: Path):
    with lora.fresh(base, training(dropout=0.1, targets=["q_proj", "down_proj"]), seed=3) as model:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        model.eval()
        expected = lora.causal_model(model)(IDS).logits.detach()
        lora.save_adapter(model, ref, tmp_path)
    config = read_json(tmp_path / "adapter_config.json")
    assert config["base_model_name_or_path"] == (ref.repo or "")
    assert config["target_modules"] == ["down_proj", "q_proj"]
    assert str(llama) not in json.dumps(config)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert len(tensors) == 2 * 2 * 2 and all(value.dtype is torch.float32 for value in tensors.values())
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32), str(tmp_path))
    assert torch.allclose(theirs(IDS).logits, expected, rtol=1e-4, atol=1e-4)


def test_targets_that_the_base_lacks(base: bases.Base):
    with pytest.raises(SpecError, match=r"training.targets"), lora.fresh(base, training(targets=["c_attn"]), 1):
        pass


@pytest.mark.parametrize(
    ("family", "targets", "message"),
    [
        ("llama", ["embed_tokens"], "embed_tokens is not a linear layer"),
        ("llama", ["q_proj", "norm"], "model.norm is not a linear layer"),
        ("qwen2", ["q_proj", "lm_head"], "lm_head shares its weights with the embeddings"),
    ],
)
def test_targets_that_cannot_carry_an_adapter(
    request: pytest.FixtureRequest, make_work: Callable[..., Work], family: str, targets: list[str], message: str
):
    folder = request.getfixturevalue(family)
    base = bases.load(make_work(folder, score_params(folder)), False)
    with pytest.raises(SpecError, match=message), lora.fresh(base, training(targets=targets), 1):
        pass
    assert not any("lora" in name for name, _ in base.model.named_modules())


def test_a_head_of_its_own_may_be_a_target(base: bases.Base):
    with lora.fresh(base, training(targets=["lm_head"]), 1) as model:
        assert any("lm_head.lora_A" in name for name, _ in model.named_parameters())
        assert lora.causal_model(model)(IDS).logits.shape[:2] == IDS.shape


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "no adapter_config.json"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 50), "not a whole safetensors"),
        (lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}'), "adapter_config.json"),
    ],
)
def test_damaged_adapters(
    base: bases.Base, llama: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
):
    adapter = tiny.save_adapter(tmp_path / "adapter", llama)
    damage(adapter)
    with pytest.raises(ModelError, match=message), lora.trained(base, adapter):
        pass


def test_adapter_of_another_base(base: bases.Base, tmp_path: Path):
    other = tiny.save_base(tmp_path / "other", "llama", hidden=512)
    adapter = tiny.save_adapter(tmp_path / "adapter", other)
    shutil.rmtree(other)
    with pytest.raises(ModelError, match="do not fit this base"), lora.trained(base, adapter):
        pass
