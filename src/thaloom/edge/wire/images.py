"""Messages of `/v1/images/generations` as they travel. Source: OpenAI's API reference, `images`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from thaloom.edge.wire.common import Answer, Ask
from thaloom.edge.wire.openai import ModelName

MAX_PROMPT_CHARS = 32_000


class ImageRequest(Ask):
    model: ModelName
    prompt: str = Field(min_length=1, max_length=MAX_PROMPT_CHARS)
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    size: str | None = Field(default=None, pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")
    """Only the one the model makes, or auto."""
    response_format: Literal["b64_json"] | None = None
    """Default: b64_json. Nothing is kept to be fetched later."""
    output_format: Literal["png"] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """The same seed makes the same image; the second of several is that of the seed behind it."""
    user: str | None = None


UNSERVED_IN_IMAGE: dict[str, tuple[Any, ...]] = {
    # name: the values that ask for nothing (null always does)
    "background": ("auto", "opaque"),
    "moderation": ("auto", "low"),
    "output_compression": (100,),
    "partial_images": (0,),
    "quality": ("auto", "standard"),
    "stream": (False,),
    "style": (),
}


class ImageData(Answer):
    b64_json: str


class ImageList(Answer):
    created: int
    data: list[ImageData]
    output_format: Literal["png"]
    size: str
