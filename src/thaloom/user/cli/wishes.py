"""From the name of a model to a service that is ready: what `run` and `serve` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaloom.base.errors import BadParameter, ModelNotFound
from thaloom.user.cli.nearby import suggesting
from thaloom.user.cli.output import Output, size
from thaloom.user.cli.progress import progress_bar, spinner
from thaloom.user.cli.texts import text

if TYPE_CHECKING:
    from thaloom.edge.client.control import ControlClient
    from thaloom.edge.wire.control import Model, Service

READY_TIMEOUT_S = 600.0
"""A large model from a slow disk takes minutes; after ten something is wrong."""


def plain(name: str) -> str:
    """`tiny:latest` is `tiny`."""
    return name.removesuffix(":latest")


def ensure_model(node: ControlClient, name: str, output: Output) -> Model:
    """The model of that name; a bundled one is imported first if it is not in the store yet.

    Raises ModelNotFound, with near names.
    """
    from thaloom.edge.wire.control import PullRequest

    try:
        with suggesting(name, lambda: [model.name for model in node.models()]):
            return node.model(name)
    except ModelNotFound as unknown:
        try:
            with progress_bar(output, name) as draw:
                model = node.pull(PullRequest(source=plain(name)), draw)
        except BadParameter:  # it did not come with Thaloom either
            raise unknown from None
        output.note(text("pull.done", name=model.name, size=size(model.total_bytes), digest=model.digest[:12]))
        return model


def find_service(node: ControlClient, name: str) -> Service | None:
    """The service of that name, else one that serves the model of that name; a ready one before others, and one that is
    idle before those that are not."""
    services = node.services()
    own = [service for service in services if service.name in (name, plain(name))]
    other = [service for service in services if plain(service.spec.model) == plain(name)]
    order = ("ready", "idle")
    return min(
        [*own, *other],
        key=lambda service: order.index(service.phase) if service.phase in order else len(order),
        default=None,
    )


def wait_ready(node: ControlClient, name: str, output: Output, *, timeout_s: float = READY_TIMEOUT_S) -> Service:
    """Raises ServiceFailed with the reason its worker gave, or DeadlineExceeded."""
    with spinner(output, text("serve.waiting", name=name)) as change:
        return node.wait_ready(
            name,
            timeout_s=timeout_s,
            on_change=lambda service: change(f"{name}: {text(f'phase.{service.phase}')}"),
        )
