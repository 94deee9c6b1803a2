"""A conversation on a terminal: what `thaloom run MODEL` is without a prompt."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from thaloom.base import config
from thaloom.base.errors import PromptTooLong, ThaloomError
from thaloom.user.cli.answers import Asker, show, speed
from thaloom.user.cli.output import Output, is_terminal, paint
from thaloom.user.cli.report import lines
from thaloom.user.cli.texts import text

PROMPT = ">>> "
CONTINUED = "... "
FENCE = '"""'
MAX_HISTORY = 1000


def converse(asker: Asker, output: Output, *, verbose: bool) -> None:
    """Until /bye or Ctrl-D. An error of one answer ends that answer, not the conversation."""
    output.note(text("chat.welcome" if asker.chat else "chat.completion", name=asker.model))
    with _line_history():
        for words in _said(output):
            match words.strip():
                case "":
                    continue
                case "/bye" | "/exit" | "/quit":
                    return
                case "/help" | "/?":
                    output.note(text("chat.help"))
                case "/clear":
                    asker.forget()
                    output.note(text("chat.cleared"))
                case command if command.startswith("/") and " " not in command and "\n" not in command:
                    output.note(text("chat.unknown", word=command))
                case _:
                    _answer(asker, words, output, verbose=verbose)


def _answer(asker: Asker, words: str, output: Output, *, verbose: bool) -> None:
    try:
        with asker.ask(words) as answer:
            for piece in answer:
                show(piece, output)
    except KeyboardInterrupt:
        # Leaving the block closed the stream, and the worker has forgotten the request.
        output.line(" " + text("chat.stopped"))
        return
    except ThaloomError as error:
        output.line()
        output.note("\n".join(lines(error)))
        if isinstance(error, PromptTooLong):
            output.note(text("chat.too_long"))
        return
    output.line()
    if verbose or is_terminal(sys.stdout):
        output.note(paint(speed(answer.ending), "dim", sys.stderr))


def _said(output: Output) -> Iterator[str]:
    """What the person types, one text at a time. Ctrl-C takes back what was begun."""
    while True:
        try:
            words = input(PROMPT)
            if words.startswith(FENCE):
                words = _fenced(words.removeprefix(FENCE))
        except EOFError:
            output.note("")
            return
        except KeyboardInterrupt:
            output.note("\n" + text("chat.leave"))
            continue
        except UnicodeDecodeError:
            output.note(text("chat.not_text"))
            continue
        yield words


def _fenced(first: str) -> str:
    """Lines up to the closing three quotation marks, which may stand on the first one."""
    read = [first]
    while not read[-1].endswith(FENCE):
        read.append(input(CONTINUED))
    read[-1] = read[-1].removesuffix(FENCE)
    return "\n".join(read).strip("\n")


@contextlib.contextmanager
def _line_history() -> Iterator[None]:
    """Arrow keys bring back earlier lines, of earlier conversations too. Kept in the home, for its owner only."""
    try:
        import readline
    except ImportError:  # a Python built without it: lines can be typed all the same
        yield
        return
    path = config.home() / "history"
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        readline.set_history_length(MAX_HISTORY)
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            readline.write_history_file(path)
