"""Templates that look like those of the bases people use: what transformers renders, token by token."""

from datetime import datetime
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from jsm_queue.data.examples import Example, Turn
from jsm_queue.errors import DataError
from tests.parity.lookalikes import ALIKE, ANSWER, QUESTION, SINGLE, SYSTEM, THOUGHTS, TURNS, LookAlike
from workers.engine.prompts import TEMPLATE_DATE, chat_template, conversation, encode, prompt_text

EXAMPLES = {example.id: example for example in (SINGLE, TURNS, THOUGHTS.model_copy(update={"id": "thoughts"}))}

END = {"phi": "<|end|>"}
"""Which token ends an answer, where it is not the tokenizer's EOS."""

OTHER_CONVERSATION = {"qwen3-strips", "qwen3-thinks", "mistral-last"}
"""Templates whose whole conversation does not begin with the prompt that they ask a model with."""

LLAMA_SYSTEM = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
LLAMA_ASKED = (
    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{q}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n‖{a}<|eot_id|>"
)
DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
CHATML = "<|im_start|>system\n{s}<|im_end|>\n<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n‖{a}<|im_end|>\n"
NOT_THINKING = CHATML.replace("‖", "<think>\n\n</think>\n\n‖")
GEMMA = "<bos><start_of_turn>user\n{s}\n\n{q}<end_of_turn>\n<start_of_turn>model\n‖{a}<end_of_turn>\n"

GOLDEN = {
    "llama-3.1": LLAMA_SYSTEM + DATES + "{s}" + LLAMA_ASKED,
    "llama-swallow": LLAMA_SYSTEM + "{s}" + LLAMA_ASKED,
    "tinyswallow": CHATML,
    "qwen3": NOT_THINKING,
    "qwen3-strips": NOT_THINKING,
    "qwen3-thinks": NOT_THINKING,
    "gemma-2": GEMMA,
    "gemma-3": GEMMA,
    "mistral": "<s>[INST] {s}\n\n{q} [/INST]‖ {a}</s>",
    "mistral-last": "<s>[INST] {s}\n\n{q} [/INST]‖ {a}</s>",
    "chatml": CHATML,
    "llm-jp": "<s>\n\n### 指示:\n{s}\n\n{q}\n\n### 応答:\n‖{a}</s>",
    "sarashina": "<s><|system|>{s}</s><|user|>{q}</s><|assistant|>‖{a}</s>",
    "bos-less": "<|system|>{s}<|im_end|><|user|>{q}<|im_end|><|assistant|>‖{a}<|im_end|>",
    "phi": "<|system|>\n{s}<|end|>\n<|user|>\n{q}<|end|>\n<|assistant|>\n‖{a}<|end|>\n<|endoftext|>",
    "plain-ja": "{s}\n\n### 質問\n{q}\n\n### 回答\n‖{a}</s>\n",
}
"""A question with the study's system prompt; "‖" stands where the model begins, {s}, {q} and {a} for the texts."""

GOLDEN_TURNS = {
    "qwen3": (
        "<|im_start|>user\nダムとは？<|im_end|>\n<|im_start|>assistant\n水を貯める施設です。<|im_end|>\n"
        "<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n‖{a}<|im_end|>\n"
    ),
    "gemma-2": (
        "<bos><start_of_turn>user\nダムとは？<end_of_turn>\n<start_of_turn>model\n<think>\n考えます。\n</think>\n\n"
        "水を貯める施設です。<end_of_turn>\n<start_of_turn>user\n{q}<end_of_turn>\n<start_of_turn>model\n‖{a}<end_of_turn>\n"
    ),
}
"""THOUGHTS, without a system prompt: Qwen3 strips what was thought earlier, Gemma knows nothing of thinking."""


@pytest.fixture(autouse=True)
def _a_fixed_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers prints today's date; ours are pinned."""

    class Day(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return TEMPLATE_DATE

    monkeypatch.setattr(chat_template_utils, "datetime", Day)


@pytest.fixture(scope="module", params=list(ALIKE))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(name: str) -> PreTrainedTokenizerFast:
    return ALIKE[name].tokenizer()


def asked(alike: LookAlike, example: Example, system: str | None) -> list[dict[str, str]]:
    """The messages as a careful user would write them for this base."""
    said = [text for turn in example.history for text in (turn.question, turn.answer)] + [example.question]
    if system is not None and not alike.takes_system:
        said[0] = f"{system}\n\n{said[0]}"
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    given = system is not None and alike.takes_system
    return [{"role": "system", "content": str(system)}, *messages] if given else messages


def theirs(tokenizer: Any, messages: list[dict[str, str]], generation: bool) -> list[int]:
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=generation, enable_thinking=False)
    ids = rendered["input_ids"]
    added = tokenizer("")["input_ids"]  # BOS, where the tokenizer adds one: transformers then leaves it to the template
    return ids if ids[: len(added)] == added else [*added, *ids]


@pytest.mark.parametrize("system", [None, SYSTEM])
@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_the_tokens_are_those_that_transformers_gives(
    name: str, tokenizer: Any, example: Example, system: str | None
) -> None:
    encoded = encode(tokenizer, chat_template(tokenizer), example, system)
    messages = asked(ALIKE[name], example, system)
    prompt = theirs(tokenizer, messages, generation=True)
    whole = theirs(tokenizer, [*messages, {"role": "assistant", "content": example.answer}], generation=False)
    if name == "qwen3-thinks":  # only here is the model asked otherwise: its thinking is over before it begins
        closed = tokenizer("\n</think>\n\n", add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(encoded.ids[: encoded.first]) == tokenizer.decode([*prompt, *closed])
        prompt = encoded.ids[: encoded.first]
    assert encoded.ids[: encoded.first] == prompt
    if name in OTHER_CONVERSATION:
        answer = encoded.ids[encoded.first :]
        assert any(whole[i : i + len(answer)] == answer for i in range(len(whole)))
    else:
        assert encoded.ids == whole[: len(encoded.ids)]


@pytest.mark.parametrize("system", [None, SYSTEM])
@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_loss_covers_the_answer_and_its_end_alone(
    name: str, tokenizer: Any, example: Example, system: str | None
) -> None:
    encoded = encode(tokenizer, chat_template(tokenizer), example, system)
    alike = ALIKE[name]
    assert tokenizer.decode(encoded.ids[encoded.first : -1]).removeprefix(" ") == ANSWER
    assert tokenizer.convert_ids_to_tokens(encoded.ids[-1]) == END.get(name, alike.eos)
    if alike.bos:
        assert encoded.ids.count(tokenizer.bos_token_id) == 1 and encoded.ids[0] == tokenizer.bos_token_id


def test_golden(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    talk = conversation(chat_template(tokenizer), SINGLE, SYSTEM)
    text = f"{talk.text[: talk.prompt]}‖{talk.text[talk.prompt :]}"
    assert text == GOLDEN[name].format(s=SYSTEM, q=QUESTION, a=ANSWER)


@pytest.mark.parametrize("family", list(GOLDEN_TURNS))
def test_golden_with_earlier_turns(family: str) -> None:
    talk = conversation(chat_template(ALIKE[family].tokenizer()), THOUGHTS, None)
    text = f"{talk.text[: talk.prompt]}‖{talk.text[talk.prompt :]}"
    assert text == GOLDEN_TURNS[family].format(q=QUESTION, a=ANSWER)


def test_llm_jp_takes_the_sentence_that_its_template_writes() -> None:
    template = chat_template(ALIKE["llm-jp"].tokenizer())
    own = "以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。"
    assert prompt_text(template, SINGLE, own) == f"<s>{own}\n\n### 指示:\n{QUESTION}\n\n### 応答:\n"
    assert prompt_text(template, SINGLE.model_copy(update={"system": own}), SYSTEM).startswith(f"<s>{own}")


@pytest.mark.parametrize("family", ["qwen3", "qwen3-strips", "qwen3-thinks"])
def test_an_answer_that_thinks_is_refused_where_the_template_knows_of_thinking(family: str) -> None:
    thinking = SINGLE.model_copy(update={"answer": f"<think>\nhm\n</think>\n\n{ANSWER}"})
    with pytest.raises(DataError, match="example single as it is"):
        conversation(chat_template(ALIKE[family].tokenizer()), thinking, None)


def test_a_question_about_think_tags_is_left_alone() -> None:
    template = chat_template(ALIKE["chatml"].tokenizer())
    about = SINGLE.model_copy(
        update={"question": "What does <think> mean?", "history": [Turn(question="<think>", answer="x")]}
    )
    assert "</think>" not in conversation(template, about, None).text


@pytest.mark.parametrize("built_in", ["plain-ja", "chatml"])
def test_a_base_without_a_template_takes_a_built_in_one(built_in: str) -> None:
    tokenizer = ALIKE[built_in].tokenizer()
    text, tokenizer.chat_template = tokenizer.chat_template, None
    encoded = encode(tokenizer, chat_template(tokenizer, str(text)), TURNS, SYSTEM)
    assert tokenizer.decode(encoded.ids[encoded.first : -1]) == ANSWER
