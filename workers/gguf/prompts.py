"""What a GGUF is asked: its own chat template, rendered and tokenized."""

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from jsm_queue.errors import ModelError
from workers.gguf.llama import Gguf


def prompt_ids(gguf: Gguf, question: str, system_prompt: str | None) -> list[int]:
    """The prompt's token ids, BOS once. Raises ModelError when the file's template is missing or broken."""
    special = {name: gguf.special_text(name) for name in ("bos", "eos")}
    return gguf.tokenize(prompt_text(gguf.chat_template, question, system_prompt, special["bos"], special["eos"]))


def prompt_text(template: str | None, question: str, system_prompt: str | None, bos: str, eos: str) -> str:
    """The rendered conversation up to where the answer begins. A template that refuses a system message gets it
    before the question.
    """
    if not template:
        raise ModelError("the GGUF holds no chat template", "Set `chat_template` of this base in the study")
    asked = [{"role": "user", "content": question}]
    if not system_prompt:
        return _render(template, asked, bos, eos)
    try:
        return _render(template, [{"role": "system", "content": system_prompt}, *asked], bos, eos)
    except ModelError:
        return _render(template, [{"role": "user", "content": f"{system_prompt}\n\n{question}"}], bos, eos)


def _render(template: str, messages: list[dict[str, str]], bos: str, eos: str) -> str:
    try:
        # transformers' own sandboxed renderer, so that training and answering see the same text.
        texts, _ = render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=True, bos_token=bos, eos_token=eos
        )
    except TemplateError as error:
        raise ModelError(f"the chat template does not render ({error})", "Correct the base's chat template") from error
    return texts[0]
