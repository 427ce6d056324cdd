"""Rows → conversations, in the four shapes that users' data have. A pair is a conversation of one turn.

    pairs     question, answer
    alpaca    instruction, output; optional: input, history
    sharegpt  conversations: [{from, value}, …]
    messages  messages: [{role, content}, …]

Each may have id, category, system and key_facts. What is malformed is refused, with its line; a conversation that is
well formed but cannot be taught (tool calls, turns out of order) is left out and counted.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jsm_queue.data.rows import Row
from jsm_queue.errors import DataError

SHAPES = {
    "pairs": ("question", "answer"),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
    "messages": ("messages",),
}
"""The keys that a row of each shape must have."""

COMMON = ("id", "category", "system", "key_facts")
OPTIONAL = {"alpaca": ("input", "history")}
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
MESSAGE_KEYS = ("role", "content", "from", "value", "key_facts", "tool_calls", "function_call")
SHOWN = 40  # characters of a user's text that a message repeats

SHAPES_FIX = (
    "Give each row question and answer; or instruction and output; or conversations or messages, a list of turns "
    "(docs/data.md)"
)


class Exchange(NamedTuple):
    """A question and its answer; `key_facts` of the answer."""

    question: str
    answer: str
    key_facts: list[list[str]] = []  # noqa: RUF012


@dataclass(frozen=True)
class Conversation:
    """One row. `unanswered`: its last question has no answer. `ignored`: keys of its messages that mean nothing."""

    where: str
    exchanges: list[Exchange]
    id: str = ""
    category: str = ""
    system: str | None = None
    unanswered: bool = False
    ignored: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Unusable:
    """A row that is well formed and cannot be taught."""

    where: str
    reason: str


@dataclass
class _Messages:
    system: str | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    question: str | None = None
    ignored: set[str] = field(default_factory=set)


class _Unteachable(Exception):
    """Why a conversation is left out."""


def shape_of(row: Row) -> str:
    """The shape of a row by its keys. Raises DataError for none, or two at once."""
    fits = [shape for shape, keys in SHAPES.items() if row.value.keys() >= set(keys)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        keys = " and of ".join("/".join(SHAPES[shape]) for shape in fits)
        raise DataError(f"{row.where}: has the keys of {keys}", "Leave the keys of one shape only")
    found = ", ".join(map(_shown, row.value)) or "none"
    for keys in SHAPES.values():
        missing = [key for key in keys if key not in row.value]
        if len(missing) < len(keys):
            raise DataError(f"{row.where}: {missing[0]} is missing; the keys are: {found}", SHAPES_FIX)
    raise DataError(f"{row.where}: of no known shape; the keys are: {found}", SHAPES_FIX)


def read_conversation(row: Row, shape: str) -> Conversation | Unusable:
    """A row of that shape. Raises DataError for what is malformed."""
    keys = SHAPES[shape]
    missing = [key for key in keys if key not in row.value]
    if missing:
        others = [other for other in SHAPES if other != shape and row.value.keys() >= set(SHAPES[other])]
        what = f"is of the shape {others[0]}, the rows before it of {shape}" if others else f"{missing[0]} is missing"
        raise DataError(f"{row.where}: {what}", "Give every row of a file the same shape")
    if shape == "pairs":
        return _exchange(row, _text(row, "question"), _text(row, "answer"), [])
    if shape == "alpaca":
        given = _text(row, "input", "").strip()
        question = _text(row, "instruction").strip() + (f"\n\n{given}" if given else "")
        return _exchange(row, question, _text(row, "output"), _history(row))
    return _talk(row, keys[0])


def _exchange(row: Row, question: str, answer: str, history: list[Exchange]) -> Conversation:
    last = Exchange(question.strip(), answer.strip(), _key_facts(row.where, row.value))
    return Conversation(row.where, [*history, last], *_common(row))


def _common(row: Row) -> tuple[str, str, str | None]:
    """id, category, system."""
    name = row.value.get("id", "")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str):
        raise _wrong(row.where, "id", name, "text or a whole number")
    return name, _text(row, "category", ""), _text(row, "system", "").strip() or None


def _history(row: Row) -> list[Exchange]:
    """Earlier turns of an Alpaca row: [[question, answer], …]."""
    turns = row.value.get("history", [])
    if not isinstance(turns, list):
        raise _wrong(row.where, "history", turns, "a list of [question, answer]")
    for number, turn in enumerate(turns):
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            raise _wrong(row.where, f"history[{number}]", turn, "[question, answer], two texts")
    return [
        Exchange(_sound(row.where, "history", question).strip(), _sound(row.where, "history", answer).strip())
        for question, answer in turns
    ]


def _talk(row: Row, key: str) -> Conversation | Unusable:
    """A conversation as a list of messages."""
    messages = row.value[key]
    if not isinstance(messages, list):
        raise _wrong(row.where, key, messages, "a list of messages")
    name, category, system = _common(row)
    read = _Messages(system)
    try:
        for number, message in enumerate(messages):
            _add(read, f"{row.where}: {key}[{number}]", message)
        if not read.exchanges:
            raise _Unteachable("conversation without an answer")
    except _Unteachable as reason:
        return Unusable(row.where, str(reason))
    facts = _key_facts(row.where, row.value)
    if facts:
        read.exchanges[-1] = read.exchanges[-1]._replace(key_facts=facts)
    return Conversation(
        row.where, read.exchanges, name, category, read.system, read.question is not None, frozenset(read.ignored)
    )


def _add(read: _Messages, where: str, message: Any) -> None:
    """The next message: (system) (user assistant)… in turn. Raises DataError, _Unteachable."""
    role, content = _message(where, message)
    read.ignored |= message.keys() - set(MESSAGE_KEYS)
    expected = "user" if read.question is None else "assistant"
    if role == "system" and not read.exchanges and read.question is None and read.system is None:
        read.system = content or None
        return
    if role != expected:
        raise _Unteachable("conversation whose turns are out of order")
    if not content:
        raise _Unteachable("conversation with an empty message")
    if role == "user":
        read.question = content
    else:
        read.exchanges.append(Exchange(read.question or "", content, _key_facts(where, message)))
        read.question = None


def _message(where: str, message: Any) -> tuple[str, str]:
    """Role and text. Raises DataError for another form, _Unteachable for tools and their like."""
    if not isinstance(message, dict):
        raise DataError(f"{where} is {_kind(message)}, not a message", "Write {role, content} or {from, value}")
    keys = next((keys for keys in (("role", "content"), ("from", "value")) if keys[0] in message), None)
    if keys is None:
        raise DataError(f"{where} has neither role nor from", "Write {role, content} or {from, value}")
    role, content = message[keys[0]], message.get(keys[1])
    if not isinstance(role, str):
        raise _wrong(where, keys[0], role, "text")
    if ROLES.get(role.lower()) is None:
        raise _Unteachable(f"conversation with the role {_shown(role)}")
    if message.get("tool_calls") or message.get("function_call"):
        raise _Unteachable("conversation with tool calls")
    if not isinstance(content, str):
        raise _wrong(where, keys[1], content, "text")
    return ROLES[role.lower()], _sound(where, keys[1], content).strip()


def _key_facts(where: str, value: dict[str, Any]) -> list[list[str]]:
    """A list of texts or of lists of spellings; a text is a key fact with one spelling. Blanks are left out."""
    facts = value.get("key_facts") or []
    if not isinstance(facts, list):
        raise _wrong(where, "key_facts", facts, 'a list such as ["氾濫", ["洪水", "出水"]]')
    spelled = [[fact] if isinstance(fact, str) else fact for fact in facts]
    for number, spellings in enumerate(spelled):
        if not (isinstance(spellings, list) and all(isinstance(spelling, str) for spelling in spellings)):
            raise _wrong(where, f"key_facts[{number}]", facts[number], "text or a list of texts")
    stripped = [[_sound(where, "key_facts", each).strip() for each in spellings] for spellings in spelled]
    return [kept for spellings in stripped if (kept := [each for each in spellings if each])]


def _text(row: Row, key: str, default: str | None = None) -> str:
    value = row.value.get(key, default)
    if not isinstance(value, str):
        raise _wrong(row.where, key, value, "text")
    return _sound(row.where, key, value)


def _sound(where: str, key: str, text: str) -> str:
    """The text, unless it holds half of a character, which no file in UTF-8 can, or NUL, which ends a text early."""
    if "\0" in text:
        raise DataError(f"{where}: {key} holds the character NUL (U+0000)", "Take it out: no text has it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {key} holds half of a surrogate pair", "Write the file again in UTF-8") from error
    return text


def _wrong(where: str, key: str, value: Any, wanted: str) -> DataError:
    return DataError(
        f"{where}: {key} is {_kind(value)}, not {wanted}", "Correct it there, or leave it out if it may be"
    )


def _kind(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, bool | int | float):
        return f"the {'truth value' if isinstance(value, bool) else 'number'} {value}"
    kinds = {str: "text", list: "a list", dict: "an object", bytes: "bytes"}
    return kinds.get(type(value), type(value).__name__)


def _shown(text: Any) -> str:
    return "".join(c if c.isprintable() else "�" for c in str(text))[:SHOWN]
