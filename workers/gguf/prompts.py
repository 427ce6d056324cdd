"""What a GGUF is asked: conversations rendered by the file's own chat template, in its own tokens."""

from jsm_queue.errors import ModelError
from workers.engine.prompts import TEMPLATE_FIX, ChatTemplate, conversation, prompt_text
from workers.gguf.llama import Gguf


def prompt_ids(gguf: Gguf, question: str, system_prompt: str | None) -> list[int]:
    """The prompt's token ids, BOS once. Raises ModelError when the file's template is missing or broken."""
    return gguf.tokenize(prompt_text(file_template(gguf), question, system_prompt))


def encode(gguf: Gguf, question: str, answer: str, system_prompt: str | None) -> tuple[list[int], int]:
    """The conversation's token ids up to the end token of the answer, and the index of the answer's first one.

    As in training, a template that writes no end token gets EOS right after the answer. Raises ModelError for such a
    template where the vocabulary has no EOS.
    """
    talk = conversation(file_template(gguf), question, answer, system_prompt)
    ids = gguf.tokenize(talk.text)
    # The last token before the answer may merge with its first one: the answer begins where the two sequences part.
    first = _common_prefix(gguf.tokenize(talk.text[: talk.start]), ids)
    end = next((i for i in range(first, len(ids)) if gguf.is_end(ids[i])), None)
    if end is None:
        # What the template writes after the answer may merge with its last token.
        return [*gguf.tokenize(talk.text[: talk.end]), _eos(gguf)], first
    return ids[: end + 1], first


def file_template(gguf: Gguf) -> ChatTemplate:
    """The file's chat template with the special tokens that it may write. Raises ModelError when there is none."""
    if not gguf.chat_template:
        raise ModelError("the GGUF holds no chat template", "Set chat_template of this base in the spec")
    specials = {f"{name}_token": gguf.special_text(name) for name in ("bos", "eos")}
    return ChatTemplate(gguf.chat_template, tuple((name, text) for name, text in specials.items() if text))


def _eos(gguf: Gguf) -> int:
    text = gguf.special_text("eos")
    if not text:
        raise ModelError("neither the chat template nor the GGUF's vocabulary ends an answer", TEMPLATE_FIX)
    return gguf.tokenize(text)[-1]


def _common_prefix(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
