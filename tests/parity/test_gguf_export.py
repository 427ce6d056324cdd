"""The GGUF that we export is the model that transformers runs: logits and tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from workers.gguf import llama, tiny
from workers.gguf.export import export_f16
from workers.work import Device

CPU = Device("cpu", 1)
LOGITS_TOLERANCE = 0.03
"""Share of the logits' own spread: llama.cpp rounds weights, activations and the KV cache to F16, 11 bits."""

FAMILIES: list[tiny.Family] = ["llama", "mistral", "qwen2", "qwen3"]
TEXTS = [
    "堤防は河川の氾濫を防ぐ施設です。",
    "ダムの高さは 123.45 m、it's 07:30\n\n  \tです!!  ",
    "<|im_start|>user\n砂防堰堤とは?<|im_end|>\n<|im_start|>assistant\n",
    "<|start_header_id|>user<|end_header_id|>\n\n計画高水位<|eot_id|>",
    "ﾊﾝｶｸ㎥ 🌊 洪水 ¼ Ⅳ級 é can’t WON'T",
    "",
]


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_base(tmp_path_factory.mktemp("base"), request.param)


@pytest.fixture(scope="module")
def gguf(base: Path) -> Path:
    out = base.parent / f"{base.name}.gguf"
    export_f16(base, None, out)
    return out


@pytest.mark.parametrize("adapted", [False, True])
def test_logits_equal_the_torch_model(base: Path, tmp_path: Path, adapted: bool) -> None:
    adapter = tiny.save_adapter(tmp_path / "adapter", base) if adapted else None
    out = tmp_path / "model.gguf"
    export_f16(base, adapter, out)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    ids = torch.randint(0, 380, (300,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    with llama.open_gguf(out, CPU, 512) as loaded:
        found = loaded.logits(ids, 0)
    difference = np.abs(found - expected).max() / expected.std()
    agreement = (found.argmax(1) == expected.argmax(1)).mean()
    assert difference < LOGITS_TOLERANCE, f"largest difference {difference:.4f} of a standard deviation"
    assert agreement > 0.98, f"same top token at {agreement:.3f} of the positions"


def test_the_adapter_matters(base: Path, tmp_path: Path) -> None:
    adapter = tiny.save_adapter(tmp_path / "adapter", base)
    weights = []
    for name, folder in (("plain", None), ("adapted", adapter)):
        export_f16(base, folder, tmp_path / name)
        with llama.open_gguf(tmp_path / name, CPU, 64) as loaded:
            weights.append(loaded.logits([5, 6, 7], 0))
    assert np.abs(weights[0] - weights[1]).max() > weights[0].std()


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_equal_the_transformers_tokenizer(base: Path, gguf: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    with llama.open_gguf(gguf, CPU, 64) as loaded:
        expected = tokenizer(text)["input_ids"]
        assert loaded.tokenize(text) == expected
        plain = tokenizer.decode(expected, skip_special_tokens=True)
        assert loaded.text(expected) == plain


def test_the_same_inputs_give_the_same_bytes(base: Path, tmp_path: Path) -> None:
    adapter = tiny.save_adapter(tmp_path / "adapter", base)
    for name in ("one", "two"):
        export_f16(base, adapter, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
