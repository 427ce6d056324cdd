"""Renders Jinja text of strangers: jinja2's sandbox, and a budget that each rendering has.

The sandbox keeps a template from the machine; alone it lets one loop for hours or fill the memory. So every place
where a template can repeat or enlarge something takes from the budget before it does so, and the same template with
the same variables always fails at the same place. What still gets through meets the limit on a silent runner.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sized
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes, pass_context
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

STEPS = 100_000
"""Loop rounds and calls of one rendering."""

CHARACTERS = 50_000_000
"""Of all that one rendering writes, joins, cuts or hands to a function."""

VALUE = 50
"""What a value counts as, besides its own characters: about its bytes in memory."""

TEMPLATE_MAX = 200_000
"""Characters of a template; the longest known ones have 20 000."""

MULTIPLIES = frozenset({"replace", "join", "expandtabs", "translate", "indent", "wordwrap", "urlize", "tojson", "*"})
"""Functions, filters and operators whose result may be as large as the product of what they get."""


class TemplateLimit(Exception):
    """A template wants more than a rendering may use."""


@dataclass
class _Budget:
    """What a rendering has left."""

    steps: int = STEPS
    characters: int = CHARACTERS

    def step(self, count: int = 1) -> None:
        self.steps -= count
        if self.steps < 0:
            raise TemplateLimit(f"it takes more than {STEPS:,} loop rounds and calls")

    def make(self, count: int) -> None:
        self.characters -= count
        if self.characters < 0:
            raise TemplateLimit(f"it makes more than {CHARACTERS:,} characters")


_left: ContextVar[_Budget] = ContextVar("left")


def render(text: str, variables: dict[str, Any], functions: tuple[tuple[str, Any], ...]) -> str:
    """The template `text` with its variables and the functions it may call.

    Raises TemplateLimit when the budget is spent, and whatever a template, which is a program, can raise.
    """
    if len(text) > TEMPLATE_MAX:
        raise TemplateLimit(f"it has {len(text):,} characters, more than {TEMPLATE_MAX:,}")
    token = _left.set(_Budget())
    try:
        return _compiled(text, functions).render(variables)
    finally:
        _left.reset(token)


@lru_cache(maxsize=64)
def _compiled(text: str, functions: tuple[tuple[str, Any], ...]) -> jinja2.Template:
    """With the settings, filters and tags that transformers gives a chat template."""
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.globals.update(functions)
    del environment.globals["lipsum"]
    tree = _Charging().visit(environment.parse(text))
    return environment.from_string(tree.set_environment(environment))


class _Sandbox(ImmutableSandboxedEnvironment):
    """Calls, operators, filters and output take from the budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, finalize=_made)
        self.filters["tojson"] = _tojson
        plain = self.overlay()
        plain.filters = dict(self.filters)
        for name in plain.filters:
            self.filters[name] = pass_context(partial(_filtered, plain, name))
        self.filters |= {_EACH: pass_context(_each), _MADE: pass_context(_kept), _JOINED: pass_context(_joined)}

    def call(self, context: Context, called: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call in a template: of a macro, a method or a function."""
        method = getattr(called, "__wrapped__", called)  # of str.format and str.format_map, which jinja2 replaces
        owner = getattr(method, "__self__", None)
        values = [*([owner] if isinstance(owner, str) else []), *args, *kwargs.values()]
        _left.get().step()
        _charge(getattr(method, "__name__", ""), values)
        return super().call(context, called, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """One of the operators that can enlarge something."""
        if operator == "**" and (abs(left) > 1000 or abs(right) > 8):
            raise TemplateLimit(f"it raises {left} to the power of {right}")
        _charge("format" if operator == "%" else operator, [left, right])
        return super().call_binop(context, operator, left, right)


class _Generation(jinja2.ext.Extension):
    """{% generation %} … {% endgeneration %}: some templates mark the answer so; here it only passes through."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


_EACH, _MADE, _JOINED = "each of", "made", "joined"
"""Filters that a template's author did not write. Names with a space, or that mean the same when written."""


class _Charging(NodeTransformer):
    """Puts a filter that takes from the budget around each loop's values, text, slice and `~`."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filter(node.iter, _EACH)
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Filter:
        return _filter(nodes.Const(node.data, lineno=node.lineno), _MADE)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), _JOINED)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _filter(node, _MADE) if isinstance(node.arg, nodes.Slice) else node


def _filter(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)  # as `node | name`


def _filtered(plain: jinja2.Environment, name: str, context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
    _charge(name, [value, *args, *kwargs.values()])
    return plain.call_filter(name, value, args, kwargs, context=context, eval_ctx=context.eval_ctx)


def _each(context: Context, values: Any) -> Any:
    """What a loop goes over, paid at once or, where its length is unknown, round by round."""
    if isinstance(values, Sized):
        _left.get().step(len(values))
        return values
    return _counted(values) if isinstance(values, Iterable) else values


def _counted(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _left.get().step()
        yield value


def _kept(context: Context, value: Any) -> Any:
    return _made(value)


def _joined(context: Context, values: list[Any]) -> str:
    _charge("", values)
    return "".join(map(str, values))


def _made(value: Any) -> Any:
    _charge("", [value])
    return value


def _charge(name: str, values: list[Any]) -> None:
    """Pays for what the function or operator `name` may make of these values."""
    budget = _left.get()
    sizes = [_pay(value, budget) for value in values]
    if name in MULTIPLIES:
        budget.make(math.prod(size + 1 for size in sizes))
    elif name in ("format", "format_map") and values and isinstance(values[0], str):
        budget.make(sum(int(width[:9]) for width in re.findall(r"\d+", values[0])))


def _pay(value: Any, budget: _Budget) -> int:
    """Characters in a value and all within it, as often as it is there; a number may be a width, and counts as such."""
    paid, stack = 0, [value]
    while stack:
        each = stack.pop()
        size = 0
        if isinstance(each, str | bytes):
            size = len(each)
        elif isinstance(each, int):
            size = abs(each)
        elif isinstance(each, dict):
            stack += [*each, *each.values()]
        elif isinstance(each, list | tuple):
            stack += each
        budget.make(size + VALUE)
        paid += max(size, 1)
    return paid


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
