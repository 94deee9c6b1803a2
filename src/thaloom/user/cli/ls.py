"""`thaloom ls`: the models in the store, or with --partial the pulls that did not end."""

from __future__ import annotations

from thaloom.user.cli.command import option, verb
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import ABSENT, Output, age, amount, count
from thaloom.user.cli.output import size as bytes_of
from thaloom.user.cli.texts import text


@verb("ls")
@option("--partial", is_flag=True)
def command(output: Output, partial: bool) -> None:
    if partial:
        _show_partial(output)
        return
    with connect() as node:
        models = node.models()
    output.document({"models": [model.model_dump() for model in models]})
    if not models:
        output.note(text("ls.none"))
        return
    head = ["name", "digest", "size", "parameters", "context", "license", "age"]
    rows = [
        [
            model.name,
            model.digest[:12],
            bytes_of(model.total_bytes),
            amount(model.card.num_parameters),
            count(model.card.context_length),
            model.card.license or ABSENT,
            age(model.created_at),
        ]
        for model in models
    ]
    output.table([text(f"head.{word}") for word in head], rows, right=frozenset({2, 3, 4}))


def _show_partial(output: Output) -> None:
    with connect() as node:
        pulls = node.unfinished_pulls()
    output.document({"pulls": [pull.model_dump() for pull in pulls]})
    if not pulls:
        output.note(text("ls.no_partial"))
        return
    rows = [
        [
            pull.source,
            pull.commit[:12],
            bytes_of(pull.done_bytes),
            bytes_of(pull.total_bytes),
            text("ls.running" if pull.running else "ls.waiting"),
            age(pull.begun_at),
        ]
        for pull in pulls
    ]
    head = ["source", "commit", "done", "total", "state", "age"]
    output.table([text(f"head.{word}") for word in head], rows, right=frozenset({2, 3}))
