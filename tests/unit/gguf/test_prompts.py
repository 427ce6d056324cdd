"""What a GGUF is asked, and what it is compared on: the same tokens as in training."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from jsm_queue.data.examples import Example, write_examples
from jsm_queue.errors import ChatTemplateError
from jsm_queue.kinds import AnswerParams, BaseRef, LatencyParams, ParityParams, ScoreParams
from jsm_queue.spec import DecodingSpec
from tests.parity.lookalikes import ALIKE, SINGLE, SYSTEM, THOUGHTS, TURNS
from workers.engine import bases
from workers.engine import prompts as training_prompts
from workers.engine.bases import load_tokenizer
from workers.engine.encoding import encode_all
from workers.gguf import prompts
from workers.gguf.export import export_f16
from workers.gguf.llama import Gguf, open_gguf
from workers.kinds import answer, latency, parity
from workers.work import Device, Work

ENDLESS = "{% for m in messages %}{{ 'Q' if m['role'] == 'user' else 'A' }}:{{ m['content'] }}\n{% endfor %}"
EXAMPLE = Example(id="q", question="堤防は何を防ぎますか。", answer="氾濫です。")


def in_letters(eos: str = "~") -> Any:
    """Stands for a GGUF: one token a character, but for "。" with a line's end, which is one."""

    def tokenize(text: str) -> list[int]:
        return [ord(character) for character in text.replace("。\n", "♪")]

    return SimpleNamespace(
        chat_template=ENDLESS,
        tokenize=tokenize,
        is_end=lambda token: token == ord("~"),
        special_text=lambda name: eos if name == "eos" else "",
    )


@pytest.fixture(scope="module", params=list(ALIKE))
def alike(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Gguf]]:
    """A base's tokenizer, and the GGUF made of that base."""
    folder = ALIKE[request.param].save(tmp_path_factory.mktemp("alike"))
    export_f16(folder, None, folder / "model.gguf")
    with open_gguf(folder / "model.gguf", Device("cpu", 1), 64) as gguf:
        yield load_tokenizer(folder), gguf


@pytest.mark.parametrize("system", [None, SYSTEM])
@pytest.mark.parametrize("example", [SINGLE, TURNS, THOUGHTS], ids=["single", "turns", "thoughts"])
def test_the_tokens_of_a_look_alike_are_those_of_its_training(
    alike: tuple[Any, Gguf], example: Example, system: str | None
) -> None:
    tokenizer, gguf = alike
    trained = training_prompts.encode(tokenizer, training_prompts.chat_template(tokenizer), example, system)
    assert prompts.encode(gguf, example, system) == (trained.ids, trained.first)
    assert prompts.prompt_ids(gguf, example, system) == trained.ids[: trained.first]


@pytest.mark.parametrize("family", ["llama", "qwen"])
def test_the_answer_ends_where_it_ends_in_training(family: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    base = request.getfixturevalue(f"{family}_base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    template = training_prompts.chat_template(tokenizer, ENDLESS)
    trained = training_prompts.encode(tokenizer, template, EXAMPLE, None)
    export_f16(base, None, tmp_path / "model.gguf", ENDLESS)
    with open_gguf(tmp_path / "model.gguf", Device("cpu", 1), 64) as gguf:
        assert prompts.encode(gguf, EXAMPLE, None) == (trained.ids, trained.first)
        assert prompts.prompt_ids(gguf, EXAMPLE, None) == trained.ids[: trained.first]


def test_what_follows_the_answer_does_not_change_its_last_token() -> None:
    ids, first = prompts.encode(in_letters(), EXAMPLE, None)
    assert "".join(map(chr, ids[first:])) == "氾濫です。~"


def test_an_end_token_within_the_answer_does_not_end_it() -> None:
    gguf = in_letters()
    gguf.chat_template = ENDLESS.replace("\n", "~")
    example = EXAMPLE.model_copy(update={"answer": "約1~2mです"})
    ids, first = prompts.encode(gguf, example, None)
    assert "".join(map(chr, ids[first:])) == "約1~2mです~"


def test_an_answer_that_nothing_ends_is_refused() -> None:
    with pytest.raises(ChatTemplateError, match="ends an answer"):
        prompts.encode(in_letters(eos=""), EXAMPLE, None)


def test_a_gguf_without_a_template_is_refused() -> None:
    gguf = in_letters()
    gguf.chat_template = None
    with pytest.raises(ChatTemplateError, match="holds no chat template"):
        prompts.prompt_ids(gguf, EXAMPLE, None)


def test_every_kind_asks_a_conversation_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its earlier turns, and its own system prompt in the place of the study's."""
    example = TURNS.model_copy(update={"system": "丁寧に。"})
    inputs = tmp_path / "inputs"
    base = ALIKE["qwen3"].save(inputs / "base")
    for need in ("gguf", "gguf.0"):
        (inputs / need).mkdir()
        export_f16(base, None, inputs / need / "model.gguf")
    (inputs / "dataset").mkdir()
    for split in ("test", "bench"):
        write_examples(inputs / "dataset" / f"{split}.jsonl", [example])
    asked: list[list[int]] = []
    generate = Gguf.generate

    def noting(gguf: Gguf, ids: list[int], most: int) -> Any:
        asked.append(list(ids))
        return generate(gguf, ids, most)

    monkeypatch.setattr(Gguf, "generate", noting)
    monkeypatch.setattr(latency, "_warm", open_gguf)

    def work(params: Any) -> Work:
        return Work(params, inputs, tmp_path, Device("cpu", 1), lambda position, total, metrics: None)

    ref, decoding = BaseRef(form="folder"), DecodingSpec(max_new_tokens=2, context=256)
    answer.run(work(AnswerParams(split="bench", decoding=decoding, system_prompt=SYSTEM)))
    timed = LatencyParams(
        study="s",
        stage="bases",
        hardware="any",
        cells=["a"],
        questions=1,
        repeats=1,
        decoding=decoding,
        system_prompt=SYSTEM,
    )
    latency.run(work(timed))
    compared = parity.run(work(ParityParams(base=ref, reference="model", prompts=1, system_prompt=SYSTEM)))
    score = ScoreParams(base=ref, split="test", quantized=False, max_length=256, system_prompt=SYSTEM)
    [(_, trained)], dropped = encode_all(bases.load(work(score), quantized=False), [example], SYSTEM, 256)
    bases.forget()
    prompt = load_tokenizer(base).decode(trained.ids[: trained.first])
    assert "丁寧に。" in prompt and "ダムとは？" in prompt and SYSTEM not in prompt and dropped == 0
    assert asked == [trained.ids[: trained.first]] * 2
    assert compared.metrics["tokenizer_mismatches"] == 0 and compared.metrics["ok"] == 1
