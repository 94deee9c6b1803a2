"""`thaloom serve MODEL`: wish for a service and wait until it answers."""

from __future__ import annotations

import re
from pathlib import Path

import click

from thaloom.base.units import parse_bytes, parse_keep_alive
from thaloom.user.cli.command import a_name, argument, finite, option, verb
from thaloom.user.cli.completing import devices as complete_devices
from thaloom.user.cli.completing import models as complete_models
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import Output, paint
from thaloom.user.cli.services import complaints
from thaloom.user.cli.texts import text
from thaloom.user.cli.wishes import READY_TIMEOUT_S, ensure_model, plain, wait_ready

POSITIVE = click.IntRange(min=1)


def _bytes(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    try:
        num_bytes = None if value is None else parse_bytes(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=context, param=parameter) from error
    if num_bytes == 0:
        raise click.BadParameter(text("usage.zero"), ctx=context, param=parameter)
    return num_bytes


def _keep_alive(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else parse_keep_alive(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=context, param=parameter) from error


def _foreign(model: str, engine: str) -> str:
    """What a foreign engine is to serve: a path, which the node needs whole, or another server's name for its model."""
    if engine == "openai":
        return model
    path = Path(model).expanduser().resolve()
    if not path.exists():
        raise click.BadParameter(text("usage.no_such_path", path=model), param_hint="MODEL")
    return str(path)


def _name_of(model: str) -> str:
    """A service's name made of a path's or a foreign model's last part."""
    last = re.sub(r"[^a-z0-9._-]+", "-", model.rstrip("/").rpartition("/")[2].lower().removesuffix(".gguf"))
    return last.strip("-._") or "model"


@verb("serve", changes=True)
@argument("model", shell_complete=complete_models)
@option("--name", type=a_name, metavar="NAME")
@option(
    "--engine", type=click.Choice(["thaloom", "llama.cpp", "vllm", "openai", "onnx", "transformers"]), metavar="ENGINE"
)
@option("--url", metavar="URL")
@option("--replicas", type=POSITIVE, metavar="N")
@option("--device", metavar="DEVICE", shell_complete=complete_devices)
@option("--threads", "num_threads", type=POSITIVE, metavar="N")
@option("--context", "context_length", type=POSITIVE, metavar="TOKENS")
@option("--kv-bytes", callback=_bytes, metavar="SIZE")
@option("--kv-host-bytes", callback=_bytes, metavar="SIZE")
@option("--kv-disk-bytes", callback=_bytes, metavar="SIZE")
@option("--max-sequences", type=POSITIVE, metavar="N")
@option("--max-queue", type=POSITIVE, metavar="N")
@option("--chunk-tokens", type=POSITIVE, metavar="TOKENS")
@option("--prefix-reuse/--no-prefix-reuse", default=None)
@option("--pin-share", type=click.FloatRange(min=0, max=1), callback=finite, metavar="SHARE")
@option("--kv", "kv_dtype", type=click.Choice(["f32", "f16", "bf16", "i8"]), metavar="FORMAT")
@option("--weights", type=click.Choice(["stored", "int8", "int4"]), metavar="FORMAT")
@option("--speculation", type=click.Choice(["auto", "off"]), metavar="WHEN")
@option("--latency", type=click.Choice(["interactive", "normal", "batch"]), metavar="CLASS")
@option("--keep-alive", "keep_alive_s", callback=_keep_alive, metavar="DURATION")
@option("--priority", type=click.Choice(["high", "normal", "low"]), metavar="PRIORITY")
@option("--token-time", "token_s", type=click.FloatRange(min=0), callback=finite, metavar="SECONDS")
@option("--wait/--no-wait", default=True)
@option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), callback=finite, default=READY_TIMEOUT_S, metavar="SECONDS"
)
def command(
    output: Output, model: str, name: str | None, wait: bool, timeout_s: float, **wish: str | int | float | bool | None
) -> None:
    from thaloom.edge.wire.control import ServeRequest

    own = wish["engine"] not in ("llama.cpp", "vllm", "openai")
    model = a_name(model) if own else _foreign(model, str(wish["engine"]))
    with connect() as node:
        served = ensure_model(node, model, output).name if own else model
        # What the person left out is left out of the wish: the node knows the defaults.
        given = {field: value for field, value in wish.items() if value is not None}
        wished = ServeRequest.model_validate({"model": served} | given)
        service = node.serve(name or (plain(served) if own else _name_of(served)), wished)
        if wait:
            service = wait_ready(node, service.name, output, timeout_s=timeout_s)
        url = node.status().url
    output.document(service.model_dump())
    output.line(text("serve.ready" if service.phase == "ready" else "serve.wished", name=service.name, url=url))
    for line in complaints(service):
        output.line(paint(line, "yellow"))
