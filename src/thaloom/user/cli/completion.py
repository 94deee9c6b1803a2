"""`thaloom completion bash|zsh|fish`: a script for the shell, for `eval "$(thaloom completion bash)"`."""

from __future__ import annotations

import click

from thaloom.user.cli.command import argument, verb
from thaloom.user.cli.output import Output


@verb("completion")
@argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(output: Output, shell: str) -> None:
    from click.shell_completion import ShellComplete, get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the three shells we offer"
    completion = kind(click.get_current_context().find_root().command, {}, "thaloom", "_THALOOM_COMPLETE")
    # The base class's source(): bash's own would start a bash to look at its version first.
    script = ShellComplete.source(completion)
    output.document({"shell": shell, "script": script})
    output.line(script.rstrip())
