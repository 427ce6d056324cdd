"""What is wrong with a spec, in words: which key, what was found, what is allowed."""

import difflib
import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from jsm_queue.specyaml import Loc

MOST = 20
"""Problems that one message tells."""

LARGEST = 2**53
"""What every reader of JSON takes for the number that it is."""

SHOWN = 60
"""Characters of a wrong value that are shown."""

LONGEST_PLACE = 120
"""Characters of the path of a wrong key that are shown: longer than any that there is."""

EXPECTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("string_type", "string_unicode"), "text"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "keys with values"),
    "list_type": "a list",
    "invalid_key": "a key that is text",
    "finite_number": "a finite number",
}
"""Pydantic's word for a wrong type → what is allowed."""

BOUNDS = {
    "greater_than_equal": ("too small: at least", "ge"),
    "greater_than": ("too small: above", "gt"),
    "less_than_equal": ("too large: at most", "le"),
    "less_than": ("too large: below", "lt"),
}
LENGTHS = {
    "too_short": ("too few entries ({}): at least {}", "min_length"),
    "too_long": ("too many entries ({}): at most {}", "max_length"),
    "string_too_short": ("too short ({} characters): at least {}", "min_length"),
    "string_too_long": ("too long ({} characters): at most {}", "max_length"),
}

PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$": "1 to 64 letters, digits, `.`, `_` and `-`, the first a letter or digit",
}
"""Of the patterns in a spec, what they mean."""


class Problem(NamedTuple):
    """One wrong key: where it is, and what is said of it, such as "training.epochs: 0 is too small: at least 1"."""

    loc: Loc
    said: str


def problems(error: ValidationError, model: type[BaseModel], value: Any) -> list[Problem]:
    """Everything that is wrong with `value`, each key once, in the model's order."""
    found: dict[tuple[int | str, ...], list[Any]] = {}
    for item in error.errors(include_url=False):
        found.setdefault(_real(item, value), []).append(item)
    told = []
    for loc, items in found.items():
        # Of a list that might have been a word, only the wrong entry is told.
        if loc == () or not any(len(other) > len(loc) and other[: len(loc)] == loc for other in found):
            place = _meant(loc, items[0], value)
            told.append(Problem(place, _named(loc, _words(model, loc, items))))
    return told


def unkeepable(value: Any) -> Problem | None:
    """A text with a NUL or half a surrogate pair, or a number of more than 53 bits: no path, JSON or store holds it."""
    for loc, leaf in _leaves(value, (), set()):
        if isinstance(leaf, int) and abs(leaf) > LARGEST:
            return Problem(loc, _named(loc, f"{shown(leaf)} is too large"))
        if isinstance(leaf, str) and ("\0" in leaf or any("\ud800" <= sign <= "\udfff" for sign in leaf)):
            return Problem(loc, _named(loc, f"{shown(leaf)} holds a character that no text has"))
    return None


def joined(told: list[str]) -> str:
    """All problems in one line, the first MOST of them."""
    more = f"; and {len(told) - MOST} more" if len(told) > MOST else ""
    return "; ".join(told[:MOST]) + more


def shown(value: Any) -> str:
    """A wrong value as its author would write it, shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, int) and abs(value) >= 10**SHOWN:
        return "a huge number"
    if isinstance(value, float) and not math.isfinite(value):
        return f".{value}".replace(".-", "-.")
    if not isinstance(value, str | int | float):
        return f"a {type(value).__name__}"
    text = json.dumps(value, ensure_ascii=isinstance(value, str) and not value.isprintable())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _named(loc: Loc, words: str) -> str:
    """With its key, but for a contradiction of the whole, which names its keys itself."""
    where = _dotted(loc)
    where = where if len(where) <= LONGEST_PLACE else f"{where[:LONGEST_PLACE]}…"
    return f"{where}: {words}" if loc else words


def _dotted(loc: Loc) -> str:
    return ".".join(map(str, loc))


def _meant(loc: tuple[int | str, ...], item: Any, value: Any) -> Loc:
    """Where to look: of a contradiction the key that it names first."""
    if item["type"] != "value_error":
        return loc
    named = re.findall(r"^[a-z_.]+(?=:)|(?<=`)[a-z_.]+(?=`)", str(item["ctx"]["error"]))
    places = [(*loc, *path.split(".")) for path in named]
    return next((place for place in places if len(_path(place, value)) == len(place)), loc)


def _words(model: type[BaseModel], loc: Loc, items: list[Any]) -> str:
    kind, value, ctx = items[0]["type"], items[0]["input"], items[0].get("ctx", {})
    if kind == "value_error":
        return str(ctx["error"])
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return f"unknown key, {_nearest_key(model, loc)}"
    if kind in BOUNDS:
        words, key = BOUNDS[kind]
        return f"{shown(value)} is {words} {ctx[key]:.12g}"
    if kind in LENGTHS:
        words, key = LENGTHS[kind]
        return words.format(len(value), ctx[key])
    return f"found {shown(value)}, expected {' or '.join(dict.fromkeys(map(_expected, items)))}"


def _expected(item: Any) -> str:
    kind, value, ctx = item["type"], item["input"], item.get("ctx", {})
    if kind == "literal_error":
        allowed = [word.strip("'") for word in ctx["expected"].replace(" or ", ", ").split(", ")]
        near = difflib.get_close_matches(value, allowed, 1) if isinstance(value, str) else []
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"{'one of ' if len(allowed) > 1 else ''}{', '.join(allowed)}{hint}"
    if kind == "string_pattern_mismatch":
        return PATTERNS.get(ctx["pattern"], f"text like {ctx['pattern']}")
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "text (put it in quotes)"
    return EXPECTED[kind] if kind in EXPECTED else item["msg"]


def _nearest_key(model: type[BaseModel], loc: Loc) -> str:
    """What was meant by an unknown key: one like it, the same one elsewhere, or one of these."""
    *above, key = loc
    known = sorted({name for part in _parts_at(model, above) for name in part.model_fields})
    if near := difflib.get_close_matches(str(key), known, 1):
        return f"did you mean `{near[0]}`?"
    if home := next((path for path in _paths(model, ()) if path[-1] == key), None):
        return f"did you mean `{_dotted(home)}`?"
    return f"known are: {', '.join(known)}"


def _parts_at(model: type[BaseModel], loc: Loc) -> list[type[BaseModel]]:
    found = [model]
    for key in loc:
        if not isinstance(key, int):
            fields = [part.model_fields[key] for part in found if key in part.model_fields]
            found = [part for field in fields for part in _parts_in(field.annotation)]
    return found


def _parts_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [part for argument in get_args(annotation) for part in _parts_in(argument)]


def _paths(model: type[BaseModel], above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        yield (*above, name)
        for part in _parts_in(field.annotation):
            yield from _paths(part, (*above, name))


def _real(item: Any, value: Any) -> tuple[int | str, ...]:
    """An error's place without the names that pydantic gives to the choices of a type."""
    missing = item["loc"][-1:] if item["type"] == "missing" else ()
    return (*_path(item["loc"], value), *missing)


def _path(loc: Loc, value: Any) -> tuple[int | str, ...]:
    """The parts of `loc` that `value` has, one below the other."""
    real: list[int | str] = []
    for part in loc:
        inside = isinstance(value, dict) and part in value
        if inside or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            real.append(part)
            value = value[part]  # pyright: ignore[reportArgumentType, reportCallIssue]  (it is inside)
    return tuple(real)


def _leaves(value: Any, loc: tuple[int | str, ...], seen: set[int]) -> Iterator[tuple[Loc, Any]]:
    """Everything in a value that holds nothing else, keys too. An alias may stand inside itself."""
    if not isinstance(value, dict | list):
        yield loc, value
    elif id(value) not in seen:
        seen.add(id(value))
        for key, below in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield (*loc, key), key
            yield from _leaves(below, (*loc, key), seen)
