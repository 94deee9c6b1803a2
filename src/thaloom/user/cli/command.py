"""What every verb has: `--json`, `-o`, `--home`, help in the person's language, and an `Output` as first argument.

    @verb("pull")
    @argument("path")
    @option("--name", metavar="NAME")
    def command(output: Output, path: str, name: str | None) -> None: ...

Help texts come from the catalogue by key: `verb.pull`, `argument.pull.path`, `option.pull.name`, falling back to
`argument.path` and `option.name` for those that mean the same everywhere.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from thaloom.base.errors import BadParameter, NotFromAfar
from thaloom.user.cli.output import Output, fold
from thaloom.user.cli.texts import has_text, text

Function = Callable[..., Any]


class TextOption(click.Option):
    """An option whose help is looked up when it is shown."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        self.help = text(own_key(ctx, "option", self.name or ""))
        return super().get_help_record(ctx)

    def get_help_extra(self, ctx: click.Context) -> click.types.OptionHelpExtra:
        extra = super().get_help_extra(ctx)
        if "required" in extra:
            extra["required"] = text("help.required")
        return extra


def own_key(context: click.Context, kind: str, name: str) -> str:
    """The catalogue's key for a parameter: this verb's own text where there is one, else the shared one."""
    own = f"{kind}.{getattr(context.command, 'key', '')}.{name}"
    return own if has_text(own) else f"{kind}.{name}"


def require_near(what: str) -> None:
    """Raises NotFromAfar where the node that is asked is another machine's, for all we know."""
    if url := os.environ.get("THALOOM_URL"):
        raise NotFromAfar(text("usage.not_from_afar", what=what, url=url), url=url)


def finite(context: click.Context, parameter: click.Parameter, value: float | None) -> float | None:
    """A callback: `nan` passes every range, and JSON has neither it nor infinity."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(text("usage.not_finite", value=value), ctx=context, param=parameter)
    return value


def a_name(value: str) -> str:
    """A name in the node's control API is one part of a path. Whether there is such a thing only the node knows."""
    if not value or "/" in value or value in (".", ".."):
        raise click.BadParameter(text("usage.bad_name", name=value))
    return value


class Verb(click.Command):
    def __init__(
        self, name: str | None, *, key: str, changes: bool = False, near: bool = False, **settings: Any
    ) -> None:
        """`changes`: whether it changes something on the node, and so can be looked at before. `near`: whether it works
        on the node's own machine only."""
        super().__init__(name, context_settings={"help_option_names": ["-h", "--help"]}, **settings)
        self.key = key
        self.changes = changes
        self.near = near
        if changes:
            self.params += [
                TextOption(["--dry-run"], is_flag=True),
                TextOption(["--plan"], metavar="DIGEST"),
            ]
        self.params += [
            TextOption(["--json", "as_json"], is_flag=True),
            TextOption(["-o", "--output"], type=click.Choice(["text", "json"]), default="text"),
            TextOption(["--home"], type=click.Path(file_okay=False), metavar="DIR"),
        ]
        if not near:
            self.params.append(TextOption(["--node"], metavar="URL"))

    def invoke(self, ctx: click.Context) -> Any:
        as_json, form, home = (ctx.params.pop(name) for name in ("as_json", "output", "home"))
        if home:
            # A flag goes over the environment, for us and for every process we start.
            os.environ["THALOOM_HOME"] = str(home)
        if not self.near and (url := ctx.params.pop("node")):
            os.environ["THALOOM_URL"] = url
        if self.near:
            require_near(ctx.command_path)
        output = Output(as_json=as_json or form == "json")
        if not self.changes:
            ctx.params = {"output": output, **ctx.params}
            return super().invoke(ctx)
        from thaloom.user.cli.planning import planned

        dry_run, plan = ctx.params.pop("dry_run"), ctx.params.pop("plan")
        ctx.params = {"output": output, **ctx.params}
        with planned(output, dry_run=dry_run, plan=plan):
            return super().invoke(ctx)

    def get_short_help_str(self, limit: int = 45) -> str:  # noqa: ARG002 - click's signature
        return text(f"verb.{self.key}")

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_usage(self, ctx, formatter)
        write_description(self.key, formatter)
        write_section("help.arguments", formatter, argument_records(self, ctx))
        write_section("help.options", formatter, option_records(self, ctx))
        if has_text(f"examples.{self.key}"):
            with formatter.section(text("help.examples")):
                for example in text(f"examples.{self.key}").splitlines():
                    formatter.write(" " * formatter.current_indent + example + "\n")


class Verbs(click.Group):
    """A group that imports a verb's file when the verb is used, and not before."""

    def __init__(
        self,
        name: str,
        *,
        key: str,
        sections: Mapping[str, Mapping[str, str]],
        aliases: Mapping[str, str],
        **settings: Any,
    ) -> None:
        """`sections`: heading's key -> verb -> `module:attribute`. An alias is a second word for a verb."""
        super().__init__(
            name,
            context_settings={"help_option_names": ["-h", "--help"]},
            invoke_without_command=True,
            subcommand_metavar="[VERB] [ARGS]...",
            callback=_help_when_bare,
            **settings,
        )
        self.key = key
        self.sections = sections
        self.aliases = aliases
        self._places = {verb: place for section in sections.values() for verb, place in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        place = self._places.get(self.aliases.get(cmd_name, cmd_name))
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        command = self.get_command(ctx, args[0])
        if command is None:
            raise BadParameter(
                text("usage.no_verb", name=args[0]),
                param=args[0],
                near=near(args[0], [*self._places, *self.aliases]),
                usage=f"{ctx.command_path} --help",
            )
        return command.name, command, args[1:]

    def get_short_help_str(self, limit: int = 45) -> str:  # noqa: ARG002 - click's signature
        return text(f"verb.{self.key}")

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_usage(self, ctx, formatter)
        write_description(self.key, formatter)
        for heading, verbs in self.sections.items():
            write_section(heading, formatter, ((verb, text(f"verb.{self.key_of(verb)}")) for verb in verbs))
        write_section("help.options", formatter, option_records(self, ctx))

    def key_of(self, verb: str) -> str:
        """Under which the catalogue has this verb."""
        return f"{self.key}.{verb}" if self.key != "thaloom" else verb


def _help_when_bare() -> None:
    """The callback of a group: it runs before the verb, and alone when there is none."""
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def verb(key: str, *, changes: bool = False, near: bool = False) -> Callable[[Function], Verb]:
    """Make the function below a verb; its name is the last word of the key. `changes`, `near`: as Verb has them."""

    def decorate(function: Function) -> Verb:
        return click.command(key.rpartition(".")[2], cls=Verb, key=key, changes=changes, near=near)(function)

    return decorate


def option(*names: str, **settings: Any) -> Callable[[Function], Function]:
    return click.option(*names, cls=TextOption, **settings)


def argument(name: str, **settings: Any) -> Callable[[Function], Function]:
    return click.argument(name, **settings)


def near(wanted: str, names: Iterable[str]) -> list[str]:
    """Up to three of `names` that may have been meant."""
    from difflib import get_close_matches

    return get_close_matches(wanted, list(names), n=3, cutoff=0.6)


def write_usage(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    pieces = " ".join(command.collect_usage_pieces(context))
    formatter.write_usage(context.command_path, pieces, prefix=text("help.usage") + " ")


def write_description(key: str, formatter: click.HelpFormatter) -> None:
    formatter.write_paragraph()
    with formatter.indentation():
        write_folded(text(f"verb.{key}"), formatter)
        if has_text(f"more.{key}"):
            formatter.write_paragraph()
            write_folded(text(f"more.{key}"), formatter)


def write_folded(words: str, formatter: click.HelpFormatter) -> None:
    """click breaks lines at spaces only, and counts letters; Chinese has few spaces and wide letters."""
    indent = " " * formatter.current_indent
    for line in fold(words, formatter.width - len(indent)):
        formatter.write(f"{indent}{line}\n")


def write_section(heading: str, formatter: click.HelpFormatter, records: Iterable[tuple[str, str]]) -> None:
    rows = list(records)
    if rows:
        with formatter.section(text(heading)):
            formatter.write_dl(rows)


def option_records(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    records = []
    help_option = command.get_help_option(context)
    for parameter in command.get_params(context):
        if parameter is help_option:
            records.append(("-h, --help", text("option.help")))
        elif (record := parameter.get_help_record(context)) and isinstance(parameter, click.Option):
            records.append(record)
    return records


def argument_records(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    arguments = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Argument)]
    return [(one.make_metavar(context), text(own_key(context, "argument", one.name or ""))) for one in arguments]
