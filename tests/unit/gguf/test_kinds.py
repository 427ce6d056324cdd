"""The kinds of the GGUF path, one after the other on a tiny base."""

import errno
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from jsm_queue.data.examples import Example, write_examples
from jsm_queue.errors import DataError, ModelError
from jsm_queue.kinds import AnswerParams, BaseRef, ConvertParams, JudgeParams, LatencyParams, ParityParams
from jsm_queue.spec import DecodingSpec, Format, JudgeSpec
from workers.engine import bases
from workers.gguf import llama, tiny
from workers.gguf.answers import Answer, read_answers, write_answers
from workers.gguf.export import export_f16
from workers.gguf.llama import open_gguf
from workers.kinds import answer, convert, judge, latency, parity
from workers.work import Device, Outcome, Work

CPU = Device("cpu", 1)
BASE = BaseRef(form="folder")
LONG_LABEL = "base|Q8_0|" + 190 * "a"
DECODING = DecodingSpec(max_new_tokens=8, context=256)
EXAMPLES = [
    Example(
        id=f"q{i}",
        question=f"{name}は何を防ぎますか。",
        answer=f"{name}は氾濫を防ぎます。",
        key_facts=[["氾濫", "はん濫"], [name]],
        stratum="taught",
        category="design",
    )
    for i, name in enumerate(["堤防", "ダム", "水門", "護岸"])
]


@pytest.fixture
def inputs(tmp_path: Path, qwen_base: Path, qwen_adapter: Path) -> Path:
    folder = tmp_path / "inputs"
    shutil.copytree(qwen_base, folder / "base")
    shutil.copytree(qwen_adapter, folder / "adapter")
    (folder / "dataset").mkdir()
    for split in ("test", "bench"):
        write_examples(folder / "dataset" / f"{split}.jsonl", EXAMPLES)
    return folder


@pytest.fixture(autouse=True)
def _no_kept_base() -> Iterator[None]:
    """Tests change a base's files under the same BaseRef."""
    yield
    bases.forget()


def run(kind: Any, params: Any, inputs: Path, name: str) -> Outcome:
    """Runs a kind; its files lie in inputs/<name>, where the next kind's need finds them."""
    ticks: list[tuple[int, int]] = []
    folder = inputs / name
    folder.mkdir()
    outcome = kind.run(
        Work(params, inputs, folder, CPU, lambda position, total, metrics: ticks.append((position, total)))
    )
    assert ticks and all(0 < position <= total for position, total in ticks)
    return outcome


def to_gguf(inputs: Path, format: Format, name: str) -> Outcome:
    return run(convert, ConvertParams(base=BASE, format=format), inputs, name)


def against(inputs: Path, reference: Any) -> Outcome:
    params = ParityParams(base=BASE, reference=reference, prompts=3, system_prompt=None)
    return run(parity, params, inputs, f"parity-{reference}")


def test_a_gguf_is_converted_answers_and_is_judged(inputs: Path) -> None:
    converted = to_gguf(inputs, "Q8_0", "gguf")
    assert [path.name for path in (inputs / "gguf").iterdir()] == ["model.gguf"]
    assert converted.metrics["bytes"] == (inputs / "gguf" / "model.gguf").stat().st_size
    assert converted.metrics["fallback_tensors"] == 0

    answered = run(answer, AnswerParams(split="bench", decoding=DECODING, system_prompt="短く。"), inputs, "answers")
    answers = read_answers(inputs / "answers" / "answers.jsonl")
    assert [(record.item, record.value, (record.meta or {})["text"]) for record in answered.records] == [
        (each.id, each.tokens, each.text) for each in answers
    ]
    assert answered.metrics["truncated"] == sum(each.stop == "length" for each in answers)
    assert (answered.records[0].meta or {})["stratum"] == "taught"

    judged = run(judge, JudgeParams(judge=JudgeSpec(), split="bench"), inputs, "judge")
    assert [record.item for record in judged.records] == [example.id for example in EXAMPLES]
    assert judged.metrics["questions"] == 4


def test_the_judge_counts_key_facts(inputs: Path) -> None:
    texts = ["堤防は氾濫を防ぐ。", "はん濫", "わかりません", ""]
    (inputs / "answers").mkdir()
    lines = [Answer(id=f"q{i}", text=t, tokens=1, stop="end", prompt_tokens=9) for i, t in enumerate(texts)]
    write_answers(inputs / "answers" / "answers.jsonl", lines)
    outcome = run(judge, JudgeParams(judge=JudgeSpec(), split="bench"), inputs, "judge")
    assert [record.value for record in outcome.records] == [3.0, 1.5, 0.0, 0.0]
    assert outcome.records[1].meta == {
        "found": ["氾濫"],
        "missing": ["ダム"],
        "stratum": "taught",
        "category": "design",
    }
    assert outcome.metrics["score"] == pytest.approx(4.5 / 4)
    write_answers(inputs / "answers" / "answers.jsonl", lines[:3])
    with pytest.raises(DataError, match="q3 has no answer"):
        run(judge, JudgeParams(judge=JudgeSpec(), split="bench"), inputs, "again")
    bare = [example.model_copy(update={"key_facts": []}) for example in EXAMPLES[:2]]
    write_examples(inputs / "dataset" / "test.jsonl", [*bare, *EXAMPLES[2:]])
    with pytest.raises(DataError, match=r"2 of the 4 test questions have no key facts .*: q0, q1\."):
        run(judge, JudgeParams(judge=JudgeSpec(), split="test"), inputs, "bare")


def test_parity_holds_for_what_was_converted(inputs: Path) -> None:
    to_gguf(inputs, "Q8_0", "gguf")
    to_gguf(inputs, "F16", "f16")
    model, f16 = against(inputs, "model"), against(inputs, "F16")
    assert model.metrics["ok"] == f16.metrics["ok"] == 1
    assert model.metrics["tokenizer_mismatches"] == 0
    assert 0 < model.metrics["kl"] < 0.05 and 0 < f16.metrics["kl"] < 0.05
    assert Counter(record.name for record in model.records) == {"kl": 3, "agree": 3}


def test_parity_names_the_weights(inputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    to_gguf(inputs, "F16", "gguf")
    adapter = inputs / "adapter" / "adapter_model.safetensors"
    save_file(
        {name: -tensor for name, tensor in load_file(adapter).items() if "lora_B" in name}
        | {name: tensor for name, tensor in load_file(adapter).items() if "lora_A" in name},
        adapter,
    )
    with caplog.at_level(logging.WARNING):
        outcome = against(inputs, "model")
    assert (outcome.metrics["ok"], outcome.metrics["tokenizer_mismatches"]) == (0, 0)
    assert "the weights differ" in caplog.text and "the tokens differ" not in caplog.text


def test_parity_names_the_tokenizer(inputs: Path, caplog: pytest.LogCaptureFixture) -> None:
    to_gguf(inputs, "F16", "gguf")
    template = inputs / "base" / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8").replace("<|im_start|>", "<|im_start|> "), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        outcome = against(inputs, "model")
    assert (outcome.metrics["ok"], outcome.metrics["tokenizer_mismatches"]) == (0, 3)
    assert "the tokens differ on 3 of 3" in caplog.text and "the weights differ" not in caplog.text


def test_parity_leaves_the_kept_base_unchanged(inputs: Path) -> None:
    to_gguf(inputs, "F16", "gguf")
    first = against(inputs, "model").metrics
    shutil.rmtree(inputs / "parity-model")
    assert against(inputs, "model").metrics == first
    params = ParityParams(base=BASE, reference="model", prompts=1, system_prompt=None)
    kept = bases.load(Work(params, inputs, inputs, CPU, lambda *_: None), quantized=False)
    assert not any("lora" in name for name, _ in kept.model.named_modules())


def test_divergence_of_known_distributions() -> None:
    p, q = np.log([[0.5, 0.25, 0.25]]), np.log([[0.125, 0.125, 0.75]])
    assert parity.divergence(p, q + 7) == pytest.approx([0.5 * np.log(4) + 0.25 * np.log(2) - 0.25 * np.log(3)])
    assert parity.divergence(p, p) == pytest.approx([0.0])


def test_latency_interleaves_the_cells(inputs: Path) -> None:
    to_gguf(inputs, "Q8_0", "gguf.0")
    to_gguf(inputs, "Q4_K_M", "gguf.1")
    params = LatencyParams(
        study="s",
        stage="bases",
        hardware="any",
        cells=[LONG_LABEL, "b"],
        questions=2,
        repeats=3,
        decoding=DECODING,
        system_prompt=None,
    )
    outcome = run(latency, params, inputs, "latency")
    assert outcome.metrics == {"questions": 2}
    items = [record.item for record in outcome.records if record.name == "seconds"]
    assert items[:4] == ["0|0|0", "1|0|0", "1|1|0", "0|1|0"]
    assert len(items) == len(set(items)) == 12
    assert outcome.records[0].meta == {
        "cell": LONG_LABEL,
        "question": "q0",
        "repeat": 0,
        "device": "cpu",
        "threads": CPU.threads,
    }
    values = {(record.item, record.name): record.value for record in outcome.records}
    assert all(0 < values[item, "ttft"] <= values[item, "seconds"] for item in items)


def test_memory_is_looked_for_where_llama_cpp_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency.psutil, "virtual_memory", lambda: SimpleNamespace(available=7))
    monkeypatch.setattr(latency.torch.cuda, "mem_get_info", lambda _: (5, 9))
    for offload, free in ((True, 5), (False, 7)):
        monkeypatch.setattr(llama.lib, "llama_supports_gpu_offload", lambda offload=offload: offload)
        assert latency._free_bytes(Device("cuda:0", 1)) == free
        assert latency._free_bytes(CPU) == 7


def test_every_cell_comes_first_equally_often() -> None:
    firsts = Counter(turn.cell for turn in latency.turns([0, 1, 2], questions=4, repeats=3)[::3])
    assert firsts == {0: 4, 1: 4, 2: 4}


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [("use_dora", True, "use_dora"), ("modules_to_save", ["lm_head"], "modules_to_save"), ("bias", "all", "bias")],
)
def test_an_adapter_that_is_not_plain_lora_is_refused(inputs: Path, key: str, value: Any, match: str) -> None:
    path = inputs / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {key: value}), encoding="utf-8")
    with pytest.raises(ModelError, match=match):
        to_gguf(inputs, "F16", "gguf")
    assert list((inputs / "gguf").iterdir()) == []


def test_an_architecture_without_export_is_refused(inputs: Path) -> None:
    path = inputs / "base" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"architectures": ["GPT2LMHeadModel"]}
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel.*Supported are LlamaForCausalLM"):
        to_gguf(inputs, "F16", "gguf")


def test_weights_beyond_f16_are_refused(inputs: Path) -> None:
    path = inputs / "base" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"up_proj.*F16"):
        to_gguf(inputs, "F16", "gguf")
    assert list((inputs / "gguf").iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_as_such(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "model.gguf.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        export_f16(inputs / "base", None, tmp_path / "model.gguf")
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "model.gguf").exists()


def test_a_given_chat_template_is_the_file_s(inputs: Path) -> None:
    template = tiny.QWEN2_TEMPLATE.replace("\n", " ")
    base = BASE.model_copy(update={"chat_template": template})
    run(convert, ConvertParams(base=base, format="F16"), inputs, "gguf")
    with open_gguf(inputs / "gguf" / "model.gguf", CPU, 64) as gguf:
        assert gguf.chat_template == template
