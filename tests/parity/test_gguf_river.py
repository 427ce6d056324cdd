"""The shipped bases on the shipped bench: every token, and the logits of the answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jsm_queue.data.readers import read_bench
from workers.engine.prompts import chat_template, encode
from workers.gguf import prompts
from workers.gguf.export import export_f16
from workers.gguf.llama import open_gguf
from workers.kinds.parity import divergence
from workers.work import Device

RIVER = Path(__file__).parents[2] / "examples" / "river"
MEAN_KL, MOST_KL = 2e-6, 1e-4
"""Nats a token: what rounding to F16 may cost on average, and in 999 of 1 000 tokens. The largest of thousands says
nothing: it grows with their number (measured 1.3e-4 once, then 5e-5, over the 2 800 tokens of one base)."""


@pytest.mark.parametrize("name", ["river-qwen2", "river-llama"])
def test_a_shipped_base_is_the_same_model_as_a_gguf(name: str, tmp_path: Path) -> None:
    folder = RIVER / "bases" / name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    export_f16(folder, None, tmp_path / "model.gguf")
    found = []
    with open_gguf(tmp_path / "model.gguf", Device("cpu", 1), 512) as gguf:
        for example in read_bench(RIVER / "bench.yaml"):
            expected = encode(tokenizer, chat_template(tokenizer), example, None)
            assert prompts.encode(gguf, example, None) == (expected.ids, expected.first)
            with torch.inference_mode():
                logits = model(torch.tensor([expected.ids])).logits[0].numpy()
            found.append(divergence(logits, gguf.logits(expected.ids, 0)))
    kl = np.concatenate(found)
    assert kl.mean() < MEAN_KL and np.quantile(kl, 0.999) < MOST_KL, f"mean {kl.mean():.2e}, largest {kl.max():.2e}"
