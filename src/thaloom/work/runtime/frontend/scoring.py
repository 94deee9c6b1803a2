"""How well a document answers a query, judged by a decoder's own yes or no.

The question is put as rerankers of the Qwen3 family are trained to be asked; any chat model understands it. The score
is the probability of yes where only yes and no count. Source: Qwen3-Reranker's model card.
"""

from __future__ import annotations

import math

from thaloom.base.errors import NotServable
from thaloom.work.runtime.frontend.prompting import Speech
from thaloom.work.runtime.messages import LogprobRow
from thaloom.work.runtime.types import ChatMessage, GenerateRequest, ScoreRequest, Templating

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
_WORDS = ("yes", "no")


def judges(speech: Speech, model: str) -> tuple[int, int]:
    """The tokens that begin yes and no. Raises NotServable for a model that has no such two."""
    yes, no = (speech.tokenizer.encode_rendered(word) for word in _WORDS)
    if not yes or not no or yes[0] == no[0]:
        raise NotServable(f"model {model!r} has no different tokens for yes and no: it cannot rank")
    return yes[0], no[0]


def question(request: ScoreRequest, document: str, speech: Speech) -> GenerateRequest:
    """What is asked about one document; an answer of one token is wanted."""
    asked = f"<Instruct>: {request.instruction or INSTRUCTION}\n<Query>: {request.query}\n<Document>: {document}"
    if speech.template is None:
        text = f"{_SYSTEM}\n{asked}\n<Answer>: "
        return GenerateRequest(id=request.id, model=request.model, prompt=text, max_tokens=1)
    messages = (ChatMessage(role="system", content=_SYSTEM), ChatMessage(role="user", content=asked))
    plain = Templating(variables={"enable_thinking": False})
    return GenerateRequest(id=request.id, model=request.model, messages=messages, max_tokens=1, templating=plain)


def score_of(row: LogprobRow) -> float:
    """The probability of yes against no, from their log-probabilities."""
    yes, no = row.reported
    if math.isinf(yes) and math.isinf(no):
        return 0.5
    return 1.0 / (1.0 + math.exp(min(max(no - yes, -700.0), 700.0)))
