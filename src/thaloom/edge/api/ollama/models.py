"""What the node has, in Ollama's words: tags (stored), ps (served), show (one of them)."""

from __future__ import annotations

from typing import Any

from thaloom import __version__
from thaloom.base.errors import ThaloomError
from thaloom.edge.api.ollama.answers import moment
from thaloom.edge.api.ollama.names import local_name, tagged
from thaloom.edge.api.ollama.node import Node
from thaloom.edge.api.routes.generation import find_served
from thaloom.edge.wire import control
from thaloom.edge.wire import ollama as wire
from thaloom.work.runtime.types import Generation

NEVER = "9999-12-31T23:59:59Z"


def version() -> wire.Version:
    return wire.Version(version=wire.API_VERSION, thaloom=__version__)


async def tags(node: Node) -> wire.ListedModels:
    """Everything a client may name: stored models, the newest first, then services of other names."""
    stored = {model.name: model for model in await node.models()}
    listed = [_listed(model.name, model) for model in sorted(stored.values(), key=lambda model: -model.created_at)]
    listed += [
        _listed(service.name, stored[_plain(service.spec.model)])
        for service in await node.services()
        if service.name not in stored and _plain(service.spec.model) in stored
    ]
    return wire.ListedModels(models=listed)


async def ps(node: Node, now: float) -> wire.LoadedModels:
    stored = {model.name: model for model in await node.models()}
    ready = [service for service in await node.services() if service.phase == "ready"]
    return wire.LoadedModels(
        models=[
            _loaded(service, stored[_plain(service.spec.model)], now)
            for service in ready
            if _plain(service.spec.model) in stored
        ]
    )


async def show(node: Node, generation: Generation, asked: str) -> wire.Shown:
    """Raises ModelNotFound, NodeNotRunning."""
    model = await node.model(await _model_of(node, asked))
    template = await _template(generation, asked)
    return wire.Shown(
        modelfile=f"# A model of Thaloom's store; there is no Modelfile of it\nFROM {tagged(model.name)}\n",
        parameters="",
        template=template,
        license=model.card.license,
        details=_details(model),
        model_info=_info(model),
        capabilities=_capabilities(template),
        modified_at=moment(model.created_at),
    )


async def _model_of(node: Node, asked: str) -> str:
    """Of a service's name, its model's."""
    for service in await node.services():
        if asked in (service.name, f"{service.name}:latest"):
            return service.spec.model
    return local_name(asked)


async def _template(generation: Generation, asked: str) -> str | None:
    """None: not served, so that nobody has read it."""
    try:
        served = find_served(generation, asked) or find_served(generation, local_name(asked))
        return None if served is None else (await generation.tokenizer_info(served.name)).chat_template
    except ThaloomError:
        return None


def _capabilities(template: str | None) -> list[str]:
    """What its template can say is what it can be asked for, as Ollama has it too."""
    found = ["completion"]
    if template is not None and "tools" in template:
        found.append("tools")
    if template is not None and ("enable_thinking" in template or "<think>" in template):
        found.append("thinking")
    return found


def _listed(name: str, model: control.Model) -> wire.ListedModel:
    return wire.ListedModel(
        name=tagged(name),
        model=tagged(name),
        modified_at=moment(model.created_at),
        size=model.total_bytes,
        digest=model.digest,
        details=_details(model),
    )


async def delete(node: Node, asked: str) -> None:
    """With the service that asking for it made, where that is idle: there nothing else ends it. Raises ModelNotFound,
    ModelInUse."""
    name = local_name(asked)
    for service in await node.services():
        if service.phase == "idle" and service.name == _plain(name) and _plain(service.spec.model) == _plain(name):
            await node.stop(service.name)
    await node.remove_model(name)


def _loaded(service: control.Service, model: control.Model, now: float) -> wire.LoadedModel:
    parts = (service.weight_bytes, service.kv_bytes)
    size = None if None in parts else sum(part or 0 for part in parts)
    on_host = service.device is None or service.device.partition(":")[0] == "cpu"
    return wire.LoadedModel(
        name=tagged(service.name),
        model=tagged(service.name),
        size=size,
        digest=model.digest,
        details=_details(model),
        expires_at=NEVER if service.keep_alive_s < 0 else moment(service.unload_at or now + service.keep_alive_s),
        size_vram=0 if on_host else size or 0,
        context_length=service.context_length,
    )


def _details(model: control.Model) -> wire.Details:
    card = model.card
    endings = {file.path.rpartition(".")[2] for file in model.files}
    return wire.Details(
        parent_model="",
        format="gguf" if "gguf" in endings else "safetensors",
        family=card.family,
        families=[card.family],
        parameter_size=_human(card.num_parameters),
        quantization_level="+".join(card.dtypes).upper(),
    )


def _info(model: control.Model) -> dict[str, Any]:
    """Named as in GGUF, where clients look for the context."""
    card, family = model.card, model.card.family or "unknown"
    told = {
        "general.architecture": family,
        "general.parameter_count": card.num_parameters,
        "general.license": card.license,
        f"{family}.context_length": card.context_length,
        f"{family}.vocab_size": card.vocab_size,
    }
    return {name: value for name, value in told.items() if value is not None}


def _human(number: int) -> str:
    """1543714304 is 1.5B."""
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            scaled = number / size
            return f"{scaled:.0f}{letter}" if scaled >= 100 else f"{scaled:.1f}{letter}"
    return str(number)


def _plain(name: str) -> str:
    return name.removesuffix(":latest")
