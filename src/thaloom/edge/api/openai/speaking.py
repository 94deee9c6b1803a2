"""What of OpenAI's protocol, and of what its clients know beside it, is served under which path."""

from __future__ import annotations

from thaloom.edge.api.openai import embeddings, ranking, requests, tokens
from thaloom.edge.api.openai.answers import OpenAIForm
from thaloom.edge.api.openai.models import fingerprint
from thaloom.edge.api.openai.requests import OpenAIWanted
from thaloom.edge.api.routes.exchange import Answering
from thaloom.edge.api.routes.generation import Speaking
from thaloom.work.runtime.types import ServedModel


def _form(wanted: OpenAIWanted, served: ServedModel | None, now: float) -> OpenAIForm:
    return OpenAIForm(wanted, created=int(now), fingerprint=fingerprint(served))


CHAT = Speaking(id_prefix="chatcmpl", read=requests.chat, form=_form)
COMPLETION = Speaking(id_prefix="cmpl", read=requests.completion, form=_form)

GENERATIONS = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETION}
EXCHANGES: dict[str, tuple[Answering, str]] = {
    "/v1/embeddings": (embeddings.embed, "embd"),
    "/v1/rerank": (ranking.rerank, "rerank"),
    "/rerank": (ranking.rerank, "rerank"),
    "/v2/rerank": (ranking.rerank_as_cohere, "rerank"),
    "/v1/score": (ranking.score, "score"),
    "/score": (ranking.score, "score"),
    "/tokenize": (tokens.tokenize, "tokenize"),
    "/detokenize": (tokens.detokenize, "tokenize"),
}
"""By path: who answers, and what ids begin with."""
