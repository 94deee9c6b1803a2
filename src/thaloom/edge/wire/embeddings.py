"""Messages of `/v1/embeddings` as they travel.

Source: OpenAI's API reference, `embeddings`; `normalize` as vLLM has it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from thaloom.edge.wire.common import Answer, Ask
from thaloom.edge.wire.openai import ModelName, TokenId

MAX_INPUTS = 2048
MAX_DIMENSIONS = 2**20

Text = Annotated[str, Field(min_length=1)]
Tokens = Annotated[list[TokenId], Field(min_length=1)]


class EmbeddingRequest(Ask):
    model: ModelName
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_INPUTS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    """base64: of the numbers as 32-bit floats, little-endian."""
    dimensions: int | None = Field(default=None, ge=1, le=MAX_DIMENSIONS)
    """Only the first so many, brought to length 1 again."""
    normalize: bool | None = None
    """False: not brought to length 1."""
    user: str | None = None


UNSERVED_IN_EMBEDDING: dict[str, tuple[Any, ...]] = {
    # name: the values that ask for nothing (null always does)
    "truncate_prompt_tokens": (),
    "add_special_tokens": (True,),
    "messages": (),
}


class EmbeddingData(Answer):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Answer):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Answer):
    object: Literal["list"]
    data: list[EmbeddingData]
    model: str
    usage: EmbeddingUsage
