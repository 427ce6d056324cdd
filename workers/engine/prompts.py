"""Questions and answers as a base model's text and tokens: the one place that renders chat templates.

Imports neither torch nor transformers, so that the GGUF path renders exactly the same text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jsm_queue.data.keyfacts import key_fact_spans
from jsm_queue.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_DATE = datetime(2024, 7, 26)
"""What templates that print today's date get: a job's result must not depend on the day it ran."""

TEMPLATE_FIX = "Set chat_template of this base in the spec: a Jinja file, or a built-in one (plain-ja, chatml)"

Message = dict[str, str]


@dataclass(frozen=True)
class ChatTemplate:
    """A template's Jinja text, and the special tokens that it may write: (("bos_token", "<s>"), …)."""

    text: str
    specials: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Conversation:
    """A question with its answer, fully rendered. The answer is text[start:end]."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Encoded:
    """One example in tokens, cut after its end token.

    ids[first:] is the answer and its end token, and alone carries loss; `key` holds the positions in `ids` of
    tokens that overlap a key fact.
    """

    ids: list[int]
    first: int
    key: tuple[int, ...] = ()

    @property
    def answers(self) -> int:
        """How many tokens carry loss."""
        return len(self.ids) - self.first


def chat_template(tokenizer: "PreTrainedTokenizerBase", replacement: str | None = None) -> ChatTemplate:
    """The tokenizer's own template, or the text that replaces it. Raises ModelError when there is neither."""
    text: Any = replacement or tokenizer.chat_template
    if isinstance(text, dict):  # several by name, for tools and the like
        text = text.get("default")
    if not text:
        raise ModelError("the base model has no chat template", TEMPLATE_FIX)
    specials = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if token}
    return ChatTemplate(text, tuple(sorted(specials.items())))


def prompt_text(template: ChatTemplate, question: str, system_prompt: str | None) -> str:
    """The conversation up to where the answer begins. Raises ModelError when the template does not render."""
    return _render(template, _asked(template, question, system_prompt), generation=True)


def conversation(template: ChatTemplate, question: str, answer: str, system_prompt: str | None) -> Conversation:
    """The whole conversation, and where the answer stands in it.

    A second rendering with a unique word in the answer's place tells what the template writes around it, so
    nothing is assumed of the prompt, and a template may strip the answer. Raises ModelError for a template
    that writes the answer other than once, or other text around another answer.
    """
    asked = _asked(template, question, system_prompt)
    text = _render(template, [*asked, {"role": "assistant", "content": answer}])
    word = _unused_word(f"{question}{system_prompt}{answer}{template.text}")
    around = _render(template, [*asked, {"role": "assistant", "content": word}]).split(word)
    before, after = (around[0], around[-1]) if len(around) == 2 else ("", text)
    start, end = len(before), len(text) - len(after)
    if start >= end or not (text.startswith(before) and text.endswith(after)):
        raise ModelError("the chat template does not show where the answer begins and ends", TEMPLATE_FIX)
    return Conversation(text, start, end)


def encode(
    tokenizer: "PreTrainedTokenizerBase",
    template: ChatTemplate,
    question: str,
    answer: str,
    system_prompt: str | None,
    key_facts: Sequence[list[str]] = (),
) -> Encoded:
    """One example in tokens.

    The end token is the first special token that the template writes after the answer; a template that writes
    none gets the tokenizer's EOS right after the answer. Raises ModelError when there is neither, when nothing
    precedes the answer, or when the tokenizer cannot tell a token's characters.
    """
    if not tokenizer.is_fast:
        raise ModelError("the tokenizer has no tokenizer.json", "Give a base model that comes with one")
    talk = conversation(template, question, answer, system_prompt)
    ids, spans = _tokens(tokenizer, talk.text)
    end = _end_token(tokenizer, ids, spans, talk.end)
    if end is None:
        ids, spans = _tokens(tokenizer, talk.text[: talk.end])
        ids, end = [*ids, _eos(tokenizer)], len(ids)
    lead = _missing_lead(tokenizer, ids)
    first = next(i for i, (_, stop) in enumerate(spans) if stop > talk.start)
    if first + len(lead) == 0:
        raise ModelError("the chat template writes nothing before the answer", TEMPLATE_FIX)
    facts = key_fact_spans(talk.text[talk.start : talk.end], list(key_facts))
    facts = [(talk.start + start, talk.start + stop) for start, stop in facts]
    key = tuple(len(lead) + i for i, span in enumerate(spans[:end]) if any(_overlap(span, f) for f in facts))
    return Encoded(lead + ids[: end + 1], len(lead) + first, key)


def _asked(template: ChatTemplate, question: str, system_prompt: str | None) -> list[Message]:
    user = {"role": "user", "content": question}
    if system_prompt is None:
        return [user]
    if _takes_system(template):
        return [{"role": "system", "content": system_prompt}, user]
    return [{"role": "user", "content": f"{system_prompt}\n\n{question}".strip()}]


@lru_cache(maxsize=64)
def _takes_system(template: ChatTemplate) -> bool:
    """Some templates refuse a system message, others drop it without a word."""
    word = _unused_word(template.text)
    messages = [{"role": "system", "content": word}, {"role": "user", "content": "?"}]
    try:
        return word in _render(template, messages, generation=True)
    except _Refused:
        return False


def _unused_word(text: str) -> str:
    return next(word for word in (f"JSMWORD{i}X" for i in count()) if word not in text)


def _tokens(tokenizer: "PreTrainedTokenizerBase", text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids, and of each the characters it covers."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return encoding["input_ids"], encoding["offset_mapping"]


def _end_token(
    tokenizer: "PreTrainedTokenizerBase", ids: list[int], spans: list[tuple[int, int]], end: int
) -> int | None:
    special: set[Any] = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.add(tokenizer.eos_token_id)
    return next((i for i, (start, _) in enumerate(spans) if start >= end and ids[i] in special), None)


def _eos(tokenizer: "PreTrainedTokenizerBase") -> int:
    eos = tokenizer.eos_token_id
    if not isinstance(eos, int):
        raise ModelError("neither the chat template nor the tokenizer ends an answer", TEMPLATE_FIX)
    return eos


def _missing_lead(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> list[int]:
    """What the tokenizer puts before any text (BOS), unless `ids` begin with it already."""
    probe = tokenizer("a", return_special_tokens_mask=True)
    pairs = zip(probe["input_ids"], probe["special_tokens_mask"], strict=True)
    lead = [i for i, _ in takewhile(lambda pair: pair[1], pairs)]
    return [] if ids[: len(lead)] == lead else lead


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def _render(template: ChatTemplate, messages: list[Message], generation: bool = False) -> str:
    variables = {"messages": messages, "add_generation_prompt": generation, "tools": None, "documents": None}
    try:
        return _compiled(template.text).render(dict(template.specials) | variables)
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # a template is a program: it can fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"the chat template does not render ({reason})", TEMPLATE_FIX) from error


class _Refused(ModelError):
    """What a template raises by its function `raise_exception`."""


class _GenerationBlock(jinja2.ext.Extension):
    """{% generation %} … {% endgeneration %}: some templates mark the answer so; here it only passes through."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=64)
def _compiled(text: str) -> jinja2.Template:
    """As transformers compiles templates, but for the date. Sandboxed: templates come from strangers."""
    extensions = [_GenerationBlock, jinja2.ext.loopcontrols]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = TEMPLATE_DATE.strftime
    return environment.from_string(text)


def _refuse(message: str) -> None:
    raise _Refused(f"the chat template refuses the conversation ({message})", TEMPLATE_FIX)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
