"""Conversations as a base model's text and tokens: the one place that renders chat templates (docs/templates.md).

Imports neither torch nor transformers, so that the GGUF path renders exactly the same text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from jsm_queue import sandbox
from jsm_queue.data.chat_templates import TEMPLATE_DATE, THINKING_OFF
from jsm_queue.data.examples import Example, Turn
from jsm_queue.data.keyfacts import key_fact_spans
from jsm_queue.errors import ChatTemplateError, DataError, ModelError, ModelUnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]


@dataclass(frozen=True)
class ChatTemplate:
    """A template's Jinja text, and the special tokens that it may write: (("bos_token", "<s>"), …)."""

    text: str
    specials: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Conversation:
    """An example, fully rendered: text[:prompt] is what a model is asked, text[start:end] the answer.

    Between prompt and start stand at most spaces: a model makes them together with the answer's first word.
    """

    text: str
    prompt: int
    start: int
    end: int


@dataclass(frozen=True)
class Encoded:
    """One example in tokens, cut after its end token.

    ids[:first] is what a model is asked; ids[first:] is the answer and its end token, and alone carries loss; `key`
    holds the positions in `ids` of tokens that overlap a key fact.
    """

    ids: list[int]
    first: int
    key: tuple[int, ...] = ()

    @property
    def answers(self) -> int:
        """How many tokens carry loss."""
        return len(self.ids) - self.first


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises ModelError for a tokenizer that can be loaded, but neither trained with nor exported.

    Where a base's vocabulary files are missing, transformers makes an empty tokenizer for some architectures and
    says nothing.
    """
    fix = "Give a base model with its tokenizer.json and tokenizer_config.json"
    if not tokenizer.is_fast:
        raise ModelUnsupportedError("the tokenizer has no tokenizer.json", fix)
    spelt: Any = tokenizer("a1", add_special_tokens=False)["input_ids"]
    if set(spelt) <= set(tokenizer.all_special_ids):
        raise ModelError("the tokenizer's vocabulary is empty: its files are missing", fix)
    if tokenizer.eos_token_id is None:
        raise ModelError("the base's tokenizer has no end token", "Set eos_token in its tokenizer_config.json")


def chat_template(tokenizer: "PreTrainedTokenizerBase", replacement: str | None = None) -> ChatTemplate:
    """The tokenizer's own template, or the text that replaces it; tried on a question. Raises ChatTemplateError."""
    text: Any = replacement or tokenizer.chat_template
    if isinstance(text, dict):  # several by name, for tools and the like
        text = text.get("default")
    if not text:
        raise ChatTemplateError("the base model has no chat template")
    specials = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if token}
    template = ChatTemplate(text, tuple(sorted(specials.items())))
    _check(template, turns=0)
    return template


def prompt_text(template: ChatTemplate, example: Example, system_prompt: str | None) -> str:
    """The conversation up to where the answer begins. Raises ChatTemplateError."""
    _check(template, len(example.history))
    return _frame(template, _asked(template, example, system_prompt)).prompt.rstrip(" ")


def conversation(template: ChatTemplate, example: Example, system_prompt: str | None) -> Conversation:
    """The whole conversation, and where its last answer stands in it. It begins with the example's `prompt_text`.

    Raises ChatTemplateError, and DataError for an answer that the template writes otherwise than it is, but for white
    space around it.
    """
    _check(template, len(example.history))
    asked = _asked(template, example, system_prompt)
    frame = _frame(template, asked)
    text = _render(template, [*asked, {"role": "assistant", "content": example.answer}])
    answer = text[len(frame.before) : len(text) - len(frame.after)]
    whole = bool(answer) and f"{frame.before}{answer}{frame.after}" == text
    if not whole or answer.strip() != example.answer.strip():
        raise DataError(
            f"the chat template does not write the answer of example {example.id} as it is",
            "Take out of the answers what a template treats as markup, such as <think> blocks (docs/templates.md)",
        )
    start = len(frame.prompt)
    return Conversation(frame.prompt + answer + frame.after, len(frame.prompt.rstrip(" ")), start, start + len(answer))


def encode(
    tokenizer: "PreTrainedTokenizerBase", template: ChatTemplate, example: Example, system_prompt: str | None
) -> Encoded:
    """One example in tokens.

    The end token is the first special token that the template writes after the answer; a template that writes
    none gets the tokenizer's EOS right after the answer. Raises ModelError when there is neither, when nothing
    precedes the answer, or when the tokenizer cannot tell a token's characters; DataError as `conversation`.
    """
    if not tokenizer.is_fast:
        raise ModelUnsupportedError("the tokenizer has no tokenizer.json", "Give a base model that comes with one")
    talk = conversation(template, example, system_prompt)
    ids, spans = _tokens(tokenizer, talk.text)
    end = _end_token(tokenizer, ids, spans, talk.end)
    if end is None:
        ids, spans = _tokens(tokenizer, talk.text[: talk.end])
        ids, end = [*ids, _eos(tokenizer)], len(ids)
    lead = _missing_lead(tokenizer, ids)
    # The last token before the answer may merge with its first one: the answer begins where the two sequences part.
    first = common_prefix(_tokens(tokenizer, talk.text[: talk.prompt])[0], ids)
    if first + len(lead) == 0:
        raise ChatTemplateError("the chat template writes nothing before the answer")
    facts = key_fact_spans(talk.text[talk.start : talk.end], list(example.key_facts))
    facts = [(talk.start + start, talk.start + stop) for start, stop in facts]
    key = tuple(len(lead) + i for i, span in enumerate(spans[:end]) if any(_overlap(span, f) for f in facts))
    return Encoded(lead + ids[: end + 1], len(lead) + first, key)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _asked(template: ChatTemplate, example: Example, system_prompt: str | None) -> list[Message]:
    """The messages up to the question. A system prompt that the template does not take goes into the first one."""
    messages: list[Message] = []
    for turn in example.history:
        messages += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
    messages.append({"role": "user", "content": example.question})
    system = system_prompt if example.system is None else example.system
    if system is None:
        return messages
    if _takes_system(template) or _writes_system(template, system):
        return [{"role": "system", "content": system}, *messages]
    return [{"role": "user", "content": f"{system}\n\n{messages[0]['content']}".strip()}, *messages[1:]]


@lru_cache(maxsize=64)
def _takes_system(template: ChatTemplate) -> bool:
    """Some templates refuse a system message, others drop it without a word."""
    return _writes_system(template, _unused_word(template.text))


@lru_cache(maxsize=64)
def _writes_system(template: ChatTemplate, system: str) -> bool:
    """Does a system message bring this text in? Some templates have one of their own, and take no other."""
    question: Message = {"role": "user", "content": "?"}
    try:
        without = _render(template, [question], generation=True)
        written = _render(template, [{"role": "system", "content": system}, question], generation=True)
    except ChatTemplateError:
        return False
    return system.strip() in written and system.strip() not in without


class _Frame(NamedTuple):
    """What a template writes around an answer; `prompt`: what stands before it in training and answering alike."""

    before: str
    after: str
    prompt: str


def _frame(template: ChatTemplate, asked: list[Message]) -> _Frame:
    """A rendering with a unique word in the answer's place tells what is around it, so nothing is assumed of that.

    Where it does not begin with the generation prompt, the generation prompt counts: a model is asked with it. Spaces
    before the answer stay as the conversation has them. Raises ChatTemplateError for a template that does not write
    the answer exactly once.
    """
    word = _unused_word(f"{template.text}{asked}")
    around = _render(template, [*asked, {"role": "assistant", "content": word}]).split(word)
    if len(around) != 2:
        raise ChatTemplateError("the chat template does not show where the answer begins and ends")
    before, after = around
    prompt = _render(template, asked, generation=True)
    spaces = before[len(before.rstrip(" ")) :]
    return _Frame(before, after, _thought(before if before.startswith(prompt) else prompt).rstrip(" ") + spaces)


def _thought(prompt: str) -> str:
    """Thinking is off: the block that a prompt opens is closed, as empty as Qwen3's."""
    return f"{prompt.rstrip()}\n\n</think>\n\n" if prompt.rstrip().endswith("<think>") else prompt


@lru_cache(maxsize=64)
def _check(template: ChatTemplate, turns: int) -> None:
    """Raises ChatTemplateError for a template that leaves out what is asked, or an earlier turn."""
    words = [f"{_unused_word(template.text)}{name}" for name in ("Q", *(f"{i}E" for i in range(2 * turns)))]
    history = [Turn(question=words[i], answer=words[i + 1]) for i in range(1, 2 * turns, 2)]
    probe = Example(id="", question=words[0], answer="", history=history)
    prompt = _frame(template, _asked(template, probe, None)).prompt
    if words[0] not in prompt:
        raise ChatTemplateError("the chat template leaves out the question")
    if not all(word in prompt for word in words):
        raise ChatTemplateError("the chat template leaves out a conversation's earlier turns")


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
        raise ChatTemplateError("neither the chat template nor the tokenizer ends an answer")
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
        return sandbox.render(template.text, dict(template.specials) | THINKING_OFF | variables, _FUNCTIONS)
    except (ModelError, MemoryError):
        raise
    except sandbox.TemplateLimit as error:
        raise ChatTemplateError(f"the chat template does not render: {error}") from error
    except Exception as error:  # a template is a program: it can fail in any way
        raise ChatTemplateError(f"the chat template does not render ({type(error).__name__}: {error})") from error


def _refuse(message: str) -> None:
    raise ChatTemplateError(f"the chat template refuses the conversation ({message})")


_FUNCTIONS = (("raise_exception", _refuse), ("strftime_now", TEMPLATE_DATE.strftime))
"""What a template may call, as transformers offers it, but for the date."""
