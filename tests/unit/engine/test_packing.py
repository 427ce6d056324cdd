"""Packed examples get the logits and gradients that each gets alone."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from workers.engine.nll import answer_nll
from workers.engine.packing import FAMILIES, packs, use_packing
from workers.engine.prompts import Encoded
from workers.gguf import tiny

TOLERANCE = 2e-5
"""Relative to the largest: float32 sums in another order."""

CPU = torch.device("cpu")
EXAMPLES = [
    Encoded([21, 22, 23, 24, 25, 26, 27], 3),
    Encoded([31, 32], 1),
    Encoded(list(range(40, 60)), 12),
    Encoded([21, 23, 22, 29], 2),
]


def load(folder: Path, **changes: object) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **changes)
    use_packing(model)
    return model


def alone(model: PreTrainedModel) -> torch.Tensor:
    """The NLL by transformers' own attention, one example at a time."""
    model.set_attn_implementation("eager")
    nlls = []
    for each in EXAMPLES:
        logits = model(input_ids=torch.tensor([each.ids]), use_cache=False).logits[0].log_softmax(-1)
        nlls += [-logits[i - 1, each.ids[i]] for i in range(each.first, len(each.ids))]
    return torch.stack(nlls)


def compare(model: PreTrainedModel) -> None:
    results = []
    for compute in (lambda: answer_nll(model, EXAMPLES, CPU), lambda: alone(model)):
        model.zero_grad()
        nll = compute()
        nll.sum().backward()
        results.append({"nll": nll.detach()} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        difference = ((value - results[1][name]).abs().max() / results[1][name].abs().max()).item()
        assert difference < TOLERANCE, f"{name}: {difference}"


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_each_family(family: str, tmp_path: Path):
    assert family in get_args(tiny.Family)
    model = load(tiny.save_base(tmp_path, family))  # pyright: ignore[reportArgumentType]
    assert packs(model)
    compare(model)


def test_with_recomputation(tmp_path: Path):
    model = load(tiny.save_base(tmp_path, "llama")).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    compare(model)


def test_sliding_window(tmp_path: Path):
    """An example of 20 tokens where a token sees 6."""
    model = load(tiny.save_base(tmp_path, "mistral"), sliding_window=6)
    assert model.config.sliding_window == 6
    compare(model)


def test_family_that_does_not_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("workers.engine.packing.FAMILIES", frozenset())
    model = load(tiny.save_base(tmp_path, "llama"))
    assert not packs(model)
    with torch.inference_mode():
        nlls = torch.cat([answer_nll(model, [each], CPU) for each in EXAMPLES])
        assert torch.allclose(nlls, alone(model), rtol=TOLERANCE)


def test_padded_batches_by_others_still_work(tmp_path: Path):
    """The same model is asked without packing by the parity check."""
    model = load(tiny.save_base(tmp_path, "llama"))
    ids, mask = torch.tensor([[0, 0, 21, 22, 23], [31, 32, 33, 34, 35]]), torch.tensor([[0, 0, 1, 1, 1], [1] * 5])
    with torch.inference_mode():
        ours = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        model.set_attn_implementation("eager")
        theirs = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    assert torch.allclose(ours[0, 2:], theirs[0, 2:], atol=1e-4) and torch.allclose(ours[1], theirs[1], atol=1e-4)
