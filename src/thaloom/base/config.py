"""Settings: a tree of frozen dataclasses, read once from TOML at boot. An unknown key is an error."""

from __future__ import annotations

import dataclasses
import functools
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Union

from thaloom.base.errors import BadParameter

T = TypeVar("T")


def home() -> Path:
    """The one folder everything a node keeps lies under: THALOOM_HOME, else ~/.thaloom."""
    return Path(os.environ.get("THALOOM_HOME") or Path.home() / ".thaloom").absolute()


def read_toml(kind: type[T], path: Path) -> T:
    """The settings in `path`, or all defaults if there is no such file.

    Raises BadParameter that names the file and the key for bad syntax, an unknown key or a wrong type.
    """
    try:
        return from_mapping(kind, _read(path))
    except BadParameter as error:
        raise BadParameter(f"{path}: {error.message}", param=error.param) from error


def read_table(kind: type[T], path: Path, name: str) -> T:
    """The settings in one table of `path`, whose other tables are for others to read. Raises as `read_toml`."""
    try:
        table = _read(path).get(name, {})
        if not isinstance(table, dict):
            raise BadParameter(f"{name!r} must be a table", param=name)
        return from_mapping(kind, table, prefix=f"{name}.")
    except BadParameter as error:
        raise BadParameter(f"{path}: {error.message}", param=error.param) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadParameter(str(error)) from error


def from_mapping(kind: type[T], data: Mapping[str, Any], *, prefix: str = "") -> T:
    """Build the dataclass `kind` from nested tables, checking names and types all the way down."""
    if not dataclasses.is_dataclass(kind):
        raise TypeError(f"{kind!r} is not a dataclass")
    hints = _hints(kind)
    for key in data:
        if key not in hints:
            known = ", ".join(sorted(hints))
            raise BadParameter(f"unknown key {prefix + key!r} (known: {known})", param=prefix + key)
    values = {key: _convert(hints[key], value, prefix + key) for key, value in data.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise BadParameter(f"{prefix.rstrip('.') or 'settings'}: {error}", param=prefix.rstrip(".")) from error


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields, by name. Looked up once: it takes longer than to read a row by them."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _convert(hint: Any, value: Any, key: str) -> Any:
    hint = getattr(hint, "__supertype__", hint)  # a NewType is checked as what it is made of
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise BadParameter(f"{key!r} must be a table", param=key)
        return from_mapping(hint, value, prefix=key + ".")
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, key)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise BadParameter(f"{key!r} must be one of {typing.get_args(hint)}, not {value!r}", param=key)
        return value
    if origin is dict and isinstance(value, Mapping):
        return {name: _convert(typing.get_args(hint)[1], item, f"{key}.{name}") for name, item in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(typing.get_args(hint)[0], item, key) for item in value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    kind = origin or hint
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadParameter(f"{key!r} must be {kind.__name__}, not {type(value).__name__} {value!r}", param=key)
    return value


def _convert_union(hint: Any, value: Any, key: str) -> Any:
    for option in typing.get_args(hint):
        if option is type(None):
            if value is None:  # TOML has none; our own JSON files do
                return None
            continue
        try:
            return _convert(option, value, key)
        except BadParameter:
            continue
    raise BadParameter(f"{key!r} does not accept {value!r}", param=key)
