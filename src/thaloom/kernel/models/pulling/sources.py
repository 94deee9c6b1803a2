"""What people write for a model of a hub, as a HubModel: `org/name`, `hf://...`, `ms://...`, or a page's address."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from thaloom.base.errors import BadParameter, UnsafeFormat
from thaloom.kernel.models.import_files import PICKLES
from thaloom.kernel.models.types import Hub, HubModel

DEFAULT_ENDPOINTS: dict[Hub, str] = {"hf": "https://huggingface.co", "ms": "https://modelscope.cn"}
DEFAULT_REVISIONS: dict[Hub, str] = {"hf": "main", "ms": "master"}
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPO = re.compile(rf"{_PART}(?:/{_PART})?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_CHOICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+ -]{0,254}")
_PREFIXES: dict[str, Hub] = {"hf://": "hf", "ms://": "ms"}


def is_hub_name(text: str) -> bool:
    """Whether it is meant for a hub at all: it has one of the prefixes, or the form `org/name`."""
    return text.startswith((*_PREFIXES, "http://", "https://")) or bool(
        re.fullmatch(rf"{_PART}/{_PART}(?:@[^:]*)?(?::.*)?", text, re.DOTALL)
    )


def parse_source(text: str) -> HubModel:
    """Raises BadParameter (`source`) for what is no name of a hub's model, UnsafeFormat for a pickle's."""
    if text.startswith(("http://", "https://")):
        return _from_url(text)
    hub: Hub = "hf"
    for prefix, named in _PREFIXES.items():
        if text.startswith(prefix):
            hub, text = named, text.removeprefix(prefix)
    place, _, choice = text.partition(":")
    repo, at, revision = place.partition("@")
    return _checked(hub, repo, revision if at else DEFAULT_REVISIONS[hub], choice or None, None, text)


def _from_url(text: str) -> HubModel:
    """`https://host/org/name`, with `/tree/REV`, `/blob/REV/FILE` or `/resolve/REV/FILE` behind it; ModelScope's pages
    have `/models/` before it."""
    try:
        parts = urlsplit(text)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError as error:
        raise _bad(text) from error
    if parts.username is not None or parts.password is not None or not parts.hostname:
        raise BadParameter("the address of a model may hold no name or password", param="source")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    endpoint = f"{parts.scheme}://{host}{port}"
    steps = [unquote(step) for step in parts.path.strip("/").split("/")]
    hub: Hub = "ms" if steps[0] == "models" and len(steps) > 2 else "hf"
    steps = steps[1:] if hub == "ms" else steps
    view = next((at for at in (1, 2) if steps[at : at + 1] in (["tree"], ["blob"], ["resolve"])), None)
    repo, rest = (steps[:2], steps[2:]) if view is None else (steps[:view], steps[view + 1 :])
    if view is None and rest and rest != ["files"] and rest != ["summary"]:
        raise _bad(text)
    revision = rest[0] if view is not None and rest else DEFAULT_REVISIONS[hub]
    choice = "/".join(rest[1:]) if view is not None else ""
    return _checked(hub, "/".join(repo), revision, choice or None, endpoint, text)


def _checked(hub: Hub, repo: str, revision: str, choice: str | None, endpoint: str | None, text: str) -> HubModel:
    if not _REPO.fullmatch(repo) or ".." in repo or (hub == "ms" and "/" not in repo):
        raise _bad(text)
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise BadParameter(f"not a revision: {revision[:200]!r}", param="source")
    if choice is not None:
        if any(choice.lower().endswith(kind) for kind in PICKLES):
            raise UnsafeFormat(f"{choice!r} is a pickle or holds code that runs on load; it is not pulled", file=choice)
        if not _CHOICE.fullmatch(choice) or any(part in ("", ".", "..") for part in choice.split("/")):
            raise BadParameter(f"not a file of a hub, nor a part of its name: {choice[:200]!r}", param="source")
    return HubModel(hub=hub, repo=repo, revision=revision, choice=choice, endpoint=endpoint)


def _bad(text: str) -> BadParameter:
    return BadParameter(
        f"not a model of a hub: {text[:200]!r} (write org/name, hf://org/name@revision, ms://org/name, "
        "org/name:file.gguf, or the address of its page)",
        param="source",
    )
