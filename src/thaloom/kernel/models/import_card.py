"""A model's card, filled from what its own files say. What they do not say is None or empty, never guessed."""

from __future__ import annotations

import re
from typing import Any

from thaloom.base.config import from_mapping
from thaloom.base.errors import BadParameter, MalformedFile
from thaloom.kernel.models.import_files import Chosen, read_json
from thaloom.kernel.models.import_weights import Weights
from thaloom.kernel.models.safetensors import DTYPES, TensorPlace
from thaloom.kernel.models.types import ModelCard, Quantisation

QUANTISATION = "quantisation.json"
"""Beside weights that are not all as their makers stored them: a types.Quantisation."""
_TEXT_BYTES = 256 * 1024
"""How far a README or a template is looked at."""
_SUMMARY_CHARACTERS = 200
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx")
_FRONT_MATTER = re.compile(r"\A---[ \t\r]*\n(.*?)\n---[ \t\r]*(?:\n|\Z)", re.DOTALL)
"""Blanks only behind the marks, no line ends: with those, a README of empty lines takes minutes to refuse."""
_LICENSE_LINE = re.compile(r"^license:[ \t]*['\"]?([A-Za-z0-9][A-Za-z0-9.+_-]*)", re.MULTILINE)


def make_card(chosen: Chosen, weights: Weights) -> ModelCard:
    """Raises MalformedFile if config.json, tokenizer_config.json or quantisation.json is not what it should be."""
    config = _json(chosen, "config.json")
    text_config = config.get("text_config")
    text = config | text_config if isinstance(text_config, dict) else config
    architectures = config.get("architectures")
    readme = _readme(chosen)
    return ModelCard(
        architecture=_text(architectures[0]) if isinstance(architectures, list) and architectures else "",
        family=_text(config.get("model_type")),
        num_parameters=sum(tensor.num_elements for tensor in _plain(weights))
        + sum(matrix.num_elements for matrix in weights.packed.values()),
        dtypes=tuple(
            sorted(
                {DTYPES[tensor.dtype] for tensor in _plain(weights) if tensor.dtype in DTYPES}
                | ({"i8"} if weights.packed else set())
            )
        ),
        weight_bytes=sum(tensor.num_bytes for tensor in weights.tensors.values()),
        context_length=next((text[key] for key in _CONTEXT_KEYS if _positive(text.get(key))), None),
        vocab_size=text["vocab_size"] if _positive(text.get("vocab_size")) else None,
        has_tokenizer=chosen.find("tokenizer.json") is not None,
        has_chat_template=_has_chat_template(chosen),
        license=_license(readme),
        summary=_summary(readme),
        quantisation=_quantisation(chosen),
    )


def unservable_dtypes(weights: Weights) -> list[str]:
    """Dtypes of the format that no card can state, because no device takes them."""
    return sorted({tensor.dtype for tensor in _plain(weights)} - DTYPES.keys())


def _plain(weights: Weights) -> list[TensorPlace]:
    """Tensors that are no part of a matrix of whole numbers."""
    parts = {part.name for matrix in weights.packed.values() for part in (matrix.numbers, matrix.scales)}
    return [tensor for tensor in weights.tensors.values() if tensor.name not in parts]


def _quantisation(chosen: Chosen) -> Quantisation | None:
    file = chosen.find(QUANTISATION)
    if file is None:
        return None
    try:
        return from_mapping(Quantisation, read_json(file))
    except BadParameter as error:
        raise MalformedFile(f"{QUANTISATION!r}: {error.message}", file=QUANTISATION) from error


def _json(chosen: Chosen, path: str) -> dict[str, Any]:
    file = chosen.find(path)
    return {} if file is None else read_json(file)


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() else ""


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _has_chat_template(chosen: Chosen) -> bool:
    """Whether there is a template that tells the speakers apart. One that only joins texts lets chat clients talk to
    a completion model, and makes no conversation of it."""
    file = chosen.find("chat_template.jinja")
    if file is not None:
        return "role" in file.read(_TEXT_BYTES).decode("utf-8", "replace")
    return "role" in str(_json(chosen, "tokenizer_config.json").get("chat_template"))


def _readme(chosen: Chosen) -> str:
    for path in ("README.md", "MODEL_CARD.md"):
        file = chosen.find(path)
        if file is not None:
            return file.read(_TEXT_BYTES).decode("utf-8", "replace")
    return ""


def _license(readme: str) -> str | None:
    """The `license:` line of the YAML block a README may begin with. Source: Hugging Face Hub, "Model Cards"."""
    block = _FRONT_MATTER.match(readme)
    line = _LICENSE_LINE.search(block[1]) if block else None
    return line[1] if line else None


def _summary(readme: str) -> str | None:
    """The first sentence-like paragraph: not a heading, a table, a list, a picture or a badge."""
    body = _FRONT_MATTER.sub("", readme, count=1)
    for paragraph in re.split(r"\n\s*\n", body):
        text = " ".join(line.strip() for line in paragraph.splitlines() if not line.lstrip().startswith("#"))
        text = "".join(character for character in text if character.isprintable())  # nothing a terminal would obey
        if text and text[0] not in "|-*<![>`":
            return text if len(text) <= _SUMMARY_CHARACTERS else text[: _SUMMARY_CHARACTERS - 1] + "…"
    return None
