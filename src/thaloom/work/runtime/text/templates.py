"""Chat templates: programs from a model's files, so they run in a sandbox and within bounds.

The environment is the one Hugging Face's `apply_chat_template` gives them, so that templates behave as their authors
saw. Source: huggingface/transformers, src/transformers/utils/chat_template_utils.py.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent, do_round
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from thaloom.base.clock import Clock, ManualClock
from thaloom.base.errors import BadParameter, NotServable
from thaloom.work.runtime.types import ChatMessage, Templating

MAX_TEMPLATE_CHARACTERS = 256 * 1024
MAX_OUTPUT_CHARACTERS = 32 * 1024 * 1024
"""Four times the largest body the door accepts."""
MAX_STEPS = 500_000
"""Turns of loops, calls and arithmetic in one rendering: at most a second. A template of the field needs some ten for
each message."""
MAX_HANDLED_CHARACTERS = 4 * MAX_OUTPUT_CHARACTERS
"""Made or looked through in one rendering: what bounds its memory. A template of the field handles each message some
five times."""
_DIRECTIVE = re.compile(r"%(?:\.[0-9]{1,2})?[sdifeg%]")
_BIGGEST_NUMBER = 4400
"""Characters of a number, written out: Python writes no longer one."""
MOST_DIGITS = 100
"""That `round` may be asked for."""
DEADLINE_S = 2.0
"""For one rendering, looked at with every step: steps over a long text can be slow."""
_PLAIN = Templating()
_BUDGET = " budget"  # no name a template could write, so none it could change


class ChatTemplate:
    """One model's template, compiled. Safe for several threads at once."""

    def __init__(self, source: str, *, clock: Clock, bos_token: str | None, eos_token: str | None) -> None:
        """Raises NotServable if the template is too large or is none."""
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise NotServable(
                f"the chat template has {len(source)} characters, at most {MAX_TEMPLATE_CHARACTERS} may be"
            )
        try:
            self._template = _environment(clock).from_string(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError) as error:
            raise NotServable(f"the model's chat template cannot be read: {error}") from error
        self.source = source
        self._clock = clock
        self._tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}

    def render(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[dict[str, Any]] | None = None,
        templating: Templating = _PLAIN,
    ) -> str:
        """The prompt for the assistant's next turn, or, to be continued, up to the end of the last message.

        `tools`: as OpenAI's protocol has them. Raises BadParameter on `messages` with what the template said.
        """
        whole = self._render(messages, tools, templating)
        if not templating.continue_final_message:
            return whole
        last = messages[-1].content.strip()
        at = whole.rfind(last)
        if at < 0:
            raise BadParameter(
                "the model's chat template changes the last message: it cannot be continued", param="messages"
            )
        return whole[: at + len(last)]

    def _render(
        self, messages: Sequence[ChatMessage], tools: Sequence[dict[str, Any]] | None, templating: Templating
    ) -> str:
        turns = [{"role": message.role, "content": message.content} | message.extra for message in messages]
        variables = dict(templating.variables) | {
            "messages": turns,
            "add_generation_prompt": templating.add_generation_prompt and not templating.continue_final_message,
            "tools": list(tools) if tools else None,
            "documents": templating.variables.get("documents"),
        }
        pieces: list[str] = []
        num_characters = 0
        try:
            for piece in self._template.generate(variables | self._tokens | {_BUDGET: _Budget(self._clock)}):
                num_characters += len(piece)
                if num_characters > MAX_OUTPUT_CHARACTERS:
                    raise _TooMuch(f"more than {MAX_OUTPUT_CHARACTERS} characters come out")
                pieces.append(piece)
        except _ERRORS as error:
            said = str(error) or type(error).__name__
            raise BadParameter(f"the model's chat template refused these messages: {said}", param="messages") from error
        return "".join(pieces)


# What a template can end in: its own raise_exception, the sandbox, and Python's complaints about what it tried.
class _TooMuch(jinja2.TemplateRuntimeError):
    pass


_ERRORS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)


class _Budget:
    """What one rendering may still do."""

    def __init__(self, clock: Clock) -> None:
        self._steps_left = MAX_STEPS
        self._characters_left = MAX_HANDLED_CHARACTERS
        self._monotonic = clock.monotonic
        self._end = clock.monotonic() + DEADLINE_S

    def spend(self) -> None:
        self._steps_left -= 1
        if self._steps_left < 0:
            raise _TooMuch(f"more than {MAX_STEPS} steps")
        if self._monotonic() > self._end:
            raise _TooMuch(f"more than {DEADLINE_S:g} s")

    def handle(self, num_characters: int) -> None:
        """To be called before that much text is made, or looked through."""
        self._characters_left -= num_characters
        if self._characters_left < 0:
            raise _TooMuch(f"more than {MAX_HANDLED_CHARACTERS} characters are handled")

    def handle_whole(self, value: Any) -> None:
        """All that would be written if `value` were: one text a thousand times in a list is a thousand texts."""
        left = [value]
        while left:
            item = left.pop()
            self.handle(_length(item))
            if isinstance(item, dict):
                left += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple):
                left += item


_STILL = ManualClock()


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with every loop, call and product counted."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Metered().visit(source), *args, **kwargs)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget = _budget(context)
        budget.spend()
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str | int) and name in _UNBOUNDED_METHODS:
            raise _TooMuch(f"{name} is not available")
        if isinstance(owner, str):
            budget.handle(len(owner))
            if name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
                _small_numbers((*args, *kwargs.values()))
            if name in ("split", "rsplit", "splitlines"):
                separators = owner.count(args[0]) if args and isinstance(args[0], str) and args[0] else len(owner)
                budget.handle(separators * _WORD)
            if name == "replace":
                return _replace(context, owner, *args, **_own(kwargs))
            if name == "join" and len(args) == 1:
                return _join(context, args[0], owner)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = _budget(context)
        budget.spend()
        if operator == "+":
            budget.handle(_length(left) + _length(right))
        if operator == "%" and isinstance(left, str):
            raise _TooMuch("the % operator on text is not available")
        if operator == "**":
            _small_numbers((left, right))
        if operator == "*":
            _check_product(left, right, budget)
        return super().call_binop(context, operator, left, right)


def _own(arguments: dict[str, Any]) -> dict[str, Any]:
    """Without what the engine adds to every call that stands within a loop or a block."""
    return {name: value for name, value in arguments.items() if name not in ("_loop_vars", "_block_vars")}


class _Metered(NodeTransformer):
    """Rewrites a template so that whatever goes through many values, or copies a text, spends from the budget."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_counted")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_concatenated")

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        """Not only what comes out at last: a block that is kept in a variable could double it for ever."""
        self.generic_visit(node)
        literal = (nodes.TemplateData, nodes.Const)
        node.nodes = [part if isinstance(part, literal) else _filtered(part, "_handled") for part in node.nodes]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filtered(node.node, "_handled")
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        self.generic_visit(node)
        if node.node is not None and node.name not in _CHEAP_FILTERS:
            node.node = _filtered(node.node, "_counted" if node.name in _ITERATING_FILTERS else "_handled")
        return node


_WORD = 8
"""A place in a list weighs as much as so many characters."""
_UNBOUNDED_METHODS = frozenset({"format", "format_map", "translate", "encode", "to_bytes"})
"""Of text and numbers: those that make much of little, and those that lead to bytes, which are not metered."""
_UNBOUNDED_FILTERS = (
    "batch", "center", "pprint", "slice", "striptags", "sum", "urlize", "wordwrap", "xmlattr",
)  # fmt: skip
_ITERATING_FILTERS = frozenset(
    {"groupby", "list", "map", "max", "min", "reject", "rejectattr", "select", "selectattr", "sort", "unique"}
)
_CHEAP_FILTERS = frozenset({"attr", "count", "d", "default", "dictsort", "first", "items", "join", "last", "length"})


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _length(value: Any) -> int:
    """What a copy of `value` weighs, without what it refers to."""
    return len(value) if isinstance(value, str) else _WORD * len(value) if isinstance(value, list | tuple | dict) else 0


def _check_product(left: Any, right: Any, budget: _Budget) -> None:
    for repeated, times in ((left, right), (right, left)):
        if isinstance(repeated, str | list | tuple) and isinstance(times, int):
            budget.handle(_length(repeated) * max(times, 0))
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > 1024:
        raise _TooMuch("a product is too large")


def _small_numbers(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int | float) and abs(value) > 10_000:
            raise _TooMuch(f"the number {value} is too large here")


def _budget(context: Context) -> _Budget:
    budget = context.resolve(_BUDGET)
    return budget if isinstance(budget, _Budget) else _Budget(_STILL)  # there is no rendering yet: constants are folded


@jinja2.pass_context
def _counted(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    budget = _budget(context)
    for item in items:
        budget.spend()
        yield item


@jinja2.pass_context
def _handled(context: Context, value: Any) -> Any:
    _budget(context).handle_whole(value)
    return value


@jinja2.pass_context
def _concatenated(context: Context, parts: list[Any]) -> str:
    budget = _budget(context)
    budget.spend()
    budget.handle_whole(parts)
    return "".join(map(str, parts))


@jinja2.pass_context
def _replace(context: Context, text: Any, old: Any, new: Any, count: int = -1) -> str:
    whole, part, other = str(text), str(old), str(new)
    _budget(context).handle(len(whole) + whole.count(part) * len(other))
    return whole.replace(part, other, -1 if count is None else count)


@jinja2.pass_context
def _join(context: Context, items: Iterable[Any], separator: Any = "", attribute: str | None = None) -> str:
    values = [item[attribute] if attribute is not None else item for item in _counted(context, items)]
    budget = _budget(context)
    budget.handle_whole(values)
    budget.handle(len(values) * len(str(separator)))
    return str(separator).join(map(str, values))


@jinja2.pass_context
def _format(context: Context, pattern: Any, *values: Any) -> str:
    """`%s`, `%d` and `%.2f` only: a width makes much of little, and a name many copies of one value."""
    text = str(pattern)
    if len(re.findall("%", text)) != len(_DIRECTIVE.findall(text)) + len(re.findall("%%", text)):
        raise _TooMuch("format takes %s, %d, %f with at most two digits, and %%")
    budget = _budget(context)
    budget.handle_whole([text, *values])
    budget.handle(_BIGGEST_NUMBER * sum(isinstance(value, int | float) for value in values))
    return text % values


@jinja2.pass_context
def _indent(context: Context, text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    _small_numbers([width])
    budget, whole = _budget(context), str(text)
    budget.handle(_WORD * len(whole))
    budget.handle((len(whole.splitlines()) + 1) * (len(width) if isinstance(width, str) else max(width, 0)))
    return do_indent(whole, width, first, blank)


def _round(value: Any, precision: int = 0, method: Literal["common", "ceil", "floor"] = "common") -> Any:
    if not isinstance(value, int | float) or not isinstance(precision, int) or abs(precision) > MOST_DIGITS:
        raise _TooMuch(f"round takes a number and at most {MOST_DIGITS} digits")
    return do_round(value, precision, method)


_TAGS = {"generation"}


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here it is transparent."""

    tags = _TAGS

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(clock: Clock) -> _Environment:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.filters["replace"] = _replace
    environment.filters["join"] = _join
    environment.filters["indent"] = _indent
    environment.filters["format"] = _format
    environment.filters["round"] = _round
    environment.filters["_counted"] = _counted
    environment.filters["_handled"] = _handled
    environment.filters["_concatenated"] = _concatenated
    for unbounded in _UNBOUNDED_FILTERS:
        del environment.filters[unbounded]
    del environment.globals["lipsum"]
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now(clock)
    return environment


@jinja2.pass_context
def _tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    _small_numbers([indent])
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if indent is None:
        return encoder.encode(value)
    budget, pieces = _budget(context), []
    for piece in encoder.iterencode(value):  # indents grow with the depth: not known from the value's size
        budget.handle(len(piece))
        pieces.append(piece)
    return "".join(pieces)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(clock: Clock) -> Callable[[str], str]:
    return lambda pattern: time.strftime(str(pattern)[:256], time.localtime(clock.now()))
