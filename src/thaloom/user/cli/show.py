"""`thaloom show MODEL`: what a model says of itself, and its files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from thaloom.user.cli.command import a_name, argument, verb
from thaloom.user.cli.completing import models as complete_models
from thaloom.user.cli.nearby import suggesting
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import ABSENT, Output, count, date, size
from thaloom.user.cli.texts import text

if TYPE_CHECKING:
    from thaloom.edge.wire.control import ModelTensor, Quantisation


@verb("show")
@argument("model", type=a_name, shell_complete=complete_models)
def command(output: Output, model: str) -> None:
    with connect() as node, suggesting(model, lambda: [found.name for found in node.models()]):
        shown = node.model(model)
    output.document(shown.model_dump())
    card = shown.card
    facts = [
        ("name", shown.name),
        ("digest", shown.digest),
        ("size", f"{size(shown.total_bytes)} ({text('show.weights', size=size(card.weight_bytes))})"),
        ("architecture", card.architecture or ABSENT),
        ("parameters", count(card.num_parameters)),
        ("dtypes", ", ".join(card.dtypes) or ABSENT),
        ("context", count(card.context_length)),
        ("vocabulary", count(card.vocab_size)),
        ("tokenizer", text("word.yes" if card.has_tokenizer else "word.no")),
        ("chat", text("word.yes" if card.has_chat_template else "word.no")),
        ("license", card.license or ABSENT),
        ("source", shown.source),
        ("imported", date(shown.created_at)),
        ("encrypted", text("truth.yes" if shown.encrypted else "truth.no")),
    ]
    if card.quantisation is not None:
        facts += [("converted", converted(card.quantisation)), ("quality", quality(card.quantisation))]
    facts += [(word, tensors(of)) for word, of in (("inputs", card.inputs), ("outputs", card.outputs)) if of]
    if card.summary:
        facts.append(("summary", card.summary))
    output.facts([(text(f"head.{name}"), value) for name, value in facts])
    output.line()
    rows = [[file.path, size(file.num_bytes), file.sha256] for file in shown.files]
    output.table([text("head.file"), text("head.size"), "SHA-256"], rows, right=frozenset({1}))


def tensors(of: Sequence[ModelTensor]) -> str:
    """`pixels FP32 [?, 3, 8, 8], ...`; ? is any size."""
    shapes = [", ".join("?" if size < 0 else str(size) for size in one.shape or []) for one in of]
    return ", ".join(f"{one.name} {one.dtype} [{shape}]" for one, shape in zip(of, shapes, strict=True))


def converted(made: Quantisation) -> str:
    """From what, and how much that changed."""
    key = "show.changed" if made.relative_error else "show.exact"
    return text(key, source=made.source, original=made.original[:12], error=f"{made.relative_error:.2%}")


def quality(made: Quantisation) -> str:
    """What was measured; "not measured" must never look like fine."""
    if made.quality is None:
        return text("show.not_measured")
    found = made.quality
    return text(
        "show.quality",
        perplexity=f"{found.perplexity:.4g}",
        original=f"{found.original_perplexity:.4g}",
        kl=f"{found.mean_kl:.3g}",
        tokens=count(found.num_tokens),
        text=found.text,
    )
