"""`thaloom run MODEL ["PROMPT"]`: from nothing to an answer, whatever has to be started on the way."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from thaloom.base.errors import AlreadyRunning, BadParameter, ThaloomError
from thaloom.user.cli import node as nodes
from thaloom.user.cli.answers import Answer, Asker, Streams, show, speed
from thaloom.user.cli.command import a_name, argument, finite, option, verb
from thaloom.user.cli.completing import models as complete_models
from thaloom.user.cli.output import Output, is_terminal
from thaloom.user.cli.progress import spinner
from thaloom.user.cli.texts import text
from thaloom.user.cli.wishes import ensure_model, find_service, plain, wait_ready

if TYPE_CHECKING:
    from thaloom.edge.client.control import ControlClient
    from thaloom.edge.client.place import Place
    from thaloom.edge.wire.control import Service

SHARE = click.FloatRange(min=0, max=1)


@verb("run")
@argument("model", type=a_name, shell_complete=complete_models)
@argument("prompt", required=False)
@option("--system", metavar="TEXT")
@option("--max-tokens", type=click.IntRange(min=1), metavar="N")
@option("--temperature", type=click.FloatRange(min=0), callback=finite, metavar="T")
@option("--top-p", type=SHARE, callback=finite, metavar="P")
@option("--top-k", type=click.IntRange(min=0), metavar="K")
@option("--min-p", type=SHARE, callback=finite, metavar="P")
@option("--seed", type=int, metavar="N")
@option("--stop", multiple=True, metavar="TEXT")
@option("--raw", is_flag=True)
@option("-v", "--verbose", is_flag=True)
def command(
    output: Output,
    model: str,
    prompt: str | None,
    system: str | None,
    raw: bool,
    verbose: bool,
    stop: tuple[str, ...],
    **sampling: int | float | None,
) -> None:
    words = _prompt(prompt)
    if words is None and output.as_json:
        raise BadParameter(text("run.chat_json"), param="PROMPT")
    chosen: dict[str, Any] = {name: value for name, value in sampling.items() if value is not None}
    chosen |= {"stop": list(stop)} if stop else {}
    _ensure_node(output)
    with nodes.connect() as node:
        service = ensure_service(node, model, output)
        chat = not raw and node.model(service.spec.model).card.has_chat_template
        if system is not None and not chat:
            raise BadParameter(text("run.system_raw"), param="--system")
        client = open_door(nodes.door(node))
    asker = Asker(client, model=service.name, chat=chat, system=system, sampling=chosen)
    with asker:
        if words is None:
            from thaloom.user.cli.chat import converse

            converse(asker, output, verbose=verbose)
        else:
            answer_once(asker, words, output, verbose=verbose)


def open_door(place: Place) -> Streams:
    from thaloom.edge.client.openai import OpenAIClient

    return OpenAIClient(place.url, api_key=place.token, trust=place.trust)


def _prompt(given: str | None) -> str | None:
    """The prompt from the command line or a pipe; None: a person sits there and wants a conversation."""
    if given is not None and given != "-":
        return given
    if given is None and sys.stdin.isatty():
        return None
    try:
        words = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise BadParameter(text("run.not_text", position=error.start), param="PROMPT") from error
    if not words.strip():
        raise BadParameter(text("run.no_prompt"), param="PROMPT")
    return words.removesuffix("\n")


def _ensure_node(output: Output) -> None:
    if nodes.far() is not None:  # it is not ours to start
        return
    if nodes.running() is None:
        with spinner(output, text("up.starting")):
            # Two commands may have the same idea at the same moment: the second uses what the first has started.
            with contextlib.suppress(AlreadyRunning):
                nodes.start_detached()
    nodes.wait_for_any_door()


def ensure_service(node: ControlClient, model: str, output: Output) -> Service:
    """A ready service of that name or of that model; one is made, and a bundled model imported, if there is none."""
    from thaloom.edge.wire.control import ServeRequest

    service = find_service(node, model)
    if service is None:
        stored = ensure_model(node, model, output)
        service = node.serve(plain(stored.name), ServeRequest(model=stored.name))
    return service if service.phase in ("ready", "idle") else wait_ready(node, service.name, output)


def answer_once(asker: Asker, prompt: str, output: Output, *, verbose: bool) -> None:
    try:
        with asker.ask(prompt) as answer:
            for piece in answer:
                show(piece, output)
        ending = answer.ending
    except (ThaloomError, KeyboardInterrupt):
        if is_terminal(sys.stdout):
            output.line()  # what is told next must not stand on the last line of half an answer
        raise
    output.document(document(asker, answer))
    output.line()
    if verbose or is_terminal(sys.stdout):
        output.note(speed(ending))


def document(asker: Asker, answer: Answer) -> dict[str, Any]:
    ending = answer.ending
    return {
        "model": asker.model,
        "text": answer.text,
        "finish_reason": ending.finish_reason,
        "prompt_tokens": ending.prompt_tokens,
        "completion_tokens": ending.completion_tokens,
        "first_token_s": ending.first_token_s,
        "total_s": ending.total_s,
        "tokens_per_s": ending.tokens_per_s,
    }
