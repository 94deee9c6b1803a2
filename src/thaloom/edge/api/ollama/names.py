"""Names of models as Ollama's clients write them, `[host/][namespace/]model[:tag]`, and as this node knows them."""

from __future__ import annotations

import re

from thaloom.base.errors import BadParameter

_NAME = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*(?::\d{1,5})?/)?(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)?"
                   r"[A-Za-z0-9_][A-Za-z0-9._-]*(?::[A-Za-z0-9_][A-Za-z0-9._-]*)?")  # fmt: skip


def local_name(name: str) -> str:
    """What a model of that name is called in the store: no host, no namespace, small letters, no tag `latest`.

    Raises BadParameter for what is no name.
    """
    _check(name)
    model, colon, tag = name.rpartition("/")[2].partition(":")
    return model.lower() if not colon or tag == "latest" else f"{model.lower()}:{tag}"


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
