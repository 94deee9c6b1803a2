"""docs/cli.md, written from the commands themselves: `python -m thaloom.user.cli.reference`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click

from thaloom.base.errors import EXIT_CODES
from thaloom.user.cli.program import thaloom
from thaloom.user.cli.texts import VARIABLES

HEAD = """# The command line

Made from the commands themselves by `make docs`. Everything here is also what `thaloom VERB --help` says.

Every verb takes `--json` (or `-o json`): then standard output holds one JSON document and nothing else; an error is one
JSON document on standard error. Flags go over the environment (`THALOOM_HOME`, `THALOOM_HOST`, `THALOOM_PORT`), the
environment over `config.toml`, and that over the defaults. `THALOOM_URL` (or `--node`), `THALOOM_TOKEN`, `THALOOM_CA`
and `THALOOM_FINGERPRINT` name a node of another machine (operations.md, "Beyond this machine"). Texts are English, or
Chinese where the first of `THALOOM_LANG`, `LC_ALL`, `LC_MESSAGES`, `LANG` that is set begins with `zh`. `NO_COLOR` is
honoured. A reader that closes a pipe early ends a command quietly, with exit code 0.

## Exit codes
"""
WIDTH = 100


def page() -> str:
    """The page, in English whatever the language of the person who makes it."""
    for variable in VARIABLES:
        os.environ.pop(variable, None)
    codes = ["| code | meaning |", "| --- | --- |", *(f"| {code} | {told} |" for code, told in EXIT_CODES.items())]
    parts = [HEAD, "\n".join(codes), *(section(context) for context in contexts())]
    return "\n".join(parts) + "\n"


def contexts() -> Iterator[click.Context]:
    """A context for the program and for each of its verbs, groups before their own."""

    def below(context: click.Context) -> Iterator[click.Context]:
        yield context
        group = context.command
        if isinstance(group, click.Group):
            for name in group.list_commands(context):
                command = group.get_command(context, name)
                assert command is not None, f"{name!r} is listed and not there"
                yield from below(
                    click.Context(
                        command, parent=context, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH
                    )
                )

    yield from below(
        click.Context(
            thaloom, info_name="thaloom", terminal_width=WIDTH, max_content_width=WIDTH, **thaloom.context_settings
        )
    )


def section(context: click.Context) -> str:
    return f"\n## {context.command_path}\n\n```\n{context.get_help()}\n```"


if __name__ == "__main__":
    print(page(), end="")
