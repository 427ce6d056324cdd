"""NLL of reference answers."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jsm_queue.errors import ModelError
from workers.engine import bases, lora
from workers.engine.encoding import encode_all
from workers.engine.nll import answer_nll
from workers.gguf import tiny
from workers.kinds import score, train
from workers.work import Work

from .conftest import examples, score_params, train_params

TOLERANCE = 1e-4
"""Nats an answer: float32 in batches of another shape."""


def by_item(work: Work) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for record in score.run(work).records:
        found.setdefault(record.item, {})[record.name] = record.value
    return found


@pytest.mark.parametrize("with_adapter", [False, True])
def test_records_against_one_example_at_a_time(
    llama: Path, tmp_path: Path, make_work: Callable[..., Work], with_adapter: bool
):
    adapter = tiny.save_adapter(tmp_path / "adapter", llama) if with_adapter else None
    work = make_work(llama, score_params(llama), adapter)
    records = by_item(work)
    base = bases.load(work, False)
    pairs, _ = encode_all(base, examples(10), None, 1024)
    assert list(records) == [example.id for example, _ in pairs]
    with lora.trained(base, adapter) as model, torch.inference_mode():
        for example, encoded in pairs:
            logits = model(torch.tensor([encoded.ids])).logits[0].double().log_softmax(-1)
            nlls = [-logits[i - 1, encoded.ids[i]].item() for i in range(encoded.first, len(encoded.ids))]
            found = records[example.id]
            assert found["nll"] == pytest.approx(sum(nlls), abs=TOLERANCE)
            assert found["tokens"] == len(nlls)
            assert found["bytes"] == len(example.answer.encode())
            key = [nlls[i - encoded.first] for i in encoded.key]
            assert found["key_nll"] == pytest.approx(sum(key), abs=TOLERANCE)
            assert found["key_tokens"] == len(key) > 0


def test_adapter_matters(llama: Path, tmp_path: Path, make_work: Callable[..., Work]):
    adapter = tiny.save_adapter(tmp_path / "adapter", llama)
    plain = by_item(make_work(llama, score_params(llama), name="a"))
    adapted = by_item(make_work(llama, score_params(llama), adapter, name="b"))
    assert all(abs(plain[item]["nll"] - adapted[item]["nll"]) > 0.01 for item in plain)
    assert plain == by_item(make_work(llama, score_params(llama), name="c"))


def test_nf4_is_near_the_unquantized_base(llama: Path, make_work: Callable[..., Work]):
    plain = by_item(make_work(llama, score_params(llama), name="a"))
    nf4 = by_item(make_work(llama, score_params(llama, quantized=True), name="b"))
    for item in plain:
        assert plain[item]["nll"] != nf4[item]["nll"]
        assert plain[item]["nll"] == pytest.approx(nf4[item]["nll"], rel=0.15)


def test_records_and_metrics(llama: Path, make_work: Callable[..., Work]):
    base = bases.load(make_work(llama, score_params(llama), name="a"), False)
    sizes = sorted(len(each.ids) for _, each in encode_all(base, examples(10), None, 1024)[0])
    outcome = score.run(make_work(llama, score_params(llama, max_length=sizes[4]), name="b"))
    kept = sum(size <= sizes[4] for size in sizes)
    assert outcome.metrics["dropped"] == 10 - kept > 0
    assert outcome.metrics["tokens"] == sum(size for size in sizes if size <= sizes[4])
    assert {"seconds", "tokens_per_second"} <= outcome.metrics.keys()
    assert len(outcome.records) == 5 * kept
    assert {record.meta["stratum"] for record in outcome.records if record.meta} == {"taught", "unseen"}
    assert all((record.meta is not None) == (record.name == "nll") for record in outcome.records)
    assert all(math.isfinite(record.value) for record in outcome.records)


def test_models_that_cap_their_logits(llama: Path, make_work: Callable[..., Work], monkeypatch: pytest.MonkeyPatch):
    """Then the head alone would give other logits: the whole model is asked."""
    base = bases.load(make_work(llama, score_params(llama)), False)
    pairs, _ = encode_all(base, examples(3), None, 1024)
    batch = [each for _, each in pairs]
    plain = answer_nll(base.model, batch, base.device)
    monkeypatch.setattr(base.model.config, "final_logit_softcapping", 5.0, raising=False)
    own_forward = base.model.forward

    def capped(*args, **kwargs):
        out = own_forward(*args, **kwargs)
        out.logits = 5.0 * torch.tanh(out.logits / 5.0)
        return out

    monkeypatch.setattr(base.model, "forward", capped)
    assert not torch.allclose(answer_nll(base.model, batch, base.device), plain, atol=1e-3)


def test_weights_that_are_no_numbers_are_the_bases_fault(
    llama: Path, tmp_path: Path, make_work: Callable[..., Work]
) -> None:
    broken = shutil.copytree(llama, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    save_file({name: torch.full_like(each, math.nan) for name, each in weights.items()}, broken / "model.safetensors")
    with pytest.raises(ModelError, match="is no number, first of") as raised:
        score.run(make_work(broken, score_params(broken), name="score"))
    assert "Choose another base model" in str(raised.value)
    with pytest.raises(ModelError, match="the loss is nan at the first step") as raised:
        train.run(make_work(broken, train_params(broken), name="train"))
    assert "Choose another base model" in str(raised.value)
