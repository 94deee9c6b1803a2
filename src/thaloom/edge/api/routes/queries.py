"""What stands behind the question mark, read within bounds."""

from __future__ import annotations

from starlette.requests import Request

from thaloom.base.errors import BadParameter


def whole_number(request: Request, name: str, *, default: int, low: int, high: int) -> int:
    """Raises BadParameter."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high):
        raise BadParameter(f"{name} must be a whole number from {low} to {high}, not {text[:40]!r}", param=name)
    return int(text)


def is_wished(request: Request, name: str) -> bool:
    """Raises BadParameter."""
    text = request.query_params.get(name, "false")
    if text.lower() not in ("true", "1", "false", "0"):
        raise BadParameter(f"{name} must be true or false, not {text[:40]!r}", param=name)
    return text.lower() in ("true", "1")


def is_descending(request: Request) -> bool:
    """`order`: newest first unless the client wants it otherwise. Raises BadParameter."""
    order = request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise BadParameter(f"order must be asc or desc, not {order[:40]!r}", param="order")
    return order == "desc"
