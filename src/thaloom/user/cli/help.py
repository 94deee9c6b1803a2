"""`thaloom help [VERB]`: the same as `thaloom VERB --help`, for those who ask in this order."""

from __future__ import annotations

import click

from thaloom.base.errors import BadParameter
from thaloom.user.cli.command import argument, near, verb
from thaloom.user.cli.output import Output
from thaloom.user.cli.texts import text


@verb("help")
@argument("words", nargs=-1, metavar="[VERB]...")
def command(output: Output, words: tuple[str, ...]) -> None:
    context = click.get_current_context().find_root()
    for word in words:
        group = context.command
        known = group.list_commands(context) if isinstance(group, click.Group) else []
        found = group.get_command(context, word) if isinstance(group, click.Group) else None
        if found is None:
            usage = f"{context.command_path} --help"
            raise BadParameter(text("usage.no_verb", name=word), param=word, near=near(word, known), usage=usage)
        context = click.Context(found, parent=context, info_name=found.name)
    words_of_help = context.get_help()
    output.document({"help": words_of_help})
    output.line(words_of_help)
