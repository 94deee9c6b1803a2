"""`thaloom completion bash|zsh|fish`: a script for the shell, for `eval "$(thaloom completion bash)"`."""

from __future__ import annotations

import click

from thaloom.user.cli.command import argument, verb
from thaloom.user.cli.output import Output

# click's own, but for the words: bash cuts COMP_WORDS at `:`, which names of models hold, and replaces only what comes
# after the last one; so the line is cut at spaces here, and what stays on it is taken off the replies.
_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT} response completion type value current kept=''
    local breaks=${COMP_WORDBREAKS//[^:=]/}
    local -a words

    IFS=$' \\t' read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=('')
    current=${words[${#words[@]} - 1]}
    [[ -n $breaks ]] && kept=${current%%"${current##*[$breaks]}"}
    response=$(env COMP_WORDS="$line" COMP_CWORD=$((${#words[@]} - 1)) %(complete_var)s=bash_complete "$1" 2>/dev/null)

    COMPREPLY=()
    for completion in $response; do
        IFS=',' read -r type value <<< "$completion"

        if [[ $type == 'dir' ]]; then
            compopt -o dirnames
        elif [[ $type == 'file' ]]; then
            compopt -o default
        elif [[ $type == 'plain' ]]; then
            COMPREPLY+=("${value#"$kept"}")
        fi
    done

    return 0
}

%(complete_func)s_setup() {
    complete -o nosort -F %(complete_func)s %(prog_name)s
}

%(complete_func)s_setup;
"""


@verb("completion")
@argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(output: Output, shell: str) -> None:
    from click.shell_completion import ShellComplete, get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the three shells we offer"
    completion = kind(click.get_current_context().find_root().command, {}, "thaloom", "_THALOOM_COMPLETE")
    # The base class's source(): bash's own would start a bash to look at its version first.
    script = _BASH % completion.source_vars() if shell == "bash" else ShellComplete.source(completion)
    output.document({"shell": shell, "script": script})
    output.line(script.rstrip())
