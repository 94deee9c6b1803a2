"""Chat completions and completions, as routes."""

from __future__ import annotations

from thaloom.edge.api.generation import Speaking
from thaloom.edge.api.openai import requests
from thaloom.edge.api.openai.answers import OpenAIForm
from thaloom.edge.api.openai.models import fingerprint
from thaloom.edge.api.openai.requests import OpenAIWanted
from thaloom.work.runtime.types import ServedModel


def _form(wanted: OpenAIWanted, served: ServedModel | None, now: float) -> OpenAIForm:
    return OpenAIForm(wanted, created=int(now), fingerprint=fingerprint(served))


CHAT = Speaking(id_prefix="chatcmpl", read=requests.chat, form=_form)
COMPLETION = Speaking(id_prefix="cmpl", read=requests.completion, form=_form)
