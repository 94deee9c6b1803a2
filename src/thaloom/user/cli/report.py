"""How a command ends that did not do what was asked: message, hint and help page on standard error.

With `--json` the same as one JSON document, also on standard error, so that standard output holds results only.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from thaloom.base.errors import BadParameter, ThaloomError
from thaloom.user.cli.output import paint
from thaloom.user.cli.texts import language, text


def report(error: ThaloomError, *, as_json: bool) -> int:
    """Tell of it, and return its exit code."""
    if as_json:
        import json

        print(json.dumps({"error": describe(error)}, indent=2, ensure_ascii=False), file=sys.stderr, flush=True)
    else:
        print("\n".join(lines(error)), file=sys.stderr, flush=True)
    return error.exit_code


def describe(error: ThaloomError) -> dict[str, Any]:
    """The error as data: base.errors' fields, and what a person would have been told."""
    return error.to_dict() | {
        "help_page": error.help_page,
        "exit_code": error.exit_code,
        "hint": text(f"hint.{error.code}"),
    }


def lines(error: ThaloomError) -> list[str]:
    told = [f"thaloom: {paint(text('error.word'), 'red', sys.stderr)}: {_message(error)}"]
    if (near := error.details.get("near")) and "did you mean" not in error.message:
        told.append("  " + text("error.near", names=", ".join(near)))
    if usage := error.details.get("usage"):
        told.append("  " + text("error.usage", usage=usage))
    else:
        told.append("  " + text("error.hint", hint=text(f"hint.{error.code}")))
    if error.retry_after_s is not None:
        told.append("  " + text("error.retry", seconds=f"{error.retry_after_s:g}"))
    told.append("  " + text("error.help", page=error.help_page, exit_code=error.exit_code))
    return told


def _message(error: ThaloomError) -> str:
    """The node speaks English; in another language its words follow a title that says what kind of thing happened."""
    if language() == "en" or "usage" in error.details:
        return error.message
    return f"{text(f'title.{error.code}')} — {error.message}"


def report_interrupt(*, as_json: bool) -> None:
    if not as_json:
        print(text("error.interrupted"), file=sys.stderr, flush=True)


def from_usage(error: click.UsageError) -> BadParameter:
    """A command line that cannot be read, as the leaf it is, in the person's language."""
    context = error.ctx
    name = _name(error)
    match error:
        case click.MissingParameter():
            message, close = text("usage.missing", name=name), []
        case click.NoSuchOption(possibilities=possibilities):
            message, close = text("usage.no_option", name=error.option_name), possibilities or []
        case click.BadParameter():
            message, close = text("usage.bad_value", name=name, why=error.message), []
        case _:
            message, close = error.format_message(), []
    usage = f"{context.command_path} --help" if context is not None else "thaloom --help"
    refusal = BadParameter(message, param=name or None, usage=usage)
    if close:
        refusal.details["near"] = close
    return refusal


def _name(error: click.UsageError) -> str:
    if isinstance(error, click.NoSuchOption):
        return error.option_name
    if not isinstance(error, click.BadParameter) or error.param is None:
        return ""
    if isinstance(error.param, click.Option):
        return max(error.param.opts, key=len)
    return error.param.make_metavar(error.ctx) if error.ctx is not None else str(error.param.name)
