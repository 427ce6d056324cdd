import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jsm_queue.data.examples import Example
from jsm_queue.errors import ModelError
from workers.engine.prompts import chat_template, encode
from workers.gguf import llama, prompts, tiny
from workers.gguf.export import export_f16
from workers.gguf.llama import open_gguf
from workers.gguf.quantize import fallback_tensors, quantize
from workers.work import Device

CPU = Device("cpu", 1)
QUESTION = "堤防は何を防ぎますか。"
EXAMPLE = Example(id="q", question=QUESTION, answer="氾濫です。")


@pytest.mark.parametrize("system_prompt", [None, "あなたは河川技術者です。"])
@pytest.mark.parametrize("family", ["llama", "qwen"])
def test_prompts_are_those_of_training_and_bos_stands_once(
    family: str, system_prompt: str | None, request: pytest.FixtureRequest
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(f"{family}_base"))
    with open_gguf(request.getfixturevalue(f"{family}_f16"), CPU, 256) as gguf:
        ids = prompts.prompt_ids(gguf, EXAMPLE, system_prompt)
    trained = encode(tokenizer, chat_template(tokenizer), EXAMPLE, system_prompt)
    assert ids == trained.ids[: trained.first]
    assert ids.count(tokenizer.bos_token_id) == (1 if family == "llama" else 0)


def test_bos_is_added_where_the_text_has_none(llama_f16: Path) -> None:
    with open_gguf(llama_f16, CPU, 64) as gguf:
        plain, marked = gguf.tokenize("堤防"), gguf.tokenize("<|begin_of_text|>堤防")
    assert plain == marked
    assert plain.count(plain[0]) == 1


def test_greedy_takes_the_largest_logit_each_time(qwen_f16: Path) -> None:
    with open_gguf(qwen_f16, CPU, 64) as gguf:
        ids = gguf.tokenize(QUESTION)
        made = gguf.generate(ids, 12)
        whole = gguf.logits([*ids, *made.ids], len(ids) - 1)[:-1]
        assert made.ids == whole.argmax(axis=1).tolist()
        assert (made.stop, len(made.ids)) == ("length", 12)
        assert 0 < made.ttft < made.seconds
        assert gguf.generate(ids, 12).ids == made.ids


def test_logits_do_not_depend_on_how_the_tokens_are_fed(qwen_f16: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = list(range(20, 120))
    with open_gguf(qwen_f16, CPU, 128) as gguf:
        at_once = gguf.logits(ids, 70)
        monkeypatch.setattr(llama, "BATCH", 32)
        in_pieces = gguf.logits(ids, 70)
    assert at_once.shape == (30, tiny.VOCAB)
    assert np.abs(at_once - in_pieces).max() < 0.05


def test_the_end_token_ends_the_answer(llama_base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama_base)
    model = AutoModelForCausalLM.from_pretrained(llama_base, dtype=torch.float32)
    trained = encode(tokenizer, chat_template(tokenizer), EXAMPLE, None)
    ids = trained.ids[: trained.first]
    with torch.inference_mode():
        hidden = model.model(torch.tensor([ids])).last_hidden_state[0, -1]  # (D,)
        model.lm_head.weight[tokenizer.convert_tokens_to_ids("<|eot_id|>")] = hidden
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    export_f16(tmp_path, None, tmp_path / "model.gguf")
    with open_gguf(tmp_path / "model.gguf", CPU, 256) as gguf:
        made = gguf.generate(prompts.prompt_ids(gguf, EXAMPLE, None), 8)
    assert (made.ids, made.text, made.stop) == ([], "", "end")


def test_the_answer_ends_with_the_context(qwen_f16: Path) -> None:
    with open_gguf(qwen_f16, CPU, 40) as gguf:
        made = gguf.generate(list(range(20, 50)), 100)
        assert (len(made.ids), made.stop) == (10, "length")
        with pytest.raises(ModelError, match="context of 40"):
            gguf.generate(list(range(20, 61)), 1)


def test_formats_shrink_the_file_and_still_answer(qwen_f16: Path, tmp_path: Path) -> None:
    sizes = [qwen_f16.stat().st_size]
    for name in ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"):
        out = tmp_path / name
        quantize(qwen_f16, out, name, 1)
        with open_gguf(out, CPU, 64) as gguf:
            assert gguf.format == name
            assert len(gguf.generate(gguf.tokenize(QUESTION), 4).ids) == 4
        sizes.append(out.stat().st_size)
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"]
    )


def test_tensors_that_fall_back_are_named(tmp_path: Path) -> None:
    base = tiny.save_base(tmp_path / "base", "qwen2", hidden=192)
    plan = export_f16(base, None, tmp_path / "f16.gguf")
    quantize(tmp_path / "f16.gguf", tmp_path / "out.gguf", "Q4_K_M", 1)
    complaints = [line for line in llama.log_lines if "not divisible" in line]
    named = fallback_tensors(plan, "Q4_K_M")
    assert "blk.0.attn_q.weight" in named
    assert {line.split()[1] for line in complaints} | {"token_embd.weight"} == set(named)
    assert fallback_tensors(plan, "Q8_0") == []


@pytest.mark.parametrize(
    ("device", "offload", "place", "layers"),
    [("cpu", True, "cpu", 0), ("cuda:1", True, "cuda", -1), ("cuda:1", False, "cpu", 0)],
)
def test_it_computes_on_the_gpu_only_where_it_was_built_for_one(
    monkeypatch: pytest.MonkeyPatch, device: str, offload: bool, place: str, layers: int
) -> None:
    monkeypatch.setattr(llama.lib, "llama_supports_gpu_offload", lambda: offload)
    assert llama.place(Device(device, 1)) == place
    params = llama._model_params(Device(device, 1))
    assert (params.n_gpu_layers, params.main_gpu) == (layers, 1 if layers else 0)


def test_a_failed_computation_is_no_fault_of_the_file(qwen_f16: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama.lib, "llama_decode", lambda *_: -3)
    with open_gguf(qwen_f16, CPU, 64) as gguf, pytest.raises(RuntimeError, match=r"code -3"):
        gguf.logits([20, 21], 0)


def test_a_broken_file_is_refused_by_name(tmp_path: Path) -> None:
    broken = tmp_path / "model.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match=r"cannot load model\.gguf"), open_gguf(broken, CPU, 64):
        pass
    with pytest.raises(ModelError, match="cannot quantize"):
        quantize(broken, tmp_path / "out.gguf", "Q8_0", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_quantizer_that_fails_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "model.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match="No space left"):
        quantize(broken, tmp_path / "out.gguf", "Q8_0", 1)
