"""What a GGUF is asked: conversations rendered by the file's own chat template, in its own tokens."""

from jsm_queue.data.examples import Example
from jsm_queue.errors import ChatTemplateError
from workers.engine.prompts import ChatTemplate, common_prefix, conversation, prompt_text
from workers.gguf.llama import Gguf


def prompt_ids(gguf: Gguf, example: Example, system_prompt: str | None) -> list[int]:
    """The prompt's token ids, BOS once. Raises ChatTemplateError when the file's template is missing or broken."""
    return gguf.tokenize(prompt_text(file_template(gguf), example, system_prompt))


def encode(gguf: Gguf, example: Example, system_prompt: str | None) -> tuple[list[int], int]:
    """The conversation's token ids up to the end token of the last answer, and the index of that answer's first one.

    As in training, a template that writes no end token gets EOS right after the answer. Raises ChatTemplateError for
    such a template where the vocabulary has no EOS.
    """
    talk = conversation(file_template(gguf), example, system_prompt)
    ids = gguf.tokenize(talk.text)
    # The last token before the answer may merge with its first one: the answer begins where the two sequences part.
    first = common_prefix(gguf.tokenize(talk.text[: talk.prompt]), ids)
    answered = common_prefix(gguf.tokenize(talk.text[: talk.end]), ids)
    end = next((i for i in range(answered, len(ids)) if gguf.is_end(ids[i])), None)
    if end is None:
        # What the template writes after the answer may merge with its last token.
        return [*gguf.tokenize(talk.text[: talk.end]), _eos(gguf)], first
    return ids[: end + 1], first


def file_template(gguf: Gguf) -> ChatTemplate:
    """The file's chat template with the special tokens that it may write. Raises ChatTemplateError without one."""
    if not gguf.chat_template:
        raise ChatTemplateError("the GGUF holds no chat template", "Set chat_template of this base in the spec")
    specials = {f"{name}_token": gguf.special_text(name) for name in ("bos", "eos")}
    return ChatTemplate(gguf.chat_template, tuple((name, text) for name, text in specials.items() if text))


def _eos(gguf: Gguf) -> int:
    text = gguf.special_text("eos")
    if not text:
        raise ChatTemplateError("neither the chat template nor the GGUF's vocabulary ends an answer")
    return gguf.tokenize(text)[-1]
