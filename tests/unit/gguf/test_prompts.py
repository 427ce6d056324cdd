"""What a GGUF is asked, where its template writes no end token: the same tokens as in training."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from jsm_queue.errors import ModelError
from workers.engine import prompts as training_prompts
from workers.gguf import prompts
from workers.gguf.export import export_f16
from workers.gguf.llama import open_gguf
from workers.work import Device

ENDLESS = "{% for m in messages %}{{ 'Q' if m['role'] == 'user' else 'A' }}:{{ m['content'] }}\n{% endfor %}"
QUESTION, ANSWER = "堤防は何を防ぎますか。", "氾濫です。"


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


@pytest.mark.parametrize("family", ["llama", "qwen"])
def test_the_answer_ends_where_it_ends_in_training(family: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    base = request.getfixturevalue(f"{family}_base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    template = training_prompts.chat_template(tokenizer, ENDLESS)
    trained = training_prompts.encode(tokenizer, template, QUESTION, ANSWER, None)
    export_f16(base, None, tmp_path / "model.gguf", ENDLESS)
    with open_gguf(tmp_path / "model.gguf", Device("cpu", 1), 64) as gguf:
        assert prompts.encode(gguf, QUESTION, ANSWER, None) == (trained.ids, trained.first)


def test_what_follows_the_answer_does_not_change_its_last_token() -> None:
    ids, first = prompts.encode(in_letters(), QUESTION, ANSWER, None)
    assert "".join(map(chr, ids[first:])) == "氾濫です。~"


def test_an_answer_that_nothing_ends_is_refused() -> None:
    with pytest.raises(ModelError, match="ends an answer"):
        prompts.encode(in_letters(eos=""), QUESTION, ANSWER, None)
