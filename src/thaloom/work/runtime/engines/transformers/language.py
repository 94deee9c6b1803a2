"""torch and transformers: a model of the store loaded by them, without any code of its own, and asked for tokens.

Source: transformers, "Auto Classes", "Generation"; `generate` knows each architecture's caches, and is asked for one
token at a time: what it draws is what we choose.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from thaloom.base.errors import BadParameter, NotServable
from thaloom.base.files import require_space
from thaloom.kernel.models.foreign import staged
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import Manifest
from thaloom.work.runtime.engines.transformers.drawing import Logits

_DEFAULTS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def load(store: ModelStore, name: str, *, context_length: int, num_threads: int | None) -> TransformersLanguage:
    """Raises ModelNotFound, NotServable, DiskFull. Blocks for as long as loading takes."""
    manifest = store.get(name)
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    with staged(store.root) as folder:
        write_out(store, manifest, folder)
        return TransformersLanguage(str(folder), context_length)


def write_out(store: ModelStore, manifest: Manifest, folder: Path) -> None:
    """The model's files as files. Raises DiskFull, CorruptObject."""
    require_space(folder, manifest.total_bytes)
    for entry in manifest.files:
        path = folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(store.open_file(manifest, entry)) as opened, path.open("wb") as file:
            for piece in opened.pieces(0, entry.num_bytes):
                file.write(piece)


class TransformersLanguage:
    """Implements answering.Language."""

    def __init__(self, folder: str, context_length: int) -> None:
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, dtype="auto", **options
            ).eval()
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        except Exception as error:  # the library's errors have no common base
            raise NotServable(f"transformers refuses the model: {_first_line(error)}") from error
        wanted = _told(Path(folder) / "generation_config.json")  # not the library's object: it has defaults of its own
        self.context_length = context_length
        self.ends = _ends(wanted.get("eos_token_id"), self._model.config.eos_token_id, self._tokenizer.eos_token_id)
        self.defaults: Mapping[str, float] = {name: wanted[name] for name in _DEFAULTS if wanted.get(name) is not None}
        self._model.generation_config = transformers.GenerationConfig()  # what is drawn is ours

    def tokens(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text)["input_ids"]
        return found

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        if not self._tokenizer.chat_template:
            raise BadParameter("the model has no chat template: it continues texts (/v1/completions)", param="messages")
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
        except Exception as error:  # a template may raise whatever it likes
            raise BadParameter(f"the chat template refuses this: {_first_line(error)}", param="messages") from error
        found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def text(self, tokens: Sequence[int], *, special: bool) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=not special)
        return text

    def generate(self, prompt: Sequence[int], choose: Callable[[Logits], int], enough: Callable[[], bool]) -> None:
        class Chooser(transformers.LogitsProcessor):  # type: ignore[misc]
            def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
                token = choose(scores[0].float().cpu().numpy())
                chosen = torch.full_like(scores, -torch.inf)
                chosen[0, token] = 0.0
                return chosen

        class Enough(transformers.StoppingCriteria):  # type: ignore[misc]
            def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002
                return torch.full((input_ids.shape[0],), enough(), dtype=torch.bool, device=input_ids.device)

        ids = torch.tensor([list(prompt)], device=self._model.device)
        config = transformers.GenerationConfig(
            do_sample=False, max_new_tokens=self.context_length - len(prompt), pad_token_id=0, use_cache=True
        )
        with torch.inference_mode():
            self._model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config,
                logits_processor=transformers.LogitsProcessorList([Chooser()]),
                stopping_criteria=transformers.StoppingCriteriaList([Enough()]),
            )  # fmt: skip

    def embed(self, tokens: Sequence[int]) -> list[float]:
        ids = torch.tensor([list(tokens)], device=self._model.device)
        with torch.inference_mode():
            states = self._model(input_ids=ids, output_hidden_states=True).hidden_states
        values: list[float] = np.asarray(states[-1][0, -1].float().cpu()).tolist()
        return values


def _told(path: Path) -> Mapping[str, Any]:
    try:
        told = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise NotServable(f"{path.name} of the model is not JSON: {error}") from error
    return told if isinstance(told, dict) else {}


def _ends(*told: int | list[int] | None) -> frozenset[int]:
    return frozenset(token for one in told if one is not None for token in (one if isinstance(one, list) else [one]))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:400] if str(error).strip() else type(error).__name__
