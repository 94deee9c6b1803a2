"""`thaloom` as a whole: which verbs there are, and what becomes of an error."""

from __future__ import annotations

import errno
import itertools
import os
import sys
from collections.abc import Sequence

import click

from thaloom import __version__
from thaloom.base.errors import BadParameter, DiskFull, Forbidden, ThaloomError
from thaloom.user.cli.command import TextOption, Verbs
from thaloom.user.cli.report import from_usage, report, report_interrupt
from thaloom.user.cli.texts import text

INTERRUPTED = 130
_HERE = "thaloom.user.cli."


def _show_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"thaloom {__version__}")
        context.exit()


thaloom = Verbs(
    "thaloom",
    key="thaloom",
    sections={
        "section.answers": {
            "run": _HERE + "run:command",
            "serve": _HERE + "serve:command",
            "ps": _HERE + "ps:command",
            "stop": _HERE + "stop:command",
            "logs": _HERE + "logs:command",
            "alias": _HERE + "alias:command",
        },
        "section.models": {
            "pull": _HERE + "pull:command",
            "ls": _HERE + "ls:command",
            "show": _HERE + "show:command",
            "rm": _HERE + "rm:command",
            "verify": _HERE + "verify:command",
            "quantize": _HERE + "quantize:command",
            "encrypt": _HERE + "encrypt:encrypt",
            "decrypt": _HERE + "encrypt:decrypt",
        },
        "section.jobs": {"job": _HERE + "job:command"},
        "section.node": {
            "up": _HERE + "up:command",
            "down": _HERE + "down:command",
            "status": _HERE + "status:command",
            "outgoing": _HERE + "outgoing:command",
            "device": _HERE + "device:command",
            "token": _HERE + "token:command",
            "key": _HERE + "key:command",
            "backup": _HERE + "backup:backup",
            "restore": _HERE + "backup:restore",
            "doctor": _HERE + "doctor:command",
        },
        "section.documents": {
            "apply": _HERE + "documents:apply",
            "diff": _HERE + "documents:diff",
            "export": _HERE + "documents:export",
            "wait": _HERE + "documents:wait",
        },
        "section.changes": {
            "history": _HERE + "changes:history",
            "explain": _HERE + "changes:explain",
            "undo": _HERE + "changes:undo",
            "approve": _HERE + "changes:approve",
            "audit": _HERE + "changes:audit",
        },
        "section.more": {
            "version": _HERE + "version:command",
            "completion": _HERE + "completion:command",
            "help": _HERE + "help:command",
        },
    },
    aliases={
        "list": "ls",
        "devices": "device",
        "remove": "rm",
        "import": "pull",
        "quantise": "quantize",
        "tokens": "token",
        "jobs": "job",
    },
    params=[TextOption(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version)],
)


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Every typed error ends here, and none shows a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _never_stumble_over_a_letter()
    try:
        return _run(words)
    except ThaloomError as error:
        return report(error, as_json=wants_json(words))
    except click.UsageError as error:
        return report(from_usage(error), as_json=wants_json(words))
    except click.exceptions.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, click.Abort):
        report_interrupt(as_json=wants_json(words))
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_left()
    except OSError as error:
        typed = _typed(error)
        if typed is None:
            raise
        return report(typed, as_json=wants_json(words))


def _run(words: list[str]) -> int:
    for word in words:
        if not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word):
            # Bytes that are no text reach Python as lone surrogates; no message of ours could carry them.
            raise BadParameter(text("usage.not_text", word=ascii(word)), usage="thaloom --help")
    if instruction := os.environ.get("_THALOOM_COMPLETE"):
        return _complete(instruction)
    with thaloom.make_context("thaloom", words) as context:
        result = thaloom.invoke(context)
    sys.stdout.flush()
    return result if isinstance(result, int) else 0


def _complete(instruction: str) -> int:
    """What the shell may offer. Where a line makes no sense that is nothing: an error would land between its words."""
    from click.shell_completion import shell_complete

    try:
        return shell_complete(thaloom, {}, "thaloom", "_THALOOM_COMPLETE", instruction)
    except (ThaloomError, click.ClickException):
        return 0


def wants_json(words: Sequence[str]) -> bool:
    """Whether JSON was asked for, found out without parsing: the arguments may be what is wrong."""
    own = words[: words.index("--")] if "--" in words else words
    pairs = itertools.pairwise(own)
    return (
        "--json" in own
        or any(word in ("-ojson", "--output=json", "-o=json") for word in own)
        or any(pair in (("-o", "json"), ("--output", "json")) for pair in pairs)
    )


def _typed(error: OSError) -> ThaloomError | None:
    place = "standard output" if error.filename is None else repr(str(error.filename))
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Forbidden(f"{error.strerror}: {place}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{error.strerror}: {place}")
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP):
        return BadParameter(f"{error.strerror}: {place}")  # what was given as a folder or file is none
    return None


def _reader_left() -> int:
    """`thaloom ls | head -1`: the reader has had enough, nothing failed. Keep the last flush quiet too."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)
    return 0


def _never_stumble_over_a_letter() -> None:
    """A terminal that cannot show a letter shows a question mark; an answer does not end in an error for it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
