"""Chat templates that a spec names: the built-in ones, for bases that bring none, and a first look at a user's own."""

from datetime import datetime

from jsm_queue import sandbox
from jsm_queue.errors import ChatTemplateError

TEMPLATE_DATE = datetime(2024, 7, 26)
"""What templates that print today's date get: a job's result must not depend on the day it ran."""

THINKING_OFF = {"enable_thinking": False, "thinking": False}
"""How templates of models that can think are told not to: Qwen3's variable, DeepSeek's and Granite's."""

TEMPLATES: dict[str, str] = {
    # Headings that any tokenizer can spell: nothing has to be added to the base's vocabulary.
    "plain-ja": (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
        "{% elif message['role'] == 'user' %}### 質問\n{{ message['content'] }}\n\n### 回答\n"
        "{% else %}{{ message['content'] }}{{ eos_token }}\n"
        "{% endif %}{% endfor %}"
    ),
    # For bases whose vocabulary holds these two tokens, but whose files name no template.
    "chatml": (
        "{% for message in messages %}"
        "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}
"""None writes BOS: the tokenizer adds its own where it has one."""

_SPECIALS = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "pad", "sep", "cls", "mask")}
_QUESTION, _ANSWER = "JSMQUESTION", "JSMANSWER"


def check(text: str) -> None:
    """Raises ChatTemplateError for a template that does not render, spends its budget, or loses question or answer.

    The base's own special tokens are not known yet, and the study's system prompt may be needed: a worker looks again.
    """
    if "\0" in text:
        raise ChatTemplateError("it holds the character NUL (U+0000)", "Take it out")
    try:
        _check(text, [])
    except ChatTemplateError:
        _check(text, [{"role": "system", "content": "system"}])


def _check(text: str, before: list[dict[str, str]]) -> None:
    asked = [*before, {"role": "user", "content": _QUESTION}]
    prompt = _rendered(text, asked, generation=True)
    answered = _rendered(text, [*asked, {"role": "assistant", "content": _ANSWER}], generation=False)
    if _QUESTION not in prompt:
        raise ChatTemplateError("it leaves out the question")
    if answered.count(_ANSWER) != 1:
        raise ChatTemplateError("it does not write the answer exactly once")


def _rendered(text: str, messages: list[dict[str, str]], generation: bool) -> str:
    variables = {"messages": messages, "add_generation_prompt": generation, "tools": None, "documents": None}
    functions = (("raise_exception", _refuse), ("strftime_now", TEMPLATE_DATE.strftime))
    try:
        return sandbox.render(text, _SPECIALS | THINKING_OFF | variables, functions)
    except ChatTemplateError:
        raise
    except sandbox.TemplateLimit as error:
        raise ChatTemplateError(f"it does not render: {error}") from error
    except Exception as error:  # a template is a program: it can fail in any way
        raise ChatTemplateError(f"it does not render ({type(error).__name__}: {error})") from error


def _refuse(message: str) -> None:
    raise ChatTemplateError(f"it refuses a plain question ({message})")
