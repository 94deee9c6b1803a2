"""`thaloom ls`: the models in the store."""

from __future__ import annotations

from thaloom.user.cli.command import verb
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import ABSENT, Output, age, amount, count
from thaloom.user.cli.output import size as bytes_of
from thaloom.user.cli.texts import text


@verb("ls")
def command(output: Output) -> None:
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
