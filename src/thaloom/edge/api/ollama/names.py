"""Names of models as Ollama's clients write them, `[host/][namespace/]model[:tag]`, and as this node knows them."""

from __future__ import annotations

import re

from thaloom.base.errors import BadParameter, ModelNotFound
from thaloom.edge.wire.ollama import NAME
from thaloom.kernel.models.types import ModelName

_NAME = re.compile(NAME)


def local_name(name: str) -> str:
    """What a model of that name is called in the store: no host, no namespace, small letters, no tag `latest`.

    Raises BadParameter for what is no name, ModelNotFound for one that no model here can have.
    """
    _check(name)
    model, _, tag = name.rpartition("/")[2].partition(":")
    try:
        return str(ModelName(model.lower(), tag or "latest"))
    except BadParameter as error:
        raise ModelNotFound(f"model {name!r} not found: {error.message}", param="model") from error


def tagged(name: str) -> str:
    """With its tag, as lists show it."""
    return name if ":" in name else f"{name}:latest"


def source_of(name: str) -> str:
    """Where a model of that name is pulled from, in the words of the control API: the address of its page if there is
    a host in it, else the name itself. Raises BadParameter."""
    _check(name)
    name = name.removesuffix(":latest")
    if name.count("/") < 2:
        return name
    if ":" in name.rpartition("/")[2]:
        raise BadParameter(f"model: {name!r}: such a hub's models have no tags; leave it out", param="model")
    return f"https://{name}"


def _check(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadParameter(f"model: {name!r} is no name of a model", param="model")
