"""Documents as people write them, YAML or JSON, read so that each fault is told with its file and line; and written.

YAML as far as JSON goes: mappings with words for keys, lists, and scalars by YAML 1.2's core schema, where `no` and
`22:22` are words. No tags, so nothing that is read can be anything but data; a key that is there twice is refused, and
so is what is larger or deeper than any document is. Source: yaml.org/spec/1.2.2 (10.3.2).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from thaloom.base.errors import BadParameter, ThaloomError, TooLarge
from thaloom.edge.wire.control import Document

MAX_BYTES = 16 << 20
"""Of one file. A thousand documents of services are a few hundred kilobytes."""
MAX_DEPTH = 64
MAX_NODES = 1_000_000
"""Values in one file, also where one is named once and stands in many places."""
Path = tuple[str | int, ...]

_NULL = re.compile(r"(~|null|Null|NULL)?")
_TRUE, _FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_MAX_DIGITS = 4000
"""Longer numbers are no numbers of anything, and take quadratic time to read."""
_PLAIN_TAGS = {None, "!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


@dataclass(frozen=True, slots=True)
class Written:
    """One document as it stands in a file."""

    value: Any
    source: str
    """The file's name, as the person wrote it."""
    lines: dict[Path, int] = field(default_factory=dict)
    """By path, counted from 1; what is missing is told by its path alone."""

    def where(self, path: Sequence[str | int]) -> str:
        """`file:line` of the deepest part of the path that stands there."""
        for length in range(len(path), -1, -1):
            if (line := self.lines.get(tuple(path[:length]))) is not None:
                return f"{self.source}:{line}"
        return self.source

    def document(self) -> Document:
        """Raises BadParameter with file and line."""
        if not isinstance(self.value, dict):
            raise BadParameter(f"{self.where(())}: not a document (a mapping with apiVersion, kind, metadata, spec)")
        try:
            return Document.model_validate(self.value)
        except ValidationError as error:
            # A misspelt field is one too many and one too few; the first of these says what is wrong.
            fault = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
            place = ".".join(str(part) for part in fault["loc"])
            what = f"unknown field {place!r}" if fault["type"] == "extra_forbidden" else f"{place}: {fault['msg']}"
            raise BadParameter(f"{self.where(fault['loc'])}: {what}", param=place) from error


def read_documents(text: bytes, source: str) -> list[Written]:
    """All documents of one file: several in YAML are parted by `---`, in JSON they are a list. Raises BadParameter
    with the line, TooLarge."""
    if len(text) > MAX_BYTES:
        raise TooLarge(f"{source}: {len(text):,} bytes of documents; at most {MAX_BYTES:,} are read")
    try:
        words = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadParameter(f"{source}: not UTF-8: {error}") from error
    found = _read_json(words, source) if words.lstrip()[:1] in ("{", "[") else None
    found = _Reader(words, source).documents() if found is None else found
    several = [
        Written(item, one.source, {path[1:]: line for path, line in one.lines.items() if path[:1] == (number,)})
        for one in found
        for number, item in enumerate(one.value if isinstance(one.value, list) else ())
    ]
    alone = [one for one in found if not isinstance(one.value, list) and one.value is not None]
    return alone + several


def explained(error: ThaloomError, documents: Sequence[Written]) -> ThaloomError:
    """The same error, with file and line where the node says of which document it speaks."""
    number, subject = error.details.get("document"), error.details.get("subject")
    if not isinstance(number, int) or not 0 <= number < len(documents):
        named = (place for place, one in enumerate(documents) if _subject(one.value) == subject)
        number = next(named, None) if subject is not None else None
        if number is None:
            return error
    place = documents[number].where((error.param or "").split("."))
    error.message = f"{place}: {error.message}"
    error.args = (error.message,)
    return error


def to_yaml(documents: Iterable[dict[str, Any]]) -> str:
    """Parted by `---`. What is read back is what was written."""
    import yaml

    return str(
        yaml.dump_all(documents, Dumper=_dumper(), sort_keys=False, explicit_start=True, allow_unicode=True, width=120)
    )


def scalar(text: str) -> Any:
    """What a plain scalar is by the core schema."""
    if _NULL.fullmatch(text):
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if len(text) <= _MAX_DIGITS and _INT.fullmatch(text):
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)
    if len(text) <= _MAX_DIGITS and _FLOAT.fullmatch(text):
        return float(text)
    return text


class _Reader:
    """From events to values, without a recursion that a file could make deep."""

    def __init__(self, text: str, source: str) -> None:
        self._text = text
        self._source = source
        self._num_nodes = 0
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._lines: dict[Path, int] = {}

    def documents(self) -> list[Written]:
        import yaml

        loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
        try:
            return list(self._documents(yaml.parse(self._text, Loader=loader)))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f"{self._source}:{mark.line + 1}" if mark is not None else self._source
            raise BadParameter(f"{place}: not YAML: {error.problem or error.context}") from error
        except yaml.YAMLError as error:
            raise BadParameter(f"{self._source}: not YAML: {error}") from error

    def _documents(self, events: Iterator[Any]) -> Iterator[Written]:
        for event in events:
            if type(event).__name__ == "DocumentStartEvent":
                self._lines, self._anchors = {}, {}
                value = self._value(next(events), events, ())
                yield Written(value, self._source, self._lines)

    def _value(self, event: Any, events: Iterator[Any], path: Path) -> Any:
        self._count(event, path)
        kind, anchor = type(event).__name__, getattr(event, "anchor", None)
        if kind == "AliasEvent":
            return self._named(event, path)
        if event.tag not in _PLAIN_TAGS:
            raise self._fault(event, f"tags are not read: {event.tag}")
        before = self._num_nodes
        self._lines.setdefault(path, event.start_mark.line + 1)
        match kind:
            case "ScalarEvent":
                value = scalar(event.value) if event.implicit[0] and event.style in (None, "") else event.value
            case "SequenceStartEvent":
                value = self._sequence(events, path)
            case _:
                value = self._mapping(events, path)
        if anchor is not None:
            self._anchors[anchor] = (value, 1 + self._num_nodes - before)
        return value

    def _sequence(self, events: Iterator[Any], path: Path) -> list[Any]:
        items: list[Any] = []
        for event in events:
            if type(event).__name__ == "SequenceEndEvent":
                break
            items.append(self._value(event, events, (*path, len(items))))
        return items

    def _mapping(self, events: Iterator[Any], path: Path) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for event in events:
            if type(event).__name__ == "MappingEndEvent":
                break
            if type(event).__name__ != "ScalarEvent" or event.tag not in _PLAIN_TAGS:
                raise self._fault(event, "a key must be a word")
            if event.value in items:
                raise self._fault(event, f"{event.value!r} is there twice")
            self._lines[(*path, event.value)] = event.start_mark.line + 1
            items[event.value] = self._value(next(events), events, (*path, event.value))
        return items

    def _named(self, event: Any, path: Path) -> Any:
        """What an alias stands for. It counts as often as it stands, so that nothing grows without end."""
        if event.anchor not in self._anchors:
            raise self._fault(event, f"no anchor &{event.anchor} before this")
        value, num_nodes = self._anchors[event.anchor]
        self._num_nodes += num_nodes
        self._count(event, path)
        return value

    def _count(self, event: Any, path: Path) -> None:
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            raise self._fault(event, f"more than {MAX_NODES:,} values")
        if len(path) > MAX_DEPTH:
            raise self._fault(event, f"deeper than {MAX_DEPTH} levels")

    def _fault(self, event: Any, why: str) -> BadParameter:
        return BadParameter(f"{self._source}:{event.start_mark.line + 1}: {why}")


def _read_json(text: str, source: str) -> list[Written] | None:
    """None: it is no JSON, though it begins like some (YAML may, too)."""
    try:
        value = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, source), parse_constant=_no_constant)
    except RecursionError as error:
        raise BadParameter(f"{source}: deeper than {MAX_DEPTH} levels") from error
    except ValueError:
        return None
    _check_depth(value, source)
    try:  # for the lines alone; that JSON which YAML cannot read has none
        (as_yaml,) = _Reader(text, source).documents()
    except (BadParameter, ValueError):
        return [Written(value, source)]
    return [Written(value, source, as_yaml.lines)]


def _check_depth(value: Any, source: str) -> None:
    left = [(value, 0)]
    while left:
        item, depth = left.pop()
        if depth > MAX_DEPTH:
            raise BadParameter(f"{source}: deeper than {MAX_DEPTH} levels")
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        left += [(one, depth + 1) for one in inner]


def _once(pairs: list[tuple[str, Any]], source: str) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise BadParameter(f"{source}: {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return value


def _no_constant(word: str) -> Any:
    raise ValueError(word)


def _subject(value: Any) -> str | None:
    try:
        return f"{value['kind'].lower()}/{value['metadata']['name']}"
    except (TypeError, KeyError, AttributeError):
        return None


def _dumper() -> Any:
    import yaml

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            return True

    def word(dumper: Any, value: str) -> Any:
        """In quotes where the core schema would take it for something else."""
        style = None if isinstance(scalar(value), str) else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, word)
    return Dumper
